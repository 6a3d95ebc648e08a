"""Each disturbance against what it says it does."""

import numpy as np
import pytest
import torch

from occdistill.build.scoring import score_disturbed
from occdistill.data.occ3d import FREE, Grid
from occdistill.data.poses import trajectory_from_poses
from occdistill.data.voxelize import Sweep
from occdistill.errors import UserError
from occdistill.evaluation import disturb
from occdistill.evaluation.baselines import ego_warp
from occdistill.evaluation.disturb import DISTURBANCES, Disturbed, add_kept
from occdistill.evaluation.evaluate import evaluate
from occdistill.evaluation.measures.base import Context
from occdistill.evaluation.measures.probability import PROBABILITY
from occdistill.evaluation.protocols import DEFAULT
from occdistill.evaluation.report import make_report, markdown
from occdistill.evaluation.rows import Row, copy_last_row, ego_warp_row
from occdistill.evaluation.shared import Carried, ForRows
from occdistill.seeds import stream

PAST, FUTURE = 4, 6
GRID = Grid((16, 16, 4), 1.6, (-12.8, -12.8, -1.0))


@pytest.fixture
def item():
    """Random voxels, and a car that drives 1.6 m, one voxel, a frame, and a little aside."""
    g = np.random.default_rng(0)
    voxels = g.integers(0, 18, (PAST + FUTURE, *GRID.shape), np.uint8)
    poses = torch.eye(4).repeat(PAST + FUTURE, 1, 1)
    poses[:, 0, 3] = 1.6 * (torch.arange(PAST + FUTURE) - PAST + 1)
    poses[:, 1, 3] = poses[:, 0, 3] / 16
    return {
        "past": torch.from_numpy(voxels[:PAST]),
        "future": torch.from_numpy(voxels[PAST:]),
        "poses": poses,
        "trajectory": trajectory_from_poses(poses[None])[0],
        "index": 3,
    }


def same(one, other):
    return all(torch.equal(torch.as_tensor(one[k]), torch.as_tensor(other[k])) for k in one)


def test_the_mirror_is_its_own_inverse_and_the_rule_sees_no_difference(item):
    there = disturb.mirror(item)
    assert not same(there, item)
    assert same(disturb.mirror(there), item)
    assert torch.equal(there["trajectory"], trajectory_from_poses(there["poses"][None])[0])
    rules = [
        ego_warp(i["past"][None], i["poses"][None], FUTURE, GRID, extrapolated=True)
        for i in (item, there)
    ]
    agree = [(r[0] == i["future"]).sum() for r, i in zip(rules, (item, there))]
    assert abs(int(agree[0] - agree[1])) <= 2  # a centre on an edge may fall to the other side


def test_a_lost_frame_is_the_one_before_where_the_car_has_driven_on(item):
    item["poses"][:, 1, 3] = 0.0
    lost = set()
    for seed in range(30):
        after = disturb.drop_frames(item, stream(seed), GRID)
        (i,) = [i for i in range(PAST) if not torch.equal(after["past"][i], item["past"][i])]
        lost.add(i)
        source, step = (i - 1, 1) if i else (1, -1)
        expected = torch.full(GRID.shape, FREE, dtype=torch.uint8)
        if step == 1:  # a voxel on: what was at x + 1 is at x
            expected[:-1] = item["past"][source][1:]
        else:
            expected[1:] = item["past"][source][:-1]
        assert torch.equal(after["past"][i], expected)
        assert all(after[k] is item[k] for k in ("future", "poses", "trajectory"))
    assert lost == set(range(PAST))


def test_a_quarter_of_the_labels_change_places_in_a_quarter_of_the_frames(item):
    changed = []
    for seed in range(20):
        after = disturb.swap_labels(item, stream(seed))
        (i,) = [i for i in range(PAST) if not torch.equal(after["past"][i], item["past"][i])]
        before, now = item["past"][i], after["past"][i]
        assert torch.equal(before == FREE, now == FREE)
        assert torch.equal(torch.bincount(before.flatten()), torch.bincount(now.flatten()))
        changed.append(float((before != now).sum() / (before != FREE).sum()))
    # of seventeen labels as often as each other, a swap leaves one in seventeen as it was
    assert max(changed) <= 0.25 and np.mean(changed) == pytest.approx(0.25 * 16 / 17, abs=0.01)


def test_past_poses_are_off_by_a_tenth_of_a_metre_and_a_degree(item):
    shifts, turns = [], []
    for seed in range(300):
        after = disturb.pose_noise(item, stream(seed))
        assert torch.equal(after["poses"][PAST - 1 :], item["poses"][PAST - 1 :])
        assert torch.equal(after["trajectory"][PAST - 1 :], item["trajectory"][PAST - 1 :])
        steps = trajectory_from_poses(after["poses"][None])[0]
        assert torch.allclose(after["trajectory"], steps, atol=1e-5)
        error = torch.linalg.inv(item["poses"]) @ after["poses"]
        shifts.append(error[: PAST - 1, :3, 3])
        turns.append(torch.atan2(error[: PAST - 1, 1, 0], error[: PAST - 1, 0, 0]))
    shifts, turns = torch.stack(shifts), torch.rad2deg(torch.stack(turns))
    # 900 draws: their deviation is known to 1 / √1800, 2.4 %
    for values, size in ((shifts[..., 0], 0.1), (shifts[..., 1], 0.1), (turns, 1.0)):
        assert float(values.std()) == pytest.approx(size, rel=0.08)
        assert abs(float(values.mean())) < 4 * size / 30
    assert shifts[..., 2].abs().max() < 1e-6


def test_rain_takes_a_tenth_of_the_returns_and_brings_half_of_those_nearer():
    rng = np.random.default_rng(0)
    points = rng.normal(0, 10, (40_000, 4)).astype(np.float32)
    points[:, 3] = np.arange(len(points))
    labels = rng.integers(0, 17, len(points), np.uint8)
    after = disturb.rain(Sweep(points, labels, np.eye(4)), stream(1))
    number = after.points[:, 3].astype(int)
    assert len(number) == pytest.approx(0.95 * len(points), rel=0.005)
    assert (after.labels == labels[number]).all()
    ranges = np.linalg.norm(points[number, :3], axis=1)
    share = (after.points[:, :3] * points[number, :3]).sum(1) / ranges**2
    np.testing.assert_allclose(
        after.points[:, :3], share[:, None] * points[number, :3], atol=1e-4
    )  # on the same ray
    shortened = share < 0.9999
    assert shortened.sum() == pytest.approx(0.05 * len(points), rel=0.1)
    assert share[shortened].mean() == pytest.approx(0.5, abs=0.03) and share.min() >= 0
    assert disturb.rain(Sweep(points, None, np.eye(4)), stream(1)).labels is None


def test_what_is_drawn_depends_on_seed_and_clip_alone(clips):
    for name in set(DISTURBANCES) - {"mirror", "rain"}:
        one, again, other = (Disturbed(clips, name, seed) for seed in (0, 0, 1))
        assert len(one) == len(clips) and one.scenes is clips.scenes
        assert same(one[2], again[2])
        assert any(not same(one[i], other[i]) for i in range(3))


def test_what_rows_know_of_a_keyframe_isnt_taken_for_its_disturbed_image(clips):
    disturbed = ForRows(Disturbed(clips, "labels"), [Carried(clips.grid, FUTURE)])[2]
    assert "frames" in ForRows(clips, ())[2] and "frames" not in disturbed
    carried = ego_warp(
        disturbed["past"][None], disturbed["poses"][None], FUTURE, clips.grid, carry=True
    )
    assert torch.equal(disturbed[Carried(clips.grid, FUTURE).key], carried[0])


def test_rows_are_scored_again_and_the_page_says_what_they_keep(clips, tmp_path):
    oracle = Row("oracle", lambda batch: batch.future, conditioning="truth")
    rows = [copy_last_row(FUTURE), ego_warp_row(clips.grid, FUTURE, True), oracle]
    observer = PROBABILITY.observe(Context(clips, None, 2))
    how = dict(progress=False, indices=range(12))  # in some of them it is the newest frame
    records = evaluate(rows, clips, measures=[observer], **how)
    disturbed = [Disturbed(clips, name) for name in ("frames", "labels")]
    score_disturbed(records, rows, disturbed, DEFAULT, tmp_path, 2, **how)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["frames", "labels"]
    for record in records[:2]:
        kept = record["measures"]["disturbed"]
        assert kept["none"]["mIoU"] == record["headline"]["mIoU"]
        assert kept["labels"]["IoU"] == pytest.approx(kept["none"]["IoU"])  # labels alone change
        assert kept["labels"]["Brier skill"] == pytest.approx(kept["none"]["Brier skill"])
        assert kept["labels"]["mIoU"] != kept["none"]["mIoU"]
    assert "disturbed" not in records[2]["measures"]
    page = markdown(make_report(records, None))
    assert "## Disturbed" in page and "| undisturbed | frames | labels |" in page
    with pytest.raises(UserError, match="rain needs a past from LiDAR"):
        Disturbed(clips, "rain")


def test_what_is_kept_is_told_beside_what_was_before():
    def record(model, miou, error):
        scenes = {"all": {"a": [error, 10.0 if error < 5 else 99.0]}}
        return {
            "model": model, "nfe": 1, "protocol": "occdistill",
            "headline": {"mIoU": miou, "IoU": 2 * miou},
            "measures": {"probability": {"scenes": scenes}},
        }  # fmt: skip

    before, other = record("student", 40.0, 4.0), record("ceiling", 90.0, 1.0)
    add_kept([before, other], "frames", [record("student", 30.0, 7.0)])
    assert "disturbed" not in other["measures"]
    found = before["measures"]["disturbed"]
    assert found["none"] == pytest.approx({"mIoU": 40, "IoU": 80, "Brier skill": 60})
    assert found["frames"] == pytest.approx({"mIoU": 30, "IoU": 60, "Brier skill": 30})
    (table,) = disturb.tables([before, other])
    assert table.header[-1] == "frames"
    assert [line[-1] for line in table.body] == ["30.00 (75 %)", "60.00 (75 %)", "30.00 (50 %)"]
    assert disturb.tables([other]) == []
