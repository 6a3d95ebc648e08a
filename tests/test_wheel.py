"""Somebody without the repository: a wheel in an environment of its own, far from the checkout."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from occdistill import places
from tests.commands import ROOT, blocks

(TEN_LINES,) = blocks(ROOT / "README.md", "python")


def test_requirements_are_what_the_package_and_its_extras_need():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    everything = re.fullmatch(r"occdistill\[(.*)\]", extras["all"][0])[1].split(",")
    assert set(everything) == set(extras) - {
        "all",
        "docs",
        "rerun",
        "onnx",
    }  # rerun wants numpy 2, onnx is large
    wanted = [*project["dependencies"], *(one for name in everything for one in extras[name])]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == wanted


def test_every_script_is_a_subcommand_and_the_help_needs_nothing():
    command = [sys.executable, "-X", "importtime", "-m", "occdistill", "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    shown = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert (
        shown
        == set(places.tools())
        == {path.stem.replace("_", "-") for path in (ROOT / "tools").glob("[!_]*.py")}
    )
    assert not re.search(r"\| +(torch|mmengine|numpy)\b", done.stderr)


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["docto"], 2, "error: no command 'docto'; `occdistill --help` lists them\n"),
        (
            ["doctor", "--ful", "a", "b"],
            2,
            "error: unrecognized arguments: b; `occdistill doctor --help` lists the options\n",
        ),
        (
            ["doctor", "nowhere"],
            2,
            (
                "error: no data root at nowhere; make the embedded world with `occdistill "
                "make-world --out data/world --scenes 14 --val-scenes 12 --seed 0`, or see the "
                "README's nuScenes section\n"
            ),
        ),
    ],
)
def test_a_mistake_costs_one_line_that_names_subcommands(arguments, code, said):
    command = [sys.executable, "-m", "occdistill", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (code, said)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of a new environment's programs, which holds the wheel and nothing of ours.

    Other packages are those of the tests' own environment, so that nothing is downloaded.
    """
    home = tmp_path_factory.mktemp("wheel")
    source = home / "source"  # a build writes beside its source
    for folder in ("occdistill", "tools", "configs", "data/demo-weights"):
        shutil.copytree(ROOT / folder, source / folder)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", str(home), str(source)], check=True)
    shutil.rmtree(source)
    (wheel,) = home.glob("*.whl")
    assert wheel.stat().st_size < 20e6
    subprocess.run([sys.executable, "-m", "venv", str(home / "env")], check=True)
    bin_ = home / "env" / "bin"
    subprocess.run([bin_ / "pip", "install", "-q", "--no-deps", str(wheel)], check=True)
    (site,) = (home / "env" / "lib").glob("python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return bin_


@pytest.fixture
def run(installed, tmp_path):
    """Runs a program of the environment in an empty folder; gives what it printed.

    All that a test runs must fit into two minutes of two cores, numba's compiling included.
    """
    ours = ("PYTHONPATH", "PYTEST_CURRENT_TEST")
    environment = {k: v for k, v in os.environ.items() if k not in ours}

    def call(program, *arguments):
        done = subprocess.run(
            [installed / program, *map(str, arguments)], check=False, capture_output=True,
            text=True, cwd=tmp_path, env=environment, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    before = _cpu_seconds()
    yield call
    assert _cpu_seconds() - before < 2 * 120


def _cpu_seconds() -> float:
    """Of all processes that this one has started and seen end."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
def test_ten_lines_make_a_scored_and_drawn_forecast(run, installed, tmp_path):
    said = run("python", "-c", f"{TEN_LINES}\nprint(occdistill.__file__)").splitlines()
    assert said[0].startswith("Forecaster(SpaceTimeUNet: 4 past")
    assert 0 < float(said[0].split()[-1]) <= 100
    assert Path(said[1]).is_relative_to(installed.parent)
    assert (tmp_path / "forecast.gif").stat().st_size > 10_000


FOLDER = """
import shutil
from pathlib import Path
import numpy as np
from occdistill.data.scenes import load_index

(scene,) = load_index("world", "v1.0-synthetic", "val")
Path("clouds").mkdir()
frames = [frame for frame in scene.keyframes for _ in range(2)]  # eight seconds
for i, frame in enumerate(frames):
    shutil.copy(Path("world", frame.lidar), f"clouds/{i:03}.pcd.bin")
poses = [frame.lidar_to_global[:3].reshape(-1) for frame in frames]
np.savetxt("clouds/poses.txt", poses)
"""


@pytest.mark.slow
def test_a_stream_of_clouds_becomes_latencies_and_forecasts(run, tmp_path):
    """Ten unlabelled sweeps a second, and where the LiDAR was."""
    run("occdistill", "make-world", "--out", "world", "--scenes", 1, "--val-scenes", 1)
    run("python", "-c", FOLDER)
    run(
        "occdistill", "realtime", "configs/demo.py", "data/demo-weights/student.pth",
        "--source", "folder", "--folder", "clouds", "--rate", 10, "--out", "live",
    )  # fmt: skip
    report = json.loads((tmp_path / "live" / "realtime.json").read_text())
    assert report["frames"]["forecasts"] >= 1 and report["frames"]["bad"] == 0
    assert report["stages"]["total"]["p50_ms"] > 0


@pytest.mark.slow
def test_scores_come_from_configs_and_weights_inside_the_wheel(run, tmp_path):
    run("occdistill", "make-world", "--out", "data/world", "--scenes", 1, "--val-scenes", 1)
    student = "data/demo-weights/student.pth"
    run(
        "python", "-m", "occdistill", "test", "configs/demo.py", student, "--limit-clips", 2,
        "--rows", "student", "copy-last", "--repeats", 0, "--out", "scores",
    )  # fmt: skip
    rows = json.loads((tmp_path / "scores" / "report.json").read_text())
    assert "student" in str(rows)
