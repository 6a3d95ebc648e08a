"""Whatever a file holds, reading it ends with a result or with a sentence, never otherwise."""

import json
import shutil
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from occdistill.data.label_sets import SURROUNDOCC, _dense, _sparse
from occdistill.data.occ3d import NUM_CLASSES, load_labels, save_labels
from occdistill.data.poses import broken_motion, is_rigid, read_poses
from occdistill.data.scenes import load_index
from occdistill.data.voxelize import load_points, placed, read_sweep
from occdistill.doctor.dataset import Doctor
from occdistill.errors import UserError
from occdistill.evaluation.predictions import read_prediction
from tests.data.conftest import write

VERSION = "v1.0-tiny"
QUICK = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,  # the same files every time
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
LAYOUTS = st.sampled_from(["xyzir", "xyzi", "xyz", "xyzirt"])
FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)


def outcome(read, *arguments):
    """The result, or None for a sentence; anything else fails the test."""
    try:
        return read(*arguments)
    except UserError as error:
        assert 10 < len(str(error)) < 3000 and "\n" not in str(error)
        return None


def spoil(data, content: bytes) -> bytes:
    """Some bytes changed, cut away or put in."""
    place = data.draw(st.integers(0, len(content)))
    length = data.draw(st.sampled_from([0, 1, 4, 100, len(content)]))
    return content[:place] + data.draw(st.binary(max_size=40)) + content[place + length :]


@QUICK
@given(st.binary(max_size=400), LAYOUTS)
def test_any_bytes_as_a_cloud(tmp_path, content, layout):
    (tmp_path / "a.bin").write_bytes(content)
    points = outcome(load_points, tmp_path / "a.bin", layout)
    if points is not None:
        assert points.shape == (len(content) // 4 // len(layout), len(layout))


@QUICK
@given(st.lists(st.tuples(*[FLOATS] * 5), min_size=1, max_size=30), st.binary(max_size=30))
def test_any_numbers_as_a_cloud_with_any_labels(tmp_path, rows, labels):
    np.array(rows, np.float32).tofile(tmp_path / "a.bin")
    (tmp_path / "labels.bin").write_bytes(labels)
    sweep = outcome(read_sweep, tmp_path / "a.bin", tmp_path / "labels.bin", np.eye(4))
    if sweep is not None:
        assert placed(sweep.points).all() and len(sweep.labels) == len(sweep.points)


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    path = tmp_path_factory.mktemp("labels") / "labels.npz"
    draws = np.random.default_rng(0)
    mask = draws.integers(0, 2, (200, 200, 16)).astype(np.uint8)
    save_labels(path, draws.integers(0, 18, (200, 200, 16)).astype(np.uint8), mask, mask)
    return path.read_bytes(), zlib.crc32(load_labels(path).semantics)


@QUICK
@given(st.data())
def test_spoiled_labels(tmp_path, labels, data):
    content, checksum = labels
    (tmp_path / "a.npz").write_bytes(spoil(data, content))
    found = outcome(load_labels, tmp_path / "a.npz")
    if found is not None:
        assert found.semantics.max() < NUM_CLASSES and found.mask_lidar.max() <= 1
        assert zlib.crc32(found.semantics) == checksum


DTYPES = st.sampled_from(["u1", "i1", "i8", "f4", "f8", "?", "c8", "U3", "M8[s]"])
SHAPES = st.lists(st.integers(0, 5), max_size=5).map(tuple)


@QUICK
@given(DTYPES, SHAPES, st.sampled_from(["semantics", "pred", "other"]), st.integers(-300, 300))
def test_any_array_as_labels_or_a_prediction(tmp_path, dtype, shape, name, value):
    array = np.full(shape, 0).astype(dtype)
    if array.dtype.kind in "iuf" and array.size:
        array.flat[0] = np.array(value).astype(dtype)
    np.savez(tmp_path / "a.npz", **{name: array})
    np.save(tmp_path / "a.npy", array)
    assert outcome(load_labels, tmp_path / "a.npz") is None
    assert outcome(_dense, tmp_path / "a.npz", "semantics", 17) is None
    outcome(_sparse, tmp_path / "a.npy", SURROUNDOCC.grid, SURROUNDOCC.columns)
    for path in (tmp_path / "a.npz", tmp_path / "a.npy"):
        found = outcome(read_prediction, path, 1, (2, 2, 2))
        assert found is None or found.max() < NUM_CLASSES


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("whole") / "world").root


@pytest.fixture
def world(whole, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    skip = shutil.ignore_patterns("labels.npz", "*.bin")
    return shutil.copytree(whole, tmp_path / "world", ignore=skip)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
TABLES = ("scene", "sample", "sample_data", "ego_pose", "calibrated_sensor", "sensor", "lidarseg")


def read_both(root):
    """Load; where that is refused, the doctor has a problem too."""
    before = {p: p.read_bytes() for p in root.rglob("*.json") if ".occdistill" not in p.parts}
    scenes = outcome(load_index, root, VERSION, "train")
    problems = [f for f in Doctor(root)() if f.problem and f.area not in ("labels", "lidar",
                                                                         "lidarseg")]  # fmt: skip
    assert scenes is not None or problems
    assert all(p.read_bytes() == content for p, content in before.items())
    if scenes is not None:
        for scene in scenes:
            assert is_rigid(np.stack([f.ego_to_global for f in scene.keyframes])).all()
    return scenes


@QUICK
@given(st.data(), st.sampled_from(TABLES))
def test_a_table_with_any_value_in_it(world, data, name):
    path = world / VERSION / f"{name}.json"
    text = path.read_text()
    try:
        records = json.loads(text)
        record = data.draw(st.sampled_from(records))
        record[data.draw(st.sampled_from(sorted(record)))] = data.draw(JSON)
        path.write_text(json.dumps(records))
        read_both(world)
    finally:
        path.write_text(text)


@QUICK
@given(st.data(), st.sampled_from([f"{VERSION}/{name}.json" for name in TABLES] + ["splits.json"]))
def test_a_table_with_spoiled_bytes(world, data, name):
    path = world / name
    content = path.read_bytes()
    try:
        path.write_bytes(spoil(data, content))
        read_both(world)
    finally:
        path.write_bytes(content)


@QUICK
@given(JSON)
def test_any_json_as_annotations(tmp_path_factory, content):
    root = tmp_path_factory.mktemp("root")
    (root / "annotations.json").write_text(json.dumps(content))
    assert outcome(load_index, root, VERSION, "train") is None


NUMBERS = st.lists(JSON, max_size=9) | st.lists(FLOATS, min_size=3, max_size=4) | JSON


@QUICK
@given(st.lists(st.fixed_dictionaries({"translation": NUMBERS, "rotation": NUMBERS}), max_size=4))
def test_any_values_as_poses(records):
    poses, reasons = read_poses(records)
    assert poses.shape == (len(records), 4, 4) and len(reasons) == len(records)
    assert is_rigid(poses, 0.1).all()


@QUICK
@given(st.lists(FLOATS, min_size=1, max_size=6), st.lists(FLOATS, min_size=6, max_size=6))
def test_any_times_and_places_of_a_drive(times, places):
    poses = np.tile(np.eye(4), (len(times), 1, 1))
    poses[:, 0, 3] = np.nan_to_num(np.array(places[: len(times)]), posinf=1e30, neginf=-1e30)
    assert len(broken_motion(poses, np.array(times), 1.25)) == len(times)
