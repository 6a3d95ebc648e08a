"""The doctor on a copy of the embedded world with planted faults."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from occdistill.arrays import build_arrays
from occdistill.doctor import dataset, environment, files
from occdistill.doctor.findings import Finding, report

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world(tiny_world, tmp_path_factory):
    copy = tmp_path_factory.mktemp("doctor") / "world"
    shutil.copytree(tiny_world, copy)
    return copy


@pytest.fixture(scope="module")
def bare(tiny_world, tmp_path_factory):
    """The world's tables without its files: quick to diagnose."""
    copy = tmp_path_factory.mktemp("bare") / "world"
    shutil.copytree(tiny_world, copy, ignore=shutil.ignore_patterns("*.npz", "*.bin", ".occ*"))
    return copy


def problems(root, full=False):
    return {f.path: f for f in dataset.Doctor(root, full)() if f.problem}


def version(root):
    return next(p for p in root.glob("v1.0-*") if p.is_dir())


def test_a_whole_world_has_no_problem(tiny_world):
    findings = dataset.Doctor(tiny_world)()
    assert not [f for f in findings if f.problem], report(findings)
    assert {"tables", "annotations", "splits", "labels", "lidar", "lidarseg"} <= {
        f.area for f in findings
    }


def rewrite(path, **change):
    with np.load(path) as content:
        arrays = dict(content)
    for name, new in change.items():
        arrays[name] = new(arrays[name])
    np.savez_compressed(path, **{k: v for k, v in arrays.items() if v is not None})


def poke(array, value):
    array = array.copy()
    array.flat[12345] = value
    return array


def test_ten_planted_faults_are_found_and_named(world):
    labels = sorted(world.glob("gts/*/*/labels.npz"))
    clouds = sorted(world.glob("samples/LIDAR_TOP/*.bin"))
    points = sorted(world.glob("lidarseg/*/*.bin"))
    planted = {}

    def plant(path, words):
        planted[str(path)] = words
        return path

    plant(labels[0], "no such file").unlink()
    path = plant(labels[3], "is truncated or no label file")
    path.write_bytes(path.read_bytes()[:-500])
    rewrite(plant(labels[5], "class id 200"), semantics=lambda a: poke(a, 200))
    rewrite(plant(labels[7], "shape (100, 200, 16)"), semantics=lambda a: a[:100])
    rewrite(plant(labels[9], "no array named 'mask_camera'"), mask_camera=lambda a: None)
    rewrite(plant(labels[11], "holds 7, but a mask is 0 or 1"), mask_lidar=lambda a: poke(a, 7))
    plant(clouds[0], "no such file").unlink()
    path = plant(clouds[2], "multiple of 20")
    path.write_bytes(path.read_bytes()[:-7])
    path = plant(clouds[4], "NaN")
    cloud = np.fromfile(path, np.float32).reshape(-1, 5)
    cloud[: 2 * len(cloud) // 3, 1] = np.nan
    cloud.tofile(path)
    path = plant(points[6], "class id 99")
    path.write_bytes(b"\x63" + path.read_bytes()[1:])
    path = plant(points[8], "but the cloud has")
    path.write_bytes(path.read_bytes()[:-3])
    path = plant(world / "splits.json", "into train and into val")
    splits = json.loads(path.read_text())
    path.write_text(json.dumps(splits | {"val": [*splits["val"], splits["train"][0]]}))
    cache = plant(world / ".occdistill" / "index-broken.json", "JSON")
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("{")

    found = problems(world, full=True)
    assert len(planted) >= 10
    for path, words in planted.items():
        assert path in found, f"{path} not named in {report(list(found.values()))}"
        assert words in found[path].message, found[path]
    # besides what was planted, only what follows: the shortened cloud no longer fits its labels
    extra = set(found) - set(planted)
    assert all("but the cloud has" in found[p].message for p in extra), extra


@pytest.mark.parametrize(
    ("table", "change", "words"),
    [
        (
            "sample_data",
            lambda rows: rows[:-1] + [rows[-1] | {"sample_token": "lost"}],
            "has no LIDAR_TOP sweep in",
        ),
        (
            "sample_data",
            lambda rows: rows[1:] + [rows[0] | {"ego_pose_token": "x"}],
            "names an ego_pose_token that",
        ),
        (
            "sample",
            lambda rows: [r | {"next": ""} if r["prev"] == "" else r for r in rows],
            "chain",
        ),
        ("scene", lambda rows: {"scenes": rows}, "holds a dict, not a list"),
    ],
)
def test_tables_that_do_not_fit_together(bare, table, change, words):
    path = version(bare) / f"{table}.json"
    text = path.read_text()
    try:
        path.write_text(json.dumps(change(json.loads(text))))
        found = [f for f in problems(bare).values() if f.area == "tables"]
        assert any(words in f.message for f in found), found
        assert any(str(path.parent) == f.path for f in found)
        assert all("train_vae" in f.blocks for f in found)
    finally:
        path.write_text(text)


def test_a_truncated_and_a_missing_table_are_named(bare):
    path = version(bare) / "sample.json"
    text = path.read_text()
    try:
        path.write_text(text[: len(text) // 2])
        found = problems(bare)[str(path.parent)]
        assert found.message.startswith(f"{path} is truncated or no table")
        path.unlink()
        assert str(path) not in problems(bare)  # annotations.json is enough
        (bare / "annotations.json").rename(bare / "elsewhere")
        assert problems(bare)[str(path)].level == "missing"
    finally:
        path.write_text(text)
        (bare / "elsewhere").rename(bare / "annotations.json")


def test_annotations_alone_are_enough_and_their_damage_is_told(bare, tmp_path):
    shutil.copy(bare / "annotations.json", tmp_path)
    found = {f.area: f for f in dataset.Doctor(tmp_path)()}
    assert found["annotations"].level == "ok"
    assert found["labels"].level == "missing"
    (tmp_path / "annotations.json").write_text("{}")
    found = {f.area: f for f in dataset.Doctor(tmp_path)()}
    assert found["annotations"].level == "damaged" and "score" in found["annotations"].blocks
    (tmp_path / "annotations.json").unlink()
    assert any(f.problem for f in dataset.Doctor(tmp_path)())


def test_pickles_are_never_loaded(tmp_path):
    whole = tmp_path / "a.pkl"
    whole.write_bytes(b"\x80\x04cos\nsystem\n(S'exit 1'\ntR.")
    assert files.check_pickle(whole) is None
    whole.write_bytes(b"\x80\x04cos")
    assert "truncated" in files.check_pickle(whole)


def test_checkpoints_and_caches(tmp_path):
    import torch

    torch.save({"kind": "vae", "model": {}}, tmp_path / "good.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "good.pth").read_bytes()[:300])
    levels = {Path(f.path).name: f.level for f in environment.check_weights(tmp_path)}
    assert levels == {"good.pth": "ok", "cut.pth": "damaged"}
    store = tmp_path / "cache"
    build_arrays(store, {}, {"z": ((4, 5), np.float16)}, lambda *_: None, 4, 4, "")
    (finding,) = dataset.check_caches(tmp_path)
    assert finding.level == "ok"
    (store / "z.npy").write_bytes((store / "z.npy").read_bytes()[:-2])
    (finding,) = dataset.check_caches(tmp_path)
    assert finding.problem and "z.npy" in finding.message


def test_it_works_without_any_package(bare):
    """`-S` hides everything that was ever installed."""
    command = [sys.executable, "-S", "tools/doctor.py", str(bare), "--json", "--no-render"]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    findings = [Finding(**f) for f in json.loads(done.stdout)]
    assert any("torch isn't installed" in f.message and f.problem for f in findings)
    assert any(f.area == "tables" and f.level == "ok" for f in findings)
    assert any(f.area == "labels" and f.problem for f in findings)


def test_a_wrong_folder_is_a_sentence(tmp_path):
    command = [sys.executable, "-S", "tools/doctor.py", str(tmp_path / "nowhere")]
    environment_ = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment_, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.startswith("error: no data root at")


def test_packages_and_machine_are_described():
    findings = environment.check_environment(render=False)
    messages = " ".join(f.message for f in findings)
    assert "Python 3" in messages and "cores" in messages and "disk" in messages
    assert {f.area for f in findings} == {"environment"}
