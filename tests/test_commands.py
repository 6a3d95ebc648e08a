"""Every command of README and docs: fast, its command line is right; slow, it runs, shrunk."""

import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from occdistill import __main__, errors, places
from tests.commands import ROOT, blocks, commands, subcommand

COMMANDS = commands()
OURS = {c: subcommand(c) for c in COMMANDS if subcommand(c)}
STUDENT = "data/demo-weights/student.pth"
# what a page leaves open, or what takes nuScenes, OccFM's sizes or a training of minutes
STAND_INS = {
    "CONFIG": "configs/demo.py",
    "CHECKPOINT": STUDENT,
    "configs/nus.py": "configs/demo.py",
    "configs/nus_vae.py": "configs/demo_train.py",
    "configs/nus_teacher.py": "configs/demo_train.py",
    "work_dirs/nus/mfd/student.pth": STUDENT,
    "work_dirs/demo/mfd/student.pth": STUDENT,
}
# these need files that are hard to make; the test named runs them
ELSEWHERE = {
    "import-occfm": "tests/occfm/test_import_tool.py",
    "table1": "tests/studies/test_table1.py",
    "export": "tests/runtime/test_onnx.py",
    "demo": "tests/test_demo.py",
}
SMALL = {  # options that come last win
    "make-world": ["--scenes", "1", "--val-scenes", "1", "--no-lidar"],
    "test": ["--limit-clips", "3", "--repeats", "0", "--teacher-nfe", "1"],
    "score": ["--allow-missing"],
    "visualize": ["--style", "bev", "--nfe", "1"],
    "bench": ["--quick", "--repeats", "2", "--seconds", "1", "--dtype", "float32"],
    "study": ["--quick"],
    "check-occfm": ["--part", "vae"],
    "doctor": ["--no-render"],
}


def training(part: str) -> list[str]:
    """Two steps of a training."""
    small = dict(iterations=2, batch_size=1, val_clips=1, warmup=1, checkpoint_interval=2)
    return [f"train_{part}.{key}={value}" for key, value in small.items()]


CHANGES = {
    "train-mfd": [*training("distill"), "method.ratio=1", "method.ode_step=0.5"],
    "train-distill": [*training("distill"), "method.ratio=1", "method.ode_step=0.5"],
    **{f"train-{p.replace('_', '-')}": training(p) for p in ("vae", "light", "teacher")},
    "train-lidar-encoder": training("lidar_encoder"),
}


class ParsedError(Exception):
    """The command line is right."""


@pytest.mark.parametrize("command", OURS, ids=lambda command: command.replace("/", "-")[:80])
def test_its_command_line_is_one_that_the_tool_takes(command, monkeypatch):
    name, arguments = OURS[command]
    parse = errors.Parser.parse_args

    def parse_only(self, *given):
        parse(self, *given)
        raise ParsedError

    monkeypatch.setattr(errors.Parser, "parse_args", parse_only)
    monkeypatch.setattr(sys, "argv", ["occdistill", name, *arguments])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises((ParsedError, SystemExit)) as stop:
        __main__.main()
    if stop.type is SystemExit:  # an option that prints, such as --list-methods
        assert not stop.value.code
    for word in arguments:
        if word.startswith("configs/"):
            assert (ROOT / word).is_file()


def test_other_programs_are_called_with_what_there_is():
    rules = {line.partition(":")[0] for line in (ROOT / "Makefile").read_text().splitlines()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    others = [shlex.split(command) for command in COMMANDS if command not in OURS]
    assert {words[0] for words in others} == {"make", "occdistill", "pip", "python"}
    for program, *words in others:
        if program == "make":
            assert set(words) <= rules
        elif program == "occdistill":
            assert words == ["--help"]  # tests/test_wheel.py
        elif program == "python":
            module = "/".join(words[1].split(".")) + ".py" if words[0] == "-m" else words[0]
            assert (ROOT / module).is_file()
        else:
            wanted = [word for word in words if word.startswith(".[")]
            for extra in (one for word in wanted for one in word[2:-1].split(",")):
                assert extra in project["optional-dependencies"]
            assert all((ROOT / word).exists() for word in words if word.endswith(".txt"))


def test_commands_are_found_at_all():
    tools = {name for name, _ in OURS.values()}
    assert {"make-world", "train-mfd", "test", "score", "compare", "doctor", "check-occfm"} <= tools
    assert len(OURS) > 25 and "make demo" in COMMANDS
    assert set(ELSEWHERE) - {"demo"} <= tools
    assert all((ROOT / path).is_file() for path in ELSEWHERE.values())


def start(place: Path, *command: str, codes=(0,)) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command], cwd=place, env=environment, check=False, capture_output=True,
        text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode in codes, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with what the documents' commands read, all of it small."""
    from occdistill.data.scenes import load_index
    from occdistill.world import make_world

    folder = tmp_path_factory.mktemp("place")
    world = folder / "data" / "world"
    make_world(world, scenes=1, val_scenes=1, seed=7, keyframes=20, workers=1)
    for name in ("data/nuscenes", "data/world-train", "world"):
        (folder / name).symlink_to(world)
    (scene,) = load_index(world, "v1.0-synthetic", "val")
    (folder / "SWEEPS").mkdir()
    frames = [frame for frame in scene.keyframes for _ in range(4)]
    for i, frame in enumerate(frames):
        shutil.copy(world / frame.lidar, folder / "SWEEPS" / f"{i:03}.pcd.bin")
    poses = [frame.lidar_to_global[:3].reshape(-1) for frame in frames]
    np.savetxt(folder / "SWEEPS" / "poses.txt", poses)
    start(
        folder, "-m", "occdistill", "test", "configs/demo.py", STUDENT, "--rows", "student",
        "--out", "work_dirs/demo", "--save-predictions", "saved", *SMALL["test"],
    )  # fmt: skip
    (saved,) = (folder / "saved").iterdir()
    saved.rename(folder / "PREDICTIONS")
    for name in ("a", "b"):
        shutil.copytree(folder / "work_dirs" / "demo", folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [command for command, (name, _) in OURS.items() if name not in ELSEWHERE],
    ids=lambda command: command.replace("/", "-")[:80],
)
def test_it_runs(command, place):
    name, arguments = OURS[command]
    arguments = [STAND_INS.get(word, word) for word in arguments]
    options = SMALL.get(name, [])
    if name == "score" and any(word.endswith("counts") for word in arguments):
        options = []  # counts are complete
    changes = [f"data.dataroot={place / 'data' / 'world'}", *CHANGES.get(name, [])]
    if any(word.startswith("configs/") for word in arguments) and name not in ("doctor", "bench"):
        if "--cfg-options" not in arguments:
            options = [*options, "--cfg-options"]
        else:  # the command's own changes come last
            options, arguments = [], [*arguments[:-1], *options, "--cfg-options", arguments[-1]]
            arguments.remove("--cfg-options")
        options = [*options, *changes]
    own = place / "made" / str(list(OURS).index(command))
    if name == "make-world":
        options = [*options, "--out", str(own)]
    if name.startswith("train"):
        arguments = [*arguments, "--work-dir", str(own)]
    program = ["-m", "occdistill", name]
    if command.startswith("torchrun"):
        script = str(places.tools()[name])
        program = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1", script]
    start(place, *program, *arguments, *options, codes=(0, 1) if name == "doctor" else (0,))


@pytest.mark.slow
@pytest.mark.parametrize("page", ["docs/quickstart.md", "docs/realtime.md"])
def test_its_python_runs(page, place):
    (code,) = blocks(ROOT / page, "python")
    start(place, "-c", code.replace("forecaster.grid)", 'forecaster.grid, style="bev")'))
