"""Unlabelled sweeps of anybody's sensor: to forecasts, to a page, to a score; or to a sentence."""

import json
import shutil

import numpy as np
import pytest

from occdistill.data.clouds import check_motion, mounting, read_cloud, read_poses, sensor_height
from occdistill.data.poses import LIDAR_TO_EGO, invert, quaternion
from occdistill.data.scenes import load_index
from occdistill.data.voxelize import load_points
from occdistill.errors import UserError
from tests.tool import call


@pytest.fixture(scope="module")
def drive(tiny_world, tmp_path_factory):
    """The validation scene as somebody's own sweeps: a folder of clouds and poses, without labels."""
    (scene,) = load_index(tiny_world, "v1.0-synthetic", "val")
    folder = tmp_path_factory.mktemp("own") / scene.name
    folder.mkdir()
    for i, frame in enumerate(scene.keyframes):  # 0, 1, … 11, as any recorder writes them
        shutil.copy(tiny_world / frame.lidar, folder / f"{i}.pcd.bin")
    poses = np.stack([frame.lidar_to_global for frame in scene.keyframes])
    np.savetxt(folder / "poses.txt", poses[:, :3].reshape(-1, 12))
    return folder, scene, poses


def points(drive, i):
    return read_cloud(drive[0] / f"{i}.pcd.bin")


def test_the_layout_is_held_against_the_numbers(drive, tmp_path):
    cloud = load_points(drive[0] / "0.pcd.bin")
    known = read_cloud(drive[0] / "0.pcd.bin")
    assert np.array_equal(known, cloud[:, :3])
    path = tmp_path / "kitti.bin"
    cloud[:, :4].tofile(path)
    assert np.array_equal(read_cloud(path), cloud[:, :3])  # xyzi
    even = cloud[: len(cloud) // 20 * 20]
    even[:, :4].tofile(path)
    with pytest.raises(UserError, match="looks like 4 numbers a point, not 5 .*xyzi"):
        read_cloud(path, "xyzir")
    even.tofile(path)
    with pytest.raises(UserError, match="looks like 5 numbers a point, not 4"):
        read_cloud(path)
    np.ascontiguousarray(even[:, [3, 0, 1, 2]]).tofile(path)
    assert np.array_equal(read_cloud(path, "ixyz"), even[:, :3])
    with pytest.raises(UserError, match="must name x, y and z once each"):
        read_cloud(path, "xyir")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="kitti.bin"):
        read_cloud(path)


def test_arrays_are_read_and_missing_returns_left_out(drive, tmp_path):
    cloud = points(drive, 0)
    holes = cloud.copy()
    holes[::3], holes[1::30] = np.nan, 0
    np.save(tmp_path / "a.npy", holes)
    there = np.isfinite(holes).all(1) & (holes != 0).any(1)
    assert np.array_equal(read_cloud(tmp_path / "a.npy"), holes[there])
    np.savez(tmp_path / "a.npz", xyz=cloud)
    assert np.array_equal(read_cloud(tmp_path / "a.npz"), cloud)
    holes[: len(holes) * 2 // 3] = np.nan
    np.save(tmp_path / "a.npy", holes)
    with pytest.raises(UserError, match="% of its points are NaN or zero"):
        read_cloud(tmp_path / "a.npy")


def test_a_pcd_is_read_by_open3d(drive, tmp_path):
    open3d = pytest.importorskip("open3d")
    cloud = points(drive, 0)
    file = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(cloud))
    open3d.io.write_point_cloud(str(tmp_path / "a.pcd"), file)
    assert np.allclose(read_cloud(tmp_path / "a.pcd"), cloud)


@pytest.mark.parametrize("factor", [1000, 0.01])
def test_other_units_are_refused(drive, tmp_path, factor):
    np.save(tmp_path / "a.npy", points(drive, 0) * factor)
    with pytest.raises(UserError, match="can't be metres"):
        read_cloud(tmp_path / "a.npy")


def test_the_height_is_found_and_held_to(drive):
    clouds = [points(drive, i) for i in (0, 6, 11)]
    assert sensor_height(clouds) == pytest.approx(1.84, abs=0.15)
    assert sensor_height(clouds, 1.9) == 1.9
    with pytest.raises(UserError, match=r"the ground lies 1\.\d\d m below the sensor .* not 0.9 m"):
        sensor_height(clouds, 0.9)
    with pytest.raises(UserError, match="no ground is seen"):
        sensor_height([cloud[:, [0, 2, 1]] for cloud in clouds])  # y up
    with pytest.raises(UserError, match="odd for a car"):
        sensor_height([cloud + (0, 0, 1.84) for cloud in clouds])  # the ground at zero already


def test_a_mounting_turns_the_axis_that_points_ahead():
    assert np.allclose(mounting(1.84, "y"), LIDAR_TO_EGO)
    assert np.allclose(mounting(1.5, "x") @ (1, 0, 0, 1), (1.94, 0, 1.5, 1))


def test_poses_of_several_files_are_the_same(drive, tmp_path):
    folder, _, poses = drive
    assert np.allclose(read_poses(folder / "poses.txt", 12), poses)
    np.save(tmp_path / "p.npy", poses)
    assert np.allclose(read_poses(tmp_path / "p.npy", 12), poses)
    turns = np.stack([quaternion(pose[:3, :3]) for pose in poses])[:, [1, 2, 3, 0]]
    tum = np.c_[np.arange(12) / 2, poses[:, :3, 3], turns]
    np.savetxt(tmp_path / "tum.txt", tum)
    assert np.allclose(read_poses(tmp_path / "tum.txt", 12), poses)
    with pytest.raises(UserError, match=r"holds \(12, 12\) numbers; 11 sweeps need \(11, 12\)"):
        read_poses(folder / "poses.txt", 11)
    np.save(tmp_path / "p.npy", poses * 1.1)
    with pytest.raises(UserError, match="pose 0 of .* is no rotation"):
        read_poses(tmp_path / "p.npy", 12)


def test_motion_that_cannot_be_is_refused(drive):
    _, _, poses = drive

    def read(i):
        return points(drive, i)

    assert np.linalg.norm(poses[-1, :3, 3] - poses[0, :3, 3]) > 10  # it drives
    check_motion(read, poses, 12, 1, "y")
    check_motion(lambda i: read(0), None, 12, 1, "y")  # it stands
    with pytest.raises(UserError, match="the car drives in these sweeps .* --poses FILE"):
        check_motion(read, None, 12, 1, "y")
    with pytest.raises(UserError, match="x doesn't point ahead"):
        check_motion(read, poses, 12, 1, "x")
    for wrong in (invert(poses), np.tile(np.eye(4), (12, 1, 1))):
        with pytest.raises(UserError, match="these poses don't fit the sweeps"):
            check_motion(read, wrong, 12, 1, "y")


def forecast(monkeypatch, *arguments):
    return call(monkeypatch, "forecast", "--nfe", 1, "--rate", 2, "--ahead", "y", *arguments)


def test_a_folder_is_refused_in_a_sentence(monkeypatch, drive, tmp_path):
    page = ("--out", tmp_path / "f.html")
    with pytest.raises(UserError, match=r"sweeps of one format .* none of them"):
        forecast(monkeypatch, "--lidar", tmp_path, *page)
    with pytest.raises(UserError, match="--rate 7: .* a multiple of 2 Hz"):
        forecast(monkeypatch, "--lidar", drive[0], "--rate", 7, *page)
    with pytest.raises(
        UserError, match="holds 12 sweeps, and a past of 4 frames .* needs 31 at 20 Hz"
    ):
        forecast(monkeypatch, "--lidar", drive[0], "--rate", 20, *page)
    with pytest.raises(UserError, match="SOURCE or --lidar DIR, not both"):
        forecast(monkeypatch, "synthetic", "--lidar", drive[0], *page)
    with pytest.raises(UserError, match="no clip of sweep 2: .* from sweep 3 to 11"):
        forecast(monkeypatch, "--lidar", drive[0], "--clip", 2, *page)
    assert not (tmp_path / "f.html").exists()


def test_from_a_folder_of_clouds_to_a_page_and_a_score(
    monkeypatch, capsys, tiny_world, drive, tmp_path
):
    """What docs/own_data.md walks through: the labels are somebody's own, in Occ3D's files."""
    pytest.importorskip("spconv")
    folder, scene, _ = drive
    out, save = tmp_path / "f.html", tmp_path / "forecasts"
    forecast(monkeypatch, "--lidar", folder, "--clip", 5, "--out", out, "--save", save)
    said = capsys.readouterr().out
    assert f"{scene.name}/5, 4 panels" in said and f"{save}: 9 forecasts of student" in said
    text = out.read_text()
    assert "12 sweeps at 2 Hz, sensor 1." in text and "LiDAR, as it came" in text
    assert (save / scene.name / "11.npz").is_file() and not (save / scene.name / "2.npz").exists()

    own = tmp_path / "labels"
    frames = {}
    for i, frame in enumerate(scene.keyframes):
        target = own / "gts" / scene.name / str(i)
        target.mkdir(parents=True)
        shutil.copy(tiny_world / frame.labels, target)
        turn = quaternion(frame.ego_to_global[:3, :3])
        pose = {"translation": frame.ego_to_global[:3, 3].tolist(), "rotation": turn.tolist()}
        frames[str(i)] = {"timestamp": str(frame.timestamp), "ego_pose": pose}
    tables = {"scene_infos": {scene.name: frames}, "train_split": [], "val_split": [scene.name]}
    (own / "annotations.json").write_text(json.dumps(tables))
    call(monkeypatch, "score", save, "--dataset", own, "--out", tmp_path / "scores")
    (row,) = json.loads((tmp_path / "scores" / "report.json").read_text())["rows"]
    assert row["conditioning"] == "none" and row["IoU"]["1.0s"] > 40
