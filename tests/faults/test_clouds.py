"""Clouds of another layout, without places, of the own car; folders of sweeps out of order."""

import numpy as np
import pytest

from occdistill.data.clips import ClipDataset
from occdistill.data.occ3d import FREE, GridTransform
from occdistill.data.voxelize import load_points, merge, read_sweep
from occdistill.runtime.sources import lidar_folder
from tests.faults.rows import Row

VERSION = "v1.0-tiny"
EYE = np.eye(4)


def points(count=800, layout="xyzir"):
    """A plausible cloud of any layout."""
    draws = np.random.default_rng(0)
    columns = {
        **dict.fromkeys("xyz", lambda: draws.uniform(-40, 40, count)),
        "i": lambda: draws.uniform(0, 1, count),
        "r": lambda: draws.integers(0, 32, count),
        "t": lambda: draws.uniform(-0.1, 0, count),
    }
    return np.stack([columns[name]() for name in layout], 1).astype(np.float32)


def cloud(array):
    def plant(root):
        path = root / "a.pcd.bin"
        np.asarray(array, np.float32).tofile(path)
        return path

    return plant


def spoiled(rows, value):
    array = points()
    array[rows, 1] = value
    return array


def first(array):
    """Scene-0001's first sweep."""

    def plant(root):
        np.asarray(array, np.float32).tofile(root / SWEEP)
        return root

    return plant


SWEEP = "samples/LIDAR_TOP/data-l1-sample0-0.pcd.bin"


def read(root):
    return ClipDataset(root, VERSION, "train", past=1, future=0, past_from="lidar")[0]


def straight(count, step=1.0):
    rows = np.tile(np.eye(4)[:3].reshape(-1), (count, 1))
    rows[:, 3] = step * np.arange(count)
    return rows


def folder(poses, times=None, name=str):
    def plant(root):
        for i in range(12):
            points(100).tofile(root / f"{name(i)}.pcd.bin")
        np.savetxt(root / "poses.txt", poses)
        if times is not None:
            np.savetxt(root / "timestamps.txt", times, fmt="%r")
        return root

    return plant


def drive(root, rate=2.0):
    return list(lidar_folder(root, GridTransform(), rate))


def changed(row, column, value):
    poses = straight(12)
    poses[row, column] = value
    return poses


MS = (1532402927000 + 500 * np.arange(12)).tolist()
NOT_RIGID = "line 6 of .*poses.txt, for 5.pcd.bin, is no rigid motion"
ROWS = [
    Row("a KITTI cloud read as nuScenes'", cloud(points(800, "xyzi")), load_points,
        "no cloud of xyzir: rings aren't whole .* or set data.layout to xyzi$"),
    Row("a nuScenes cloud read as KITTI's", cloud(points(800)), lambda p: load_points(p, "xyzi"),
        "no cloud of xyzi: intensities aren't .* data.layout to xyzir$"),
    Row("a cloud of three columns", cloud(points(800, "xyz")), load_points,
        "bytes, not a multiple of 20|no cloud of xyzir"),
    Row("a cloud of six columns", cloud(points(100, "xyzirt")), load_points,
        "no cloud of xyzir: .* set data.layout to .*xyzirt"),
    Row("a cloud that is cut off", cloud(points().ravel()[:-2]), load_points,
        "15992 bytes, not a multiple of 20 .* truncated, fetch it again"),
    Row("an empty cloud", cloud([]), load_points, "is empty; fetch it again"),
    Row("a cloud that is mostly NaN", cloud(spoiled(slice(0, 500), np.nan)), load_points,
        "holds 500 of 800 points with NaN"),
    Row("a cloud of absurd distances", cloud(spoiled(slice(0, 500), 1e30)), load_points,
        "holds 500 of 800 points .* absurd"),
    Row("a cloud of rings beyond 255", cloud(points() + [0, 0, 0, 0, 1000]), load_points,
        "rings aren't whole numbers below 256"),
    Row("a cloud of negative intensities", cloud(points() - [0, 0, 0, 5, 0]), load_points,
        "intensities aren't 0 to 65535"),
    Row("a data set's cloud of another layout", first(points(3, "xyzi").ravel()[:10]), read,
        r"data-l1-sample0-0.pcd.bin .*rings aren't whole|intensities"),
    Row("sweeps named against their times", folder(straight(12), MS[:3] + MS[4:2:-1] + MS[5:]),
        drive, "4.pcd.bin comes after 3.pcd.bin, but not by its time in .*timestamps.txt"),
    Row("times that are missing", folder(straight(12), MS[:5]), drive,
        r"timestamps.txt holds \(5, 1\) numbers; 12 sweeps need \(12, 1\)"),
    Row("times in no unit", folder(straight(12), 4.5 * np.arange(12)), drive,
        "are 4.5 apart, .* neither in seconds nor in milli-"),
    Row("a pose that is NaN in poses.txt", folder(changed(5, 3, np.nan)), drive, NOT_RIGID),
    Row("a pose that stretches", folder(changed(5, 0, 1.2)), drive, NOT_RIGID),
    Row("a pose that mirrors", folder(changed(5, 5, -1.0)), drive, NOT_RIGID),
    Row("a sweep far away", folder(changed(5, 3, 4000.0)), drive,
        "5.pcd.bin, the car jumps 3996 m to it; correct poses.txt, or --rate"),
    Row("poses of fewer sweeps", folder(straight(11)), drive, r"\(11, 12\) numbers; 12 sweeps"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_what_cannot_be_a_sweep_is_refused(row, world, capsys):
    row.check(world, capsys)


@pytest.mark.parametrize("layout", ["xyzir", "xyzi", "xyz", "xyzirt"])
def test_every_layout_is_read_as_it_is(layout, tmp_path):
    array = points(801, layout)
    found = load_points(cloud(array)(tmp_path), layout)
    assert np.array_equal(found, array)


def test_points_without_a_place_are_left_out_with_their_labels(tmp_path):
    array = spoiled(slice(3, None, 4), np.nan)  # an organised cloud: a quarter never came back
    array[:2, :2] = 50, 50
    labels = (np.arange(800) % 31 + 1).astype(np.uint8)
    labels.tofile(tmp_path / "labels.bin")
    path = cloud(array)(tmp_path)
    whole = read_sweep(path, tmp_path / "labels.bin", EYE, own_car=(0, 0, 0, 0))
    assert len(whole.points) == len(whole.labels) == 600
    kept = np.arange(800)[np.isfinite(array[:, 1])]
    assert np.array_equal(whole.points, array[kept])
    assert whole.labels[0] == 0 and whole.labels[4] == 7  # animal; point 5: a police officer


def test_the_own_car_is_taken_out_of_each_sweep_in_its_own_frame(tmp_path):
    """Merged, its returns would be a trail of "others" behind the car."""
    hood = [[0.5, 0.9, -1.0, 0, 0], [-0.5, -0.9, -0.5, 0, 0]]
    street = [[1.5, 0.0, -1.0, 0, 0], [0.0, 9.0, -1.0, 0, 0]]
    path = cloud(np.array(hood + street))(tmp_path)
    poses = np.tile(EYE, (5, 1, 1))
    poses[:, 1, 3] = 2 * np.arange(5)
    alone = read_sweep(path, None, EYE)
    assert np.allclose(alone.points[:, :2], [[1.5, 0.0], [0.0, 9.0]])
    sweeps = [read_sweep(path, None, pose) for pose in poses]
    trail = [read_sweep(path, None, pose, own_car=(0, 0, 0, 0)) for pose in poses]
    counts = [(merge(s, poses[-1]).voxels != FREE).sum() for s in (sweeps, trail)]
    assert counts == [10, 20]
    longer = read_sweep(path, None, EYE, own_car=(-2, 2, -3, 3))
    assert len(longer.points) == 1


def test_the_own_car_and_the_layout_are_part_of_a_fingerprint(world):
    def mark(**options):
        return ClipDataset(world, VERSION, "val", past=1, future=0, **options).fingerprint

    lidar = dict(past_from="lidar")
    assert mark(**lidar) != mark(**lidar, own_car=(-2.0, 2.0, -2.0, 2.0))
    assert mark(**lidar) != mark(**lidar, layout="xyzirt")
    assert mark() == mark(own_car=(-2.0, 2.0, -2.0, 2.0))  # labels don't depend on it


def test_sweeps_come_in_the_order_of_their_numbers(tmp_path):
    packets = drive(folder(straight(12))(tmp_path))
    assert [packet.name for packet in packets] == [f"{i}.pcd.bin" for i in range(12)]
    assert packets[10].ego_to_global[0, 3] - packets[2].ego_to_global[0, 3] == pytest.approx(8)


@pytest.mark.parametrize("scale", [1e-3, 1, 1e3, 1e6])
def test_times_of_sweeps_are_recognised(tmp_path, scale):
    packets = drive(folder(straight(12), (np.array(MS) - MS[0]) * scale)(tmp_path), rate=10)
    assert [packet.time for packet in packets] == pytest.approx([0.5 * i for i in range(12)])
