"""A forecast as one HTML file, to turn around in any browser: no network, no server, no library.

The page itself is `page.html`; what is sent to it is a JSON object, the same in a file and live.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np

from occdistill.data.occ3d import CLASS_NAMES, FREE, Grid
from occdistill.store import write_text
from occdistill.visualization.palette import COLOURS, ERROR_NAMES

INTERVAL = 0.5  # seconds between keyframes


@dataclass(frozen=True)
class Panel:
    """One panel of a page.

    Attributes:
        name: its caption, unique on the page.
        frames: uint8 `(F, X, Y, Z)`, classes of the future frames; for `probability`, float in
            [0, 1], the share of several futures that fill a voxel.
        kind: what the frames are. An `error` panel shows where its frames differ from the truth, a
            `height` panel what has no class, by its height.
        notes: a remark per future frame, beside the caption: its scores.
        shown: whether it is shown before anybody switches panels on and off.
    """

    name: str
    frames: np.ndarray
    kind: Literal["classes", "height", "error", "probability"] = "classes"
    notes: Sequence[str] = ()
    shown: bool = True


def write_page(
    path: str | Path,
    panels: Sequence[Panel],
    grid: Grid,
    past: np.ndarray | None = None,
    title: str = "occdistill",
    status: str = "",
) -> None:
    """Write a page; arguments as for `content`.

    Raises:
        UserError: it can't be written.
    """
    write_text(path, html(content(panels, grid, past, title, status)))


def html(payload: dict[str, Any]) -> str:
    """The page that shows a payload: what `content` gives, or `{"live": address}`, where newer and
    newer ones are to be had.
    """
    text = json.dumps(payload, separators=(",", ":")).replace("<", "\\u003c")
    return files(__package__).joinpath("page.html").read_text("utf-8").replace("PAYLOAD", text, 1)


def content(
    panels: Sequence[Panel],
    grid: Grid,
    past: np.ndarray | None = None,
    title: str = "occdistill",
    status: str = "",
) -> dict[str, Any]:
    """What a page is sent, ready for JSON.

    Args:
        panels: in their order; an `error` panel needs the truth, the first panel, before it.
        grid: where the voxels are.
        past: uint8 `(P, X, Y, Z)`, shown before the future in every panel; None: the panels begin
            with the present frame.
        title: of the page.
        status: a line beside it.
    """
    volumes: list[str] = []

    def add(frames: np.ndarray) -> list[int]:
        """Numbers of the frames, packed once each."""
        volumes.extend(pack(frame) for frame in frames)
        return list(range(len(volumes) - len(frames), len(volumes)))

    before = [] if past is None else add(past)
    own = [add(shares(p.frames) if p.kind == "probability" else p.frames) for p in panels]
    earlier = dict.fromkeys(("classes", "height", "error"), before)
    if any(p.kind == "probability" for p in panels):  # the past is certain
        earlier["probability"] = [] if past is None else add(shares(past != FREE))
    first = 1 - len(before)
    count = len(before) + len(panels[0].frames)
    return {
        "title": title,
        "status": status,
        "shape": list(grid.shape),
        "voxel": grid.voxel_size,
        "origin": list(grid.origin),
        "classes": CLASS_NAMES[:FREE],
        "errors": ERROR_NAMES,
        "palette": COLOURS.tolist(),
        "times": [INTERVAL * (first + i) for i in range(count)],
        "panels": [
            {
                "name": panel.name,
                "kind": panel.kind,
                "frames": earlier[panel.kind] + frames,
                "truth": before + own[0] if panel.kind == "error" else None,
                "notes": [""] * len(before) + list(panel.notes) if panel.notes else None,
                "shown": panel.shown,
            }
            for panel, frames in zip(panels, own)
        ],
        "volumes": volumes,
    }


def shares(occupancy: np.ndarray) -> np.ndarray:
    """Shares in [0, 1] as the page takes them: uint8, 0 for never and 255 for always."""
    return np.ceil(255 * np.asarray(occupancy, np.float32)).astype(np.uint8)


def pack(volume: np.ndarray) -> str:
    """uint8 `(X, Y, Z)` as the page unpacks it: zlib, in base64."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(volume).tobytes(), 6)).decode()
