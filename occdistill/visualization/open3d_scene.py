"""Voxels in 3-D with Open3D, without a screen and without a graphics card.

A frame becomes one mesh of the voxel faces that border on free space. Light is baked into the
colours (a shade per face direction, darker where surfaces meet), so an unlit scene, which software
rendering draws fast and everywhere alike, still reads as 3-D.

A failing EGL or Vulkan start-up can take the whole process with it, so pictures are rendered in a
process of their own.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from occdistill.data.occ3d import FREE, Grid
from occdistill.errors import UserError
from occdistill.visualization.palette import COLOURS

SHADE = {(2, 1): 1.0, (0, 1): 0.74, (0, -1): 0.80, (1, 1): 0.88, (1, -1): 0.66}  # (axis, side)
CREASE = np.array([0.62, 0.76, 0.89, 1.0])  # by how open a corner is
GRAIN = 0.95  # every second voxel, so that flat ground still shows its size
EGO_SIZE, EGO_CENTRE = (4.1, 1.85, 1.5), (1.4, 0.0, 0.95)  # metres; the origin is the rear axle
EGO_COLOUR = (60, 64, 72)
PACKAGES = {
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libgomp.so.1": "libgomp1",
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libvulkan.so.1": "libvulkan1",
}


class RenderError(UserError):
    """Open3D can't render here; the message names what is missing."""


@dataclass(frozen=True)
class Mesh:
    """Quads as triangles: `vertices` (V, 3) metres, `colours` (V, 3) in [0, 1], `triangles`."""

    vertices: np.ndarray
    colours: np.ndarray
    triangles: np.ndarray


@dataclass(frozen=True)
class View:
    """Where the camera is, in half extents of the grid, relative to the ego: it drives along.

    Attributes:
        eye: position (x forward, y left, z up).
        target: what it looks at.
        angle: vertical field of view, degrees.
    """

    eye: tuple[float, float, float] = (-1.2, 0.0, 0.9)
    target: tuple[float, float, float] = (0.06, 0.0, -0.1)
    angle: float = 46.0


def surface(voxels: np.ndarray, grid: Grid, ego: bool = True) -> Mesh:
    """The visible faces of a frame, shaded.

    Args:
        voxels: class ids uint8 `(X, Y, Z)`.
        grid: where the voxels are.
        ego: also draw the ego car, a box of its size.
    """
    occupied = np.pad(voxels != FREE, 1)
    vertices, colours = [np.zeros((0, 4, 3))], [np.zeros((0, 4, 3))]
    for (axis, side), shade in SHADE.items():
        outside = np.roll(occupied, -side, axis)
        cells = np.argwhere(occupied & ~outside)  # in the padded grid
        u, v = (axis + 1) % 3, (axis + 2) % 3
        corners = np.zeros((4, 3))
        corners[[1, 2], u] = corners[[2, 3], v] = 1
        if side > 0:
            corners[:, axis] = 1
        else:
            corners = corners[::-1]  # seen from the other side
        light = np.stack([_openness(outside, cells, corner, u, v) for corner in corners], 1)
        vertices.append(cells[:, None] - 1 + corners)
        light = shade * CREASE[light] * np.where(cells.sum(1) % 2, 1.0, GRAIN)[:, None]
        colours.append(COLOURS[voxels[tuple(cells.T - 1)]][:, None] / 255 * light[..., None])
    points = np.concatenate(vertices) * grid.voxel_size + grid.origin
    shades = np.concatenate(colours)
    if ego:
        box, box_colours = _ego_box()
        points, shades = np.concatenate([points, box]), np.concatenate([shades, box_colours])
    first = 4 * np.arange(len(points))[:, None]
    triangles = np.concatenate([first + [0, 1, 2], first + [0, 2, 3]])
    return Mesh(points.reshape(-1, 3), shades.reshape(-1, 3), triangles.astype(np.int32))


def _openness(outside: np.ndarray, cells: np.ndarray, corner: np.ndarray, u: int, v: int):
    """How many of a face corner's three neighbours in front of the face are free, 0 to 3.

    Two walls that meet hide what is behind them.
    """
    step_u, step_v = np.zeros(3, int), np.zeros(3, int)
    step_u[u], step_v[v] = 2 * int(corner[u]) - 1, 2 * int(corner[v]) - 1
    a, b, c = (
        outside[tuple((cells + step).T)].astype(int) for step in (step_u, step_v, step_u + step_v)
    )
    return 3 - a - b - np.maximum(c, a & b)


def _ego_box() -> tuple[np.ndarray, np.ndarray]:
    one = surface(np.zeros((1, 1, 1), np.uint8), Grid((1, 1, 1), 1.0, (-0.5, -0.5, -0.5)), False)
    points = one.vertices * EGO_SIZE + EGO_CENTRE
    shades = np.repeat(list(SHADE.values()), 4)[:, None] * np.array(EGO_COLOUR) / 255
    return points.reshape(-1, 4, 3), shades.reshape(-1, 4, 3)


def render(
    frames: Sequence[np.ndarray],
    grid: Grid,
    size: tuple[int, int] = (640, 480),
    view: View = View(),
    timeout: float = 120.0,
) -> np.ndarray:
    """Pictures of frames, made in a process of their own.

    Args:
        frames: uint8 `(X, Y, Z)` each.
        grid: where the voxels are.
        size: width and height in pixels.
        view: the camera.
        timeout: seconds after which rendering counts as failed. Open3D 0.19 draws a frame in less
            than a tenth of a second without a graphics card; 0.20, through software Vulkan, may
            need ten where other processes use the same cores.

    Returns:
        uint8 `(N, height, width, 3)`.

    Raises:
        RenderError: Open3D can't render on this machine.
    """
    with tempfile.TemporaryDirectory() as folder:
        job, result = Path(folder, "job.npz"), Path(folder, "pictures.npy")
        np.savez(
            job, frames=np.stack(frames), shape=grid.shape, voxel_size=grid.voxel_size,
            origin=grid.origin, size=size, eye=view.eye, target=view.target, angle=view.angle,
        )  # fmt: skip
        command = [sys.executable, "-m", __name__, str(job), str(result)]
        # Open3D up to 0.19 renders without a screen only if EGL is told that there is none
        environment = {"EGL_PLATFORM": "surfaceless", **os.environ}
        try:
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=timeout,
                env=environment,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise RenderError(f"Open3D gave no picture in {timeout:g} s") from error
        if done.returncode or not result.is_file():
            raise RenderError(_diagnosis(done.stderr))
        return np.load(result)


def missing_packages() -> list[str]:
    """Debian packages whose library Open3D renders with and this machine doesn't have."""
    absent = []
    for library, package in PACKAGES.items():
        try:
            ctypes.CDLL(library)
        except OSError:
            absent.append(package)
    drivers = [*Path("/usr/share/vulkan/icd.d").glob("*"), *Path("/etc/vulkan/icd.d").glob("*")]
    return absent if drivers else [*absent, "mesa-vulkan-drivers"]


def _diagnosis(stderr: str) -> str:
    """The process' last words, and the packages whose lack may be behind them."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    failure = f"Open3D can't render here ({lines[-1].strip() if lines else 'it crashed'})"
    absent = missing_packages()
    if not absent:
        return failure
    return f"{failure}; it may need these system packages: apt-get install {' '.join(absent)}"


class Renderer:
    """Open3D's offscreen renderer in this process; `render` is the safe way to use it.

    Args:
        size: width and height in pixels.
        grid: where the voxels are.
        view: the camera.
    """

    def __init__(self, size: tuple[int, int], grid: Grid, view: View = View()) -> None:
        from open3d.visualization import rendering

        self.grid = grid
        self._renderer = rendering.OffscreenRenderer(*size)
        self._material = rendering.MaterialRecord()
        self._material.shader = "defaultUnlit"
        scene = self._renderer.scene
        scene.set_background([1.0, 1.0, 1.0, 1.0])
        scene.view.set_post_processing(False)  # tone mapping would change the class colours
        half = grid.voxel_size * max(grid.shape[:2]) / 2
        target, eye = (half * np.array(x) for x in (view.target, view.eye))
        self._camera = (view.angle, target, eye, [0.0, 0.0, 1.0])

    def __call__(self, voxels: np.ndarray) -> np.ndarray:
        """Picture, uint8 `(height, width, 3)`, of a frame."""
        scene = self._renderer.scene
        scene.clear_geometry()
        scene.add_geometry("voxels", triangle_mesh(surface(voxels, self.grid)), self._material)
        self._renderer.setup_camera(*self._camera)  # clips to what is in the scene by now
        return np.asarray(self._renderer.render_to_image()).copy()


def triangle_mesh(mesh: Mesh):
    """The mesh as Open3D's own."""
    import open3d as o3d

    out = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(mesh.vertices), o3d.utility.Vector3iVector(mesh.triangles)
    )
    out.vertex_colors = o3d.utility.Vector3dVector(mesh.colours)
    return out


def require_screen() -> None:
    """Refuse a window at once where none can be opened, not after the models are loaded.

    Raises:
        RenderError: neither an X nor a Wayland display is named.
    """
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        raise RenderError(
            "there is no screen to open a window on (DISPLAY isn't set); leave --window out, or log"
            " in with `ssh -X`"
        )


class Viewer:
    """A window that shows the newest frame given to it; the mouse moves the camera.

    Raises:
        RenderError: no screen to open a window on.
    """

    def __init__(self, grid: Grid, title: str = "occdistill", size: tuple[int, int] = (1280, 800)):
        require_screen()
        import open3d as o3d

        self.grid, self._view = grid, View()
        self._window = o3d.visualization.Visualizer()
        if not self._window.create_window(title, *size):
            raise RenderError("there is no screen to open a window on; leave --window out")
        self._window.get_render_option().light_on = False
        self._mesh = None

    def show(self, *frames: np.ndarray) -> bool:
        """Draw frames side by side, from left to right; False once the user closed the window."""
        first = self._mesh is None
        mesh, stride = None, 1.1 * self.grid.voxel_size * self.grid.shape[1]
        for i, voxels in enumerate(frames):
            part = triangle_mesh(surface(voxels, self.grid)).translate((0.0, -i * stride, 0.0))
            mesh = part if mesh is None else mesh + part
        if not first:
            self._window.remove_geometry(self._mesh, reset_bounding_box=False)
        self._window.add_geometry(mesh, reset_bounding_box=first)
        self._mesh = mesh
        if first:
            camera = self._window.get_view_control()
            camera.set_front(np.subtract(self._view.eye, self._view.target))
            camera.set_lookat((0.0, -0.5 * (len(frames) - 1) * stride, 0.0))
            camera.set_up((0.0, 0.0, 1.0))
        return self.poll()

    def poll(self) -> bool:
        """Handle the mouse and keys; False once the user has closed the window."""
        alive = self._window.poll_events()
        self._window.update_renderer()
        return alive

    def close(self) -> None:
        """Close the window."""
        self._window.destroy_window()


def main() -> None:
    """Render the job that `render` wrote."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job", type=Path)
    parser.add_argument("result", type=Path)
    args = parser.parse_args()
    with np.load(args.job) as job:
        grid = Grid(tuple(job["shape"].tolist()), float(job["voxel_size"]), tuple(job["origin"]))
        view = View(tuple(job["eye"]), tuple(job["target"]), float(job["angle"]))
        renderer = Renderer(tuple(job["size"].tolist()), grid, view)
        np.save(args.result, np.stack([renderer(frame) for frame in job["frames"]]))


if __name__ == "__main__":
    main()
