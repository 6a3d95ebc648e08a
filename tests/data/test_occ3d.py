import numpy as np
import pytest

from occdistill.data.occ3d import (
    CLASS_NAMES,
    COARSEN_PRIORITY,
    FREE,
    MOVABLE,
    OCC3D,
    PALETTE,
    GridTransform,
    load_labels,
    load_semantics,
    save_labels,
)
from occdistill.errors import UserError


@pytest.fixture
def semantics():
    return np.random.default_rng(0).integers(0, 18, OCC3D.shape, dtype=np.uint8)


def test_classes():
    assert len(CLASS_NAMES) == len(PALETTE) == 18 and CLASS_NAMES[FREE] == "free"
    assert {CLASS_NAMES[i] for i in MOVABLE} == {
        "bicycle", "bus", "car", "construction_vehicle", "motorcycle", "pedestrian", "trailer",
        "truck",
    }  # fmt: skip
    assert sorted(COARSEN_PRIORITY) == list(range(18)) and COARSEN_PRIORITY[-1] == FREE


def test_grid_algebra():
    assert np.allclose(OCC3D.upper, (40, 40, 5.4))
    small = OCC3D.crop(25.6).coarsen(2)
    assert small.shape == (64, 64, 8) and small.voxel_size == pytest.approx(0.8)
    assert small.origin == (-25.6, -25.6, -1.0) and np.allclose(small.upper, (25.6, 25.6, 5.4))
    assert GridTransform(25.6, 2).grid == small


@pytest.mark.parametrize(
    "change", [lambda: OCC3D.crop(10.1), lambda: OCC3D.crop(60.0), lambda: OCC3D.coarsen(3)]
)
def test_impossible_grids_are_refused(change):
    with pytest.raises(UserError, match="choose"):
        change()


def test_identity_transform_keeps_everything(semantics):
    assert np.array_equal(GridTransform()(semantics), semantics)


def test_crop_takes_the_centre(semantics):
    assert np.array_equal(GridTransform(crop=25.6)(semantics), semantics[36:164, 36:164])


@pytest.mark.parametrize("min_fill", [1, 3])
def test_coarsening_takes_the_most_important_class(semantics, min_fill):
    rng = np.random.default_rng(1)
    sparse = np.where(rng.random(OCC3D.shape) < 0.3, semantics, FREE).astype(np.uint8)
    got = GridTransform(25.6, 2, min_fill)(np.stack([sparse, semantics]))
    assert got.shape == (2, 64, 64, 8) and got.dtype == np.uint8
    for i, j, k in rng.integers((64, 64, 8), size=(200, 3)):
        x, y, z = 36 + 2 * i, 36 + 2 * j, 2 * k
        block = sparse[x : x + 2, y : y + 2, z : z + 2]
        present = set(block.ravel()) - {FREE}
        expected = next((c for c in COARSEN_PRIORITY if c in present), FREE)
        assert got[0, i, j, k] == (expected if (block != FREE).sum() >= min_fill else FREE)


def test_a_thin_pole_user_survives_coarsening():
    voxels = np.full(OCC3D.shape, FREE, np.uint8)
    voxels[..., :2] = 11
    voxels[100, 100, 1] = 7
    assert GridTransform(25.6, 2)(voxels)[32, 32, 0] == 7


def test_mask_is_any():
    mask = np.zeros(OCC3D.shape, np.uint8)
    mask[37, 36, 1] = 1
    small = GridTransform(25.6, 2).mask(mask)
    assert small.dtype == np.uint8 and small.sum() == 1 and small[0, 0, 0] == 1
    assert np.array_equal(GridTransform().mask(mask), mask)


def test_transform_checks_its_input(semantics):
    with pytest.raises(ValueError, match="voxels"):
        GridTransform(coarsen=2)(semantics[:100])
    with pytest.raises(ValueError, match="class id 200"):
        GridTransform(coarsen=2)(np.full(OCC3D.shape, 200, np.uint8))


def test_labels_round_trip_and_same_bytes(tmp_path, semantics):
    masks = (semantics > 5).astype(np.uint8), (semantics > 9).astype(np.uint8)
    for folder in "ab":
        save_labels(tmp_path / folder / "labels.npz", semantics, *masks)
    labels = load_labels(tmp_path / "a/labels.npz")
    for got, want in zip(labels, (semantics, *masks)):
        assert np.array_equal(got, want)
    assert np.array_equal(load_semantics(tmp_path / "a/labels.npz"), semantics)
    assert (tmp_path / "a/labels.npz").read_bytes() == (tmp_path / "b/labels.npz").read_bytes()


def write(path, **arrays):
    full = dict.fromkeys(("semantics", "mask_lidar", "mask_camera"), np.zeros(OCC3D.shape, "u1"))
    full.update(arrays)
    np.savez_compressed(path, **{k: v for k, v in full.items() if v is not None})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mask_camera": None}, "no array named 'mask_camera'"),
        ({"semantics": np.zeros((200, 200, 8), np.uint8)}, "shape"),
        ({"mask_lidar": np.zeros(OCC3D.shape, np.float32)}, "float32, not uint8"),
        ({"semantics": np.full(OCC3D.shape, 200, np.uint8)}, "class id 200"),
        ({"semantics": np.array([{}], dtype=object)}, "no label file"),
    ],
)
def test_bad_label_files_name_the_file(tmp_path, arrays, message):
    path = tmp_path / "labels.npz"
    write(path, **arrays)
    with pytest.raises(UserError, match=message) as caught:
        load_labels(path)
    assert str(path) in str(caught.value)


def test_missing_and_damaged_label_files(tmp_path, semantics):
    path = tmp_path / "labels.npz"
    with pytest.raises(UserError, match="no label file"):
        load_labels(path)
    save_labels(path, semantics, semantics // 17, semantics // 17)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[1000:1100] = bytes(100)
    for damaged in (whole[: len(whole) // 2], b"", b"not a zip", bytes(flipped)):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="truncated or no label file"):
            load_labels(path)
    with path.open("wb") as file:
        np.save(file, semantics)
    with pytest.raises(UserError, match="truncated or no label file"):
        load_labels(path)
