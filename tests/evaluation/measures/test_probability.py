import numpy as np
import pytest
import torch

from occdistill.evaluation import doubt
from occdistill.evaluation.evaluate import count, evaluate
from occdistill.evaluation.measures.base import Context
from occdistill.evaluation.measures.conformal import CONFORMAL
from occdistill.evaluation.measures.probability import PROBABILITY, Probability
from occdistill.evaluation.measures.samples import SAMPLES
from occdistill.evaluation.report import make_report, markdown
from occdistill.evaluation.rows import Row, ego_warp_row


def line(*ids):
    return np.array(ids, np.uint8).reshape(1, -1, 1, 1)


def test_scores_by_hand():
    measure = Probability(1, 2)
    truth, moving = line(4, 4, 11, 17), line(1, 1, 0, 0).astype(bool)
    samples = np.stack([line(4, 17, 11, 17), line(4, 4, 17, 17)])
    outside = line(1, 1, 0, 1).astype(bool)[None]
    measure.update("a", samples, line(4, 17, 11, 7), truth, moving, outside)
    result = measure.result(chance=0.4)
    assert result["all"]["brier"]["0.5s"] == pytest.approx(100 * (0.25 + 0.25) / 4)
    assert result["all"]["brier_skill"]["0.5s"] == pytest.approx(100 * (1 - 0.5 / 2))
    assert result["movable"]["brier_skill"]["0.5s"] == pytest.approx(100 * (1 - 0.25 / 2))
    assert result["moving"]["brier_skill"]["0.5s"] == pytest.approx(100 * (1 - 0.25 / 1))
    assert result["skill_per_class"]["car"]["moving"] == pytest.approx(75)
    assert result["skill_per_class"]["pedestrian"]["all"] == pytest.approx(100)
    # said 1, 1/2, 1/2 and 0 of 1, 1, 1, 0; calibrated 1, 0.7, 0.5 and 0.4, of one level the last
    assert result["all"]["ece"]["0.5s"] == pytest.approx(100 * 1.0 / 3)
    assert result["all"]["ece_calibrated"]["0.5s"] == pytest.approx(100 * 0.4 / 3)
    brier = result["all"]["brier_calibrated"]["0.5s"]
    assert brier == pytest.approx(100 * (0.09 + 0.25 + 0.16) / 4)
    assert measure.chance() == pytest.approx(0.25 / 1.25)  # 1/2 of m/K = 1/2, 0 of m/K = 1
    assert result["by_k"]["1"]["all"] == pytest.approx(50)
    assert result["scenes"]["all"]["a"] == pytest.approx([0.5, 2.0])


@pytest.fixture
def records(clips):
    def draw(batch, sample=0):
        return batch.future.roll(sample, dims=2)

    rows = [Row("oracle", draw, 1, draw=draw), ego_warp_row(clips.grid, 6, True, True)]
    context = Context(clips, None, 4, {"oracle@1": 0.05}, "some clips")
    chosen = [m.observe(context) for m in (SAMPLES, PROBABILITY, CONFORMAL)]
    return evaluate(rows, clips, measures=chosen, progress=False, batch_size=3)


def test_the_rule_has_no_skill_over_itself(records):
    found = records[1]["measures"]["probability"]
    assert found["reference"] == "ego-warp, extrapolated, objects carried"
    for part in ("all", "movable", "moving"):
        assert set(found[part]["brier_skill"].values()) == {0.0}
    assert "ece_calibrated" not in found["all"] and found["moving_by"] == "tracks"
    assert records[0]["measures"]["probability"]["chance"] == 0.05


def test_the_page_has_the_tables(records):
    page = markdown(make_report(records, None))
    for title in (
        "As probabilities", "Probabilities, horizon by horizon", "Against the rule, class by class",
        "What futures cost",
    ):  # fmt: skip
        assert f"## {title}" in page
    assert "fitted on some clips: oracle@1 0.050." in page


@pytest.mark.parametrize("guidance, passes", [(None, 3), (1.0, 3), (2.0, 6)])
def test_a_guided_evaluation_is_two_and_guidance_of_1_is_none(records, guidance, passes):
    (row,) = (dict(r, nfe=3, guidance=guidance) for r in records[:1])
    (table,) = [t for t in doubt.tables([row]) if t.title == "What futures cost"]
    assert [line[2:4] for line in table.body] == [[1, passes], [2, 2 * passes], [4, 4 * passes]]


def test_futures_are_drawn_once_for_all_measures(clips):
    drawn = []

    def draw(batch, sample=0):
        drawn.append(sample)
        return batch.future.roll(sample, dims=2)

    context = Context(clips, None, 3)
    chosen = [m.observe(context) for m in (SAMPLES, PROBABILITY, CONFORMAL)]
    row = Row("a", draw, draw=draw)
    evaluate([row], clips, measures=chosen, progress=False, indices=[0, 1], batch_size=2)
    assert drawn == [0, 1, 2]


def test_what_lies_outside_follows_the_plan_that_a_future_has(clips, monkeypatch):
    whole = type(clips).__getitem__

    def stopping(self, i):
        item = whole(self, i)
        item["poses"][self.past :] = torch.eye(4)
        return item

    monkeypatch.setattr(type(clips), "__getitem__", stopping)

    def draw(batch, sample=0):
        return batch.future.roll(sample, dims=2)

    def way(*metres):
        def plan(batch, sample=0):
            poses = torch.eye(4).repeat(len(batch.index), 6, 1, 1)
            poses[..., 0, 3] = metres[sample]
            return poses

        return plan

    def row(name, **options):
        return Row(name, draw, draw=draw, **options)

    rows = [
        row("stays", plan=way(0.0, 0.0)), row("far", plan=way(999.0, 999.0)),
        row("one of both", plan=way(0.0, 999.0)), row("given", conditioning="gt"), row("blind"),
    ]  # fmt: skip
    observer = PROBABILITY.observe(Context(clips, None, 2))
    count(rows, clips, indices=[0, 1], observers=[observer], progress=False)
    found = {name: state.unseen.sum((0, 3)) for name, state in observer.states.items()}
    assert found["stays"][:, 1:].sum() == 0 and found["stays"].sum() > 0
    n, m = np.nonzero(found["far"])
    assert (n + m == 2).all() and set(m) == {0, 1, 2}
    assert found["one of both"][:, 1].sum() > 0 == found["one of both"][:, 2].sum()
    assert found["one of both"][0, 0] == found["one of both"][2, 1:].sum() == 0
    # where it really stops, and where it would be if the last motion went on
    assert found["given"][:, 1:].sum() == 0 < found["blind"][:, 1:].sum()
