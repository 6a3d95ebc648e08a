"""Run several rows over a data set in one pass, and score them under any protocol."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from torch.utils.data import DataLoader
from tqdm import tqdm

from occdistill.checkpoint import fingerprint
from occdistill.data.clips import ClipDataset
from occdistill.errors import UserError
from occdistill.evaluation.counts import Counts, Window, slug
from occdistill.evaluation.measures.base import Observer, results
from occdistill.evaluation.measures.subsets import subset_scores
from occdistill.evaluation.metrics import score
from occdistill.evaluation.protocols import DEFAULT, Protocol
from occdistill.evaluation.report import FACTS, plain
from occdistill.evaluation.rows import ClipBatch, Row
from occdistill.evaluation.shards import Shards, split
from occdistill.evaluation.shared import ForRows
from occdistill.evaluation.sums import Parts, above, below
from occdistill.evaluation.views import look, needs_masks
from occdistill.processes import alone
from occdistill.runtime.latency import side_by_side
from occdistill.runtime.machine import loaders, tf32

SHARDS = "shards"  # folder of what was counted in parts, until all is
UNTIMED = {"fps": None, "latency_ms": None}


def windows_of(dataset: ClipDataset) -> list[Window]:
    """Where each clip of the data set lies."""
    result = []
    for i, (scene_index, start) in enumerate(dataset.clips):
        scene = dataset.scenes[scene_index]
        newest = start + dataset.past - 1
        result.append(Window(dataset.clip_id(i), scene.name, newest, len(scene.keyframes)))
    return result


@torch.inference_mode()
def count(
    rows: Sequence[Row],
    dataset: ClipDataset,
    *,
    views: Iterable[str] = ("all",),
    indices: Sequence[int] | None = None,
    batch_size: int = 4,
    device: str = "cpu",
    seed: int = 0,
    workers: int | None = None,
    out: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    observers: Sequence[Observer] = (),
) -> list[Counts]:
    """Predict with every row on every clip, once, and count.

    Processes that belong together share the clips, if there is a folder where they can leave what
    they counted, see `shards`.

    Args:
        rows: what to score; names must differ.
        dataset: clips; made with `masks=True` if a view needs masks.
        views: voxel subsets to count.
        indices: clips to use; default all.
        batch_size: clips at a time.
        device: where rows run and grids are counted.
        seed: of the noise; each clip has its own stream.
        workers: loader processes; None: see `machine.loaders`.
        out: folder for one sub-folder of counts per row.
        resume: go on with what an interrupted run has counted there.
        progress: show a bar, in the first process.
        observers: shown every row's prediction, for measures that aren't counts.

    Returns:
        Counts of each row, in the order of `rows`; nothing in other processes than the first.
    """
    views = list(dict.fromkeys(views))
    indices = list(range(len(dataset)) if indices is None else indices)
    if not indices:
        raise UserError("no clip to score: the split is empty or its scenes are too short")
    if len({row.name for row in rows}) < len(rows):
        raise UserError("two rows have the same name; give one of them another")
    all_windows = windows_of(dataset)
    windows = [all_windows[i] for i in indices]
    plan = split(len(indices), batch_size)
    shared = [observer for observer in observers if observer.can_be_shared()]
    if (resume or not alone()) and out is not None and len(shared) < len(observers):
        (name, *_) = [observer.name for observer in observers if observer not in shared]
        raise UserError(
            f"the measure {name} can't be counted in parts, as it doesn't say what of it is summed:"
            " leave it out, or score in one process without --resume"
        )
    if out is None:
        shards = Shards(len(plan))
    else:
        about = {
            "rows": [_mark(row) for row in rows],
            "measures": [observer.name for observer in shared],
            "clips": [window.id for window in windows],
            **dict(views=views, batch_size=batch_size, seed=seed, data=dataset.fingerprint),
        }
        shards = Shards(len(plan), out / SHARDS, about, resume)
    results = []
    if shards.gathers:
        folders = [None if out is None else out / slug(row.name) for row in rows]
        results = [Counts(windows, dataset.future, views, folder) for folder in folders]
    todo = shards.todo()
    batches = [batch for number in todo for batch in plan[number]]
    places = [[indices[place] for place in batch] for batch in batches]
    loader = DataLoader(
        ForRows(dataset, [one for row in rows for one in row.needs]),
        batch_sampler=places,
        num_workers=loaders(device, workers),
        pin_memory=torch.device(device).type == "cuda",
    )
    items = iter(loader)
    bar = tqdm(total=sum(map(len, places)), unit="clip", disable=not progress or get_rank() > 0)
    for number in todo:
        first, clips = plan[number][0][0], sum(map(len, plan[number]))
        own = [Counts(windows[first : first + clips], dataset.future, views) for _ in rows]
        for places in plan[number]:
            batch = ClipBatch.of(next(items), device, seed)
            seen = [batch.clip(b) for b in range(len(places))]
            for row, counts in zip(rows, own):
                with tf32(False):  # but where a row's forecaster allows it itself
                    pred = row.predict(batch)
                for b, clip in enumerate(seen):
                    for view in views:
                        counts.update(places[b] - first, view, *look(view, pred[b], clip))
                for observe in observers:
                    observe(row, batch, pred)
            bar.update(len(places))
        left: Parts = {}
        for r, (row, counts) in enumerate(zip(rows, own)):
            left |= above(counts.parts(), f"{r}/counts")
            for observer in shared:
                left |= above(observer.take(row), f"{r}/{observer.name}")
        shards.keep(number, left)
    bar.close()
    shards.wait()
    for number, (places, *_) in enumerate(plan if results else ()):
        left = shards.take(number)
        for r, (row, counts) in enumerate(zip(rows, results)):
            counts.add_shard(places[0], below(left, f"{r}/counts"))
            for observer in shared:
                observer.give(row, below(left, f"{r}/{observer.name}"))
    return results


def forget(out: Path) -> None:
    """Remove what `count` was to go on from, when the counts are saved."""
    shutil.rmtree(out / SHARDS)


def _mark(row: Row) -> dict[str, Any]:
    """What a row's forecasts depend on, in words."""
    vae = None if row.forecaster is None else row.forecaster.codec.vae
    autoencoder = None if vae is None else fingerprint(vae.state_dict())
    given = dict(guidance=row.guidance, conditioning=row.conditioning, autoencoder=autoencoder)
    return plain({"name": row.name, **given, **row.facts})


def windows_under(protocol: Protocol, windows: Sequence[Window]) -> np.ndarray:
    """Which clips a protocol scores, `(N,)` bool.

    Raises:
        UserError: if it scores none of them.
    """
    chosen = np.array([w.newest in protocol.windows(w.length) for w in windows], bool)
    if not chosen.any():
        raise UserError(
            f"none of the {len(windows)} clips is a window of protocol {protocol.name!r} "
            f"({protocol.history} past and {protocol.future} future keyframes"
            f"{', the first of each scene' if protocol.first_only else ''}); take more clips or "
            "another protocol"
        )
    return chosen


def score_counts(counts: Counts, protocol: Protocol = DEFAULT) -> dict:
    """Scores of counted clips under a protocol: no inference needed.

    Returns:
        `metrics.score`'s entries, and `protocol`, `clips` (scored), `clips_expected` (windows of
        the protocol in the scenes seen) and `headline` (the average that the protocol's table
        shows).

    Raises:
        UserError: if none of the protocol's windows was counted.
    """
    chosen = windows_under(protocol, counts.windows)
    lengths = {w.scene: w.length for w in counts.windows}
    result = score(counts.total(protocol.view, chosen), protocol.rules)
    return {
        **result,
        "protocol": protocol.name,
        "clips": int(chosen.sum()),
        "clips_expected": protocol.count(lengths.values()),
        "headline": {
            "average": protocol.average,
            "IoU": result["IoU"][protocol.average],
            "mIoU": result["mIoU"][protocol.average],
        },
    }


def views_for(protocols: Iterable[Protocol], extra: Iterable[str] = ()) -> list[str]:
    """The views to count so that all these protocols can be scored."""
    return list(dict.fromkeys(["all", *(p.view for p in protocols), *extra]))


def row_record(row: Row, scores: dict, common: dict[str, Any]) -> dict:
    """One row of `report.json`, its facts all named; what the row knows wins over `common`."""
    identity = {
        "model": row.model,
        "nfe": row.nfe,
        "guidance": row.guidance,
        "conditioning": row.conditioning,
    }
    return {**identity, **scores, **dict.fromkeys(FACTS), **common, **row.facts}


def evaluate(
    rows: Sequence[Row],
    dataset: ClipDataset,
    *,
    protocols: Sequence[Protocol] = (DEFAULT,),
    repeats: int = 0,
    common: dict[str, Any] | None = None,
    views: Iterable[str] = (),
    measures: Sequence[Observer] = (),
    **options: Any,
) -> list[dict]:
    """Score rows under protocols with one inference pass.

    Args:
        rows: what to score.
        dataset: clips with their truth.
        protocols: presets.
        repeats: timed forecasts per row, side by side, for `fps` and `latency_ms`; 0: none, and
            they are None.
        common: facts stated in every row (data fingerprint, git commit, …).
        views: voxel subsets to count besides those the protocols need.
        measures: further measures; each row's are under its `measures`.
        **options: of `count`.

    Returns:
        Rows of `report.json`, grouped by protocol; none in other processes than the first.
    """
    views = views_for(protocols, views)
    if any(needs_masks(v) for v in views) and not dataset.masks:
        raise UserError("a chosen protocol needs visibility masks; load the data set with masks")
    windows, indices = windows_of(dataset), options.get("indices")
    for protocol in protocols:  # before hours of inference, not after
        windows_under(protocol, windows if indices is None else [windows[i] for i in indices])
    counted = count(rows, dataset, views=views, observers=measures, **options)
    if not counted:  # the first process has them all
        return []
    common = {"seed": options.get("seed", 0), "data": dataset.fingerprint, **(common or {})}
    measured = [
        {**subset_scores(counts), **results(measures, row)} for row, counts in zip(rows, counted)
    ]

    def facts_with(speeds: Iterable[dict]) -> list[dict]:
        """Of every row, saved with its counts."""
        facts = [{**common, **speed, "measures": found} for speed, found in zip(speeds, measured)]
        if options.get("out") is not None:
            for fact, row, counts in zip(facts, rows, counted):
                counts.save(row_record(row, {}, fact))
        return facts

    facts = facts_with([UNTIMED] * len(rows))  # hours of inference come before what may yet fail
    if repeats > 0:
        facts = facts_with(_timing(rows, dataset, repeats))
    if options.get("out") is not None:
        forget(options["out"])
    return [
        row_record(row, score_counts(counts, protocol), fact)
        for protocol in protocols
        for row, counts, fact in zip(rows, counted, facts)
    ]


def _timing(rows: Sequence[Row], dataset: ClipDataset, repeats: int) -> list[dict]:
    """`fps` and `latency_ms` on the first clip, None for rows without a forecaster."""
    forecasters = {row.name: row.forecaster for row in rows if row.forecaster is not None}
    measured = {}
    if forecasters:
        item = dataset[0]
        clip = (item[name][None] for name in ("past", "poses", "trajectory"))
        measured = side_by_side(forecasters, *clip, repeats)
    return [_speed(measured[row.name]) if row.name in measured else UNTIMED for row in rows]


def _speed(scopes: dict[str, dict[str, float]]) -> dict:
    return {
        "fps": {scope: values["clips_per_s"] for scope, values in scopes.items()},
        "latency_ms": {
            scope: {q: values[f"{q}_ms"] for q in ("p50", "p90", "p99")}
            for scope, values in scopes.items()
        },
    }
