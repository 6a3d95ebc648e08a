"""Sweeps of any LiDAR: files in several layouts, their order and poses, and whether all of that can be
what it is taken for.

What is needed: metres; the sensor upright, z up, x or y forward; its height above the ground, which
is found where it isn't said; poses of the sensor in its own axes, in any fixed frame. What can't be
right is refused, since a wrong layout or pose makes a forecast of nonsense and no error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from occdistill.data.occ3d import CLASS_NAMES
from occdistill.data.poses import LIDAR_POSITION, LIDAR_ROTATION, invert, is_rigid, pose_matrix
from occdistill.errors import UserError
from occdistill.store import reading
from occdistill.untrusted import open_file

FORMATS = (".pcd.bin", ".bin", ".npy", ".npz", ".pcd")
LAYOUTS = {".pcd.bin": "xyzir", ".bin": "xyzi"}  # of raw float32 files, where nobody says
COLUMNS = (3, 4, 5, 6)  # of raw files that are known
AXES = {"y": LIDAR_ROTATION, "x": (1.0, 0.0, 0.0, 0.0)}  # the one that points ahead
LARGEST = 1 << 28  # bytes: ten million points; a sweep has a hundred thousand
MISSING = 0.5  # share of points without a return, at most
HEIGHTS = (0.3, 4.0)  # metres of a sensor on a car above the ground
SLACK = 0.4  # metres between a height that is said and the one that is found
GROUND = 0.4  # metres: what is lower is ground
ROAD, STANDING = (CLASS_NAMES.index(name) for name in ("driveable_surface", "manmade"))
_CELL, _REACH = 0.4, 25.0  # metres


def cloud_files(folder: str | Path) -> list[Path]:
    """The sweeps of a folder: files of one format, in the order of the numbers in their names.

    Raises:
        UserError: none, or of several formats.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder of sweeps at {folder}")
    found: dict[str, list[Path]] = {}
    for path in folder.iterdir():
        if kind := suffix(path):
            found.setdefault(kind, []).append(path)
    if len(found) != 1:
        wanted = ", ".join(f"*{kind}" for kind in FORMATS)
        held = " and ".join(f"*{kind}" for kind in sorted(found)) or "none of them"
        raise UserError(f"{folder} should hold sweeps of one format ({wanted}), and holds {held}")
    (files,) = found.values()
    return sorted(files, key=natural)


def suffix(path: Path) -> str | None:
    """Which of `FORMATS` a file has, or None: labels and poses lie beside sweeps too."""
    if path.name.startswith(("poses.", ".")) or path.name.endswith("_lidarseg.bin"):
        return None
    return next((kind for kind in FORMATS if path.name.endswith(kind)), None)


def natural(path: Path) -> list:
    """A key that sorts 9 before 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


def read_cloud(path: str | Path, layout: str | None = None) -> np.ndarray:
    """The returns of a sweep, float32 (N, 3): metres in the sensor's frame.

    Points that are NaN, infinite or at the sensor itself stand for no return and are left out.

    Args:
        path: `.bin` or `.pcd.bin` (raw float32), `.npy` (N, 3 or more), `.npz` with `xyz` or
            `points`, or `.pcd`, for which Open3D is needed.
        layout: of raw files, a letter per number of a point: `xyzi`, `xyzir`, …; default: xyzir of
            `.pcd.bin` (nuScenes), xyzi of `.bin` (KITTI).

    Raises:
        UserError: it can't be read, can't have this layout, isn't in metres, or more than half of
            it is missing.
    """
    path, kind = Path(path), suffix(Path(path))
    with reading(path, "LiDAR sweep", "export it again, or say its --layout"):
        if kind in LAYOUTS:
            points = _raw(path, layout or LAYOUTS[kind])
        elif kind == ".pcd":
            points = _pcd(path)
        else:
            with open_file(path, LARGEST) as file:
                loaded = np.load(file, allow_pickle=False)
                if kind == ".npz":
                    loaded = loaded["xyz" if "xyz" in loaded else "points"]
                points = loaded
        points = np.asarray(points, np.float32)
    if points.ndim != 2 or points.shape[1] < 3 or not len(points):
        raise UserError(f"{path} holds an array {points.shape}, not points (N, 3 or more)")
    points = points[:, :3]
    there = np.isfinite(points).all(1) & (points != 0).any(1)
    if there.mean() < 1 - MISSING:
        raise UserError(
            f"{path}: {100 - 100 * there.mean():.0f} % of its points are NaN or zero; check the "
            "export, or say its --layout"
        )
    points = np.ascontiguousarray(points[there])
    far = np.percentile(np.hypot(points[:, 0], points[:, 1]), 95)
    if not 2 < far < 500:
        raise UserError(
            f"{path}: most points lie within {far:.3g} of the sensor, which can't be metres; convert "
            "it to metres, or say its --layout"
        )
    return points


def _raw(path: Path, layout: str) -> np.ndarray:
    if sorted(c for c in layout if c in "xyz") != ["x", "y", "z"]:
        raise UserError(f"the layout {layout!r} must name x, y and z once each, such as xyzi")
    with open_file(path, LARGEST) as file:
        numbers = np.frombuffer(file.read(), np.float32)
    width, order = len(layout), [layout.index(axis) for axis in "xyz"]
    flat = {n: flatness(numbers.reshape(-1, n)) for n in COLUMNS if len(numbers) % n == 0}
    if len(numbers) % width:
        raise UserError(
            f"{path} has {4 * len(numbers)} bytes, which aren't whole points of layout {layout} "
            f"({width} float32 each); say its --layout, or fetch it again if it is cut off"
        )
    points = numbers.reshape(-1, width)[:, order]
    best = max(flat, key=flat.get, default=width)
    if flat and flat[best] > 1.5 * flatness(points):
        raise UserError(
            f"{path} looks like {best} numbers a point, not {width} ({layout}): say its --layout, "
            f"such as {'xyzirt'[:best]}"
        )
    return points


def _pcd(path: Path) -> np.ndarray:
    try:
        import open3d
    except ImportError as error:
        raise UserError(
            f"reading {path.name} needs Open3D ({error}): pip install open3d, or save the sweeps as "
            ".npy"
        ) from error
    with (
        open_file(path, LARGEST),
        open3d.utility.VerbosityContextManager(open3d.utility.VerbosityLevel.Error),
    ):
        return np.asarray(open3d.io.read_point_cloud(str(path)).points)


def flatness(points: np.ndarray) -> float:
    """Share of the points 3 to 20 m around that lie in one level, 0 to 1: high on a road, and low
    where numbers that are no coordinates have got among them.
    """
    return _level(points)[1]


def _level(points: np.ndarray) -> tuple[float, float]:
    """The level, z in metres, that has most points 3 to 20 m around, and their share."""
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.hypot(points[:, 0], points[:, 1])
        near = points[(distance > 3) & (distance < 20), 2].astype(np.float64)
    counts, edges = np.histogram(near, np.arange(-8, 8, 0.2))
    if not counts.any():
        return np.nan, 0.0
    middle = edges[counts.argmax()] + 0.1
    level = near[np.abs(near - middle) < 0.3]
    return float(np.median(level)), len(level) / len(near)


def sensor_height(clouds: Sequence[np.ndarray], said: float | None = None) -> float:
    """Metres of the sensor above the ground.

    Args:
        clouds: some sweeps (N, 3).
        said: by the user; it is held to what the sweeps show.

    Raises:
        UserError: no ground is seen, or at another height.
    """
    levels = [_level(cloud) for cloud in clouds]
    level, share = (float(np.nanmedian(x)) for x in zip(*levels))
    if share < 0.15:
        raise UserError(
            f"no ground is seen in these sweeps (no level has more than {100 * share:.0f} % of the "
            "points): z must point up, metres, x or y ahead; or say their --layout"
        )
    if said is not None and abs(said + level) > SLACK:
        raise UserError(
            f"the ground lies {-level:.2f} m below the sensor in these sweeps, not {said:g} m: "
            "correct --height, or leave it out"
        )
    if said is None and not HEIGHTS[0] <= -level <= HEIGHTS[1]:
        raise UserError(
            f"the ground seems to lie {-level:.2f} m below the sensor, which is odd for a car: "
            "say --height in metres if it is right"
        )
    return -level if said is None else said


def guessed_classes(points: np.ndarray, height: float) -> np.ndarray:
    """Classes by height alone, uint8 (N,): what lies on the ground is road, what stands is manmade.

    The demo's encoder was trained on labelled points, and reads nothing out of points without: a
    rough guess tells it at least where the street is.

    Args:
        points: (N, 3) in the sensor's frame, metres.
        height: of the sensor above the ground.
    """
    return np.where(points[:, 2] + height < GROUND, ROAD, STANDING).astype(np.uint8)


def mounting(height: float, ahead: str) -> np.ndarray:
    """LiDAR to ego, (4, 4), of a sensor on the car's middle line, where nuScenes cars have theirs.

    Args:
        height: metres above the ground.
        ahead: `x` or `y`, the sensor's axis that points to the car's front.
    """
    return pose_matrix((*LIDAR_POSITION[:2], height), AXES[ahead])


def read_poses(path: str | Path, count: int) -> np.ndarray:
    """Poses of the sensor, float64 (count, 4, 4), in any fixed frame.

    Args:
        path: `.npy` (N, 4, 4), or text with a line per sweep: 12 or 16 numbers, the rows of the
            matrix (KITTI), or 8, `time x y z qx qy qz qw` (TUM).
        count: of the sweeps.

    Raises:
        UserError: it can't be read, has another number of poses, or some are no rigid motion.
    """
    path = Path(path)
    advice = "it needs 12 numbers a line, one line per sweep"
    with reading(path, "file of LiDAR poses", advice), open_file(path, LARGEST) as file:
        if path.suffix == ".npy":
            rows = np.load(file, allow_pickle=False).astype(np.float64).reshape(-1, 16)
        else:
            rows = np.loadtxt(file, ndmin=2)
    if len(rows) != count or rows.shape[1] not in (8, 12, 16) or not np.isfinite(rows).all():
        raise UserError(
            f"{path} holds {rows.shape} numbers; {count} sweeps need ({count}, 12), or 8 or 16 a "
            "line, all finite"
        )
    if rows.shape[1] == 8:
        poses = pose_matrix(rows[:, 1:4], rows[:, [7, 4, 5, 6]])
    else:
        poses = np.tile(np.eye(4), (count, 1, 1))
        poses[:, :3] = rows[:, :12].reshape(-1, 3, 4)
    if (bad := np.flatnonzero(~is_rigid(poses, 0.01))).size:
        raise UserError(f"pose {bad[0]} of {path} is no rotation; write rigid poses")
    return poses


def check_motion(
    read: Callable[[int], np.ndarray], poses: np.ndarray | None, count: int, step: int, ahead: str
) -> None:
    """Hold poses, or the lack of them, against what sweeps show half a second apart.

    Args:
        read: sweep i, (N, 3).
        poses: of the sensor, (count, 4, 4); None: it is taken to stand.
        count: of the sweeps.
        step: sweeps in half a second.
        ahead: see `mounting`.

    Raises:
        UserError: the sweeps fit together better without the poses, or moved; or the car drives
            sideways.
    """
    last = count - 1 - step
    starts = sorted({round(last * share) for share in (0.0, 0.33, 0.67, 1.0)}) if last >= 0 else []
    forward = np.eye(3, dtype=np.float32)["xy".index(ahead)]
    path, gained = np.zeros(3), []
    for i in starts:
        one, other = read(i), read(i + step)
        move = np.eye(4) if poses is None else invert(poses[i]) @ poses[i + step]
        path += move[:3, 3]
        placed = (other @ move[:3, :3].T + move[:3, 3]).astype(np.float32)
        as_said, unmoved = _overlap(one, placed), _overlap(one, other)
        gained.append(as_said - unmoved)
        shifts = np.arange(-4.0, 16.0, 0.4)
        shifted = [_overlap(one, placed + shift * forward) for shift in shifts]
        if max(shifted) > as_said + 0.1:
            speed = shifts[int(np.argmax(shifted))] / 0.5
            if poses is None:
                raise UserError(
                    f"the car drives in these sweeps (about {speed:.0f} m/s at sweep {i}), so their "
                    "poses are needed: --poses FILE"
                )
            raise UserError(_MISFIT.format(f"at sweep {i} they are off by {speed:.0f} m/s"))
    if gained and np.mean(gained) < -0.05:
        lost = f"{-100 * np.mean(gained):.0f} % less of what stands meets itself with them"
        raise UserError(_MISFIT.format(lost))
    distance = np.linalg.norm(path)
    if distance > 1 and path @ forward < 0.7 * distance:
        x, y, z = path
        raise UserError(
            f"by these poses the car drives ({x:.1f}, {y:.1f}, {z:.1f}) m in the sensor's x, y, z: "
            f"{ahead} doesn't point ahead (--ahead x or y), or sweeps and poses run backwards"
        )


_MISFIT = (
    "these poses don't fit the sweeps ({}): they must be the sensor's own, in its own axes and "
    "metres, one for each sweep in their order"
)


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Share of the other's cells above the ground that the first fills as well, 0 to 1."""
    side = 2 * int(_REACH / _CELL) + 2
    grid, cells = np.zeros((2, side, side, 12), bool), []
    for k, points in enumerate((one, other)):
        cell = np.floor(points / _CELL).astype(int) + (side // 2, side // 2, 3)
        inside = ((cell >= 0) & (cell < grid.shape[1:])).all(1)
        cells.append(tuple(cell[inside].T))
        grid[k][cells[k]] = True
    fewer = min(grid[0].sum(), grid[1].sum())
    return float((grid[0] & grid[1]).sum() / max(fewer, 1))
