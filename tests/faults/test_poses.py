"""Poses, times and what no car does: refused with scene and frame, or left out and counted."""

import json
import math
import shutil

import numpy as np
import pytest

from occdistill.data.clips import ClipDataset
from occdistill.data.poses import broken_motion, pose_matrix, read_poses, rotation_matrix
from occdistill.data.scenes import load_index
from occdistill.data.voxel_cache import VoxelCache
from occdistill.errors import UserError
from occdistill.evaluation.report import describe_dataset, markdown
from occdistill.runtime.sources import replay
from tests.data.conftest import rotation
from tests.faults.rows import Row, edit

VERSION = "v1.0-tiny"
NAN = float("nan")


def load(root):
    return load_index(root, VERSION, "train")


def pose(k, **values):
    """The ego pose of scene-0001's keyframe k has other values."""

    def change(records):
        (record,) = (r for r in records if r["token"] == f"pose-data-l1-sample0-{k}")
        record.update(values)

    return edit("ego_pose", change)


def times(change):
    """Of each keyframe of each scene, by its number: another time."""

    def all_of(samples):
        for sample in samples:
            sample["timestamp"] = change(int(sample["token"][-1]), sample["timestamp"])

    return edit("sample", all_of)


def moved_on(records):
    """From keyframe 4 on, scene-0001 is a kilometre further."""
    for record in records:
        if record["token"].startswith("pose-data-l1-sample0-") and int(record["token"][-1]) >= 4:
            record["translation"][0] += 1000


def mounting(**values):
    return edit("calibrated_sensor", lambda records: records[1].update(values))


def stamped(stamps):
    """Sweeps named after their times, as nuScenes names them."""

    def change(records):
        for record in records:
            if record["token"].startswith("data-l1-sample0-"):
                k = int(record["token"][-1])
                record["filename"] = f"samples/LIDAR_TOP/n__LIDAR_TOP__{stamps[k]}.pcd.bin"

    return edit("sample_data", change)


STAMPS = [1532402927647951 + 500_000 * k for k in range(8)]
SWAPPED = [*STAMPS[:3], STAMPS[4], STAMPS[3], *STAMPS[5:]]
MATRIX = rotation_matrix(np.array(rotation(0.3))).tolist()
USE = "of scene scene-0001 in .* cannot be used: "
NEXT = "; correct or fetch the tables again, or add --skip-bad-frames"
ROWS = [
    Row("a pose that is NaN", pose(3, translation=[NAN, 1.0, 0.0]), load,
        f"keyframe sample0-3 {USE}its pose is NaN or infinite{NEXT}"),
    Row("a pose that is infinite", pose(3, translation=[math.inf, 1.0, 0.0]), load,
        "sample0-3 .* its pose is NaN or infinite"),
    Row("a quaternion that is NaN", pose(5, rotation=[NAN, 0.0, 0.0, 0.0]), load,
        "sample0-5 .* its pose is NaN or infinite"),
    Row("a quaternion of zeros", pose(3, rotation=[0.0] * 4), load,
        "sample0-3 .* a quaternion of length 0, not 1"),
    Row("a quaternion of length two", pose(3, rotation=[2, 0, 0, 0]), load,
        "sample0-3 .* a quaternion of length 2, not 1"),
    Row("a rotation given as a matrix", pose(3, rotation=MATRIX), load,
        "sample0-3 .* its rotation is a matrix, not a quaternion w, x, y, z"),
    Row("a rotation given as nine numbers", pose(3, rotation=np.ravel(MATRIX).tolist()), load,
        "sample0-3 .* is a matrix"),
    Row("a rotation given as three angles", pose(3, rotation=[0, 0, 0.3]), load,
        "sample0-3 .* its rotation has 3 numbers, not 4"),
    Row("a pose of text", pose(3, translation=["1", "2", "3"]), load,
        "sample0-3 .* its translation isn't 3 numbers"),
    Row("a pose that is null", pose(3, translation=None), load,
        "sample0-3 .* its translation isn't 3 numbers"),
    Row("a pose of huge whole numbers", pose(3, translation=[10**400, 0, 0]), load,
        "sample0-3 .* NaN or infinite"),
    Row("quaternions in another order", pose(5, rotation=[0.0, 0.0, 0.6, 0.8]), load,
        r"sample0-5 .* lies on its side \(quaternions are w, x, y, z\)"),
    Row("one keyframe far away", pose(3, translation=[9000.0, 1000.9, 0.0]), load,
        r"sample0-3 .* the car jumps 8396 m to it \(and 1 more of 11 have faults\)"),
    Row("a drive that goes on elsewhere", edit("ego_pose", moved_on), load,
        "sample0-4 .* the car jumps 1002 m to it;"),
    Row("a car that turns about at once", pose(7, rotation=rotation(0.3 + math.pi)), load,
        "sample0-7 .* the car turns 180° to it"),
    Row("a mounting that is NaN", mounting(translation=[0.9, 0.0, NAN]), load,
        "sample0-0 .* of its LiDAR's mounting, its pose is NaN"),
    Row("a clock that is set back", times(lambda k, t: t - 3_600_000_000 * (k >= 4)), load,
        "sample0-4 .* its time is 3.6e.03 s earlier than the one before"),
    Row("two keyframes at one time", times(lambda k, t: t - 500_000 * (k == 4)), load,
        "sample0-4 .* its time is 0 s earlier"),
    Row("keyframes that are missing", times(lambda k, t: t + 1_500_000 * (k >= 4)), load,
        "sample0-4 .* it comes 2 s after the one before"),
    Row("a time that is text", times(lambda k, t: "noon" if k == 2 else t), load,
        "sample0-2 .* its timestamp is no number"),
    Row("a time that is NaN", times(lambda k, t: NAN if k == 2 else t), load,
        "sample0-2 .* its timestamp is no number"),
    Row("keyframes ten times a second", times(lambda k, t: k * 100_000), load,
        "times in .*sample.json are 100000 apart, .* neither in seconds nor in milli-, micro-"),
    Row("sweeps whose names and times disagree", stamped(SWAPPED), load,
        "sample0-4 .* the time in the name of its sweep isn't after the one before"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_keyframe_that_cannot_be_used_is_refused(row, world, capsys):
    row.check(world, capsys)


@pytest.mark.parametrize(
    "unit, scale", [("ns", 1000), ("ms", 1e-3), ("s", 1e-6), ("µs as a float", 1.0)]
)
def test_other_units_are_recognised(world, unit, scale):
    times(lambda k, t: t * scale)(world)
    for scene, start in zip(load(world), (0, 2_000_000)):
        stamps = [frame.timestamp for frame in scene.keyframes]
        assert stamps == [start + 500_000 * k for k in range(len(stamps))]
        assert all(isinstance(stamp, int) for stamp in stamps)


def test_times_of_annotations_are_sorted_as_numbers(world):
    shutil.rmtree(world / VERSION)
    path = world / "annotations.json"
    content = json.loads(path.read_text())
    for frame in content["scene_infos"]["scene-0001"].values():
        frame["timestamp"] = f"{int(frame['timestamp']) / 1e6 + 98.5}"  # seconds, 98.5 to 102
    for name in ("scene-0002", "scene-0003"):
        del content["scene_infos"][name]
    path.write_text(json.dumps(content))
    (scene,) = load_index(world, VERSION, "train")
    assert [f.token for f in scene.keyframes] == [f"sample0-{k}" for k in range(8)]
    assert scene.keyframes[3].timestamp == 100_000_000


def test_names_in_the_order_of_their_times_pass(world):
    stamped(STAMPS)(world)
    assert not any(frame.fault for scene in load(world) for frame in scene.keyframes)


def clips(root, **options):
    return ClipDataset(root, VERSION, "train", past=2, future=1, skip_bad_frames=True, **options)


def test_clips_with_a_bad_frame_are_left_out_and_counted(world, caplog):
    pose(3, translation=[NAN, 1.0, 0.0])(world)
    whole = ClipDataset(world, VERSION, "val", past=2, future=1)
    assert whole.bad_frames == {"keyframes": 0, "clips_left_out": 0}
    dataset = clips(world)
    # of scene-0001's six windows those that begin at 1, 2 and 3 hold keyframe 3
    assert dataset.clips == [(0, 0), (0, 4), (0, 5), (1, 0)]
    assert dataset.bad_frames == {"keyframes": 1, "clips_left_out": 3}
    assert "1 keyframes cannot be used; 3 of 7 clips are left out" in caplog.text
    for item in map(dataset.__getitem__, range(len(dataset))):
        assert item["poses"].isfinite().all() and item["trajectory"].abs().max() < 3
    # the step to the bad keyframe isn't known, as at a scene's end
    assert not dataset[0]["trajectory"][-1].any() and dataset[1]["trajectory"][0].any()
    about = describe_dataset(dataset, VERSION, "train")
    assert about["bad_frames"] == dataset.bad_frames
    page = markdown({"dataset": about, "environment": {"device": "", "torch": ""}, "rows": [],
                     "published": []})  # fmt: skip
    assert "Left out: 3 clips, for 1 keyframes that cannot be used" in page


def test_nothing_is_merged_across_a_bad_frame(world):
    edit("ego_pose", moved_on)(world)
    dataset = clips(world, past_from="lidar", merge=5)
    scene = dataset.scenes[0]
    read = []
    sweeps = dataset.reader.sweeps
    dataset.reader.sweeps = lambda *a: [read.append(s) or s for s in sweeps(*a)]
    alone = dataset.reader.merged(scene, 5, 6)
    dataset.reader.merge = 1
    assert np.array_equal(alone.observed, dataset.reader.merged(scene, 5, 6).observed)


def test_caches_hold_a_row_for_a_bad_frame_too(world, tmp_path):
    pose(3, rotation=[0.0] * 4)(world)
    dataset = clips(world, past_from="lidar")
    cache = VoxelCache(dataset, tmp_path / "cache", "past")
    assert len(cache) == 11 and (cache.voxels[3] == 17).all()
    assert dataset.fingerprint != ClipDataset(world, VERSION, "val", past=2, future=1).fingerprint


def test_replay_leaves_bad_frames_out(world):
    pose(3, translation=[NAN, 1.0, 0.0])(world)
    dataset = clips(world)
    names = [packet.name for packet in replay(dataset.reader, dataset.scenes[:1])]
    assert names == [f"scene-0001/sample0-{k}" for k in (0, 1, 2, 4, 5, 6, 7)]
    # a plan of one pose needs the two keyframes after each
    planned = [p.name[-1] for p in replay(dataset.reader, dataset.scenes[:1], plan=1)]
    assert planned == ["0", "4", "5", "6"]


def test_a_split_without_a_whole_clip_is_refused(world):
    for k in (2, 5):
        pose(k, rotation=[0.0] * 4)(world)
    with pytest.raises(UserError, match="every clip of split 'train'"):
        ClipDataset(world, VERSION, "train", past=3, future=1, skip_bad_frames=True)


def test_a_car_that_drives_fast_is_no_fault():
    poses = np.tile(np.eye(4), (5, 1, 1))
    seconds = 0.5 * np.arange(5)
    poses[:, 0, 3] = 49 * np.arange(5)  # 98 m/s
    assert broken_motion(poses, seconds, 1.25) == [None] * 5
    poses[:, 0, 3] = 51 * np.arange(5)
    assert all(broken_motion(poses, seconds, 1.25)[1:])
    assert broken_motion(poses, 2 * seconds, 1.25) == [None] * 5  # 51 m/s


def test_read_poses_equals_the_formula():
    angles = np.linspace(-3, 3, 7)
    records = [{"translation": [a, 2 * a, 1], "rotation": rotation(a)} for a in angles]
    poses, reasons = read_poses(records)
    assert reasons == [None] * 7
    for found, record in zip(poses, records):
        assert np.allclose(found, pose_matrix(record["translation"], record["rotation"]))
