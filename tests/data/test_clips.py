import logging

import numpy as np
import pytest
import torch

from occdistill.data.clips import ClipDataset, FrameReader
from occdistill.data.occ3d import FREE, OCC3D, GridTransform
from occdistill.data.poses import invert
from occdistill.data.scenes import load_index
from occdistill.errors import UserError

SMALL = GridTransform(25.6, 2)


def clips(tiny, split="train", past=2, future=3, **kwargs):
    return ClipDataset(tiny.root, tiny.version, split, past, future, **kwargs)


def marks(voxels):
    """The frame numbers that the tiny dataset writes into one voxel."""
    return voxels.flatten(1).min(dim=1).values.tolist()


def test_windows_are_all_there_and_stay_in_their_scene(tiny, caplog):
    with caplog.at_level(logging.WARNING):
        data = clips(tiny)
    assert data.skipped == ["scene-0003"] and "1 scenes are shorter" in caplog.text
    assert len(data) == 4 and data.clips == [(0, s) for s in range(4)]
    for i in range(len(data)):
        item = data[i]
        assert marks(item["past"]) == [i, i + 1] and item["index"] == i
        assert marks(item["future"]) == [i + 2, i + 3, i + 4]
        assert data.clip_id(i) == f"scene-0001/{tiny.token(0, i + 1)}"
        assert [f.token for f in data.frames(i)] == [tiny.token(0, i + k) for k in range(5)]


def test_stride_and_exact_fit(tiny):
    assert clips(tiny, stride=2).clips == [(0, 0), (0, 2)]
    assert clips(tiny, past=2, future=6).clips == [(0, 0)]


def test_shapes_poses_and_trajectory(tiny):
    data = clips(tiny, "val")
    item = data[1]
    assert item["past"].shape == (2, *OCC3D.shape) and item["past"].dtype == torch.uint8
    assert item["poses"].shape == (5, 4, 4) and item["poses"].dtype == torch.float32
    assert item["trajectory"].shape == (5, 2) and item["trajectory"].dtype == torch.float32
    assert torch.allclose(item["poses"][1], torch.eye(4), atol=1e-6)
    for k in range(5):
        want = invert(tiny.ego_to_global(1, 2)) @ tiny.ego_to_global(1, 1 + k)
        assert np.allclose(item["poses"][k], want, atol=1e-5)
    assert np.allclose(item["trajectory"], [f.trajectory for f in data.frames(1)])


def test_masks_are_those_of_the_future(tiny):
    item = clips(tiny, masks=True, transform=SMALL)[0]
    assert item["mask_lidar"].shape == item["mask_camera"].shape == item["future"].shape
    assert item["mask_lidar"].sum() == 3 and (item["mask_camera"] == 1).all()
    assert (item["future"][item["mask_lidar"] == 1] != FREE).all()


def test_hiding_the_future_motion_hides_all_of_it(tiny):
    item = clips(tiny, future_poses=False)[0]
    assert item["poses"].shape == (2, 4, 4) and item["trajectory"].shape == (1, 2)


def test_small_grid(tiny):
    data = clips(tiny, transform=SMALL)
    assert data.grid == SMALL.grid and data[0]["past"].shape == (2, 64, 64, 8)
    assert marks(data[0]["future"]) == [2, 3, 4]


def test_batches_collate(tiny):
    batch = next(iter(torch.utils.data.DataLoader(clips(tiny, transform=SMALL), batch_size=4)))
    assert batch["past"].shape == (4, 2, 64, 64, 8) and batch["index"].tolist() == [0, 1, 2, 3]


def test_fingerprint_follows_what_is_read(tiny):
    same = clips(tiny).fingerprint
    assert same == clips(tiny, stride=2, past=1).fingerprint and len(same) == 64
    others = [
        clips(tiny, "val").fingerprint,
        clips(tiny, transform=SMALL).fingerprint,
        clips(tiny, past_from="lidar").fingerprint,
        clips(tiny, past_from="lidar", merge=2).fingerprint,
    ]
    turned = clips(tiny)
    turned.scenes[0].keyframes[1].ego_to_global[0, 3] += 0.1
    others.append(turned.reader.fingerprint(turned.scenes))
    path = tiny.root / "gts/scene-0001" / tiny.token(0, 0) / "labels.npz"
    path.write_bytes(b"x")
    others.append(clips(tiny).fingerprint)
    assert len({same, *others}) == 7


@pytest.mark.parametrize("whole_folder", [True, False])
def test_missing_label_files_are_counted(tiny, whole_folder):
    folder = tiny.root / "gts/scene-0001" / tiny.token(0, 2)
    (folder / "labels.npz").unlink()
    if whole_folder:
        folder.rmdir()
    with pytest.raises(
        UserError, match=rf"1 of 8 labels files .*gts.*scene-0001.{tiny.token(0, 2)}"
    ):
        clips(tiny)


def test_damaged_label_file_is_named_when_read(tiny):
    data = clips(tiny)
    path = tiny.root / "gts/scene-0001" / tiny.token(0, 2) / "labels.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=tiny.token(0, 2)):
        data[0]


def test_scenes_shorter_than_a_clip(tiny):
    with pytest.raises(UserError, match="all 1 scenes .* shorter than a clip of 5"):
        clips(tiny, "short")


def test_impossible_arguments(tiny):
    with pytest.raises(UserError, match="empty"):
        clips(tiny, past=0)
    with pytest.raises(UserError, match="choose occ3d or lidar"):
        clips(tiny, past_from="radar")


def test_lidar_feeds_the_same_clips(tiny):
    data = clips(tiny, past_from="lidar", past=4, future=2, merge=3, masks=True)
    item, labels = data[2], clips(tiny, past=4, future=2)[2]
    assert torch.equal(item["future"], labels["future"])
    assert torch.equal(item["poses"], labels["poses"])
    for frame, voxels, seen in zip(data.frames(2), item["past"], item["observed"]):
        # Merged sweeps of a standing pole meet in one voxel of that frame; the bonnet is no voxel.
        pole = invert(frame.ego_to_global) @ [620.0, 1010.0, 1.2, 1]
        where = np.floor((pole[:3] - OCC3D.origin) / OCC3D.voxel_size).astype(int).tolist()
        assert (voxels != FREE).nonzero().tolist() == [where] and voxels[tuple(where)] == 15
        assert seen[tuple(where)] == 1 and 10 < seen.sum() < 300


def test_lidar_looks_back_but_never_ahead(tiny):
    data = clips(tiny, past_from="lidar", merge=2)
    looked = []
    sweeps = data.reader.sweeps
    data.reader.sweeps = lambda scene, a, b: looked.append((a, b)) or sweeps(scene, a, b)
    data[0], data[2]
    assert looked == [(0, 2), (1, 4)]


@pytest.mark.parametrize(
    ("kind", "path", "brings"),
    [
        ("lidar", "samples/LIDAR_TOP/data-l1-sample0-3.pcd.bin", "nuScenes' LIDAR_TOP keyframes"),
        ("lidarseg", "lidarseg/v1.0-tiny/data-l1-sample0-3_lidarseg.bin", "nuScenes-lidarseg"),
    ],
)
def test_missing_lidar_files_are_counted(tiny, kind, path, brings):
    (tiny.root / path).unlink()
    with pytest.raises(UserError, match=f"1 of 8 {kind} files .*{path}; put {brings}"):
        clips(tiny, past_from="lidar")


def test_a_dataset_without_point_labels_is_told(tiny):
    tiny.table("lidarseg").unlink()
    with pytest.raises(UserError, match="8 of 8 lidarseg files .*lidarseg for scene-0001"):
        clips(tiny, past_from="lidar")


def test_reading_what_the_index_does_not_have_is_told(tiny):
    tiny.table("lidarseg").unlink()
    (tiny.root / "gts").rename(tiny.root / "elsewhere")
    scene = load_index(tiny.root, tiny.version, "val")[0]
    with pytest.raises(UserError, match="has no labels file; put Occ3D-nuScenes' gts"):
        FrameReader(tiny.root).past(scene, 0, 1)
    with pytest.raises(UserError, match="has no lidarseg file; put nuScenes-lidarseg"):
        FrameReader(tiny.root, past_from="lidar").past(scene, 0, 1)
