from types import SimpleNamespace

import numpy as np
import pytest
import torch

from occdistill.data import voxelize
from occdistill.data.occ3d import FREE, GridTransform
from occdistill.data.voxelize import load_points
from occdistill.errors import UserError
from occdistill.runtime.sources import GAP, lidar_folder, replay, synthetic
from tests.runtime.fakes import drive

MOUNTING = np.diag([1.0, 1.0, 1.0, 1.0])  # a car whose LiDAR is its ego frame


class Reader:
    """Voxels that hold the keyframe's number; remembers what was read."""

    def __init__(self):
        self.read = []

    def past(self, scene, start, stop):
        self.read.append((scene.name, start))
        return np.full((stop - start, 2, 2, 2), start, np.uint8)


def scene(name, frames, start=0):
    more = {"lidar_to_ego": MOUNTING, "fault": None}
    keyframes = [
        SimpleNamespace(token=str(i), timestamp=start + 500_000 * i, ego_to_global=pose, **more)
        for i, pose in enumerate(drive(frames))
    ]
    return SimpleNamespace(name=name, keyframes=keyframes)


def test_replay_reads_a_frame_only_when_it_is_asked_for():
    reader = Reader()
    packets = list(replay(reader, [scene("a", 3)]))
    assert reader.read == []
    assert packets[2].voxels().tolist() == np.full((2, 2, 2), 2).tolist()
    assert reader.read == [("a", 2)]
    assert packets[1].name == "a/1"


def test_replay_keeps_scenes_apart_in_time():
    # the second scene was recorded before the first one
    packets = list(replay(Reader(), [scene("a", 3, start=10**9), scene("b", 2)]))
    assert [packet.time for packet in packets] == [0, 0.5, 1.0, 1.0 + GAP, 1.5 + GAP]


def test_replay_carries_the_plan_and_ends_where_it_ends():
    poses = drive(6)
    packets = list(replay(Reader(), [scene("a", 6)], plan=2))
    assert len(packets) == 4
    assert np.array_equal(packets[0].plan, poses[1:4])  # one more, for the trajectory
    assert np.array_equal(packets[3].plan, poses[4:6])
    assert packets[0].lidar_to_ego is MOUNTING


def sweeps(folder, count, labels=True):
    """A LiDAR that drives on by 2 m a sweep past one point, 10 m ahead at first."""
    lines = []
    for i in range(count):
        point = np.array([[0.0, 10.0 - 2 * i, -1.0, 0, 0]], np.float32)  # x right, y forward
        point.tofile(folder / f"{i:03d}.pcd.bin")
        if labels:
            np.array([17], np.uint8).tofile(folder / f"{i:03d}_lidarseg.bin")  # a car
        pose = np.eye(4)
        pose[1, 3] = 2 * i
        lines.append(" ".join(map(str, pose[:3].reshape(-1))))
    (folder / "poses.txt").write_text("\n".join(lines))


def test_a_folder_of_sweeps_becomes_voxels_in_the_ego_frame(tmp_path):
    sweeps(tmp_path, 4)
    packets = list(lidar_folder(tmp_path, GridTransform(), merge=3))
    voxels = packets[2].voxels().numpy()
    found = np.argwhere(voxels != FREE)
    # three sweeps saw the same point: 6 m ahead of the LiDAR now, which sits 0.94 m ahead
    assert found.tolist() == [[int((6 + 0.94 + 40) / 0.4), 100, int((1.84 - 1.0 + 1) / 0.4)]]
    assert voxels[tuple(found[0])] == 4
    assert packets[3].time == 1.5
    step = np.linalg.inv(packets[0].ego_to_global) @ packets[1].ego_to_global
    assert step[:3, 3] == pytest.approx([2, 0, 0])


def test_a_fast_folder_plans_in_half_seconds(tmp_path):
    sweeps(tmp_path, 30, labels=False)
    packets = list(lidar_folder(tmp_path, GridTransform(), rate=10.0, plan=2))
    assert len(packets) == 20
    ahead = np.linalg.inv(packets[0].ego_to_global) @ packets[0].plan
    assert ahead[:, 0, 3] == pytest.approx([10, 20, 30])
    assert packets[0].voxels().min() == 0  # nobody labelled it: "others"


def test_an_unreadable_sweep_spoils_its_own_frame_only(tmp_path):
    sweeps(tmp_path, 4)
    whole = [packet.voxels() for packet in lidar_folder(tmp_path, GridTransform(), merge=3)]
    (tmp_path / "001.pcd.bin").write_bytes(b"torn")
    packets = list(lidar_folder(tmp_path, GridTransform(), merge=3))
    with pytest.raises(UserError, match="001.pcd.bin has 4 bytes"):
        packets[1].voxels()
    for i in (0, 2, 3):  # the others saw the same point
        assert torch.equal(packets[i].voxels(), whole[i])


def test_a_sweep_is_read_once_for_all_frames_it_is_merged_into(tmp_path, monkeypatch):
    sweeps(tmp_path, 5)
    read = []
    monkeypatch.setattr(
        voxelize, "load_points", lambda path, layout: (read.append(path.name), load_points(path))[1]
    )
    for packet in lidar_folder(tmp_path, GridTransform(), merge=3):
        packet.voxels()
    assert read == [f"{i:03d}.pcd.bin" for i in range(5)]


def test_what_has_driven_off_leaves_no_trail(tmp_path):
    """A car seen 10 m ahead is gone when the next sweep's ray ends 20 m ahead."""
    for i, distance in enumerate((10.0, 20.0)):
        point = np.array([[0.2, distance, -1.0, 0, 0]], np.float32)
        point.tofile(tmp_path / f"{i}.pcd.bin")
        np.array([17], np.uint8).tofile(tmp_path / f"{i}_lidarseg.bin")
    pose = " ".join(map(str, np.eye(4)[:3].reshape(-1)))
    (tmp_path / "poses.txt").write_text(f"{pose}\n{pose}")
    *_, last = lidar_folder(tmp_path, GridTransform())
    assert (last.voxels() != FREE).sum() == 2  # a ray that falls by 1 m passes above the first
    np.array([[0.2, 20.0, -2.0, 0, 0]], np.float32).tofile(tmp_path / "1.pcd.bin")
    *_, last = lidar_folder(tmp_path, GridTransform())
    assert np.argwhere(last.voxels().numpy() != FREE)[:, 0].tolist() == [152]


def test_folders_without_sweeps_or_poses_are_refused(tmp_path):
    with pytest.raises(UserError, match="no .*pcd.bin"):
        next(lidar_folder(tmp_path, GridTransform()))
    sweeps(tmp_path, 3)
    (tmp_path / "poses.txt").write_text("1 2 3")
    with pytest.raises(UserError, match="12"):
        next(lidar_folder(tmp_path, GridTransform()))
    (tmp_path / "poses.txt").unlink()
    with pytest.raises(UserError, match=r"poses\.txt"):
        next(lidar_folder(tmp_path, GridTransform()))


def test_the_embedded_world_runs_at_multiples_of_two():
    with pytest.raises(UserError, match="2 Hz"):
        next(synthetic(GridTransform(), rate=5.0))


@pytest.mark.slow
def test_a_town_is_driven_through_at_sensor_rate():
    source = synthetic(GridTransform(25.6, 2), rate=20.0, plan=2)
    packets = [packet for packet, _ in zip(source, range(12))]
    assert packets[1].time - packets[0].time == pytest.approx(0.05)
    assert packets[0].plan.shape == (3, 4, 4)
    assert np.allclose(packets[0].plan[0], packets[10].ego_to_global)
    voxels = packets[11].voxels()
    assert voxels.shape == (64, 64, 8) and (voxels == 11).any()
