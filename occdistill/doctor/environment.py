"""Python, packages, accelerator, memory, disk, and whether Open3D can draw without a screen."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path

from occdistill.doctor.files import check_zip
from occdistill.doctor.findings import CLIPS, TRAIN, Finding

# package, what it stops, whether the rest works without it
PACKAGES = (
    ("numpy", "everything", False),
    ("torch", "everything but this doctor", False),
    ("numba", f"{CLIPS}, make_world", False),
    ("mmengine", f"{TRAIN}, test, visualize, benchmark, realtime (their configs)", False),
    ("pydantic", f"{TRAIN}, test, visualize, benchmark, realtime (their configs)", False),
    ("tqdm", CLIPS, False),
    ("nuscenes-devkit", "the official split names, when there is no splits.json", True),
    ("tensorboard", "training logs", True),
    ("matplotlib", "figures of the results card", True),
    ("pillow", "pictures and animations", True),
    ("open3d", "3-D pictures (bird's-eye views work without)", True),
    ("spconv", "the sparse LiDAR encoder", True),
)
NEWEST = {"nuscenes-devkit": (3, 12), "open3d": (3, 12), "spconv": (3, 11)}  # Python with wheels


def check_environment(folder: Path = Path(), render: bool = True) -> list[Finding]:
    """Findings about the machine and the installation.

    Args:
        folder: whose disk is measured.
        render: try to draw with Open3D, in a process of its own: it may die there.
    """
    findings = [_python(), *(_package(*p) for p in PACKAGES), *_torch(), *_machine(folder)]
    if render and _version("open3d"):
        findings.append(_open3d())
    return findings


def _say(level, message: str, blocks: str = "", remedy: str = "") -> Finding:
    return Finding("environment", level, message, None, blocks, remedy)


def _python() -> Finding:
    version = platform.python_version()
    if sys.version_info < (3, 11):  # noqa: UP036 - the doctor is asked where nothing else runs
        return _say("missing", f"Python {version}", "everything", "use Python 3.11 or newer")
    return _say("ok", f"Python {version}, {platform.platform()}")


def _version(package: str) -> str | None:
    """Installed version; spconv's wheels carry the CUDA version in their name."""
    names = (package, "spconv-cu120", "spconv-cu118") if package == "spconv" else (package,)
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _package(name: str, blocks: str, optional: bool) -> Finding:
    version = _version(name)
    if version:
        return _say("ok", f"{name} {version}")
    wheel = "spconv-cu120" if name == "spconv" else name
    level = "note" if optional else "missing"
    newest = NEWEST.get(name, sys.version_info)
    older = f"use Python {newest[0]}.{newest[1]} or older, then " * (sys.version_info[:2] > newest)
    remedy = f"{older}pip install {wheel}"
    return _say(level, f"{name} isn't installed; stops: {blocks}", "", remedy)


def _torch() -> list[Finding]:
    if not _version("torch"):
        return []
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - a broken installation may raise anything
        remedy = "install torch again (https://pytorch.org)"
        return [_say("damaged", f"torch can't be imported ({error})", "everything", remedy)]
    if not torch.cuda.is_available():
        return [_say("note", "no CUDA device: everything runs on the CPU")]
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [_say("ok", f"CUDA {torch.version.cuda}: {', '.join(names)}")]


def _machine(folder: Path) -> list[Finding]:
    findings = []
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        level = "ok" if memory >= 4 else "note"
        findings.append(_say(level, f"{os.cpu_count()} cores, {memory:.1f} GiB memory"))
    except (ValueError, OSError, AttributeError):
        pass
    free = shutil.disk_usage(folder if folder.exists() else Path()).free / 2**30
    if free < 2:
        remedy = "the demo needs about 2 GiB"
        findings.append(_say("note", f"only {free:.1f} GiB disk left", "", remedy))
    else:
        findings.append(_say("ok", f"{free:.0f} GiB disk free"))
    return findings


def _open3d() -> Finding:
    """Drawn as pictures are: by the renderer itself."""
    try:
        import numpy as np

        from occdistill.data.occ3d import OCC3D
        from occdistill.visualization.open3d_scene import RenderError, missing_packages, render
    except ImportError as error:
        return _say("note", f"Open3D can't be tried ({error})", "", "install the packages above")
    try:
        render([np.zeros(OCC3D.shape, np.uint8)], OCC3D, (16, 16))
    except RenderError as error:
        fix = "python tools/system_packages.py" if missing_packages() else "draw with --style bev"
        return _say("note", f"{error}; pictures are bird's-eye views", "", fix)
    return _say("ok", "Open3D renders without a screen")


def check_weights(folder: Path = Path("data")) -> list[Finding]:
    """Checkpoints below a folder."""
    findings = []
    for path in sorted([*folder.rglob("*.pth"), *folder.rglob("*.pt")]):
        problem = check_zip(path)
        level = "damaged" if problem else "ok"
        remedy = "fetch or train it again" if problem else ""
        blocks = "every tool whose config names it" if problem else ""
        findings.append(Finding("weights", level, problem or "whole", str(path), blocks, remedy))
    return findings
