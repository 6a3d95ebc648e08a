"""Cached latents and info files of the field."""

import pickle

import numpy as np
import pytest

from occdistill.data.infos import build_infos
from occdistill.data.scenes import load_index
from occdistill.errors import UserError
from occdistill.occfm.caches import (
    compare_infos,
    infos_columns,
    read_infos,
    read_latents,
)
from occdistill.store import read_npz, write_npz


def dump(path, value):
    path.write_bytes(pickle.dumps(value))
    return path


def latent_frame(scene, token, value):
    return {
        "x_sampled": np.full((1, 16, 5, 5), value, np.float32),
        "gt_path": [[f"data/nuscenes/gts/{scene}/{token}/labels.npz"]],
        "gt_trajs": np.array([[0.1, value]], np.float32),
    }


def test_latents_with_their_keyframes(tmp_path):
    frames = [latent_frame("scene-0003", "ab", 1.5), latent_frame("scene-0001", "cd", -2)]
    found = read_latents(dump(tmp_path / "a.pkl", frames))
    assert found["latents"].shape == (2, 16, 5, 5) and found["latents"].dtype == np.float32
    assert found["latents"][1, 0, 0, 0] == -2
    assert found["trajectory"].tolist() == np.float32([[0.1, 1.5], [0.1, -2]]).tolist()
    assert found["scene"].tolist() == ["scene-0003", "scene-0001"]
    assert found["token"].tolist() == ["ab", "cd"]
    write_npz(tmp_path / "a.npz", found)
    again = read_npz(tmp_path / "a.npz")
    assert all(np.array_equal(again[name], found[name]) for name in found)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"x_sampled": None}, "entry 1 .* not a keyframe's latent"),
        ({"gt_path": "labels.npz"}, "entry 1 .* not a keyframe's latent"),
        ({"x_sampled": np.full((1, 16, 5, 5), np.nan)}, "entry 1 .* NaN"),
        ({"x_sampled": np.zeros((1, 8, 5, 5))}, r"shape \(8, 5, 5\)"),
    ],
)
def test_unusable_latents(tmp_path, change, sentence):
    frames = [latent_frame("scene-0003", "ab", 1.5), latent_frame("s", "t", 1.0) | change]
    with pytest.raises(UserError, match=sentence):
        read_latents(dump(tmp_path / "a.pkl", frames))


def test_other_pickles_are_no_latents(tmp_path):
    with pytest.raises(UserError, match="no list of keyframes"):
        read_latents(dump(tmp_path / "a.pkl", {"infos": {}}))


def field_pickle(path, infos):
    """As the field's converter writes it: lists of dicts with much that nobody reads."""
    scenes = {
        name: [
            {
                "token": frame["token"],
                "gt_ego_fut_trajs": frame["gt_ego_fut_trajs"],
                "gt_ego_fut_masks": frame["gt_ego_fut_masks"],
                "pose_mode": frame["pose_mode"],
                "lidar_path": "./data/nuscenes/samples/LIDAR_TOP/x.pcd.bin",
                "gt_names": np.array(["car", "pedestrian"]),
                "ego2global_rotation": [1.0, 0.0, 0.0, 0.0],
            }
            for frame in frames
        ]
        for name, frames in infos.items()
    }
    return dump(path, {"infos": scenes, "metadata": {"version": "v1.0-trainval"}})


def test_infos_built_from_raw_tables_agree_with_the_pickle(tmp_path, tiny_world):
    ours = build_infos(load_index(tiny_world, "v1.0-synthetic", "train"))
    theirs = read_infos(field_pickle(tmp_path / "a.pkl", ours))
    assert list(theirs) == list(ours)
    found = compare_infos(theirs, ours)
    scenes, frames = len(ours), sum(map(len, ours.values()))
    assert found == {"scenes": scenes, "keyframes": frames, "missing": 0, "largest": 0.0}
    assert frames > 12
    moved = read_infos(tmp_path / "a.pkl")
    frame = moved[next(iter(moved))][3]
    frame["gt_ego_fut_trajs"] = frame["gt_ego_fut_trajs"] + np.float32([[0.5, 0]])
    assert compare_infos(moved, ours)["largest"] == pytest.approx(0.5)
    columns = infos_columns(theirs)
    assert columns["gt_ego_fut_trajs"].shape == (frames, 6, 2)
    assert columns["count"].tolist() == [len(scene) for scene in ours.values()]
    write_npz(tmp_path / "a.npz", columns)
    assert read_npz(tmp_path / "a.npz")["token"].tolist() == columns["token"].tolist()


def test_unusable_infos(tmp_path):
    with pytest.raises(UserError, match="no scenes under 'infos'"):
        read_infos(dump(tmp_path / "a.pkl", [1, 2]))
    broken = {"infos": {"scene-0001": [{"token": "ab"}]}}
    with pytest.raises(UserError, match="keyframe 0 of scene-0001"):
        read_infos(dump(tmp_path / "a.pkl", broken))
