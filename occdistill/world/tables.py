"""The nuScenes v1.0 tables of a world, and Occ3D's `annotations.json`."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from occdistill.data.poses import LIDAR_POSITION, LIDAR_ROTATION
from occdistill.store import write_json
from occdistill.world.agents import KINDS
from occdistill.world.plan import SPLITS, ScenePlan, token
from occdistill.world.scan import LIDARSEG_NAMES, Scan
from occdistill.world.simulate import SceneWorld

SCENE_TABLES = ("log", "scene", "sample", "sample_data", "ego_pose", "instance")
SCENE_TABLES += ("sample_annotation", "lidarseg")
_ATTRIBUTES = {
    "vehicle.moving": "Vehicle is moving.",
    "vehicle.stopped": "Vehicle is stationary, its driver in it.",
    "vehicle.parked": "Vehicle is stationary for long.",
    "cycle.with_rider": "There is a rider on it.",
    "cycle.without_rider": "There is no rider on it.",
    "pedestrian.moving": "The person is moving.",
    "pedestrian.standing": "The person is standing.",
}
_VISIBILITY = ("v0-40", "v40-60", "v60-80", "v80-100")
_SENSOR = token("sensor", "LIDAR_TOP")
_MOUNTING = token("calibrated_sensor", "LIDAR_TOP")
_MAP_SIZE = 1000


def _attributes(kind: int, speed: float, parked: bool) -> list[str]:
    category = KINDS[kind].category
    if category in ("vehicle.bicycle", "vehicle.motorcycle"):
        name = "cycle.without_rider" if parked else "cycle.with_rider"
    elif category.startswith("vehicle"):
        name = "vehicle.parked" if parked else "vehicle.moving"
        if not parked and speed < 0.2:
            name = "vehicle.stopped"
    elif category.startswith("human"):
        name = "pedestrian.moving" if speed > 0.1 else "pedestrian.standing"
    else:
        return []
    return [token("attribute", name)]


def _visibility(shown: float) -> str:
    """Token of the quarter that a visible share (NaN: no ray goes there) belongs to."""
    if not shown >= 0.4:
        return "1"
    return "2" if shown < 0.6 else "3" if shown < 0.8 else "4"


def scene_tables(
    plan: ScenePlan, world: SceneWorld, scans: Sequence[Scan] | None, version: str
) -> dict[str, list[dict]]:
    """Records of one scene for each of `SCENE_TABLES`.

    Args:
        plan, world: the scene.
        scans: one per keyframe, whose `box` numbers count the boxes alive then; None without LiDAR:
            then no box has points, and its visibility says only whether the town hides it.
        version: name of the folder of tables.
    """
    tables: dict[str, list[dict]] = {name: [] for name in SCENE_TABLES}
    log = token(plan.token, "log")
    tables["log"].append(
        {
            "token": log,
            "logfile": plan.name,
            "vehicle": "synthetic",
            "date_captured": "2018-07-31",
            "location": "synthetic-town",
        }
    )
    tables["scene"].append(
        {
            "token": plan.token,
            "log_token": log,
            "nbr_samples": plan.keyframes,
            "first_sample_token": plan.sample_token(0),
            "last_sample_token": plan.sample_token(plan.keyframes - 1),
            "name": plan.name,
            "description": _describe(world),
        }
    )
    for k in range(plan.keyframes):
        _keyframe(tables, plan, world, k)
        if scans:
            tables["lidarseg"].append(
                {
                    "token": plan.sweep_token(k),
                    "sample_data_token": plan.sweep_token(k),
                    "filename": plan.lidarseg_path(k, version),
                }
            )
    counts = np.zeros(world.alive.shape, int)
    shown = np.where(world.in_sight, 1.0, 0.0)
    for k, one in enumerate(scans or ()):
        which = np.flatnonzero(world.alive[k])
        counts[k, which] = np.bincount(one.box[one.box >= 0], minlength=len(which))
        shown[k, which] = one.shown
    for n in np.flatnonzero(world.alive.any(0)):
        _track(tables, plan, world, n, counts[:, n], shown[:, n])
    return tables


def _keyframe(tables: dict, plan: ScenePlan, world: SceneWorld, k: int) -> None:
    sweep, time = plan.sweep_token(k), plan.timestamp(k)
    tables["sample"].append(
        {
            "token": plan.sample_token(k),
            "timestamp": time,
            "prev": plan.sample_token(k - 1),
            "next": plan.sample_token(k + 1),
            "scene_token": plan.token,
        }
    )
    tables["sample_data"].append(
        {
            "token": sweep,
            "sample_token": plan.sample_token(k),
            "ego_pose_token": sweep,
            "calibrated_sensor_token": _MOUNTING,
            "timestamp": time,
            "fileformat": "pcd",
            "is_key_frame": True,
            "height": 0,
            "width": 0,
            "filename": plan.cloud_path(k),
            "prev": plan.sweep_token(k - 1),
            "next": plan.sweep_token(k + 1),
        }
    )
    tables["ego_pose"].append(
        {
            "token": sweep,
            "timestamp": time,
            "rotation": world.rotation[k].tolist(),
            "translation": world.translation[k].tolist(),
        }
    )


def _track(
    tables: dict, plan: ScenePlan, world: SceneWorld, n: int, points: np.ndarray, shown: np.ndarray
) -> None:
    """One box's instance and annotations, from its first to its last sight."""
    instance = token(plan.token, "instance", n)
    frames = np.flatnonzero(world.alive[:, n])
    tokens = {int(k): token(instance, k) for k in frames}
    kind = int(world.kinds[n])
    length, width, height = world.sizes[n].tolist()
    parked = bool(world.standing[n])
    tables["instance"].append(
        {
            "token": instance,
            "category_token": token("category", KINDS[kind].category),
            "nbr_annotations": len(frames),
            "first_annotation_token": tokens[int(frames[0])],
            "last_annotation_token": tokens[int(frames[-1])],
        }
    )
    for k in map(int, frames):
        x, y, yaw = world.pose[k, n].tolist()
        tables["sample_annotation"].append(
            {
                "token": tokens[k],
                "sample_token": plan.sample_token(k),
                "instance_token": instance,
                "visibility_token": _visibility(float(shown[k])),
                "attribute_tokens": _attributes(kind, float(world.speed[k, n]), parked),
                "translation": [x, y, round(float(world.foot[k, n]) + height / 2, 3)],
                "size": [width, length, height],
                "rotation": _turn(yaw),
                "prev": tokens.get(k - 1, ""),
                "next": tokens.get(k + 1, ""),
                "num_lidar_pts": int(points[k]),
                "num_radar_pts": 0,
            }
        )


def _turn(yaw: float) -> list[float]:
    """Quaternion w, x, y, z of a turn about the vertical (radians)."""
    return [round(math.cos(yaw / 2), 8), 0.0, 0.0, round(math.sin(yaw / 2), 8)]


def _describe(world: SceneWorld) -> str:
    """One line as annotators write it: what the ego car does, and who is there."""
    step = np.diff(world.translation[:, :2], axis=0)
    speed = float(np.hypot(*step.T).mean() * 2) if len(step) else 0.0
    w, _, _, z = world.rotation.T
    turn = float(np.degrees(np.diff(np.unwrap(2 * np.arctan2(z, w)))).sum())
    way = "left turn" if turn > 45 else "right turn" if turn < -45 else "straight on"
    names = {KINDS[k].category.split(".")[1] for k in world.kinds[world.alive.any(0)]}
    rare = sorted(names & {"bus", "trailer", "construction", "trafficcone", "motorcycle"})
    return ", ".join([f"{way} at {speed:.1f} m/s", *rare])


def common_tables(plans: list[ScenePlan]) -> dict[str, list[dict]]:
    """The tables that are the same for all scenes, and the map that lists all logs."""
    return {
        "category": [
            {
                "token": token("category", name),
                "name": name,
                "description": "",
                "index": index,
            }
            for index, name in enumerate(LIDARSEG_NAMES)
        ],
        "attribute": [
            {"token": token("attribute", name), "name": name, "description": text}
            for name, text in _ATTRIBUTES.items()
        ],
        "visibility": [
            {"token": str(n + 1), "level": level, "description": f"visible share {level[1:]} %"}
            for n, level in enumerate(_VISIBILITY)
        ],
        "sensor": [{"token": _SENSOR, "channel": "LIDAR_TOP", "modality": "lidar"}],
        "calibrated_sensor": [
            {
                "token": _MOUNTING,
                "sensor_token": _SENSOR,
                "translation": list(LIDAR_POSITION),
                "rotation": [round(part, 8) for part in LIDAR_ROTATION],
                "camera_intrinsic": [],
            }
        ],
        "map": [
            {
                "token": token("map"),
                "log_tokens": [token(plan.token, "log") for plan in plans],
                "category": "semantic_prior",
                "filename": f"maps/{token('map')}.png",
            }
        ],
    }


def annotations(plan: ScenePlan, world: SceneWorld) -> dict:
    """The scene's entry in Occ3D's `annotations.json`."""
    return {
        plan.sample_token(k): {
            "timestamp": plan.timestamp(k),
            "ego_pose": {
                "translation": world.translation[k].tolist(),
                "rotation": world.rotation[k].tolist(),
            },
            "gt_path": plan.labels_path(k),
            "prev": plan.sample_token(k - 1),
            "next": plan.sample_token(k + 1),
        }
        for k in range(plan.keyframes)
    }


def write_tables(out: Path, version: str, plans: list[ScenePlan], parts: list[dict]) -> None:
    """Write tables, map, splits and annotations from the scenes' parts.

    A part is {"tables": `scene_tables`, "annotations": `annotations`}, in the order of `plans`.
    """
    folder = out / version
    folder.mkdir(exist_ok=True)
    tables = common_tables(plans)
    for name in SCENE_TABLES:
        tables[name] = [record for part in parts for record in part["tables"][name]]
    if not tables["lidarseg"]:
        del tables["lidarseg"]  # the devkit takes the file itself as a promise of point labels
    for name, records in tables.items():
        write_json(folder / f"{name}.json", records, indent=0)
    (out / "maps").mkdir(exist_ok=True)
    # nuScenes' map masks are per city; every scene here is a town of its own.
    blank = Image.fromarray(np.zeros((_MAP_SIZE, _MAP_SIZE), np.uint8))
    blank.save(out / tables["map"][0]["filename"])
    names = {split: [plan.name for plan in plans if plan.split == split] for split in SPLITS}
    write_json(out / "splits.json", names, indent=0)
    infos = {plan.name: part["annotations"] for plan, part in zip(plans, parts)}
    lists = {"train_split": names["train"], "val_split": names["val"]}
    write_json(out / "annotations.json", lists | {"scene_infos": infos}, indent=0)
