"""A ROS 2 node: PointCloud2 and Odometry in, forecast markers and latency diagnostics out.

    python examples/ros2_node.py configs/demo_lidar.py STUDENT --height 1.84

Subscribes to /points (sensor_msgs/PointCloud2, x ahead, y left, z up, metres, in the sensor's frame)
and /odom (nav_msgs/Odometry of base_link: below the rear axle's middle, on the ground); publishes
/forecast (visualization_msgs/Marker, cubes in base_link) and /diagnostics. The car is taken to go on
as it does. Everything above `main` works, and is tested, without ROS.
"""

import argparse
import threading
from collections import deque
from functools import partial

import numpy as np
import torch

from occdistill.build.builders import build_transform
from occdistill.build.config import load_config
from occdistill.build.lineup import lineup
from occdistill.build.models import Models
from occdistill.data.clouds import guessed_classes, mounting
from occdistill.data.occ3d import FREE, PALETTE, Grid, GridTransform
from occdistill.data.poses import extrapolate, invert, pose_matrix
from occdistill.data.voxelize import Sweep, merge
from occdistill.runtime.live import LiveRunner, Queue, SystemClock
from occdistill.runtime.sources import Packet
from occdistill.runtime.stream import RollingForecaster

# sensor_msgs/PointField: datatype to numpy's
TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
INTERVAL = 0.5  # seconds between the frames that a model sees


def points_of(cloud) -> np.ndarray:
    """Points (N, 3) float32 of a PointCloud2, without the missing returns of organised clouds."""
    order = ">" if cloud.is_bigendian else "<"
    fields = {field.name: field for field in cloud.fields}
    if not fields.keys() >= {"x", "y", "z"}:
        raise ValueError(f"a cloud without x, y and z: its fields are {', '.join(fields)}")
    dtype = np.dtype(
        {
            "names": ["x", "y", "z"],
            "formats": [order + TYPES[fields[axis].datatype] for axis in "xyz"],
            "offsets": [fields[axis].offset for axis in "xyz"],
            "itemsize": cloud.point_step,
        }
    )
    rows = np.frombuffer(bytes(cloud.data), np.uint8).reshape(cloud.height, cloud.row_step)
    rows = np.ascontiguousarray(rows[:, : cloud.width * cloud.point_step])  # rows may be padded
    records = rows.reshape(-1).view(dtype)
    points = np.stack([records[axis] for axis in "xyz"], axis=1).astype(np.float32)
    return points[np.isfinite(points).all(1)]


def pose_of(odometry) -> np.ndarray:
    """base_link to odom, float64 (4, 4), of an Odometry."""
    at, turn = odometry.pose.pose.position, odometry.pose.pose.orientation
    return pose_matrix(np.array([at.x, at.y, at.z]), np.array([turn.w, turn.x, turn.y, turn.z]))


def seconds_of(stamp) -> float:
    """A header's stamp in seconds."""
    return stamp.sec + 1e-9 * stamp.nanosec


class Car:
    """From clouds and poses to packets.

    Args:
        transform: to the model's grid.
        height: of the sensor above the ground, metres.
        plan: future poses that the model is shown.
        sweeps: how many are merged, half a second apart.
    """

    def __init__(self, transform: GridTransform, height: float, plan: int, sweeps: int = 5) -> None:
        self.transform, self.height, self.plan = transform, height, plan
        self.lidar_to_ego = mounting(height, "x")
        self.poses: deque[tuple[float, np.ndarray]] = deque(maxlen=400)
        self.past: deque[tuple[float, Sweep]] = deque(maxlen=sweeps - 1)

    def pose(self, time: float, ego_to_global: np.ndarray) -> None:
        """Take in a pose."""
        self.poses.append((time, ego_to_global))

    def pose_at(self, time: float) -> np.ndarray | None:
        """The pose nearest in time, if any is within 0.1 s."""
        if not self.poses:
            return None
        at, pose = min(self.poses, key=lambda known: abs(known[0] - time))
        return pose if abs(at - time) <= 0.1 else None

    def packet(self, time: float, points: np.ndarray) -> Packet | None:
        """What the live loop takes; None where no pose is known, now or half a second ago."""
        now, before = self.pose_at(time), self.pose_at(time - INTERVAL)
        if now is None or (before is None and self.plan):
            return None
        newest = Sweep(points, guessed_classes(points, self.height), now @ self.lidar_to_ego)
        sweeps = [*(sweep for _, sweep in self.past), newest]
        if not self.past or time - self.past[-1][0] >= INTERVAL - 0.01:
            self.past.append((time, newest))
        ahead = None
        if self.plan:
            steps = torch.from_numpy(np.stack([invert(now) @ before, np.eye(4)]))[None]
            ahead = now @ extrapolate(steps, self.plan + 1)[0].numpy()
        read = partial(voxels_of, sweeps, now, self.transform)
        return Packet(read, now, time, ahead, f"{time:.3f} s", self.lidar_to_ego)


def voxels_of(sweeps: list[Sweep], pose: np.ndarray, transform: GridTransform) -> torch.Tensor:
    """Sweeps on the model's grid, uint8 (X, Y, Z)."""
    return torch.from_numpy(transform(merge(sweeps, pose).voxels))


def cubes(voxels: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Centres (N, 3) in metres and colours (N, 4) in [0, 1] of a frame's filled voxels."""
    cells = np.argwhere(voxels != FREE)
    colours = PALETTE[voxels[tuple(cells.T)]] / 255
    return (cells + 0.5) * grid.voxel_size + grid.origin, np.pad(
        colours, ((0, 0), (0, 1)), constant_values=1.0
    )


def latencies(report: dict) -> dict[str, str]:
    """A live run's report as a diagnostic's keys and values."""
    total = report["stages"]["total"]
    values = {name: str(count) for name, count in report["frames"].items()}
    values |= {name: f"{total[name]:.1f}" for name in ("p50_ms", "p99_ms") if name in total}
    return values | {"deadline_ms": f"{report['deadline_ms']:.0f}", "late": str(report["missed"])}


def main() -> None:
    """Run the node until ROS shuts down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--height", type=float, required=True, help="of the sensor, metres")
    parser.add_argument("--ahead", type=int, default=2, help="frame shown; 2: in a second")
    args = parser.parse_args()

    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
    from geometry_msgs.msg import Point
    from nav_msgs.msg import Odometry
    from sensor_msgs.msg import PointCloud2
    from std_msgs.msg import ColorRGBA
    from visualization_msgs.msg import Marker

    config = load_config(args.config)
    (entry,) = lineup(Models(config), args.checkpoint, (), (1,), encoders=("lidar",))
    codec = entry.forecaster.codec
    rolling = RollingForecaster(entry.forecaster, config.data.past)
    rolling.warm_up()
    car = Car(build_transform(config), args.height, codec.plan, config.data.get("merge", 5))
    queue = Queue(2, SystemClock())
    rclpy.init()
    node = rclpy.create_node("occdistill")
    show = node.create_publisher(Marker, "forecast", 1)
    tell = node.create_publisher(DiagnosticArray, "/diagnostics", 1)

    def on_cloud(message) -> None:
        packet = car.packet(seconds_of(message.header.stamp), points_of(message))
        if packet is not None:
            queue.put(packet)

    def publish(packet: Packet, future: torch.Tensor) -> None:
        marker = Marker(type=Marker.CUBE_LIST)
        marker.header.frame_id, marker.header.stamp = "base_link", node.get_clock().now().to_msg()
        marker.scale.x = marker.scale.y = marker.scale.z = codec.grid.voxel_size
        marker.pose.orientation.w = 1.0
        places, colours = cubes(future[args.ahead - 1].cpu().numpy(), codec.grid)
        marker.points = [Point(x=x, y=y, z=z) for x, y, z in places.tolist()]
        marker.colors = [ColorRGBA(r=r, g=g, b=b, a=a) for r, g, b, a in colours.tolist()]
        show.publish(marker)
        values = [KeyValue(key=k, value=v) for k, v in latencies(runner.report()).items()]
        level = DiagnosticStatus.OK
        status = DiagnosticStatus(level=level, name="occdistill", values=values)
        report = DiagnosticArray(status=[status])
        report.header.stamp = marker.header.stamp
        tell.publish(report)

    runner = LiveRunner(rolling, queue, listener=publish)
    node.create_subscription(PointCloud2, "points", on_cloud, 1)
    node.create_subscription(
        Odometry, "odom", lambda m: car.pose(seconds_of(m.header.stamp), pose_of(m)), 50
    )
    threading.Thread(target=runner.run, name="forecast", daemon=True).start()
    rclpy.spin(node)
    runner.stop()


if __name__ == "__main__":
    main()
