"""The conversion core of examples/ros2_node.py, with messages of the same fields as ROS 2's."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace as Message

import numpy as np
import pytest

from occdistill.data.occ3d import FREE, PALETTE, Grid, GridTransform
from occdistill.data.poses import rigid


@pytest.fixture(scope="module")
def node():
    path = Path(__file__).parents[1] / "examples" / "ros2_node.py"
    spec = importlib.util.spec_from_file_location("ros2_node", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cloud(points, big=False, height=1, padding=0):
    """intensity, x, y, z and a ring, as a driver might order them; rows are padded."""
    order = ">" if big else "<"
    dtype = np.dtype(
        [
            ("intensity", "u1"),
            ("x", order + "f4"),
            ("y", order + "f4"),
            ("z", order + "f8"),
            ("ring", "u2"),
        ]
    )
    records = np.zeros(len(points), dtype)
    for i, axis in enumerate("xyz"):
        records[axis] = points[:, i]
    width = len(points) // height
    rows = records.view(np.uint8).reshape(height, width * dtype.itemsize)
    fields = [Message(name="x", offset=1, datatype=7), Message(name="y", offset=5, datatype=7)]
    fields += [Message(name="z", offset=9, datatype=8)]
    return Message(
        height=height, width=width, fields=fields, is_bigendian=big, point_step=dtype.itemsize,
        row_step=rows.shape[1] + padding, data=np.pad(rows, ((0, 0), (0, padding))).tobytes(),
    )  # fmt: skip


@pytest.mark.parametrize("big, height, padding", [(False, 1, 0), (True, 1, 0), (False, 4, 6)])
def test_points_of_any_field_layout(node, big, height, padding):
    points = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    assert np.array_equal(node.points_of(cloud(points, big, height, padding)), points)
    points[3] = np.nan  # an organised cloud's missing return
    assert len(node.points_of(cloud(points, big, height, padding))) == 19


def test_a_cloud_without_coordinates_is_refused(node):
    message = cloud(np.zeros((2, 3)))
    message.fields.pop()
    with pytest.raises(ValueError, match="without x, y and z"):
        node.points_of(message)


def test_a_pose_and_a_time(node):
    half = np.sqrt(0.5)
    pose = Message(
        position=Message(x=1.0, y=2.0, z=3.0), orientation=Message(w=half, x=0.0, y=0.0, z=half)
    )
    matrix = node.pose_of(Message(pose=Message(pose=pose)))
    assert np.allclose(matrix @ (1, 0, 0, 1), (1, 3, 3, 1))  # a quarter turn to the left
    assert node.seconds_of(Message(sec=5, nanosec=250_000_000)) == 5.25


def moved(x):
    return rigid(np.eye(3), np.array([x, 0.0, 0.0]))


def test_packets_hold_merged_sweeps_and_a_plan(node):
    car = node.Car(GridTransform(), height=2.0, plan=6)
    wall = np.array([[10.0, 0.0, 0.0]], np.float32)  # 10 m ahead of the sensor, 2 m high
    assert car.packet(0.0, wall) is None  # no pose yet
    for i in range(6):
        car.pose(0.5 * i, moved(4.0 * i))  # 8 m/s
    assert car.packet(0.0, wall) is None  # none half a second before it
    first, second = (car.packet(t, wall) for t in (0.5, 1.0))
    assert np.allclose(second.plan[:, 0, 3], 8.0 + 4.0 * np.arange(1, 8))
    assert np.allclose(second.ego_to_global, moved(8.0)) and second.time == 1.0
    one, two = (p.voxels().numpy() for p in (first, second))
    (place,) = np.argwhere(one != FREE)
    assert one[tuple(place)] == 15  # what stands is called manmade
    assert np.allclose((place + 0.5) * 0.4 - (40, 40, 1), (10.94, 0, 2.0), atol=0.21)
    seen = np.argwhere(two != FREE)  # the same point from 4 m on, and the one now
    assert sorted(seen[:, 0] - place[0]) == [-10, 0]
    assert car.packet(9.0, wall) is None  # a pose too old


def test_cubes_lie_where_the_voxels_are(node):
    grid = Grid((4, 4, 2), 0.5, (-1.0, -1.0, 0.0))
    voxels = np.full(grid.shape, FREE, np.uint8)
    voxels[3, 0, 1] = 4
    places, colours = node.cubes(voxels, grid)
    assert places.tolist() == [[0.75, -0.75, 0.75]]
    assert np.allclose(colours, [[*PALETTE[4] / 255, 1]])


def test_latencies_are_words(node):
    report = {"stages": {"total": {"count": 3, "p50_ms": 12.34, "p99_ms": 20.0}}, "missed": 1}
    report |= {"frames": {"forecasts": 3, "dropped": 0}, "deadline_ms": 500.0}
    assert node.latencies(report) == {
        "forecasts": "3", "dropped": "0", "p50_ms": "12.3", "p99_ms": "20.0", "deadline_ms": "500",
        "late": "1",
    }  # fmt: skip
