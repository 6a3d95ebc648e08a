"""Files of other label sets, written from Occ3D labels and read back."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from occdistill.data.clips import ClipDataset
from occdistill.data.label_sets import (
    OPENOCCUPANCY,
    SURROUNDOCC,
    OpenOcc,
    UniOcc,
    regrid,
    with_labels,
)
from occdistill.data.occ3d import FREE, OCC3D, Grid, load_semantics
from occdistill.errors import UserError

OPENOCC_NAMES = [
    "car",
    "truck",
    "trailer",
    "bus",
    "construction_vehicle",
    "bicycle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "barrier",
    "driveable_surface",
    "other_flat",
    "sidewalk",
    "terrain",
    "manmade",
    "vegetation",
    "free",
]


def scene_of(lidar_to_ego):
    frame = SimpleNamespace(
        token="abc",
        lidar="samples/LIDAR_TOP/sweep.pcd.bin",
        lidarseg="lidarseg/v1.0-x/f00_lidarseg.bin",
        lidar_to_ego=lidar_to_ego,
    )
    return SimpleNamespace(name="scene-0001", token="5ce0e", keyframes=[frame])


@pytest.fixture
def labels():
    rng = np.random.default_rng(0)
    voxels = np.full(OCC3D.shape, FREE, np.uint8)
    voxels[:, :, 0] = 11
    occupied = rng.random(OCC3D.shape) < 0.02
    voxels[occupied] = rng.integers(1, 17, int(occupied.sum()))
    return voxels


def test_openocc_round_trip(labels, tmp_path):
    from occdistill.data.occ3d import CLASS_NAMES

    scene, openocc = scene_of(np.eye(4)), OpenOcc()
    path = openocc.path(tmp_path, scene, 0)
    assert path == tmp_path / "openocc_v2/scene-0001/abc/labels.npz"
    path.parent.mkdir(parents=True)
    theirs = np.array([OPENOCC_NAMES.index(CLASS_NAMES[c]) if c else 0 for c in range(18)])[labels]
    np.savez(path, semantics=theirs.astype(np.uint8), flow=np.zeros((2, 2)))
    got = openocc.load(tmp_path, scene, 0)
    np.testing.assert_array_equal(got.semantics, labels)
    assert got.known.all()


def sparse_file(path, dense, order):
    place = np.argwhere(dense != FREE)
    rows = np.concatenate([place[:, list(order)], dense[tuple(place.T)][:, None]], 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, rows.astype(np.int32))


def quarter_turn(z):
    """LiDAR axes (x right, y forward) in ego axes, with the sensor above the origin."""
    pose = np.eye(4)
    pose[:3, :3] = [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]
    pose[2, 3] = z
    return pose


def test_openoccupancy_round_trip_is_exact_where_grids_line_up(labels, tmp_path):
    # z: ego -1 is LiDAR -5 + 2 with the sensor 2 m up; each 0.4 m voxel is 8 of 0.2 m
    pose = quarter_turn(2.0)
    fine = labels.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    dense = np.full(OPENOCCUPANCY.grid.shape, FREE, np.uint8)
    # ego x forward = LiDAR y, ego y left = minus LiDAR x
    lidar = fine.transpose(1, 0, 2)[::-1]
    dense[56:456, 56:456, 10:40] = lidar[:, :, :30]
    scene = scene_of(pose)
    path = OPENOCCUPANCY.path(tmp_path, scene, 0)
    assert path == tmp_path / "scene_5ce0e/occupancy/f00.npy"
    sparse_file(path, dense, order=(2, 1, 0))
    got = OPENOCCUPANCY.load(tmp_path, scene, 0)
    np.testing.assert_array_equal(got.semantics[:, :, :15], labels[:, :, :15])
    assert got.known[:, :, :15].all()
    assert not got.known[:, :, 15].any()  # above their grid: nothing is known there
    assert (got.semantics[:, :, 15] == FREE).all()


def test_surroundocc_round_trip_loses_little(tmp_path):
    # a wall, a road and a car much larger than the 0.5 m voxels of the file
    def inside(points):
        x, y, z = points
        out = np.full(x.shape, FREE, np.uint8)
        out[(z > -0.6) & (z < 0)] = 11
        out[(np.abs(x - 10) < 2.5) & (y > 3) & (y < 8) & (z > 0) & (z < 2)] = 4
        out[(np.abs(y + 12) < 1.5) & (z > 0) & (z < 4)] = 15
        return out

    def centres(grid):
        axes = [o + (np.arange(n) + 0.5) * grid.voxel_size for o, n in zip(grid.origin, grid.shape)]
        return np.stack(np.meshgrid(*axes, indexing="ij"))

    pose = quarter_turn(1.84)
    pose[0, 3] = 0.94
    lidar = centres(SURROUNDOCC.grid).reshape(3, -1)
    ego = (pose[:3, :3] @ lidar + pose[:3, 3:]).reshape(3, *SURROUNDOCC.grid.shape)
    scene = scene_of(pose)
    path = SURROUNDOCC.path(tmp_path, scene, 0)
    assert path == tmp_path / "nuscenes_occ/samples/sweep.pcd.bin.npy"
    sparse_file(path, inside(ego), order=(0, 1, 2))
    got, truth = SURROUNDOCC.load(tmp_path, scene, 0), inside(centres(OCC3D))
    known = got.known == 1
    for c in (4, 11, 15):
        a, b = (got.semantics == c) & known, (truth == c) & known
        assert (a & b).sum() / (a | b).sum() > 0.6
    centre = tuple(((np.array([10, 5.5, 1]) - OCC3D.origin) / 0.4).astype(int))
    assert got.semantics[centre] == 4


def test_noise_is_unknown_and_small_things_survive():
    fine = Grid((4, 4, 4), 0.2, (0.0, 0.0, 0.0))
    target = Grid((2, 2, 2), 0.4, (0.0, 0.0, 0.0))
    voxels = np.full(fine.shape, FREE, np.uint8)
    voxels[0, 0, 0] = 7  # one pedestrian voxel in a road block
    voxels[:2, :2, :2][voxels[:2, :2, :2] == FREE] = 11
    voxels[2:, 2:, 2:] = 255
    got = regrid(voxels, fine, np.eye(4), target)
    assert got.semantics[0, 0, 0] == 7
    assert got.semantics[1, 1, 1] == FREE and got.known[1, 1, 1] == 0
    assert got.known.sum() == 7


def test_uniocc_is_too_coarse_for_17_classes(tmp_path):
    scene, uniocc = scene_of(np.eye(4)), UniOcc("set")
    assert uniocc.path(tmp_path, scene, 0) == tmp_path / "set/scene-0001/0.npz"
    with pytest.raises(UserError, match="coarse classes"):
        uniocc.load(tmp_path, scene, 0)


def test_damaged_files_are_sentences(labels, tmp_path):
    scene = scene_of(np.eye(4))
    with pytest.raises(UserError, match=r"no label file at .*labels.npz"):
        OpenOcc().load(tmp_path, scene, 0)
    path = OpenOcc().path(tmp_path, scene, 0)
    path.parent.mkdir(parents=True)
    np.savez(path, semantics=labels)  # id 17 doesn't exist there
    with pytest.raises(UserError, match="holds 17"):
        OpenOcc().load(tmp_path, scene, 0)
    np.savez(path, semantics=labels[:5])
    with pytest.raises(UserError, match="shape"):
        OpenOcc().load(tmp_path, scene, 0)
    path = SURROUNDOCC.path(tmp_path, scene, 0)
    path.parent.mkdir(parents=True)
    np.save(path, np.array([[0, 0, 16, 4]]))
    with pytest.raises(UserError, match="outside its grid"):
        SURROUNDOCC.load(tmp_path, scene, 0)
    np.save(path, np.array([[0, 0, 1, 40]]))
    with pytest.raises(UserError, match="class 40"):
        SURROUNDOCC.load(tmp_path, scene, 0)
    scene.keyframes[0].lidar = None
    with pytest.raises(UserError, match="LiDAR sweeps"):
        SURROUNDOCC.load(tmp_path, scene, 0)


def test_a_data_set_reads_other_labels(tiny_world, tmp_path):
    data = ClipDataset(tiny_world, "v1.0-synthetic", "val", masks=True)
    native = data[0]
    before = data.fingerprint
    scene = data.scenes[0]
    names = [OPENOCC_NAMES.index(c) for c in OPENOCC_NAMES]  # 0 … 16
    to_theirs = np.zeros(18, np.uint8)
    for theirs, ours in zip(names, (4, 10, 9, 3, 5, 2, 6, 7, 8, 1, 11, 12, 13, 14, 15, 16, 17)):
        to_theirs[ours] = theirs
    for i, frame in enumerate(scene.keyframes):
        path = OpenOcc().path(tmp_path, scene, i)
        path.parent.mkdir(parents=True)
        semantics = load_semantics(Path(tiny_world) / frame.labels)
        np.savez(path, semantics=to_theirs[semantics])
    data = with_labels(data, OpenOcc(), tmp_path)
    item = data[0]
    kept = native["future"] != 0  # `others` doesn't exist in OpenOcc
    assert (item["future"][kept] == native["future"][kept]).all()
    assert item["mask_lidar"].all()
    assert data.fingerprint != before
    with pytest.raises(UserError, match="coarse"):
        with_labels(data, UniOcc(), tmp_path)
