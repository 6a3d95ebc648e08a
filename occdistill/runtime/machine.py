"""What a measurement or a compiled program belongs to."""

from __future__ import annotations

import os
import platform
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

# PyTorch's older names of these switches are the only ones that all its versions understand
warnings.filterwarnings("ignore", "Please use the new API settings to control TF32")


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Inside, a GPU may, or may not, round the factors of float32 products to TF32's ten bits.

    Unless told otherwise, PyTorch allows it in convolutions and not in matrix products.
    """
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = allowed
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def model_name(device: torch.device | str) -> str:
    """What the device's maker calls it."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        model = None
    return model[1].strip() if model else platform.processor() or platform.machine()


def device_name(device: torch.device | str) -> str:
    """The name to print beside a number, with the threads used on a CPU."""
    name = model_name(device)
    on_cpu = torch.device(device).type != "cuda"
    return f"{name}, {torch.get_num_threads()} threads" if on_cpu else name


def loaders(device: torch.device | str, wanted: int | None = None) -> int:
    """How many processes read data beside a device.

    Args:
        device: on a CPU none, as they would take the cores from the networks.
        wanted: what the user says; None: up to eight, but no more than this process's share of the
            cores, less one.
    """
    if wanted is not None:
        return wanted
    if torch.device(device).type != "cuda":
        return 0
    share = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(0, min(8, share - 1))
