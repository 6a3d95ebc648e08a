import json
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from occdistill.autoencoder.vae import VAE
from occdistill.data import objects
from occdistill.data.objects import carry_objects
from occdistill.errors import UserError
from occdistill.evaluation import baselines
from occdistill.evaluation.baselines import copy_last, ego_warp
from occdistill.evaluation.counts import Counts
from occdistill.evaluation.evaluate import count, evaluate, score_counts
from occdistill.evaluation.lidar import from_labels_row
from occdistill.evaluation.protocols import PROTOCOLS
from occdistill.evaluation.report import describe_dataset, make_report, markdown, write_report
from occdistill.evaluation.rows import (
    ClipBatch,
    Row,
    ceiling_row,
    copy_last_row,
    ego_warp_row,
    forecast_row,
)
from occdistill.evaluation.shared import ForRows, PastLatents
from occdistill.latents import codec as codec_module
from occdistill.latents.codec import Codec
from occdistill.runtime.forecaster import Forecaster


@pytest.fixture
def forecaster(clips):
    torch.manual_seed(0)
    vae = VAE(grid_shape=clips.grid.shape, channels=4, width=(8, 8), blocks=(0, 0), decoder_width=8)
    codec = Codec(vae, clips.grid, future=6)

    def towards_the_newest(x, t, condition):
        return condition.past[:, -1:] - x + 0 * t[0]

    return Forecaster(codec, towards_the_newest, nfe=2)


def perfect():
    return Row("oracle", lambda batch: batch.future, conditioning="truth")


def test_a_perfect_row_scores_100_everywhere(clips):
    (row,) = evaluate([perfect()], clips, progress=False)
    for key in ("IoU", "mIoU"):
        assert all(v == pytest.approx(100) for v in row[key].values())
    assert row["clips"] == row["clips_expected"] == len(clips)


def test_rows_carry_what_a_reader_must_know(clips, forecaster):
    rows = [
        forecast_row("teacher", forecaster, checkpoint="abc", vae="def", cache=None),
        copy_last_row(6),
        ego_warp_row(clips.grid, 6),
        ceiling_row(forecaster.codec),
    ]
    records = evaluate(rows, clips, repeats=2, common={"git_commit": "x"}, seed=4)
    first = records[0]
    assert (first["model"], first["nfe"], first["guidance"], first["conditioning"]) == (
        "teacher", 2, None, "gt",
    )  # fmt: skip
    assert (first["checkpoint"], first["vae"], first["dtype"], first["seed"]) == (
        "abc", "def", "float32", 4,
    )  # fmt: skip
    assert [r["tf32"] for r in records] == [False, None, None, None]
    assert first["git_commit"] == "x" and first["data"] == clips.fingerprint
    assert list(first["fps"]) == ["end_to_end", "generate_decode", "generate"]
    assert first["latency_ms"]["generate"].keys() == {"p50", "p90", "p99"}
    assert first["fps"]["generate"] > first["fps"]["end_to_end"] > 0
    assert [r["conditioning"] for r in records] == ["gt", "none", "gt", "truth"]
    assert records[1]["fps"] is records[1]["latency_ms"] is records[1]["checkpoint"] is None
    assert all(record.keys() == first.keys() for record in records)


def test_scores_do_not_depend_on_batches_or_company(clips, forecaster):
    def scores(**options):
        rows = options.pop("rows", [forecast_row("a", forecaster)])
        return evaluate(rows, clips, progress=False, **options)[0]["mIoU"]

    alone = scores(batch_size=1)
    assert scores(batch_size=5) == alone
    assert scores(rows=[forecast_row("a", forecaster, PastLatents()), copy_last_row(6)]) == alone
    few = PastLatents(keep=1)  # forgotten and encoded again
    assert scores(rows=[forecast_row("a", forecaster, few)], batch_size=3) == alone


def test_every_keyframe_is_encoded_once_for_all_clips_and_rows(clips, forecaster, monkeypatch):
    conditions, encoded = [], []
    condition, encode = forecaster.condition, forecaster.encode
    monkeypatch.setattr(forecaster, "condition", lambda *a: conditions.append(1) or condition(*a))
    monkeypatch.setattr(forecaster, "encode", lambda x: encoded.append(len(x)) or encode(x))
    past = PastLatents()
    rows = [forecast_row(name, forecaster, share=past) for name in "abc"]
    counted = count(rows, clips, batch_size=4, progress=False)
    assert len(clips) == 15 and len(conditions) == 4  # one a batch
    # of scenes of 14, 12 and 16 keyframes the last six are nobody's past
    assert encoded == [1] * (8 + 6 + 10)
    (plain,) = count([forecast_row("d", forecaster)], clips, batch_size=4, progress=False)
    for one in counted:
        np.testing.assert_array_equal(one.total("all"), plain.total("all"))


def test_keyframes_of_other_data_and_other_voxels_have_other_names(make_clips, forecaster):
    past, clips, others = PastLatents(), make_clips([12]), make_clips([12], seed=5)
    others.fingerprint = "a" + others.fingerprint[1:]
    row, plain = forecast_row("a", forecaster, past), forecast_row("b", forecaster)
    for dataset in (clips, others):
        one, other = count([row, plain], dataset, progress=False)
        np.testing.assert_array_equal(one.total("all"), other.total("all"))
    batch = ClipBatch.of(next(iter(DataLoader(ForRows(clips, ()), 2))), "cpu", 0)
    assert torch.equal(batch.frames[0, 1:], batch.frames[1, :-1])  # shown by both
    lidar = SimpleNamespace(frames=lambda _: [0] * 4, past=4, reader=SimpleNamespace())
    lidar.reader.labels = lambda _: (np.full(clips.grid.shape, 15, np.uint8),)
    from_labels = from_labels_row(row, lidar)
    walls = torch.full_like(batch.past, 15)
    expected = plain.predict(replace(batch, past=walls, shared={}))
    assert torch.equal(from_labels.predict(batch), expected)
    assert not torch.equal(row.predict(batch), expected)


def test_objects_are_carried_once_a_clip_where_clips_are_loaded(clips, forecaster, monkeypatch):
    calls, codec, plain = [], forecaster.codec, type(clips).__getitem__

    def turning(self, i):
        item = plain(self, i)
        item["poses"][self.past :, 1, 3] += 1.6  # to where the past doesn't lead
        return item

    monkeypatch.setattr(type(clips), "__getitem__", turning)
    carrying = Codec(codec.vae, clips.grid, future=6, align=(0,), carry=True)

    def towards_the_aligned(x, t, condition):
        return condition.aligned - x + 0 * t[0]

    own = Forecaster(carrying, towards_the_aligned)
    rows = [
        forecast_row("a", own, PastLatents()),
        forecast_row("b", own),
        ego_warp_row(clips.grid, 6, carry=True),
        ego_warp_row(clips.grid, 6, extrapolated=True, carry=True),
    ]
    before = [row.predict(ClipBatch.of(next(iter(DataLoader(clips, 2))), "cpu", 0)) for row in rows]

    def watched(voxels, *rest, **options):
        calls.append((len(voxels), os.getpid()))
        return carry_objects(voxels, *rest, **options)

    for module in (objects, baselines, codec_module):
        monkeypatch.setattr(module, "carry_objects", watched)
    count(rows, clips, batch_size=4, progress=False)
    assert [size for size, _ in calls] == [1] * 2 * len(clips)  # true poses, and extrapolated ones
    calls.clear()
    count(rows, clips, batch_size=4, workers=1, progress=False)
    assert not calls  # another process has done it
    item = next(iter(DataLoader(ForRows(clips, [one for r in rows for one in r.needs]), 2)))
    batch = ClipBatch.of(item, "cpu", 0)
    calls.clear()
    for row, expected in zip(rows, before):
        assert torch.equal(row.predict(batch), expected)
    assert not calls and (before[2] != before[3]).any()


def test_rows_run_without_tf32(clips):
    seen, convolutions = [], torch.backends.cudnn
    assert convolutions.allow_tf32  # as PyTorch starts
    row = Row("a", lambda batch: seen.append(convolutions.allow_tf32) or batch.future)
    count([row], clips, progress=False)
    assert not any(seen) and seen and convolutions.allow_tf32


def test_counts_are_rescored_from_disk_without_inference(clips, tmp_path):
    protocols = [PROTOCOLS["occdistill"], PROTOCOLS["come-visible"]]
    records = evaluate([copy_last_row(6)], clips, protocols=protocols, out=tmp_path, progress=False)
    counts, facts = Counts.load(tmp_path / "copy-last")
    assert facts["model"] == "copy-last" and facts["data"] == clips.fingerprint
    for record, protocol in zip(records, protocols):
        again = score_counts(counts, protocol)
        assert again == {k: record[k] for k in again}
    np.testing.assert_array_equal(counts.total("all")[:, 1], counts.totals["all"].counts.sum(-1))
    by_scene = counts.by_scene("all")
    assert list(by_scene) == [scene.name for scene in clips.scenes]
    np.testing.assert_array_equal(sum(by_scene.values()), counts.total("all"))


def test_unfinished_counts_and_missing_views_are_sentences(clips, tmp_path):
    with pytest.raises(UserError, match="no finished counts"):
        Counts.load(tmp_path)
    (counts,) = count([perfect()], clips, progress=False)
    with pytest.raises(UserError, match="blank-camera"):
        score_counts(counts, PROTOCOLS["come-visible"])


def test_a_preset_that_needs_masks_says_so(make_clips):
    with pytest.raises(UserError, match="masks"):
        evaluate([perfect()], make_clips([12], masks=False), protocols=[PROTOCOLS["come-visible"]])


def test_a_protocol_without_a_window_is_refused_before_inference(make_clips):
    def never(batch):
        pytest.fail("predicted for nothing")

    with pytest.raises(UserError, match=r"none of the 1 clips .* 'occworld'"):
        evaluate([Row("x", never)], make_clips([10]), protocols=[PROTOCOLS["occworld"]])


def test_two_rows_of_one_name_are_refused(clips):
    with pytest.raises(UserError, match="same name"):
        count([perfect(), perfect()], clips, progress=False)


def test_changed_voxels_are_those_that_the_newest_frame_got_wrong(clips):
    (counts,) = count([copy_last_row(6)], clips, views=("all", "changed"), progress=False)
    whole, changed = counts.totals["all"].counts, counts.totals["changed"].counts
    assert np.trace(changed.sum(0)) == 0  # copy-last is wrong on exactly these
    off_diagonal = ~np.eye(18, dtype=bool)
    np.testing.assert_array_equal(changed[:, off_diagonal], whole[:, off_diagonal])


def test_ego_warp_undoes_a_straight_drive(clips):
    item = clips[0]
    past, poses = item["past"][None], item["poses"][None]  # one voxel a frame, straight on
    warped = ego_warp(past, poses, 6, clips.grid)
    for f in range(6):
        shifted = torch.full_like(past[0, -1], 17)
        shifted[: -(f + 1)] = past[0, -1, f + 1 :]
        assert torch.equal(warped[0, f], shifted)
    assert torch.equal(ego_warp(past, poses[:, :4], 6, clips.grid, extrapolated=True), warped)
    assert torch.equal(copy_last(past)[0, 5], past[0, -1])


def test_extrapolated_rows_never_look_at_future_poses(clips):
    item = {k: v[None] if torch.is_tensor(v) else torch.tensor([v]) for k, v in clips[0].items()}
    blind = {**item, "poses": item["poses"].clone()}
    blind["poses"][:, clips.past :] = float("nan")
    for carry in (False, True):
        row = ego_warp_row(clips.grid, 6, extrapolated=True, carry=carry)
        seen, unseen = (row.predict(ClipBatch.of(x, "cpu", 0)) for x in (item, blind))
        assert row.conditioning == "none" and torch.equal(seen, unseen)


def test_the_report_is_json_without_nan_and_a_page(clips, tmp_path):
    records = evaluate(
        [perfect(), copy_last_row(6)],
        clips,
        protocols=[PROTOCOLS["occdistill"], PROTOCOLS["occworld"]],
        progress=False,
    )
    records[0]["per_class"]["car"]["0.5s"] = float("nan")
    report = make_report(records, describe_dataset(clips, "v1.0-test", "val"))
    paths = write_report(tmp_path, report)
    loaded = json.loads(paths[0].read_text(), parse_constant=lambda name: pytest.fail(name))
    assert {"dataset", "environment", "rows", "published"} <= loaded.keys()
    row = loaded["rows"][0]
    assert set(row["mIoU"]) == {f"{t / 2:.1f}s" for t in range(1, 7)} | {"avg@1,2,3s", "avg@all"}
    page = paths[1].read_text()
    assert page == markdown(loaded)
    assert "## Protocol `occworld`" in page and "100.00" in page
    ours, published = page.split("## Published elsewhere")
    rules = ours.split("## One forecast, every rule")[1].split("##")[0]
    assert [line.count("|") for line in rules.splitlines() if "|" in line] == [5] * 4
    assert "OccFM teacher" in published and "OccFM teacher" not in ours


def test_counts_are_kept_when_timing_fails(clips, forecaster, tmp_path, monkeypatch):
    def fails(*_):
        raise UserError("timing fails")

    monkeypatch.setattr("occdistill.evaluation.evaluate.side_by_side", fails)
    rows = [forecast_row("a", forecaster)]
    with pytest.raises(UserError, match="timing fails"):
        evaluate(rows, clips, repeats=1, out=tmp_path, progress=False)
    kept, facts = Counts.load(tmp_path / "a-2")
    assert len(kept.windows) == len(clips) and facts["latency_ms"] is None
