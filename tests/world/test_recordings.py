"""Recorded drives: read, mended, put on streets, re-enacted, written."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from occdistill.data.occ3d import load_semantics
from occdistill.data.scenes import load_index, official_splits
from occdistill.doctor.dataset import Doctor
from occdistill.errors import UserError
from occdistill.world import VERSION, make_recorded_world
from occdistill.world.agents import KIND, KINDS, kind_of, overlap
from occdistill.world.columns import CELL, EMPTY
from occdistill.world.mending import mended
from occdistill.world.motion import Motion, Streets
from occdistill.world.recordings import assign, digest, read_recorded, told
from occdistill.world.simulate import reenact
from occdistill.world.surface import recorded_town
from occdistill.world.traffic import EGO_SIZE, REAR_AXLE

TIME = 0.1 * np.arange(61)
CAR, TALL = (4.5, 1.9, 1.6), (0.7, 0.7, 1.8)


def motion(*others, streets=None, speed=5.0, name="drive"):
    """Six seconds at 10 Hz along x, and others: (category, (T, 3), valid (T,), size)."""
    ego = np.stack([speed * TIME, 0 * TIME, 0 * TIME], -1)
    pose = np.array([track for _, track, _, _ in others], float).reshape(-1, len(TIME), 3)
    valid = np.array([valid for _, _, valid, _ in others], bool).reshape(pose.shape[:2])
    size = np.array([size for *_, size in others], float).reshape(-1, 3)
    names = np.array([name for name, *_ in others], "U40")
    return Motion(name, TIME, ego, pose, valid, size, names, streets or Streets([], []))


def at(x, y, yaw=0.0, speed=0.0):
    """A track that begins at a place and goes along x."""
    return np.stack([x + speed * TIME, y + 0 * TIME, yaw + 0 * TIME], -1)


ALL = np.ones(len(TIME), bool)


def without(low, high):
    return ALL & ~((TIME > low - 1e-6) & (TIME < high - 1e-6))


# --- mending ------------------------------------------------------------------------------------


def test_good_tracks_stay_as_they_are():
    whole = motion(("vehicle.car", at(10, 4, speed=9.0), ALL, CAR))
    same = mended(whole)
    assert np.allclose(same.pose, whole.pose) and same.valid.all() and same.notes == []
    assert same.size.tolist() == [list(CAR)] and same.category.tolist() == ["vehicle.car"]


def test_short_gaps_are_filled_and_long_ones_cut():
    track = at(10, 4, speed=9.0)
    short = mended(motion(("vehicle.car", track, without(1.0, 2.9), CAR)))
    assert len(short.pose) == 1 and short.valid.all() and np.allclose(short.pose[0], track)
    long = mended(motion(("vehicle.car", track, without(1.0, 3.1), CAR)))
    assert len(long.pose) == 2
    assert np.array_equal(long.valid.any(0), without(1.0, 3.1)) and not long.valid.all(0).any()


def test_one_wrong_moment_is_filled_in_and_a_jump_cuts():
    spike, jump = at(10, 4, speed=9.0), at(10, 4, speed=9.0)
    spike[30, 1] += 30.0
    one = mended(motion(("vehicle.car", spike, ALL, CAR)))
    assert len(one.pose) == 1 and np.allclose(one.pose[0], at(10, 4, speed=9.0))
    assert one.notes == ["1 objects with a moment far off their way, filled in"]
    jump[30:, 1] += 30.0
    two = mended(motion(("vehicle.car", jump, ALL, CAR)))
    assert two.valid.sum(1).tolist() == [30, 31] and two.notes == ["1 objects that jump, cut there"]
    # What a car may do, nobody on foot does.
    quick = at(10, 4, speed=20.0)
    assert len(mended(motion(("vehicle.car", quick, ALL, CAR))).pose) == 1
    assert len(mended(motion(("human.pedestrian.adult", quick, ALL, TALL))).pose) == 0


def test_a_box_turned_round_for_a_while_is_turned_back():
    track = at(10, 4, yaw=0.3)
    track[20:25, 2] += np.pi
    back = mended(motion(("vehicle.car", track, ALL, CAR)))
    assert np.allclose(np.cos(back.pose[0, :, 2] - 0.3), 1.0) and "turned back" in back.notes[0]
    # A real turn, through pi, is none.
    turning = at(10, 4)
    turning[:, 2] = np.angle(np.exp(1j * np.linspace(2.0, 5.0, len(TIME))))
    about = ("human.pedestrian.adult", track, ALL, TALL)
    assert np.allclose(mended(motion(about)).pose[0], track), "people turn on their heels"
    same = mended(motion(("vehicle.car", turning, ALL, CAR)))
    assert np.allclose(np.cos(same.pose[0, :, 2] - turning[:, 2]), 1.0) and same.notes == []


def test_what_has_no_size_class_or_moment():
    found = mended(
        motion(
            ("vehicle.truck", at(10, 4), ALL, (0.0, 2.0, 3.0)),
            ("vehicle.bicycle", at(20, 4), ALL, (1.8, np.nan, 1.5)),
            ("movable_object.spaceship", at(30, 4), ALL, CAR),
            ("vehicle.car", at(40, 4), ~ALL, CAR),
        )
    )
    usual = [KINDS[KIND[name]].size for name in ("truck", "bicycle")]
    assert np.allclose(found.size, usual)
    assert any(note.startswith("2 objects without a size") for note in found.notes)
    assert any("spaceship" in note for note in found.notes) and len(found.notes) == 3


def test_nothing_is_inside_the_ego_car():
    # The ego car's centre is ahead of the rear axle, by which it is recorded.
    path = at(15.0 + REAR_AXLE, 0.0)
    met = mended(motion(("human.pedestrian.adult", path, ALL, TALL)))
    gone = np.abs(5.0 * TIME - 15.0) < EGO_SIZE[0] / 2 + TALL[0] / 2
    assert np.array_equal(met.valid[0], ~gone) and 8 < gone.sum() < 12
    assert met.notes == ["1 objects inside the ego car, left out while they are"]


def test_kinds_of_recorded_categories():
    assert KINDS[kind_of("vehicle.car", 1.6)].name == "car"
    assert KINDS[kind_of("vehicle.car", 2.3)].name == "van"
    assert kind_of("vehicle.hovercraft", 1.0) is None
    for category in ("vehicle.bus.bendy", "human.pedestrian.stroller", "animal"):
        assert KINDS[kind_of(category, 1.0)].category == category


# --- streets ------------------------------------------------------------------------------------


def ring(x0, x1, y0, y1):
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]], float)


def kerb_at(town, x, y):
    i, j = np.round(np.array([x, y]) - town.ground.origin).astype(int)
    return town.ground.kerb[i, j]


def test_kerbs_are_where_the_map_has_them():
    streets = Streets([[ring(-200, 200, -6, 8), ring(50, 70, -3, 3)]], [])
    town = recorded_town(motion(streets=streets), np.random.default_rng(0))
    for y, kerb in ((-20, 14), (-10, 4), (-4, -2), (0, -6), (4, -4), (12, 4), (30, 22)):
        assert kerb_at(town, 10, y) == pytest.approx(kerb, abs=0.55), y
    assert kerb_at(town, 60, 0) == pytest.approx(3.0, abs=0.55), "an island is a hole"
    assert len(town.roads) >= 4
    for road in town.roads:
        heading = road.points[1:] - road.points[:-1]
        left = (road.points[1:] + road.points[:-1]) / 2 + 3 * np.stack(
            [-heading[:, 1], heading[:, 0]], -1
        ) / np.hypot(*heading.T)[:, None]
        inside = np.abs(road.points[:-1, 0] - 15).max() < 80
        if inside:
            assert all(kerb_at(town, *p) > 1.0 for p in left), "land is on a kerb's left"


def test_lanes_without_kerbs_are_roads_as_wide_as_lanes():
    lane = np.array([[-200.0, 0.0], [200.0, 0.0]])
    town = recorded_town(
        motion(streets=Streets([], [lane, lane + (0.0, 3.4)])), np.random.default_rng(0)
    )
    assert kerb_at(town, 10, -6) == pytest.approx(6 - 1.7, abs=0.7)
    assert kerb_at(town, 10, 9) == pytest.approx(9 - 5.1, abs=0.7)


def test_without_a_map_the_road_goes_where_something_drove_and_on():
    drives = ("vehicle.car", at(0, 30, speed=-12.0), ALL, CAR)
    walks = ("human.pedestrian.adult", at(0, -30, speed=1.5), ALL, TALL)
    town = recorded_town(motion(drives, walks), np.random.default_rng(0))
    assert (
        kerb_at(town, 10, 0) < -2.5 and kerb_at(town, -60, 0) < -2.5 and kerb_at(town, 90, 0) < -2.5
    )
    assert kerb_at(town, -40, 30) < -2.5
    assert kerb_at(town, 5, -30) > 20.0, "people walk beside roads"


def test_cars_beside_the_street_stand_on_a_car_park():
    parked = ("vehicle.car", at(20, 25), ALL, CAR)
    on_street = ("vehicle.car", at(40, 6.5), ALL, CAR)
    streets = Streets([[ring(-200, 200, -6, 8)]], [])
    town = recorded_town(motion(parked, on_street, streets=streets), np.random.default_rng(0))
    assert kerb_at(town, 20, 25) < -1.0 and kerb_at(town, 20, 15) > 2.0
    assert kerb_at(town, 40, 12) > 3.0, "a street is not wider where somebody parks"


# --- a scene ------------------------------------------------------------------------------------

CROWD = (
    ("vehicle.car", at(60, 3.4, yaw=np.pi, speed=-8.0), ALL, CAR),
    ("vehicle.car", at(12, 24), ALL, CAR),
    ("human.pedestrian.adult", at(5, -14, speed=1.4), ALL, TALL),
    ("human.pedestrian.adult", at(18, 13), without(4.0, 9.0), TALL),
    ("movable_object.barrier", at(25, -5), ALL, (0.5, 2.2, 1.0)),
    ("static_object.bicycle_rack", at(30, 12), ALL, (3.0, 1.5, 1.0)),
)


@pytest.fixture(scope="module")
def recorded():
    return mended(motion(*CROWD, streets=Streets([[ring(-200, 200, -6, 8)]], [])))


@pytest.fixture(scope="module")
def scene(recorded):
    return reenact(recorded, np.random.default_rng(4))


def solid_in(columns, pose, size, height):
    """How many points of a box, a cell from its sides, lie in something static below its top."""
    size = np.asarray(size) - CELL
    c, s = np.cos(pose[2]), np.sin(pose[2])
    u, v = np.meshgrid(
        np.arange(-size[0] / 2, size[0] / 2, 0.1), np.arange(-size[1] / 2, size[1] / 2, 0.1)
    )
    i = ((pose[0] + c * u - s * v - columns.origin[0]) / CELL).astype(int)
    j = ((pose[1] + s * u + c * v - columns.origin[1]) / CELL).astype(int)
    inside = (i >= 0) & (j >= 0) & (i < columns.ground.shape[0]) & (j < columns.ground.shape[1])
    i, j = i[inside], j[inside]
    return int(((columns.label[i, j] != EMPTY) & (columns.low[i, j] < 10 * height)).sum())


def check_scene(world, recorded):
    """What holds of any re-enacted scene."""
    keyframes = recorded.keyframes()
    ahead = np.stack([np.cos(keyframes.ego[:, 2]), np.sin(keyframes.ego[:, 2])], -1)
    assert np.allclose(world.translation[:, :2], keyframes.ego[:, :2], atol=1e-4)
    distance = np.hypot(*(world.pose[..., :2] - world.translation[:, None, :2]).transpose(2, 0, 1))
    known = keyframes.valid[keyframes.valid.any(1)].T
    assert not (world.alive & ~known).any(), "nobody is where nothing was recorded"
    for k in range(0, len(world.translation), 3):
        ego = np.append(keyframes.ego[k, :2] + REAR_AXLE * ahead[k], keyframes.ego[k, 2])
        assert solid_in(world.columns, ego, EGO_SIZE, EGO_SIZE[2]) == 0
        for n in np.flatnonzero(known[k]):
            assert solid_in(world.columns, world.pose[k, n], world.sizes[n], world.sizes[n, 2]) == 0
            assert not overlap(ego, np.array(EGO_SIZE), world.pose[k, n], world.sizes[n])
        i, j = ((keyframes.ego[k, :2] - world.columns.origin) / CELL).astype(int)
        assert world.columns.ground[i, j] == 11, "the ego car drives on a road"
    near = known & (distance < 30.0)
    assert world.alive[near].mean() > 0.97, "what was seen is in sight"


def test_everything_is_where_it_was_recorded(scene, recorded):
    check_scene(scene, recorded)
    keyframes = recorded.keyframes()
    assert len(scene.translation) == 13
    assert np.allclose(scene.pose.swapaxes(0, 1)[keyframes.valid], keyframes.pose[keyframes.valid])
    assert np.allclose(scene.speed[:, 0], 8.0) and not scene.speed[:, 1].any()
    assert scene.standing.tolist() == [False, True, False, True, True, True]
    assert scene.alive[:8, 3].all() and not scene.alive[8:, 3].any()
    assert [KINDS[kind].name for kind in scene.kinds[-2:]] == ["barrier", "rack"]


def test_scenery_lines_the_road_and_nothing_stands_on_it(scene):
    columns = scene.columns
    road = columns.ground == 11
    assert 0.05 < road.mean() < 0.4
    low = np.where(columns.label == EMPTY, 255, columns.low).min(-1)
    assert low[road].min() >= 45, "nothing hangs lower than 4.5 m over a road"
    assert ((columns.label == 15).any(-1) & ~road).sum() > 1000, "buildings"
    labels = scene.labels(6)
    assert (labels == 4).sum() > 100 and (labels == 15).sum() > 500 and (labels == 13).sum() > 500


def test_the_same_motion_and_seed_give_the_same_scene(scene, recorded):
    again = reenact(recorded, np.random.default_rng(4))
    assert np.array_equal(scene.labels(2), again.labels(2))
    assert not np.array_equal(
        scene.labels(2), reenact(recorded, np.random.default_rng(5)).labels(2)
    )


def test_an_empty_street_is_a_scene_too():
    world = reenact(mended(motion()), np.random.default_rng(0))
    assert world.pose.shape == (13, 0, 3) and (world.labels(3) == 11).sum() > 1000


# --- sources ------------------------------------------------------------------------------------


def write(folder, one, lines=()):
    """A scene in the format of data/README.md; lines: (kind, closed, (P, 2))."""
    folder.mkdir(exist_ok=True)
    pose = np.concatenate([one.ego[None], one.pose])
    arrays = dict(
        timestep=one.time,
        position=np.concatenate([pose[..., :2], np.zeros((*pose.shape[:2], 1))], -1),
        heading=pose[..., 2],
        valid=np.concatenate([np.ones((1, len(one.time)), bool), one.valid]),
        size=np.concatenate([[EGO_SIZE], one.size]),
        nuscenes_class=np.append("vehicle.car", one.category),
    )
    if lines:
        arrays |= dict(
            map_points=np.concatenate([line for *_, line in lines]),
            map_offsets=np.cumsum([0, *(len(line) for *_, line in lines)]),
            map_kind=np.array([kind for kind, *_ in lines]),
            map_closed=np.array([closed for _, closed, _ in lines]),
        )
    np.savez(folder / f"{one.name}.npz", **arrays)
    return arrays


LANE, OUTLINE = np.array([[-90.0, 1.0], [90.0, 1.0]]), ring(-50, 50, 0, 4)[:-1]
LINES = (
    ("ROAD_EDGE", False, ring(-200, 200, -6, 8)),
    ("LANE_SURFACE_STREET", False, LANE),
    ("LANE_SURFACE_STREET", True, OUTLINE),
    ("ROAD_LINE_BROKEN", False, np.array([[-90.0, 50.0], [90.0, 50.0]])),
    ("ROAD_EDGE", False, ring(50, 70, -3, 3)),
)


def test_a_folder_of_motion_with_its_map(tmp_path):
    write(tmp_path, motion(*CROWD), LINES)
    (one,) = read_recorded(tmp_path)
    assert one.pose.shape == (6, 61, 3) and one.notes == []
    kerbs, outline = one.streets.areas
    assert [len(ring) for ring in kerbs] == [5, 5] and np.array_equal(outline[0], OUTLINE)
    assert len(one.streets.lanes) == 1 and np.array_equal(one.streets.lanes[0], LANE)
    assert told([one]) == "1 recorded scenes with 6 tracks"


def test_a_map_that_does_not_fit_together(tmp_path):
    arrays = write(tmp_path, motion(), LINES)
    for name, value in (
        ("map_offsets", arrays["map_offsets"][:-1]),
        ("map_offsets", arrays["map_offsets"] - 1),
        ("map_kind", arrays["map_kind"][1:]),
        ("map_points", arrays["map_points"] * np.nan),
    ):
        np.savez(tmp_path / "drive.npz", **(arrays | {name: value}))
        with pytest.raises(UserError, match="map whose arrays do not fit"):
            read_recorded(tmp_path)


def test_sources_that_are_none(tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        read_recorded(tmp_path / "nowhere")
    with pytest.raises(UserError, match="neither motion"):
        read_recorded(tmp_path)
    write(tmp_path, motion(speed=3000.0))
    with pytest.raises(UserError, match="cut it into scenes"):
        read_recorded(tmp_path)


@pytest.fixture
def tables(tiny_world, tmp_path):
    """A nuScenes root with nothing but its tables."""
    shutil.copytree(tiny_world / VERSION, tmp_path / "root" / "v1.0-mini")
    return tmp_path / "root"


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_tables_alone_are_a_source(tables, tiny_world):
    motions = read_recorded(tables)
    assert [m.name for m in motions] == [f"scene-000{n}" for n in (1, 2, 3, 4)]
    scene = load_index(tiny_world, VERSION, "train")[1]
    found = motions[1]
    assert np.allclose(found.time, 0.5 * np.arange(12))
    poses = np.stack([frame.ego_to_global for frame in scene.keyframes])
    assert np.allclose(found.ego[:, :2], poses[:, :2, 3])
    assert np.allclose(
        np.exp(1j * found.ego[:, 2]),
        (poses[:, 0, 0] + 1j * poses[:, 1, 0]) / np.hypot(poses[:, 0, 0], poses[:, 1, 0]),
    )
    notes = " ".join(found.notes)
    assert "no map expansion of synthetic-town" in notes
    content = {
        name: json.loads((tables / "v1.0-mini" / f"{name}.json").read_text())
        for name in ("sample_annotation", "instance", "category")
    }
    token = scene.keyframes[3].token
    boxes = [box for box in content["sample_annotation"] if box["sample_token"] == token]
    assert len(boxes) > 5
    for box in boxes:
        near = np.hypot(*(found.pose[:, 3, :2] - box["translation"][:2]).T)
        n = near.argmin()
        assert near[n] < 1e-6 and found.valid[n, 3]
        w, *_, z = box["rotation"]
        assert np.exp(1j * found.pose[n, 3, 2]) == pytest.approx(complex(w, z) ** 2, abs=1e-6)
        assert found.size[n].tolist() == [box["size"][1], box["size"][0], box["size"][2]]


def test_the_map_expansion_where_it_is_there(tables):
    nodes = [
        {"token": f"n{n}", "x": x, "y": y}
        for n, (x, y) in enumerate(
            [(-500, -500), (500, -500), (500, 500), (-500, 500), (9000, 0), (9001, 0), (9000, 1)]
        )
    ]
    polygons = [
        dict(
            token="all",
            exterior_node_tokens=["n0", "n1", "n2", "n3"],
            holes=[dict(node_tokens=["n0", "n1", "n2"])],
        ),
        dict(token="far", exterior_node_tokens=["n4", "n5", "n6"], holes=[]),
        dict(token="walk", exterior_node_tokens=["n0", "n1", "n2"], holes=[]),
    ]
    content = dict(
        node=nodes,
        polygon=polygons,
        drivable_area=[dict(token="d", polygon_tokens=["all", "far"])],
        carpark_area=[dict(token="c", polygon_token="far")],
        walkway=[dict(token="w", polygon_token="walk")],
    )
    folder = tables / "maps" / "expansion"
    folder.mkdir(parents=True)
    (folder / "synthetic-town.json").write_text(json.dumps(content))
    one = read_recorded(tables / "v1.0-mini")[0]
    assert [len(r) for r in one.streets.areas[0]] == [4, 3] and len(one.streets.areas) == 1
    assert not any("map" in note for note in one.notes)


@pytest.mark.parametrize(
    "table, edit, sentence",
    [
        ("instance", lambda t: t[0].pop("category_token"), "do not fit together"),
        ("sample_annotation", lambda t: t[0].update(size=[1, 2]), "do not fit together"),
        ("sample_annotation", lambda t: t[0].update(translation=["here", 0, 0]), "do not fit"),
        ("log", lambda t: t[0].update(location="../../etc"), "leads upwards"),
        ("scene", lambda t: t[0].update(name="../up"), "leads upwards"),
    ],
)
def test_broken_tables_are_told_in_a_sentence(tables, table, edit, sentence):
    change(tables / "v1.0-mini" / f"{table}.json", edit)
    with pytest.raises(UserError, match=sentence):
        read_recorded(tables)


def test_missing_and_too_many_tables(tables):
    shutil.copytree(tables / "v1.0-mini", tables / "v1.0-trainval")
    with pytest.raises(UserError, match="several versions"):
        read_recorded(tables)
    shutil.rmtree(tables / "v1.0-trainval")
    (tables / "v1.0-mini" / "sample_annotation.json").unlink()
    with pytest.raises(UserError, match="no table at"):
        read_recorded(tables)


def test_keyframes_with_faults_end_the_motion(tables):
    def edit(poses):
        poses[7]["translation"][0] += 500.0  # the eighth of the first scene's twelve

    change(tables / "v1.0-mini" / "ego_pose.json", edit)
    first = read_recorded(tables)[0]
    assert 3 <= len(first.time) <= 7 and any("keyframes left out" in note for note in first.notes)


# --- a world ------------------------------------------------------------------------------------


def test_a_world_of_recorded_drives(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    brief = motion(*CROWD, name="scene-0103").at(TIME[:26])
    write(tmp_path / "motion", brief, LINES)
    recorded = read_recorded(tmp_path / "motion")
    out = make_recorded_world(tmp_path / "w", recorded, workers=1)
    assert not any(f.problem for f in Doctor(out, full=True)())
    (scene,) = load_index(out, VERSION, "val")
    assert scene.name == "scene-0103" and len(scene.keyframes) == 6
    assert (load_semantics(out / scene.keyframes[0].labels) == 4).sum() > 50
    boxes = json.loads((out / VERSION / "sample_annotation.json").read_text())
    assert sum(box["num_lidar_pts"] for box in boxes) > 100
    near = [b for b in boxes if b["sample_token"] == scene.keyframes[2].token]
    assert {tuple(np.round(b["translation"][:2], 2)) for b in near} >= {(12.0, 24.0), (30.0, 12.0)}
    stamp = (out / "world.json").stat().st_mtime_ns
    assert make_recorded_world(out, recorded, workers=1) == out
    assert (out / "world.json").stat().st_mtime_ns == stamp, (
        "a world that is there is left as it is"
    )
    write(tmp_path / "motion", motion(*CROWD[1:], name="scene-0103"))
    with pytest.raises(UserError, match="other arguments"):
        make_recorded_world(out, read_recorded(tmp_path / "motion"), workers=1)


def test_splits_of_recorded_scenes():
    lists = official_splits()
    mini = [*lists["mini_train"], *lists["mini_val"]]
    assert assign(mini, "val") == {"train": [], "val": sorted(mini)}
    assert assign(mini, "official") == {
        "train": sorted(lists["mini_train"]),
        "val": sorted(lists["mini_val"]),
    }
    whole = assign(["scene-0001", "scene-0003"], "official")
    assert whole == {"train": ["scene-0001"], "val": ["scene-0003"]}
    with pytest.raises(UserError, match="neither nuScenes"):
        assign(["kitti-05", "scene-0001"], "official")


def test_the_digest_knows_every_number():
    one = motion(*CROWD, streets=Streets([[LANE]], []))
    assert digest([one]) == digest([motion(*CROWD, streets=Streets([[LANE]], []))])
    moved = motion(*CROWD, streets=Streets([[LANE + 1e-9]], []))
    assert digest([one]) != digest([moved]) != digest([motion(*CROWD)])


# --- what really happened -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_motion() -> list[Motion]:
    """nuScenes-mini's ten scenes, beside the repository or in OCCDISTILL_REAL_MOTION."""
    beside = Path(__file__).parents[3] / "shared" / "real" / "nuscenes_motion"
    folder = Path(os.environ.get("OCCDISTILL_REAL_MOTION", beside))
    if not any(folder.glob("*.npz")):
        pytest.skip(f"no recorded motion: {folder} holds no *.npz")
    return read_recorded(folder)


def test_real_drives_are_mended_and_known_by_nuscenes(real_motion):
    names = [m.name for m in real_motion]
    official = assign(names, "official")
    assert len(names) == 10 and official["val"] == ["scene-0103", "scene-0916"]
    assert sum("set back" in note for m in real_motion for note in m.notes) == 5
    assert all(len(m.streets.areas) > 10 and len(m.pose) > 20 for m in real_motion)


def test_a_real_drive_is_re_enacted(real_motion):
    one = next(m for m in real_motion if m.name == "scene-0757")
    check_scene(reenact(one, np.random.default_rng(0)), one)
