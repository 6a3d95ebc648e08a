"""JSON of another structure, and arrays that declare what they don't have or nobody has room for."""

import io
import json
import shutil
import zipfile

import numpy as np
import pytest

from occdistill.data.label_sets import OPENOCCUPANCY, _dense, _sparse
from occdistill.data.occ3d import load_labels, load_semantics
from occdistill.data.scenes import load_index
from occdistill.doctor.dataset import Doctor
from occdistill.doctor.files import check_labels, parse_json
from occdistill.evaluation.predictions import Manifest, check_input, read_prediction
from occdistill.store import ARRAY_BYTES, read_json, read_npz
from tests.faults.rows import Row

VERSION = "v1.0-tiny"
EXABYTE = (10**9, 10**9)


def load(root):
    return load_index(root, VERSION, "train")


def text(name, content):
    def plant(root):
        path = root / VERSION / name
        if not path.exists():
            path = root / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return root

    return plant


def annotations(content):
    def plant(root):
        shutil.rmtree(root / VERSION)
        return text("annotations.json", content)(root)

    return plant


def spoiled(name, **values):
    """The first record of a table that is the LiDAR's, with other values."""

    def plant(root):
        path = root / VERSION / f"{name}.json"
        records = json.loads(path.read_text())
        records[1].update(values)
        path.write_text(json.dumps(records))
        return root

    return plant


def alone(name, content):
    def plant(root):
        (root / name).write_text(content)
        return root

    return plant


FRAME = {"timestamp": "0", "ego_pose": {"translation": [0, 0, 0], "rotation": [1, 0, 0, 0]}}
INFOS = {"train_split": ["a"], "val_split": []}
DEEP = "[" * 200_000 + "]" * 200_000
ROWS = [
    Row("scene.json nested 200,000 deep", text("scene.json", DEEP), load, "nested too deep"),
    Row("splits.json nested 200,000 deep", text("splits.json", DEEP), load, "nested too deep"),
    Row("an object for a table", text("sample.json", {"a": 1}), load, "holds a dict, not a list"),
    Row("numbers for records", text("sample.json", [1, 2]), load, "a record of another kind"),
    Row("text for records", text("scene.json", ["a"]), load, "a record of another kind"),
    Row("null for a table", text("sensor.json", "null"), load, "holds a NoneType, not a list"),
    Row("a list for splits", text("splits.json", ["train"]), load, "holds a list, not an object"),
    Row("a number for a split", text("splits.json", {"train": 3}), load, "than lists of scenes"),
    Row("objects for scenes", text("splits.json", {"train": [{}]}), load, "than lists of scenes"),
    Row("a list for annotations", annotations([1]), load, "holds a list, not an object"),
    Row("a list for scene_infos", annotations({"scene_infos": [1]}), load, "not Occ3D's"),
    Row("a list for a scene", annotations({"scene_infos": {"a": [1]}} | INFOS), load,
        "not Occ3D's"),
    Row("text for a timestamp", annotations({"scene_infos": {"scene-0001": {"b": FRAME |
        {"timestamp": "noon"}}}} | INFOS), load, "keyframe b .* its timestamp is no number"),
    Row("text for a translation", spoiled("ego_pose", translation=["a", "b", "c"]), load,
        "its translation isn't 3 numbers"),
    Row("a number for a rotation", spoiled("calibrated_sensor", rotation=1), load,
        "its rotation has 1 numbers, not 4"),
    Row("two numbers for a translation", spoiled("ego_pose", translation=[0, 0]), load,
        "its translation has 2 numbers, not 3"),
    Row("a manifest that is a list", alone("predictions.json", "[]"), Manifest.load,
        "holds a list, not an object"),
    Row("a manifest nested 200,000 deep", alone("predictions.json", DEEP), Manifest.load,
        "nested too deep"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_json_of_another_structure_is_a_sentence(row, world, capsys):
    row.check(world, capsys)


@pytest.mark.parametrize("row", [r for r in ROWS if r.call is load], ids=str)
def test_the_doctor_says_something_instead_of_breaking(row, world):
    before = problems(world)  # the hand-made tables aren't perfect
    found = problems(row.plant(world)) - before
    # it looks at no pose
    assert found or "translation" in row.fault or "rotation" in row.fault


def problems(root):
    return {f.message for f in Doctor(root)() if f.problem}


def test_json_too_large_to_be_read_is_not_opened(tmp_path):
    path = tmp_path / "a.json"
    with open(path, "wb") as file:
        file.truncate(3 << 30)  # takes no room on the disk
    with pytest.raises(Exception, match=r"cannot be read \(it has 3.2 GB\)"):
        read_json(path)
    assert "3.2 GB" in parse_json(path)[1]


def header(shape, dtype="|u1") -> bytes:
    file = io.BytesIO()
    declared = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, declared)
    return file.getvalue()


def npz(shape, content=b"", dtype="|u1", names=("semantics", "mask_lidar", "mask_camera")):
    """Plants an npz whose arrays declare a shape and hold what they hold."""

    def plant(root):
        path = root / "a.npz"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    file.write(header(shape, dtype))
                    for _ in range(content if isinstance(content, int) else 1):
                        file.write(bytes(1 << 20) if isinstance(content, int) else content)
        return path

    return plant


def npy(shape, content=b"", dtype="|u1"):
    def plant(root):
        path = root / "a.npy"
        path.write_bytes(header(shape, dtype) + content)
        return path

    return plant


def predict(path):
    return read_prediction(path, 2, (2, 2, 2))


def sparse(path):
    return _sparse(path, OPENOCCUPANCY.grid, OPENOCCUPANCY.columns)


BOMB = npz((64 << 20,), 64)
ARRAYS = [
    Row("labels of an exabyte", npz(EXABYTE), load_labels, "declares uint8 .* but has 0 bytes"),
    Row("labels that inflate", BOMB, load_semantics, r"has shape \(67108864,\), not \(200,"),
    Row("labels of objects", npz((200, 200, 16), b"\x80", "|O"), load_labels, "holds objects"),
    Row("labels with fewer bytes", npz((200, 200, 16), b"\0"), load_labels, "but has 1 bytes"),
    Row("labels with more bytes", npz((200, 200, 16), bytes(640_001)), load_labels,
        "has 640001 bytes"),
    Row("labels with a negative shape", npz((-1, 5), b"\0"), load_labels, "a.npz"),
    Row("an npz of an exabyte", npz(EXABYTE), read_npz, "but has 0 bytes"),
    Row("OpenOcc labels that inflate", BOMB, lambda path: _dense(path, "semantics", 17),
        "has shape"),
    Row("OpenOcc labels of floats", npz((200, 200, 16), bytes(640_000 * 4), "<f4"),
        lambda path: _dense(path, "semantics", 17), "is float32, expected whole"),
    Row("sparse labels of an exabyte", npy(EXABYTE), sparse, "but has 0 bytes"),
    Row("a prediction of an exabyte", npz(EXABYTE), predict, "but has 0 bytes"),
    Row("a numpy prediction of an exabyte", npy(EXABYTE), predict, "but has 0 bytes"),
    Row("a prediction of objects", npy((1,), b"\x80", "|O"), predict, "holds objects"),
    Row("an input of an exabyte", npz(EXABYTE, names=("input",)),
        lambda path: check_input(path, np.zeros((2, 2, 2), np.uint8)), "but has 0 bytes"),
]  # fmt: skip


@pytest.mark.parametrize("row", ARRAYS, ids=str)
def test_arrays_are_checked_before_they_are_read(row, tmp_path, capsys, monkeypatch):
    def read(*_, **__):
        raise AssertionError("read")

    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", read)
    monkeypatch.setattr(np.lib.format, "read_array", read)
    row.check(tmp_path, capsys)


@pytest.mark.parametrize("row", [r for r in ARRAYS if r.call is load_labels], ids=str)
def test_the_doctor_refuses_the_same_labels(row, tmp_path):
    assert check_labels(row.plant(tmp_path))


def test_an_npz_too_large_is_not_unpacked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("occdistill.store.ARRAY_BYTES", 100 << 20)
    row = Row("three of 64 MB", BOMB, read_npz, r"would unpack to 0\.2 GB; write it again")
    row.check(tmp_path, capsys)
    assert ARRAY_BYTES > 4.5e9  # OccFM's latents


def test_too_little_memory_is_a_sentence(tmp_path, capsys, monkeypatch):
    def read(*_):
        raise MemoryError

    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", read)
    row = Row("no memory", npz((1,), b"\0"), read_npz, "needs more memory than there is")
    row.check(tmp_path, capsys)


def test_whole_files_are_read_as_before(tmp_path, world):
    frame = load(world)[0].keyframes[2]
    assert load_labels(world / frame.labels).semantics[100, 100, 4] == 2
    assert check_labels(world / frame.labels) is None
    voxels = np.full((2, 2, 2, 2), 17, np.uint8)
    np.save(tmp_path / "a.npy", voxels)
    np.savez(tmp_path / "a.npz", pred=np.asfortranarray(voxels))
    for name in ("a.npy", "a.npz"):
        assert np.array_equal(predict(tmp_path / name), voxels[None])
