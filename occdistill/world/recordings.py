"""Recorded scenes from where somebody keeps them, and which of them are trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from occdistill.data.scenes import official_splits
from occdistill.errors import UserError
from occdistill.untrusted import proper
from occdistill.world.mending import mended
from occdistill.world.motion import Motion, read_folder
from occdistill.world.motion_tables import read_tables, tables_in
from occdistill.world.scenery import MARGIN

SPLITTINGS = ("val", "official")
LARGEST = 2e6
"""Square metres of a scene at most."""
_ADVICE = "name a folder as in data/README.md, or a nuScenes root with its tables"


def read_recorded(source: str | Path) -> list[Motion]:
    """Recorded scenes, mended, from a folder of motion (data/README.md) or of nuScenes' tables.

    Raises:
        UserError: it is neither, what it holds can't be read, or a drive is too long.
    """
    source = Path(source)
    if not source.is_dir():
        raise UserError(f"{source} is no folder; {_ADVICE}")
    tables = tables_in(source)
    if tables is None and not any(source.glob("*.npz")):
        raise UserError(f"{source} has neither motion (*.npz) nor nuScenes' tables; {_ADVICE}")
    motions = read_folder(source) if tables is None else read_tables(tables)
    for motion in motions:
        proper(motion.name, source, source)
        width, depth = np.ptp(motion.ego[:, :2], axis=0) + 2 * MARGIN
        if width * depth > LARGEST:
            raise UserError(
                f"scene {motion.name} of {source} goes over {width:.0f} × {depth:.0f} m, more than"
                " is furnished at once; cut it into scenes of some 20 s"
            )
    return [mended(motion) for motion in motions]


def told(motions: Sequence[Motion]) -> str:
    """What was mended or left out in each scene, and how much there is, a line each."""
    lines = [f"{motion.name}: {note}" for motion in motions for note in motion.notes]
    tracks = sum(len(motion.pose) for motion in motions)
    return "\n".join([*lines, f"{len(motions)} recorded scenes with {tracks} tracks"])


def assign(names: Sequence[str], split: str) -> dict[str, list[str]]:
    """Which scenes are for training and which for validation.

    Args:
        names: of the scenes.
        split: `val`, all are for validation: a test set of its own; or `official`, as nuScenes
            has its scenes, mini_train and mini_val if all are in nuScenes-mini.

    Returns:
        {"train": names, "val": names}.

    Raises:
        UserError: nuScenes has no scene of that name in train or val.
    """
    if split == "val":
        return {"train": [], "val": sorted(names)}
    lists = official_splits()
    mini = set(names) <= {*lists["mini_train"], *lists["mini_val"]}
    chosen = {name: lists[f"mini_{name}" if mini else name] for name in ("train", "val")}
    strange = sorted(set(names) - {*chosen["train"], *chosen["val"]})
    if strange:
        raise UserError(
            f"scene {strange[0]} is in neither nuScenes' train nor its val split; use --split val"
        )
    return {part: sorted(set(names) & set(chosen[part])) for part in chosen}


def digest(motions: Sequence[Motion]) -> str:
    """A fingerprint of recorded motion: what else a world's bytes depend on."""
    found = hashlib.sha256()
    for motion in sorted(motions, key=lambda motion: motion.name):
        found.update(motion.name.encode())
        lines = [ring for rings in motion.streets.areas for ring in rings] + motion.streets.lanes
        numbers = (motion.time, motion.ego, motion.pose, motion.valid, motion.size, *lines)
        for array in (*numbers, motion.category.astype("U40")):
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]
