import json
import logging
import math
import shutil

import numpy as np
import pytest

from occdistill.data import scenes
from occdistill.data.poses import pose_matrix
from occdistill.data.scenes import load_index
from occdistill.errors import UserError

MOUNTING = pose_matrix((0.9, 0.0, 1.8), (math.sqrt(0.5), 0, 0, -math.sqrt(0.5)))


def load(tiny, split="train"):
    return load_index(tiny.root, tiny.version, split)


def test_tables_give_keyframes(tiny):
    first, third = load(tiny)
    assert (first.name, first.token, third.name) == ("scene-0001", "scene-token-0", "scene-0003")
    assert [k.token for k in first.keyframes] == [tiny.token(0, f) for f in range(8)]
    frame = first.keyframes[5]
    assert frame.timestamp == 2_500_000
    assert np.allclose(frame.ego_to_global, tiny.ego_to_global(0, 5))
    assert np.allclose(frame.lidar_to_ego, MOUNTING)
    assert np.allclose(frame.lidar_to_global, frame.ego_to_global @ MOUNTING)
    assert frame.labels == f"gts/scene-0001/{frame.token}/labels.npz"
    assert frame.lidar == f"samples/LIDAR_TOP/data-l1-{frame.token}.pcd.bin"
    assert frame.lidarseg == f"lidarseg/{tiny.version}/data-l1-{frame.token}_lidarseg.bin"
    assert all((tiny.root / p).is_file() for p in (frame.labels, frame.lidar, frame.lidarseg))


def test_trajectory_is_the_step_in_the_lidar_frame(tiny):
    frames = load(tiny)[0].keyframes
    for now, then in zip(frames, frames[1:]):
        moved = then.lidar_to_global[:3, 3] - now.lidar_to_global[:3, 3]
        assert np.allclose(now.trajectory, (now.lidar_to_global[:3, :3].T @ moved)[:2], atol=1e-5)
    # Driving east at 2 m, north at 0.3 m a step: forward is the LiDAR's y, left is its -x.
    assert np.allclose(frames[0].trajectory, [-0.3, 2.0], atol=1e-5)
    assert frames[0].trajectory.dtype == np.float32
    assert not frames[-1].trajectory.any()


def test_annotations_alone_give_the_same_motion(tiny):
    wanted = load(tiny, "val")[0]
    shutil.rmtree(tiny.root / tiny.version)
    (tiny.root / "splits.json").unlink()
    (scene,) = load(tiny, "val")
    assert scene.name == wanted.name and len(scene.keyframes) == len(wanted.keyframes)
    for got, want in zip(scene.keyframes, wanted.keyframes):
        assert (got.token, got.timestamp, got.labels) == (want.token, want.timestamp, want.labels)
        assert np.allclose(got.ego_to_global, want.ego_to_global)
        assert got.lidar is None and got.lidarseg is None
    # The sensor sits where nuScenes has it, 4 cm from where this dataset has it.
    assert np.abs(got.lidar_to_ego - want.lidar_to_ego).max() < 0.05


def test_official_splits_come_from_the_devkit(tiny):
    (tiny.root / "splits.json").unlink()
    assert [s.name for s in load(tiny, "train")] == ["scene-0001", "scene-0002"]
    with pytest.raises(UserError, match="none of the 8 scenes of split 'mini_train'"):
        load(tiny, "mini_train")
    with pytest.raises(UserError, match="mini_train, mini_val, test, train, val"):
        load(tiny, "validation")


def test_index_is_cached_until_a_table_changes(tiny, monkeypatch):
    before = load(tiny)
    cache = tiny.root / ".occdistill" / f"index-{tiny.version}.json"
    assert cache.is_file()
    with monkeypatch.context() as patch:
        patch.setattr(scenes, "index_tables", lambda folder: pytest.fail("read again"))
        again = load(tiny)
    assert [k.token for s in again for k in s.keyframes] == [
        k.token for s in before for k in s.keyframes
    ]
    assert np.array_equal(again[0].keyframes[3].trajectory, before[0].keyframes[3].trajectory)

    tiny.edit("scene", lambda records: records[:1])
    assert [s.name for s in load(tiny)] == ["scene-0001"]
    cache.write_text("{")
    assert [s.name for s in load(tiny)] == ["scene-0001"]


def test_cache_goes_to_the_user_when_the_data_are_read_only(tiny, monkeypatch):
    # A file in the way, as root may write into read-only folders too.
    (tiny.root / ".occdistill").write_text("")
    load(tiny)
    (cache,) = (tiny.root.parent / "user-cache" / "occdistill").iterdir()
    monkeypatch.setattr(scenes, "index_tables", lambda folder: pytest.fail("read again"))
    assert len(load(tiny)) == 2 and cache.suffix == ".json"


def test_labels_may_arrive_after_the_index(tiny):
    (tiny.root / "gts").rename(tiny.root / "later")
    assert load(tiny)[0].keyframes[0].labels is None
    (tiny.root / "later").rename(tiny.root / "gts")
    assert load(tiny)[0].keyframes[0].labels is not None


def test_missing_things_are_told(tiny, tmp_path):
    with pytest.raises(UserError, match=r"no data root at .*/nowhere.*make_world"):
        load_index(tmp_path / "nowhere")
    with pytest.raises(UserError, match="choose one of short, train, val"):
        load(tiny, "test")
    (tiny.root / "annotations.json").unlink()
    with pytest.raises(UserError, match=r"no nuScenes tables at .*v1.0-trainval"):
        load_index(tiny.root, "v1.0-trainval", "train")


def test_scenes_absent_from_the_tables_are_counted(tiny, caplog):
    (tiny.root / "splits.json").write_text(json.dumps({"train": ["scene-0001", "scene-0999"]}))
    with caplog.at_level(logging.WARNING):
        assert len(load(tiny)) == 1
    assert "1 of 2 scenes" in caplog.text


def test_empty_scene_is_named(tiny):
    tiny.edit("scene", lambda records: [records[0] | {"first_sample_token": "", "nbr_samples": 0}])
    with pytest.raises(UserError, match="scene-0001 .* no keyframes"):
        load(tiny)


@pytest.mark.parametrize("name", ["sample", "sample_data", "ego_pose", "calibrated_sensor"])
def test_broken_tables_are_told(tiny, name):
    path = tiny.table(name)
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="fetch (it|them) again"):
        load(tiny)
    path.unlink()
    with pytest.raises(UserError, match=rf"no table at .*{name}\.json"):
        load(tiny)
    path.write_text("")
    with pytest.raises(UserError, match="fetch it again"):
        load(tiny)


def test_foreign_annotations_are_told(tiny):
    shutil.rmtree(tiny.root / tiny.version)
    (tiny.root / "annotations.json").write_text('{"scene_infos": {"a": {"b": {}}}}')
    with pytest.raises(UserError, match="not Occ3D's annotations.json"):
        load(tiny)
