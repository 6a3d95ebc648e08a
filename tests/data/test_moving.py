import json

import numpy as np
import pytest

from occdistill.data.clips import ClipDataset
from occdistill.data.moving import Boxes, boxes_of_tables, boxes_of_tracks, swept
from occdistill.data.occ3d import Grid

GRID = Grid((20, 20, 4), 0.8, (-8.0, -8.0, -0.8))


def box(x, y, heading=(1.0, 0.0, 0.0)):
    return Boxes(np.array([[x, y, 0.8]]), np.array([[4.0, 1.6, 1.6]]), np.array([heading]))


def test_a_box_fills_the_voxels_within_it_and_turns():
    mask = np.zeros(GRID.shape, bool)
    box(0, 0).fill(mask, GRID, margin=-0.2)
    assert mask.any((1, 2)).sum() == 4 and mask.any((0, 2)).sum() == 2  # |x| < 1.8, |y| < 0.6
    turned = np.zeros(GRID.shape, bool)
    box(0, 0, (0.0, 1.0, 0.0)).fill(turned, GRID, margin=-0.2)
    np.testing.assert_array_equal(turned, mask.transpose(1, 0, 2))


def test_the_region_is_where_it_is_and_will_be_in_every_frame():
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1, 0, 3] = 1.6  # the ego car moves on by two voxels
    region = swept([box(-4, 0), box(2.4, 0)], poses, GRID)  # from -4 to 4 in the first frame
    both = np.zeros(GRID.shape, bool)
    for x in (-5.6, 2.4):
        box(x, 0).fill(both, GRID)
    np.testing.assert_array_equal(region, both[None])


def test_tracks_find_what_moves_and_not_what_stands():
    voxels = np.full((3, *GRID.shape), 17, np.uint8)
    for i in range(3):
        voxels[i, 2 + 2 * i : 6 + 2 * i, 4:6, 1:3] = 4
        voxels[i, 10:14, 14:16, 1:3] = 4
    found = boxes_of_tracks(voxels, np.tile(np.eye(4), (3, 1, 1)), GRID)
    np.testing.assert_allclose(found.centres, [[-1.6, -4.0, 0.8]])
    np.testing.assert_allclose(found.sizes, [[3.2, 1.6, 1.6]])


def test_speeds_of_the_tables(tiny_world):
    data = ClipDataset(tiny_world, "v1.0-synthetic", "val")
    found = boxes_of_tables(tiny_world, "v1.0-synthetic", data.scenes)
    table = json.loads((tiny_world / "v1.0-synthetic" / "sample_annotation.json").read_text())
    by_token, slow = {r["token"]: r for r in table}, 0
    inner = [r for r in table if r["sample_token"] in found and r["prev"] and r["next"]]
    for r in inner:
        a, b = (np.array(by_token[r[way]]["translation"]) for way in ("prev", "next"))
        here = (found[r["sample_token"]].centres == r["translation"]).all(1).any()
        assert here == (np.linalg.norm(b - a) > 0.5)  # over one second
        slow += not here
    assert inner and 0 < slow < len(inner)
    assert boxes_of_tables(tiny_world, "v1.0-none", data.scenes) is None


@pytest.mark.parametrize("speed", [0.4, 0.6])
def test_half_a_metre_a_second_is_the_border(tmp_path, speed):
    from types import SimpleNamespace

    frames = [SimpleNamespace(token=str(k), timestamp=500_000 * k) for k in range(3)]
    records = [
        {"token": f"a{k}", "sample_token": str(k), "prev": f"a{k - 1}" if k else "",
         "next": f"a{k + 1}" if k < 2 else "", "translation": [speed * k / 2, 0, 0],
         "size": [1, 2, 3], "rotation": [1, 0, 0, 0]}
        for k in range(3)
    ]  # fmt: skip
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "sample_annotation.json").write_text(json.dumps(records, indent=0))
    found = boxes_of_tables(tmp_path, "v", [SimpleNamespace(keyframes=frames)])
    assert [len(found[str(k)].centres) for k in range(3)] == [int(speed > 0.5)] * 3
    if speed > 0.5:
        np.testing.assert_allclose(found["1"].sizes, [[2, 1, 3]])
