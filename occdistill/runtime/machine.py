"""What a measurement or a compiled program belongs to."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import torch


def device_name(device: torch.device | str) -> str:
    """The name to print beside a number, with the threads used on a CPU."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        model = None
    name = model[1].strip() if model else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"
