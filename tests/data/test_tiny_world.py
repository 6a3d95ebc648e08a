"""The embedded world, read as any nuScenes dataset is."""

import numpy as np
import pytest

from occdistill.data.clips import ClipDataset
from occdistill.data.occ3d import FREE, load_labels
from occdistill.data.poses import pose_matrix
from occdistill.data.scenes import load_index
from occdistill.world import VERSION


@pytest.fixture(scope="module")
def scenes(tiny_world):
    return {split: load_index(tiny_world, VERSION, split) for split in ("train", "val")}


def test_splits(scenes):
    names = {split: [scene.name for scene in listed] for split, listed in scenes.items()}
    assert names["train"] and names["val"]
    assert not set(names["train"]) & set(names["val"])


def test_index_says_what_the_devkit_says(tiny_world, scenes):
    from nuscenes import NuScenes

    nusc = NuScenes(VERSION, str(tiny_world), verbose=False)
    listed = {scene.name: scene for scene in scenes["train"] + scenes["val"]}
    assert sorted(listed) == sorted(scene["name"] for scene in nusc.scene)
    for record in nusc.scene:
        scene = listed[record["name"]]
        assert scene.token == record["token"] and len(scene.keyframes) == record["nbr_samples"]
        token = record["first_sample_token"]
        for frame in scene.keyframes:
            sample = nusc.get("sample", token)
            cloud = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
            ego = nusc.get("ego_pose", cloud["ego_pose_token"])
            mounting = nusc.get("calibrated_sensor", cloud["calibrated_sensor_token"])
            assert (frame.token, frame.timestamp) == (token, sample["timestamp"])
            assert frame.lidar == cloud["filename"]
            assert frame.lidarseg == nusc.get("lidarseg", cloud["token"])["filename"]
            for pose, matrix in ((ego, frame.ego_to_global), (mounting, frame.lidar_to_ego)):
                assert np.allclose(matrix, pose_matrix(pose["translation"], pose["rotation"]))
            token = sample["next"]
        assert token == ""


def test_clips_from_labels_and_from_lidar_show_the_same_street(tiny_world):
    data = {
        kind: ClipDataset(tiny_world, VERSION, "val", 4, 6, past_from=kind, masks=True)
        for kind in ("occ3d", "lidar")
    }
    labels, lidar = (data[kind][1] for kind in ("occ3d", "lidar"))
    assert (labels["future"] == lidar["future"]).all()
    for voxels, seen, frame in zip(lidar["past"], lidar["observed"], data["lidar"].frames(1)):
        truth = load_labels(tiny_world / frame.labels)
        points = voxels.numpy() != FREE
        # What was hit is there (moving things aside), and has its class.
        hits = truth.semantics[points]
        assert (hits != FREE).mean() > 0.85
        occupied = hits != FREE
        assert (hits[occupied] == voxels.numpy()[points][occupied]).mean() > 0.85
        # Two accounts of what can be seen: rays to merged points, and the label files' own.
        newest = truth.mask_lidar.astype(bool)
        assert (seen.numpy().astype(bool) & newest).sum() > 0.6 * newest.sum()
