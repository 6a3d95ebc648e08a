"""Clips counted in shards, by one process or two, in one go or in two."""

import json

import numpy as np
import pytest
import torch

from occdistill.errors import UserError
from occdistill.evaluation.counts import Counts
from occdistill.evaluation.evaluate import evaluate
from occdistill.evaluation.measures import measures
from occdistill.evaluation.measures.base import Context, Observer
from occdistill.evaluation.measures.latent import FeatureSet
from occdistill.evaluation.protocols import PROTOCOLS
from occdistill.evaluation.rows import Row, copy_last_row
from occdistill.evaluation.shards import split
from occdistill.evaluation.sums import added, parts
from occdistill.processes import joined
from tests.ranks import together

PRESETS = [PROTOCOLS["occdistill"], PROTOCOLS["come-visible"]]


def noisy_row():
    """Every clip's forecast is drawn by its own noise, the same in every process."""

    def draw(batch, sample=0):
        noise = batch.noise(batch.future.shape[1:], sample)
        return torch.where(noise > 1, 17, batch.past[:, -1:].expand_as(noise)).to(torch.uint8)

    return Row("noisy", draw, nfe=1, draw=draw)


class Codec:
    """Features of voxels that depend on all of them."""

    @staticmethod
    def encode(voxels):
        return torch.nn.functional.avg_pool3d((voxels != 17).float(), 2).permute(0, 3, 1, 2)


def asked(clips, names=("consistency", "latent", "samples")):
    context = Context(clips, lambda: (Codec, "none"), 2)
    return [measures()[name].observe(context) for name in names]


def scores(clips, out, rows=None, **options):
    options = {"batch_size": 2, "measures": asked(clips), "progress": False, **options}
    rows = rows or [noisy_row(), copy_last_row(6)]
    return evaluate(rows, clips, out=out, protocols=PRESETS, **options)


def told(records):
    return json.dumps(records, sort_keys=True, default=float)


def test_shards_hold_every_clip_once_in_whole_batches():
    for clips, batch_size in ((1, 4), (15, 2), (4669, 4), (4669, 1), (10_000, 100)):
        plan = split(clips, batch_size)
        assert [i for shard in plan for batch in shard for i in batch] == list(range(clips))
        assert all(len(batch) == batch_size for shard in plan[:-1] for batch in shard)
        assert len(plan) >= min(40, clips // batch_size)
    assert max(len(shard) for shard in split(4669, 4)) == 16


def test_two_processes_report_what_one_does_to_the_digit(clips, tmp_path):
    alone = scores(clips, tmp_path / "one")

    def run():
        with joined("cpu", "pytorch"):
            records = scores(clips, tmp_path / "two")
            if records:
                (tmp_path / "two.json").write_text(told(records))

    assert together(run) == [0, 0]
    assert (tmp_path / "two.json").read_text() == told(alone)
    assert told(scores(clips, None)) == told(alone)
    for name in ("noisy-1", "copy-last"):
        one, two = (Counts.load(tmp_path / folder / name)[0] for folder in ("one", "two"))
        assert one.windows == two.windows
        for view in one.totals:
            np.testing.assert_array_equal(one.tallies[view], two.tallies[view])
            np.testing.assert_array_equal(one.totals[view].counts, two.totals[view].counts)
        assert one.totals["all"].clips == len(clips)
    assert not (tmp_path / "two" / "shards").exists()


class Dies(Row):
    """Forecasts a few batches only."""

    def __init__(self, batches):
        row = noisy_row()
        self.left, self.seen = batches, []

        def draw(batch, sample=0):
            if not sample:
                if not self.left:
                    raise KeyboardInterrupt
                self.left -= 1
                self.seen += batch.index.tolist()
            return row.draw(batch, sample)

        super().__init__("noisy", draw, nfe=1, draw=draw)


def test_a_stopped_run_goes_on_with_what_it_lacks(clips, tmp_path, caplog):
    whole = scores(clips, tmp_path / "whole")
    rows = [Dies(3), copy_last_row(6)]
    with pytest.raises(KeyboardInterrupt):
        scores(clips, tmp_path / "killed", rows)
    with pytest.raises(UserError, match="no finished counts"):
        Counts.load(tmp_path / "killed" / "noisy-1")
    again = [Dies(99), copy_last_row(6)]
    resumed = scores(clips, tmp_path / "killed", again, resume=True)
    assert told(resumed) == told(whole) and "going on after 3 of 8 shards" in caplog.text
    assert sorted([*rows[0].seen, *again[0].seen]) == list(range(len(clips)))
    anew = [Dies(99), copy_last_row(6)]
    scores(clips, tmp_path / "killed", anew)
    assert len(anew[0].seen) == len(clips)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"seed": 1}, "seed was 0, and is 1"),
        ({"batch_size": 4}, "batch_size was 2, and is 4"),
        ({"rows": [copy_last_row(6)]}, "rows differ"),
        ({"measures": []}, "measures was .*consistency"),
        ({"indices": [0, 5]}, "clips differ"),
    ],
)
def test_shards_of_another_scoring_are_refused(clips, tmp_path, change, sentence):
    with pytest.raises(KeyboardInterrupt):
        scores(clips, tmp_path, [Dies(2), copy_last_row(6)])
    change = {"rows": [Dies(9), copy_last_row(6)], **change}
    with pytest.raises(UserError, match=f"another scoring .*{sentence}.*without --resume"):
        scores(clips, tmp_path, resume=True, **change)


def test_a_damaged_shard_is_a_sentence(clips, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        scores(clips, tmp_path, [Dies(2), copy_last_row(6)])
    (tmp_path / "shards" / "00000.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="00000.npz is .*without --resume"):
        scores(clips, tmp_path, [Dies(9), copy_last_row(6)], resume=True)


class Fewest:
    """Something that can't be added up and doesn't say it can."""

    least = 1 << 60

    def result(self):
        return {"least": self.least}


def least():
    def feed(state, row, batch, pred):
        state.least = min(state.least, *(int((clip == 17).sum()) for clip in pred))

    return Observer("least", Fewest, feed)


def test_a_measure_that_does_not_add_up_is_counted_by_one_process_in_one_go(clips, tmp_path):
    (record, _, *_) = scores(clips, tmp_path, measures=[least()])
    free = [int((noisy_row().predict(b) == 17).sum()) for b in _batches(clips)]
    assert record["measures"]["least"]["least"] == min(free)
    with pytest.raises(UserError, match="the measure least can't be counted in parts"):
        scores(clips, tmp_path, measures=[least()], resume=True)


def _batches(clips):
    from occdistill.evaluation.rows import ClipBatch

    for i in range(len(clips)):
        item = {
            k: v[None] if torch.is_tensor(v) else torch.tensor([v]) for k, v in clips[i].items()
        }
        yield ClipBatch.of(item, "cpu", 0)


def test_parts_add_up():
    class Pair:
        summed = ("left", "right")

        def __init__(self, left, right):
            self.left, self.right = left, right

    first = Pair(1, {"a": np.arange(2), 3: [Pair(1.5, 0)]})
    second = Pair(4, {"a": np.ones(2, int), 3: [Pair(2.0, 7)], "b": np.array(9)})
    sums = added(first, parts(second))
    assert sums.left == 5 and isinstance(sums.left, int) and list(sums.right) == ["a", 3, "b"]
    assert sums.right["a"].tolist() == [1, 2] and sums.right["b"] == 9
    assert (sums.right[3][0].left, sums.right[3][0].right) == (3.5, 7)


@pytest.mark.parametrize("keep", [5, 1000])
def test_feature_sets_go_on_after_one_another(keep):
    features = np.random.default_rng(0).normal(size=(60, 3))
    whole, summed = FeatureSet(keep), FeatureSet(keep)
    whole.update(features)
    for part in np.split(features, [7, 20, 33]):
        piece = FeatureSet(keep)
        piece.update(part)
        summed = added(summed, parts(piece))
    assert summed.count == whole.count == 60
    for a, b in zip(summed.moments(), whole.moments()):
        np.testing.assert_allclose(a, b, atol=1e-12)
    if keep > 60:
        np.testing.assert_array_equal(summed.kept, whole.kept)
    else:  # pieces that were thinned themselves
        places = [int(np.abs(features - v).sum(1).argmin()) for v in summed.kept]
        assert 0 < len(places) <= keep and places == sorted(set(places))
