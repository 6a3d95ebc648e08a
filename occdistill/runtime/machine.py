"""What a measurement or a compiled program belongs to."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import torch


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
