"""Forecasts in Rerun, a viewer with a time line: recorded ones and live ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from torch import Tensor

from occdistill.data.occ3d import Grid
from occdistill.errors import UserError
from occdistill.runtime.live import LiveRunner
from occdistill.visualization.open3d_scene import surface
from occdistill.visualization.page import INTERVAL, Panel


def load_rerun() -> ModuleType:
    """The package, imported when it is first needed.

    Raises:
        UserError: it isn't installed.
    """
    try:
        import rerun
    except ImportError as error:
        raise UserError(
            f"--viewer rerun needs Rerun ({error}): pip install rerun-sdk, or leave it out"
        ) from error
    return rerun


class RerunScene:
    """A 3-D view per name, whose frames lie on a time line.

    Args:
        names: of the views.
        grid: where the voxels are.
        title: of the recording.
        out: a `.rrd` file to write; None: a window is opened.

    Raises:
        UserError: Rerun isn't installed, its window can't be opened, or another file ending.
    """

    def __init__(self, names: Sequence[str], grid: Grid, title: str, out: Path | None = None):
        if out is not None and out.suffix != ".rrd":
            raise UserError(f"{out.name} is no Rerun recording: call it FILE.rrd, or leave it out")
        self.rerun = load_rerun()
        blueprint = self.rerun.blueprint
        self.grid = grid
        self.paths = {name: f"panel_{i}" for i, name in enumerate(names)}
        views = [
            blueprint.Spatial3DView(origin=path, name=name) for name, path in self.paths.items()
        ]
        self.stream = self.rerun.RecordingStream("occdistill")
        self.stream.send_recording_name(title)
        try:
            if out is None:
                self.stream.spawn()
            else:
                out.parent.mkdir(parents=True, exist_ok=True)
                self.stream.save(out)
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"Rerun can't begin ({error}): write a file with --out FILE.rrd"
            ) from error
        self.stream.send_blueprint(blueprint.Blueprint(blueprint.Grid(*views)))

    def show(self, name: str, voxels: np.ndarray, seconds: float, line: str = "ahead") -> None:
        """Put a frame, uint8 `(X, Y, Z)`, into a view at a time of a time line."""
        mesh = surface(voxels, self.grid)
        self.stream.set_time(line, duration=seconds)
        self.stream.log(
            self.paths[name],
            self.rerun.Mesh3D(
                vertex_positions=mesh.vertices.astype(np.float32),
                vertex_colors=(255 * mesh.colours).round().astype(np.uint8),
                triangle_indices=mesh.triangles,
            ),
        )

    def close(self) -> None:
        """Send or write what is left."""
        self.stream.flush()
        self.stream.disconnect()


def record(
    panels: Sequence[Panel], grid: Grid, past: np.ndarray, title: str, out: Path | None = None
) -> None:
    """Show the panels of classes, or write them to a file; arguments as for `page.content`."""
    scene = RerunScene([p.name for p in panels if p.kind == "classes"], grid, title, out)
    for panel in (p for p in panels if p.kind == "classes"):
        for i, voxels in enumerate([*past, *panel.frames]):
            scene.show(panel.name, voxels, INTERVAL * (i + 1 - len(past)))
    scene.close()


def follow(grid: Grid, out: Path | None = None) -> Callable[[LiveRunner, Tensor], bool]:
    """A listener of live runs that shows each newest frame and the forecast from it, 1 s ahead
    and its last frame, on the sensor's time line; arguments as for `RerunScene`.
    """
    scene = RerunScene(("now", "in 1 s", "last of the forecast"), grid, "live", out)

    def listen(runner: LiveRunner, future: Tensor) -> bool:
        newest = runner.rolling.frames[-1]
        for name, voxels in zip(scene.paths, (newest.voxels, future[1], future[-1])):
            scene.show(name, voxels.cpu().numpy(), newest.time, "sensor")
        return True

    listen.close = scene.close
    return listen
