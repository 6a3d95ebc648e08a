"""Processes that find each other, and the scripts that start them on SLURM."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from occdistill import processes
from occdistill.errors import UserError
from occdistill.processes import alone, joined, meet, slurm_places
from tests.ranks import together

ROOT = Path(__file__).parents[1]
TASK = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "40017"}


def test_a_task_of_srun_joins_the_others(tmp_path):
    def task():
        os.environ.update(
            SLURM_PROCID=os.environ.pop("RANK"), SLURM_LOCALID=os.environ.pop("LOCAL_RANK"),
            SLURM_NTASKS=os.environ.pop("WORLD_SIZE"), SLURM_JOB_ID="1",
        )  # fmt: skip
        with joined("cpu", "slurm"):
            total = torch.tensor(dist.get_rank() + 1.0)
            dist.all_reduce(total)
            (tmp_path / f"{dist.get_rank()}").write_text(str(total.item()))

    assert together(task) == [0, 0]
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["3.0", "3.0"]


def test_places_under_slurm(tmp_path, monkeypatch):
    machines = tmp_path / "scontrol"
    machines.write_text('#!/bin/sh\n[ "$3" = "node[7-8]" ] && printf "node7\\nnode8\\n"\n')
    machines.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = slurm_places({**TASK, "SLURM_STEP_NODELIST": "node[7-8]"})
    assert found == {
        "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node7",
        "MASTER_PORT": "20017",
    }  # fmt: skip
    given = {"MASTER_ADDR": "here", "MASTER_PORT": "5"}
    assert given.items() <= slurm_places({**TASK, **given}).items()
    with pytest.raises(UserError, match="scontrol doesn't name the first machine of 'x'"):
        slurm_places({**TASK, "SLURM_STEP_NODELIST": "x"})
    with pytest.raises(UserError, match="--launcher slurm needs srun.*slurm_train.sh"):
        slurm_places({})


@pytest.mark.parametrize("seen, place, chosen", [(8, 3, 3), (1, 3, 0), (2, 3, None)])
def test_each_process_has_a_gpu_of_its_own(monkeypatch, seen, place, chosen):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    if chosen is None:
        with pytest.raises(UserError, match="process 3 of this machine finds 2 GPUs"):
            processes._own_gpu(place)
    else:
        assert processes._own_gpu(place) == torch.device("cuda", chosen)


def test_the_first_ones_word_counts(tmp_path):
    def run():
        with joined("cpu", "pytorch"):
            first = dist.get_rank() == 0
            assert not alone() and meet(first) and not meet(not first)

    assert together(run) == [0, 0]
    assert alone() and meet() and not meet(False)


@pytest.fixture
def srun(tmp_path, monkeypatch):
    """A stand-in that says how it was called."""
    script = tmp_path / "srun"
    script.write_text('#!/bin/sh\nprintf "%s\\n" "$PYTHONPATH" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def call(name, *arguments, **variables):
        return subprocess.run(
            [ROOT / "tools" / name, *arguments], env={**os.environ, **variables},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return call


def test_slurm_scripts_start_a_task_for_each_gpu(srun):
    done = srun("slurm_train.sh", "gpu", "mfd", "configs/nus.py", "out", "--resume", GPUS="16")
    path, *said = done.stdout.splitlines()
    assert path == str(ROOT) and done.returncode == 0
    assert {"--partition=gpu", "--job-name=mfd", "--ntasks=16", "--ntasks-per-node=8"} <= set(said)
    command = said[said.index("python") :]
    tool = str(ROOT / "tools/train_mfd.py")
    options = ["configs/nus.py", "--work-dir", "out", "--resume", "--launcher", "slurm"]
    assert command == ["python", "-u", tool, *options]

    variables = dict(TOOL="train_teacher", GPUS="2", SRUN_ARGS="--time=1 --account=me")
    done = srun("slurm_train.sh", "gpu", "t", "c.py", "--cfg-options", "a=1 2", **variables)
    said = done.stdout.splitlines()
    assert {"--gres=gpu:2", "--time=1", "--account=me"} <= set(said)
    assert said[-5:] == ["c.py", "--cfg-options", "a=1 2", "--launcher", "slurm"]
    assert said[-6].endswith("tools/train_teacher.py")

    said = srun("slurm_test.sh", "gpu", "t", "c.py", "s.pth", "--resume").stdout.splitlines()
    assert said[-5:] == ["c.py", "s.pth", "--resume", "--launcher", "slurm"]


@pytest.mark.parametrize(
    "name, arguments, sentence",
    [
        ("slurm_train.sh", ("gpu", "mfd"), "takes PARTITION JOB CONFIG"),
        ("slurm_test.sh", ("gpu", "mfd", "c.py"), "takes PARTITION JOB CONFIG CHECKPOINT"),
        ("slurm_train.sh", ("gpu", "mfd", "c.py"), "GPUS=12 is not a multiple of GPUS_PER_NODE=8"),
    ],
)
def test_slurm_scripts_refuse_in_a_sentence(srun, name, arguments, sentence):
    done = srun(name, *arguments, GPUS="12")
    assert done.returncode == 2 and sentence in done.stderr and not done.stdout
