"""A path that comes from a file is confined to the folder it belongs to."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from occdistill.arrays import open_arrays
from occdistill.data.clips import FrameReader
from occdistill.data.scenes import load_index
from occdistill.data.voxelize import load_points
from occdistill.doctor.dataset import Doctor, check_caches
from occdistill.errors import UserError
from occdistill.evaluation.counts import slug
from occdistill.evaluation.predictions import read_prediction, save_prediction
from occdistill.store import read_json, read_npz
from occdistill.untrusted import inside
from occdistill.world import make_world
from tests.data.conftest import write
from tests.faults.rows import Row

VERSION = "v1.0-tiny"

NAMES = ["..", "../outside", "a/../../outside", "/etc/passwd", "/dev/zero", "a\0b", "", ".", "./",
         "\ud800", 7, None, ["a"]]  # fmt: skip


@pytest.fixture
def world(tmp_path, monkeypatch) -> Path:
    """A hand-made data set, to be spoiled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    return write(tmp_path / "world").root


def change(path: Path, edit) -> Path:
    """Edit a JSON file's content in place; the data root is returned."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return path.parents[1] if path.parent.name == VERSION else path.parent


def table(name: str, key: str, value, where=lambda record: True):
    """Plants a value into all records of a table for which `where` holds."""

    def edit(records):
        for record in filter(where, records):
            record[key] = value

    return lambda root: change(root / VERSION / f"{name}.json", edit)


def load(root: Path):
    return load_index(root, VERSION, "train")


def read_first(root: Path):
    (scene, *_) = load(root)
    return FrameReader(root, past_from="lidar").sweeps(scene, 0, 1)


def link(target):
    def plant(root: Path):
        frame = load(root)[0].keyframes[0]
        path = root / frame.lidar
        path.unlink()
        path.symlink_to(target)
        return root

    return plant


def pipe(name: str, make=os.mkfifo):
    def plant(root: Path):
        make(root / name)
        return root / name

    return plant


def scene_name(name):
    """The scene is called so in the tables and in the splits."""

    def plant(root: Path):
        (root / "splits.json").write_text(json.dumps({"train": [name]}))
        return table("scene", "name", name)(root)

    return plant


def annotated(name: str):
    def plant(root: Path):
        shutil.rmtree(root / VERSION)

        def edit(content):
            infos = content["scene_infos"]
            infos[name] = infos.pop(next(iter(infos)))
            (root / "splits.json").write_text(json.dumps({"train": [name]}))

        return change(root / "annotations.json", edit)

    return plant


OUT = "which is not in .*so it is not touched; use the files as their authors"
ROWS = [
    Row("sample_data.json names ../../etc/passwd", table("sample_data", "filename",
        "../../etc/passwd"), load, rf"'\.\./\.\./etc/passwd', {OUT}"),
    Row("sample_data.json names /dev/zero", table("sample_data", "filename", "/dev/zero"), load,
        r"'/dev/zero', .*absolute"),
    Row("sample_data.json names a number", table("sample_data", "filename", 5), load,
        "names a int, .*no text"),
    Row("a NUL in a name", table("sample_data", "filename", "a\0b"), load, "holds a NUL"),
    Row("lidarseg.json leads upwards", table("lidarseg", "filename", "lidarseg/../../x"), load,
        rf"'lidarseg/\.\./\.\./x', {OUT}"),
    Row("a scene called ../../outside", scene_name("../../outside"), load,
        rf"'\.\./\.\./outside', {OUT}"),
    Row("a scene with a hostile token", table("scene", "token", "x/../../.."), load, OUT),
    Row("annotations.json with a scene called ..", annotated(".."), load, rf"'\.\.', {OUT}"),
    Row("a sweep that is a link out of the data", link("/etc/passwd"), read_first,
        r"LIDAR_TOP.*it is a link to /etc/passwd"),
    Row("a sweep that is a link to a device", link("/dev/zero"), read_first, "link to /dev/zero"),
    Row("a cloud that is a pipe", pipe("a.bin"), load_points, "a pipe or a device"),
    Row("JSON that is a pipe", pipe("a.json"), read_json, "a pipe or a device"),
    Row("an npz that is a pipe", pipe("a.npz"), read_npz, "a pipe or a device"),
    Row("a prediction that is a pipe", pipe("a.npz"),
        lambda path: read_prediction(path, 1, (1, 1, 1)), "a pipe or a device"),
    Row("a point cloud that is a device", lambda root: Path("/dev/zero"), load_points,
        "a pipe or a device"),
    Row("a prediction of a scene called ../../outside", lambda root: root,
        lambda root: save_prediction(root, "../../outside/a", np.zeros(1)),
        rf"'\.\./\.\./outside/a\.npz', {OUT}"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_name_that_leads_out_is_refused(row, world, capsys):
    row.check(world, capsys)


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_every_name_that_leads_out(name, tmp_path):
    with pytest.raises(UserError, match=r"^the list names .*, which is not in .*\(it |^the list"):
        inside(tmp_path, name, "the list")


def test_names_and_links_that_stay_are_used(tmp_path):
    disk, root = tmp_path / "disk", tmp_path / "root"
    (disk / "LIDAR_TOP").mkdir(parents=True)
    root.mkdir()
    (disk / "LIDAR_TOP" / "a.bin").write_bytes(b"")
    (root / "samples").symlink_to(disk)  # as people do whose data lie on another disk
    (root / "own").mkdir()
    (root / "own" / "b").symlink_to(root / "samples" / "LIDAR_TOP")
    assert inside(root, "samples/LIDAR_TOP/a.bin", "x") == root / "samples/LIDAR_TOP/a.bin"
    assert inside(root, "..a/b..c", "x") == root / "..a/b..c"
    (root / "own" / "in").symlink_to(root / "own")
    assert inside(root, "own/in/new", "x").parent.is_dir()
    with pytest.raises(UserError, match="it is a link to"):
        inside(root, "own/b/a.bin", "x")


def stamp(root: Path, version, complete=True) -> Path:
    out = root / "w"
    out.mkdir()
    content = {"scenes": 1, "version": version, "complete": complete}
    (out / "world.json").write_text(json.dumps(content))
    (out / "gts").mkdir()
    (out / "gts" / "kept").write_text("")
    (root / "kept").write_text("mine")
    return out


@pytest.mark.parametrize("version", ["..", ".", "", "/", "../w/..", "gts/../..", 3, None])
def test_overwriting_a_world_deletes_nothing_that_its_stamp_only_names(tmp_path, version, capsys):
    def overwrite(out):
        make_world(out, scenes=1, val_scenes=0, keyframes=1, lidar=False, overwrite=True)

    row = Row("a stamp", lambda root: stamp(root, version), overwrite, "world.json names .*not in")
    row.check(tmp_path, capsys)
    assert (tmp_path / "kept").read_text() == "mine"
    assert (tmp_path / "w" / "gts" / "kept").exists()  # refused before anything is deleted


@pytest.mark.parametrize(
    "text, sentence",
    [("[]", "holds a list, not an object"), ("{}", "names no version"), ("[" * 99999, "too deep")],
)
def test_a_stamp_that_is_none(tmp_path, text, sentence, capsys):
    def plant(root):
        (root / "world.json").write_text(text)
        return root

    def overwrite(out):
        make_world(out, scenes=1, val_scenes=0, keyframes=1, overwrite=True)

    Row("a stamp", plant, overwrite, sentence).check(tmp_path, capsys)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a\0"])
def test_a_cache_opens_arrays_of_its_own_folder_only(tmp_path, name, capsys):
    np.save(tmp_path / "outside.npy", np.zeros(3))
    folder = tmp_path / "cache"

    def plant(root):
        folder.mkdir()
        content = {"depends": {}, "arrays": {name: "00000000"}}
        (folder / "meta.json").write_text(json.dumps(content))
        return folder

    Row("a cache", plant, lambda f: open_arrays(f, {}), "meta.json names .*not in").check(
        tmp_path, capsys
    )
    (finding,) = check_caches(tmp_path)
    assert finding.problem and "which is not in" in finding.message


@pytest.mark.parametrize("name", ["..", ".", "...", "../..", "@", "", "/"])
def test_a_row_never_names_another_folder(name, tmp_path):
    assert (tmp_path / slug(name)).resolve().parent == tmp_path.resolve()
    assert slug("student@1") == "student-1" and slug("v1.0") == "v1.0"


# the doctor makes no path of a scene's token
TOLD = [r for r in ROWS if r.call is load and "token" not in r.fault]


@pytest.mark.parametrize("row", TOLD, ids=str)
def test_the_doctor_says_the_same(row, world):
    found = [f for f in Doctor(row.plant(world))() if f.problem and "which is not in" in f.message]
    assert found, row.fault
