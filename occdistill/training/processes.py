"""Processes that train together, under torchrun, and who goes first."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from occdistill.errors import UserError

PATIENCE = timedelta(minutes=30)  # with one that doesn't answer; the first validates alone
PATIENCE_WITH_CACHES = timedelta(days=1)  # while the first one builds them


@contextmanager
def joined(device: str, launcher: str = "none") -> Iterator[torch.device]:
    """Inside, this process has its device and, under torchrun, belongs to the group of them.

    Args:
        device: `cpu`, `cuda` or `cuda:N`; under torchrun each process takes its own GPU.
        launcher: `none`, or `pytorch` under torchrun.

    Raises:
        UserError: no GPU, no torchrun, or another process that doesn't answer.
    """
    chosen = torch.device(device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"no GPU for --device {device}: run with --device cpu")
    if launcher == "none":
        yield chosen
        return
    if "LOCAL_RANK" not in os.environ:
        raise UserError(
            "--launcher pytorch needs torchrun: start with "
            "`torchrun --nproc_per_node=N tools/train_….py … --launcher pytorch`"
        )
    cuda = chosen.type == "cuda"
    if cuda:
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    try:
        dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    except RuntimeError as error:
        raise UserError(
            f"the processes can't find each other ({str(error).splitlines()[0][:150]}): if the port "
            "is in use, choose another with torchrun's --master_port"
        ) from error
    try:
        yield chosen
        dist.barrier()  # leave together: gloo's threads must not outlive the interpreter
    except RuntimeError as error:
        if not re.search("timed? ?out|connection|closed by peer", str(error), re.IGNORECASE):
            raise
        raise UserError(
            "another process of this training has stopped or hasn't answered for "
            f"{PATIENCE.total_seconds() / 60:g} minutes: end them all, see what they say, and go "
            "on with --resume"
        ) from error
    dist.destroy_process_group()


@contextmanager
def first_rank_first() -> Iterator[None]:
    """Rank 0 goes through alone, then the others: for caches that are built on first use."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        yield
        return
    group = dist.new_group(backend="gloo", timeout=PATIENCE_WITH_CACHES)
    if dist.get_rank() > 0:
        dist.barrier(group)
    yield
    if dist.get_rank() == 0:
        dist.barrier(group)
    dist.destroy_process_group(group)
