"""Processes that work together, under torchrun or SLURM, and who goes first."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal, get_args

import torch
import torch.distributed as dist

from occdistill.errors import UserError

Launcher = Literal["none", "pytorch", "slurm"]
LAUNCHERS = get_args(Launcher)
PATIENCE = timedelta(minutes=30)  # with one that doesn't answer; the first validates alone
PATIENCE_WITH_SHARES = timedelta(days=1)  # with one whose share of a long work isn't done


@contextmanager
def joined(device: str, launcher: Launcher = "none") -> Iterator[torch.device]:
    """Inside, this process has its device and, with a launcher, belongs to the group of them.

    Args:
        device: `cpu`, `cuda` or `cuda:N`; in a group each process takes its own GPU.
        launcher: `none`; `pytorch` under torchrun; `slurm` as a task of srun.

    Raises:
        UserError: no GPU, no such launcher, or another process that doesn't answer.
    """
    chosen = torch.device(device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"no GPU for --device {device}: run with --device cpu")
    if launcher == "none":
        yield chosen
        return
    if launcher == "slurm":
        os.environ.update(slurm_places(os.environ))
    if "LOCAL_RANK" not in os.environ:
        raise UserError(
            "--launcher pytorch needs torchrun: start with "
            "`torchrun --nproc_per_node=N tools/….py … --launcher pytorch`"
        )
    cuda = chosen.type == "cuda"
    if cuda:
        chosen = _own_gpu(int(os.environ["LOCAL_RANK"]))
    try:
        dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    except RuntimeError as error:
        raise UserError(
            f"the processes can't find each other ({str(error).splitlines()[0][:150]}): if the port "
            "is in use, choose another with torchrun's --master_port, or in MASTER_PORT under SLURM"
        ) from error
    try:
        yield chosen
        dist.barrier()  # leave together: gloo's threads must not outlive the interpreter
    except RuntimeError as error:
        if not re.search("timed? ?out|connection|closed by peer", str(error), re.IGNORECASE):
            raise
        raise UserError(
            "another process of this run has stopped or hasn't answered for "
            f"{PATIENCE.total_seconds() / 60:g} minutes: end them all, see what they say, and go "
            "on with --resume"
        ) from error
    dist.destroy_process_group()


def _own_gpu(place: int) -> torch.device:
    """The GPU of the process with this place on its machine."""
    seen = torch.cuda.device_count()
    if seen == 1:  # SLURM may show each task its own GPU alone
        place = 0
    if place >= seen:
        raise UserError(
            f"process {place} of this machine finds {seen} GPUs: start as many processes as there "
            "are GPUs"
        )
    chosen = torch.device("cuda", place)
    torch.cuda.set_device(chosen)
    return chosen


def slurm_places(given: MutableMapping[str, str]) -> dict[str, str]:
    """What torch's rendezvous reads, of what srun tells a task.

    Args:
        given: the environment; `MASTER_ADDR` and `MASTER_PORT` in it are kept.

    Raises:
        UserError: this is no task of srun, or `scontrol` can't name its first machine.
    """
    names = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_JOB_ID")
    if missing := [name for name in names if name not in given]:
        raise UserError(
            f"--launcher slurm needs srun, which sets {missing[0]}: start with "
            "`tools/slurm_train.sh PARTITION JOB CONFIG`"
        )
    rank, local, size, job = (given[name] for name in names)
    first = given.get("MASTER_ADDR") or _first_machine(given.get("SLURM_STEP_NODELIST", ""))
    # jobs that share a machine have other numbers, and with them other ports
    port = given.get("MASTER_PORT") or str(20000 + int(job) % 20000)
    return {
        "RANK": rank, "LOCAL_RANK": local, "WORLD_SIZE": size, "MASTER_ADDR": first,
        "MASTER_PORT": port,
    }  # fmt: skip


def _first_machine(nodes: str) -> str:
    command = ["scontrol", "show", "hostnames", nodes]
    try:
        said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        return said.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        raise UserError(
            f"scontrol doesn't name the first machine of {nodes!r}: set MASTER_ADDR to it"
        ) from error


def alone() -> bool:
    """Whether this process has no others to work with."""
    return not dist.is_initialized() or dist.get_world_size() == 1


@contextmanager
def first_rank_first() -> Iterator[None]:
    """Rank 0 goes through alone, then the others: for caches that are built on first use."""
    if alone():
        yield
        return
    with _patient() as group:
        if dist.get_rank() > 0:
            dist.barrier(group)
        yield
        if dist.get_rank() == 0:
            dist.barrier(group)


def meet(yes: bool = True) -> bool:
    """Wait until all processes are here, for a day if it takes that; the first one's word for all.

    Args:
        yes: this process's.
    """
    if alone():
        return yes
    word = torch.tensor(int(yes))
    with _patient() as group:
        dist.barrier(group)
        dist.broadcast(word, 0, group)
    return bool(word)


@contextmanager
def _patient() -> Iterator[dist.ProcessGroup]:
    """A group of all processes that waits longer than the one they train in."""
    group = dist.new_group(backend="gloo", timeout=PATIENCE_WITH_SHARES)
    yield group
    dist.destroy_process_group(group)
