"""The written world: files, tables, sweeps, masks."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from occdistill.data.occ3d import FREE, OCC3D, load_labels, load_semantics
from occdistill.data.resample import warp
from occdistill.data.scenes import load_index
from occdistill.errors import UserError
from occdistill.world import VERSION, make_world, world
from occdistill.world.simulate import SceneWorld, between_keyframes

# lidarseg ids → Occ3D classes, for the ids that the world uses.
TO_OCC3D = {2: 7, 3: 7, 4: 7, 9: 1, 10: 0, 11: 0, 12: 8, 14: 2, 16: 3, 17: 4, 18: 5, 21: 6}
TO_OCC3D |= {22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 29: 0, 30: 16}
EGO = 31


@pytest.fixture(scope="module")
def nusc(tiny_world):
    from nuscenes import NuScenes

    return NuScenes(VERSION, str(tiny_world), verbose=False)


@pytest.fixture(scope="module")
def scenes(tiny_world):
    return load_index(tiny_world, VERSION, "train") + load_index(tiny_world, VERSION, "val")


def sweep(root, frame):
    points = np.fromfile(root / frame.lidar, np.float32).reshape(-1, 5)
    return points, np.fromfile(root / frame.lidarseg, np.uint8)


def voxels(frame, points):
    xyz = points[:, :3] @ frame.lidar_to_ego[:3, :3].T + frame.lidar_to_ego[:3, 3]
    index = np.floor((xyz - OCC3D.origin) / OCC3D.voxel_size).astype(int)
    return index, ((index >= 0) & (index < OCC3D.shape)).all(1)


def digest(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".occdistill" not in path.parts
    }


def test_devkit_browses_it(nusc, tiny_world, capsys):
    nusc.list_scenes()
    assert nusc.scene[-1]["name"] in capsys.readouterr().out
    sample = nusc.get("sample", nusc.scene[0]["first_sample_token"])
    sweep_token = sample["data"]["LIDAR_TOP"]
    boxes = nusc.get_boxes(sweep_token)
    assert len(boxes) == len(sample["anns"]) > 5
    nusc.get_sample_lidarseg_stats(sample["token"])
    assert "flat.driveable_surface" in capsys.readouterr().out
    path, _, _ = nusc.get_sample_data(sweep_token)
    assert Path(path).is_file()
    speeds = [np.linalg.norm(nusc.box_velocity(ann)[:2]) for ann in sample["anns"]]
    assert np.nanmax(speeds) < 20.0


def test_tables_refer_to_each_other(nusc):
    for record in nusc.sample_annotation:
        sample = nusc.get("sample", record["sample_token"])
        assert nusc.get("instance", record["instance_token"])
        assert nusc.get("visibility", record["visibility_token"])
        assert all(nusc.get("attribute", token) for token in record["attribute_tokens"])
        if record["next"]:
            after = nusc.get("sample_annotation", record["next"])
            assert after["prev"] == record["token"]
            assert after["instance_token"] == record["instance_token"]
            assert nusc.get("sample", after["sample_token"])["token"] == sample["next"]
    for record in nusc.instance:
        first = nusc.get("sample_annotation", record["first_annotation_token"])
        last = nusc.get("sample_annotation", record["last_annotation_token"])
        assert first["prev"] == "" and last["next"] == ""
        count, token = 1, first["next"]
        while token:
            count, token = count + 1, nusc.get("sample_annotation", token)["next"]
        assert count == record["nbr_annotations"]
    for record in nusc.sample_data:
        assert nusc.get("ego_pose", record["ego_pose_token"])["timestamp"] == record["timestamp"]
        assert nusc.get("sample", record["sample_token"])["timestamp"] == record["timestamp"]
    for table in nusc.table_names:
        tokens = [record["token"] for record in getattr(nusc, table)]
        assert len(set(tokens)) == len(tokens), table


def test_annotations_json_agrees_with_the_tables(nusc, tiny_world):
    content = json.loads((tiny_world / "annotations.json").read_text())
    splits = json.loads((tiny_world / "splits.json").read_text())
    assert (content["train_split"], content["val_split"]) == (splits["train"], splits["val"])
    assert sorted(content["scene_infos"]) == sorted(splits["train"] + splits["val"])
    assert sorted(content["scene_infos"]) == [scene["name"] for scene in nusc.scene]
    for scene in nusc.scene:
        frames = content["scene_infos"][scene["name"]]
        token = scene["first_sample_token"]
        assert len(frames) == scene["nbr_samples"]
        while token:
            sample = nusc.get("sample", token)
            frame = frames[token]
            ego = nusc.get("ego_pose", sample["data"]["LIDAR_TOP"])
            assert frame["timestamp"] == sample["timestamp"]
            assert frame["ego_pose"]["translation"] == ego["translation"]
            assert frame["ego_pose"]["rotation"] == ego["rotation"]
            assert (frame["prev"], frame["next"]) == (sample["prev"], sample["next"])
            assert (tiny_world / frame["gt_path"]).is_file()
            token = sample["next"]


def test_points_lie_in_voxels_of_their_class(tiny_world, scenes):
    filled = []
    for scene in scenes:
        frame = scene.keyframes[5]
        points, ids = sweep(tiny_world, frame)
        assert len(points) == len(ids) > 12_000
        assert np.isfinite(points).all()
        assert set(np.unique(points[:, 4])) <= set(range(32))
        assert points[:, 3].min() >= 0 and points[:, 3].max() <= 255
        labels = load_semantics(tiny_world / frame.labels)
        index, inside = voxels(frame, points)
        keep = inside & (ids != EGO)
        found = labels[tuple(index[keep].T)]
        # half of the surfaces lie in the outer half of a voxel; right beside the sensor, in a jam,
        # one car's side is a third of all points
        filled.append((found != FREE).mean())
        assert filled[-1] > 0.75
        expected = np.array([TO_OCC3D.get(int(i), 255) for i in ids[keep]])
        assert (expected[found != FREE] == found[found != FREE]).mean() > 0.9
        around = np.zeros(OCC3D.shape, bool)
        occupied = np.pad(labels != FREE, 1)
        for shift in np.ndindex(3, 3, 3):
            window = tuple(slice(s, s + n) for s, n in zip(shift, OCC3D.shape))
            around |= occupied[window]
        assert around[tuple(index[keep].T)].mean() > 0.99
    assert np.mean(filled) > 0.88


def test_boxes_hold_the_points_they_count(nusc, tiny_world):
    from nuscenes.utils.geometry_utils import points_in_box

    sample = nusc.get("sample", nusc.scene[1]["first_sample_token"])
    token = sample["data"]["LIDAR_TOP"]
    _, boxes, _ = nusc.get_sample_data(token)
    path = nusc.get_sample_data_path(token)
    points = np.fromfile(path, np.float32).reshape(-1, 5)[:, :3].T
    counted, inside = [], []
    for box in boxes:
        counted.append(nusc.get("sample_annotation", box.token)["num_lidar_pts"])
        box.wlh = box.wlh + 0.2  # range noise
        inside.append(points_in_box(box, points).sum())
    assert sum(counted) > 100
    # The ground under a box is inside it too.
    assert all(n <= m for n, m in zip(counted, inside))


def test_masks_show_what_is_near_and_open(tiny_world, scenes):
    frame = scenes[0].keyframes[3]
    labels = load_labels(tiny_world / frame.labels)
    for mask in (labels.mask_lidar, labels.mask_camera):
        assert set(np.unique(mask)) == {0, 1}
        assert 0.05 < mask.mean() < 0.7
        seen = labels.semantics[mask == 1]
        assert 0.01 < (seen != FREE).mean() < 0.6
    # Next to the car, above the bonnet's height, the LiDAR sees the air all round.
    assert labels.mask_lidar[96:110, 94:106, 7].mean() > 0.9
    points, ids = sweep(tiny_world, frame)
    index, inside = voxels(frame, points)
    keep = inside & (ids != EGO)
    assert labels.mask_lidar[tuple(index[keep].T)].mean() > 0.7


def test_static_labels_agree_after_warping_by_the_poses(tiny_world, scenes):
    for scene in scenes:
        for a, b in zip(scene.keyframes[::3], scene.keyframes[1::3]):
            one, two = (load_semantics(tiny_world / f.labels) for f in (a, b))
            move = np.linalg.inv(a.ego_to_global) @ b.ego_to_global
            moved = warp(torch.from_numpy(one)[None], torch.from_numpy(move)[None], OCC3D)[0]
            near = (slice(40, 160), slice(40, 160))
            moved, two = moved.numpy()[near], two[near]
            standing = (moved >= 11) & (two >= 11) & (moved != FREE) & (two != FREE)
            assert (moved[standing] == two[standing]).mean() > 0.97
            both, either = (moved != FREE) & (two != FREE), (moved != FREE) | (two != FREE)
            assert both.sum() / either.sum() > 0.8


def test_ego_motion_is_continuous(scenes):
    for scene in scenes:
        poses = np.stack([frame.ego_to_global for frame in scene.keyframes])
        steps = np.linalg.inv(poses[:-1]) @ poses[1:]
        assert (steps[:, 0, 3] > -0.05).all() and (steps[:, 0, 3] < 8.0).all()
        assert (np.abs(steps[:, 1, 3]) < 2.0).all()
        assert (np.abs(steps[:, 2, 3]) < 0.2).all()
        assert (np.diff([f.timestamp for f in scene.keyframes]) == 500_000).all()


def test_common_classes_in_every_scene_and_rare_ones_in_some(tiny_world, scenes):
    present = []
    for scene in scenes:
        labels = [load_semantics(tiny_world / f.labels) for f in scene.keyframes[::4]]
        present.append(set(np.unique(labels)))
    assert set.intersection(*present) >= {4, 7, 11, 13, 15, 16, FREE}
    assert len(set.union(*present)) >= 16


@pytest.mark.slow
def test_all_classes_in_both_splits(tmp_path):
    make_world(tmp_path / "w", scenes=10, val_scenes=10, seed=0, keyframes=10, lidar=False)
    for split in ("train", "val"):
        found = set()
        for scene in load_index(tmp_path / "w", VERSION, split):
            for frame in scene.keyframes[::3]:
                found |= set(np.unique(load_semantics(tmp_path / "w" / frame.labels)))
        assert found == set(range(18)), split


def test_same_seed_same_bytes_however_it_is_made(tmp_path):
    kwargs = dict(scenes=1, val_scenes=1, seed=4, keyframes=2)
    one = make_world(tmp_path / "one", workers=1, **kwargs)
    two = make_world(tmp_path / "two", workers=2, **kwargs)
    assert digest(one) == digest(two)
    # Labels and poses do not depend on the LiDAR.
    bare = make_world(tmp_path / "bare", workers=1, lidar=False, **kwargs)
    small, full = digest(bare), digest(one)
    assert all(small[name] == full[name] for name in full if name.startswith(("gts", "annot")))
    assert not any(name.startswith(("samples", "lidarseg")) for name in small)
    from nuscenes import NuScenes

    assert len(NuScenes(VERSION, str(bare), verbose=False).sample) == 4


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    kwargs = dict(scenes=2, val_scenes=0, seed=4, keyframes=1, workers=1)
    write, done = world._write_scene, []

    def write_one(job, **rest):
        if done:
            raise OSError(28, "No space left on device")
        done.append(job[0].name)
        write(job, **rest)

    monkeypatch.setattr(world, "_write_scene", write_one)
    with pytest.raises(UserError, match="No space left"):
        make_world(tmp_path / "cut", **kwargs)
    assert done == ["scene-0001"]

    def write_rest(job, **rest):
        done.append(job[0].name)
        write(job, **rest)

    monkeypatch.setattr(world, "_write_scene", write_rest)
    make_world(tmp_path / "cut", **kwargs)
    assert done == ["scene-0001", "scene-0002"]
    assert digest(tmp_path / "cut") == digest(make_world(tmp_path / "whole", **kwargs))


def test_refuses_what_it_should(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no world"):
        make_world(tmp_path, scenes=1, keyframes=1)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    with pytest.raises(UserError, match="at least one scene"):
        make_world(tmp_path / "none", scenes=0, val_scenes=0)
    with pytest.raises(UserError, match="is a file"):
        make_world(tmp_path / "thesis.txt", scenes=1)
    with pytest.raises(UserError, match="free disk"):
        make_world(tmp_path / "huge", scenes=10**8, val_scenes=1)


def test_another_world_is_replaced_only_when_told(tmp_path):
    kwargs = dict(scenes=1, val_scenes=0, keyframes=1, lidar=False, workers=1)
    out = make_world(tmp_path / "w", seed=1, **kwargs)
    before = digest(out)
    assert digest(make_world(out, seed=1, **kwargs)) == before
    with pytest.raises(UserError, match="--overwrite"):
        make_world(out, seed=2, **kwargs)
    assert digest(out) == before
    make_world(out, seed=2, overwrite=True, **kwargs)
    after = digest(out)
    assert len(after) == len(before) and not set(after.values()) >= set(before.values())


def test_the_command_says_in_one_line_what_is_wrong(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    tool = Path(__file__).parents[2] / "tools" / "make_world.py"
    command = [sys.executable, str(tool), "--out", str(tmp_path)]
    refused = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1


def test_between_keyframes_everything_moves_evenly():
    half = np.sqrt(0.5)
    world = SceneWorld(
        columns=None,
        translation=np.array([[0.0, 0, 0], [4.0, 0, 0], [4.0, 4, 0]]),
        # turns left by 90 degrees twice; the last quaternion is given with the other sign
        rotation=np.array([[1.0, 0, 0, 0], [half, 0, 0, half], [0, 0, 0, -1.0]]),
        kinds=np.array([0]),
        sizes=np.ones((1, 3)),
        pose=np.array([[[0.0, 0, 3.0]], [[2.0, 0, -3.0]], [[2.0, 0, -3.0]]]),
        foot=np.zeros((3, 1)),
        speed=np.zeros((3, 1)),
        standing=np.array([False]),
        in_sight=np.ones((3, 1), bool),
        alive=np.array([[True], [True], [False]]),
    )
    world.seen = "what the drive shows"
    fine = between_keyframes(world, 4)
    assert fine.translation[:, 0].tolist() == [0, 1, 2, 3, 4, 4, 4, 4, 4]
    assert np.allclose(fine.ego_to_global(8)[:2, :2], [[-1, 0], [0, -1]])
    yaw = np.arctan2(fine.ego_to_global(6)[1, 0], fine.ego_to_global(6)[0, 0])
    assert np.degrees(yaw) == pytest.approx(135)
    assert np.cos(fine.pose[2, 0, 2]) == pytest.approx(-1)  # through pi, not through zero
    assert fine.alive[:, 0].tolist() == [True] * 6 + [False] * 3
    assert fine.seen == world.seen
