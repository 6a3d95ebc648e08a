"""A hand-made dataset in nuScenes' and Occ3D's layout, small enough to write per test."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from occdistill.data.occ3d import FREE, OCC3D, save_labels

POLE = np.array([620.0, 1010.0, 1.2])  # global metres
FRAMES = {"scene-0001": 8, "scene-0002": 7, "scene-0003": 3}


def rotation(yaw):
    return [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]


def matrix(translation, yaw):
    c, s = math.cos(yaw), math.sin(yaw)
    out = np.eye(4)
    out[:2, :2] = [[c, -s], [s, c]]
    out[:3, 3] = translation
    return out


MOUNTING = ((0.9, 0.0, 1.8), -math.pi / 2)
LIDAR_TO_EGO = matrix(*MOUNTING)


def ego_pose(scene, frame):
    """Straight on, then turning left: translation and yaw."""
    yaw = 0.1 * max(0, frame - 3) + scene
    return (600.0 + 2.0 * frame, 1000.0 + 0.3 * frame, 0.0), yaw


@dataclass
class Tiny:
    root: Path
    version: str = "v1.0-tiny"

    def ego_to_global(self, scene, frame):
        return matrix(*ego_pose(scene, frame))

    def token(self, scene, frame):
        return f"sample{scene}-{frame}"

    def table(self, name):
        return self.root / self.version / f"{name}.json"

    def edit(self, name, change):
        records = json.loads(self.table(name).read_text())
        self.table(name).write_text(json.dumps(change(records), indent=0))


def write(root):
    tiny = Tiny(root)
    tables = {name: [] for name in ("scene", "sample", "sample_data", "ego_pose", "lidarseg")}
    tables["sensor"] = [
        {"token": "sensor-c", "channel": "CAM_FRONT", "modality": "camera"},
        {"token": "sensor-l", "channel": "LIDAR_TOP", "modality": "lidar"},
    ]
    tables["calibrated_sensor"] = [
        {"token": f"mount-{s}", "sensor_token": f"sensor-{s}", "camera_intrinsic": [],
         "translation": list(MOUNTING[0]), "rotation": rotation(MOUNTING[1])}
        for s in "cl"
    ]  # fmt: skip
    annotations = {"train_split": ["scene-0001"], "val_split": ["scene-0002"], "scene_infos": {}}
    for s, (name, count) in enumerate(FRAMES.items()):
        tokens = [tiny.token(s, f) for f in range(count)]
        tables["scene"].append(
            {"token": f"scene-token-{s}", "name": name, "nbr_samples": count,
             "first_sample_token": tokens[0], "last_sample_token": tokens[-1],
             "description": "a {curly} day"}
        )  # fmt: skip
        infos = annotations["scene_infos"][name] = {}
        for f, token in enumerate(tokens):
            links = {"prev": tokens[f - 1] if f else "", "next": (*tokens, "")[f + 1]}
            time = 1_000_000 * s + 500_000 * f
            tables["sample"].append({"token": token, "timestamp": time, **links})
            translation, yaw = ego_pose(s, f)
            for kind, key in (("c", True), ("l", True), ("l", False)):
                data = f"data-{kind}{key:d}-{token}"
                folder = "samples" if key else "sweeps"
                sensor = "LIDAR_TOP" if kind == "l" else "CAM_FRONT"
                tables["sample_data"].append(
                    {"token": data, "sample_token": token, "ego_pose_token": f"pose-{data}",
                     "calibrated_sensor_token": f"mount-{kind}", "timestamp": time,
                     "is_key_frame": key, "filename": f"{folder}/{sensor}/{data}.pcd.bin"}
                )  # fmt: skip
                offset = 0.0 if kind == "l" and key else 0.2
                tables["ego_pose"].append(
                    {"token": f"pose-{data}", "timestamp": time, "rotation": rotation(yaw),
                     "translation": [translation[0] + offset, *translation[1:]]}
                )  # fmt: skip
            data = f"data-l1-{token}"
            seg = f"lidarseg/{tiny.version}/{data}_lidarseg.bin"
            tables["lidarseg"].append({"token": data, "sample_data_token": data, "filename": seg})
            infos[token] = {
                "timestamp": str(time),
                "ego_pose": {"translation": list(translation), "rotation": rotation(yaw)},
                "gt_path": f"gts/{name}/{token}/labels.npz", **links,
            }  # fmt: skip

            semantics = np.full(OCC3D.shape, FREE, np.uint8)
            semantics[100, 100, 4] = f  # one voxel that tells the frames apart
            mask = np.zeros(OCC3D.shape, np.uint8)
            mask[100, 100, 4] = 1
            save_labels(root / "gts" / name / token / "labels.npz", semantics, mask, 1 - mask)

            lidar_to_global = tiny.ego_to_global(s, f) @ LIDAR_TO_EGO
            points = np.zeros((3, 5), np.float32)
            points[:2, :3] = (np.linalg.inv(lidar_to_global) @ [*POLE, 1])[:3]
            points[2, :3] = (0, 1, -1)  # a beam that met the car's own bonnet
            for path, content in (
                (root / f"samples/LIDAR_TOP/{data}.pcd.bin", points),
                (root / seg, np.array([28, 28, 31], np.uint8)),
            ):
                path.parent.mkdir(parents=True, exist_ok=True)
                content.tofile(path)
    (root / tiny.version).mkdir()
    for name, records in tables.items():
        tiny.table(name).write_text(json.dumps(records, indent=0))
    (root / "annotations.json").write_text(json.dumps(annotations))
    (root / "splits.json").write_text(
        json.dumps({"train": ["scene-0001", "scene-0003"], "val": ["scene-0002"],
                    "short": ["scene-0003"]})
    )  # fmt: skip
    return tiny


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    return write(tmp_path / "tiny")
