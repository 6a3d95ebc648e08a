import subprocess

import numpy as np
import pytest

from occdistill.data.occ3d import FREE, PALETTE, Grid
from occdistill.visualization import open3d_scene
from occdistill.visualization.open3d_scene import (
    CREASE,
    GRAIN,
    SHADE,
    RenderError,
    missing_packages,
    render,
    surface,
)

GRID = Grid((6, 6, 4), 0.5, (-1.5, -1.5, -1.0))
CAR, ROAD, TREE = 4, 11, 16
from tests.tool import call


def frame(**voxels):
    grid = np.full(GRID.shape, FREE, np.uint8)
    for x, y, z, c in voxels.values():
        grid[x, y, z] = c
    return grid


def faces(mesh):
    return mesh.vertices.reshape(-1, 4, 3), mesh.colours.reshape(-1, 4, 3)


def test_a_voxel_shows_five_faces_where_it_is():
    mesh = surface(frame(car=(1, 3, 0, 4)), GRID, ego=False)
    quads, colours = faces(mesh)
    assert len(quads) == 5  # the one below is never seen
    assert mesh.vertices.min(0) == pytest.approx([-1.0, 0.0, -1.0])
    assert mesh.vertices.max(0) == pytest.approx([-0.5, 0.5, -0.5])
    top = np.flatnonzero((quads[..., 2] == -0.5).all(1))
    assert colours[top] == pytest.approx(np.broadcast_to(PALETTE[4] / 255, (1, 4, 3)))


def test_faces_between_voxels_are_left_out():
    assert len(faces(surface(frame(a=(1, 2, 0, 4), b=(1, 3, 0, 4)), GRID, ego=False))[0]) == 8
    filled = np.full(GRID.shape, 11, np.uint8)
    walls = 2 * 6 * 4 * 2 + 6 * 6
    assert len(faces(surface(filled, GRID, ego=False))[0]) == walls


def test_neighbouring_voxels_differ_a_little():
    _, colours = faces(surface(frame(a=(1, 1, 0, 4), b=(1, 2, 0, 4)), GRID, ego=False))
    tops = np.sort(colours.max((1, 2)))[-2:]
    assert tops[0] == pytest.approx(GRAIN * tops[1])


def test_faces_look_outwards():
    mesh = surface(frame(a=(2, 2, 1, 15)), GRID, ego=False)
    centre = mesh.vertices.mean(0)
    a, b, c = (mesh.vertices[mesh.triangles[:, i]] for i in range(3))
    outwards = np.cross(b - a, c - a)
    assert ((outwards * (a - centre)).sum(1) > 0).all()


def test_corners_between_surfaces_are_darker():
    mesh = surface(frame(floor=(1, 3, 0, 11), wall=(1, 4, 1, 11)), GRID, ego=False)
    quads, colours = faces(mesh)
    floor = np.flatnonzero((quads[..., 2] == -0.5).all(1) & (quads[..., 1].max(1) == 0.5))
    light = colours[floor[0], :, 0] * 255 / PALETTE[11][0]
    at_wall = quads[floor[0], :, 1] == 0.5  # the wall stands along the floor's left edge
    assert light[at_wall] == pytest.approx(SHADE[2, 1] * CREASE[2])
    assert light[~at_wall] == pytest.approx(SHADE[2, 1])


def test_an_empty_frame_holds_the_ego_alone():
    empty = np.full(GRID.shape, FREE, np.uint8)
    assert len(surface(empty, GRID, ego=False).vertices) == 0
    ego = surface(empty, GRID)
    length, width, height = np.ptp(ego.vertices, axis=0)
    assert length > width > height > 1


def test_a_failed_render_says_what_happened_and_names_the_packages(monkeypatch):
    def crashed(command, **options):
        return subprocess.CompletedProcess(command, 1, "", "Traceback …\nKeyError: 'size'\n")

    def no_library(name):
        raise OSError(name)

    monkeypatch.setattr(open3d_scene.subprocess, "run", crashed)
    with monkeypatch.context() as without:
        without.setattr(open3d_scene.ctypes, "CDLL", no_library)
        with pytest.raises(RenderError, match=r"KeyError: 'size'.*apt-get .*libegl1.*libgomp1"):
            render([frame()], GRID)
    monkeypatch.setattr(open3d_scene, "missing_packages", list)
    with pytest.raises(RenderError, match=r"KeyError: 'size'\)$"):
        render([frame()], GRID)


def test_a_picture_shows_the_voxels_in_their_colours():
    """Skipped for want of system packages alone: any other failure to render is ours."""
    if absent := missing_packages():
        pytest.skip(f"Open3D lacks system packages: apt-get install {' '.join(absent)}")
    grid = Grid((24, 24, 4), 1.0, (-12.0, -12.0, -1.0))
    street = np.full(grid.shape, FREE, np.uint8)
    street[..., 0] = ROAD
    street[14:20, 16:22, 1:3] = CAR  # ahead, to the left
    street[14:20, 2:8, 1:3] = TREE
    (picture,) = render([street], grid, (160, 120))
    assert picture.shape == (120, 160, 3)

    def pixels(part, which):
        return (part == PALETTE[which]).all(-1).sum()  # faces that look up have the class' colour

    left, right = picture[:, :80], picture[:, 80:]
    assert pixels(left, CAR) > 50 and pixels(right, CAR) == 0
    assert pixels(right, TREE) > 50 and pixels(left, TREE) == 0
    assert pixels(left, ROAD) > 500 and pixels(right, ROAD) > 500
    assert (picture[0] == 255).all()  # the sky


def test_a_window_without_a_screen_is_refused_before_anything_is_loaded(monkeypatch, tmp_path):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(RenderError, match="there is no screen"):
        call(monkeypatch, "visualize", tmp_path / "no.py", tmp_path / "no.pth", "--window")
    with pytest.raises(RenderError, match="there is no screen"):
        call(monkeypatch, "realtime", tmp_path / "no.py", tmp_path / "no.pth", "--window")
