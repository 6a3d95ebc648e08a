"""Processes that train together, under torchrun, and who goes first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from occdistill.errors import UserError


@contextmanager
def joined(device: str, launcher: str = "none") -> Iterator[torch.device]:
    """Inside, this process has its device and, under torchrun, belongs to the group of them.

    Args:
        device: `cpu`, `cuda` or `cuda:N`; under torchrun each process takes its own GPU.
        launcher: `none`, or `pytorch` under torchrun.

    Raises:
        UserError: no GPU, or no torchrun.
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
    patience = timedelta(days=1)  # the others wait while the first one builds caches
    dist.init_process_group("nccl" if cuda else "gloo", timeout=patience)
    yield chosen
    dist.barrier()  # leave together: gloo's threads must not outlive the interpreter
    dist.destroy_process_group()


@contextmanager
def first_rank_first() -> Iterator[None]:
    """Rank 0 goes through alone, then the others: for caches that are built on first use."""
    others_wait = dist.is_initialized() and dist.get_world_size() > 1
    if others_wait and dist.get_rank() > 0:
        dist.barrier()
    yield
    if others_wait and dist.get_rank() == 0:
        dist.barrier()
