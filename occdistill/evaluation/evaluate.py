"""Run several rows over a data set in one pass, and score them under any protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from occdistill.data.clips import ClipDataset
from occdistill.errors import UserError
from occdistill.evaluation.counts import Counts, Window, slug
from occdistill.evaluation.measures.base import Observer, results
from occdistill.evaluation.measures.subsets import subset_scores
from occdistill.evaluation.metrics import score
from occdistill.evaluation.protocols import DEFAULT, Protocol
from occdistill.evaluation.report import FACTS
from occdistill.evaluation.rows import ClipBatch, Row
from occdistill.evaluation.shared import ForRows
from occdistill.evaluation.views import look, needs_masks
from occdistill.runtime.latency import side_by_side
from occdistill.runtime.machine import loaders, tf32

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
    progress: bool = True,
    observers: Sequence[Callable[[Row, ClipBatch, Tensor], None]] = (),
) -> list[Counts]:
    """Predict with every row on every clip, once, and count.

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
        progress: show a bar.
        observers: called with every row's prediction, for measures that aren't counts.

    Returns:
        Counts of each row, in the order of `rows`.
    """
    views = list(dict.fromkeys(views))
    indices = list(range(len(dataset)) if indices is None else indices)
    if not indices:
        raise UserError("no clip to score: the split is empty or its scenes are too short")
    if len({row.name for row in rows}) < len(rows):
        raise UserError("two rows have the same name; give one of them another")
    windows = windows_of(dataset)
    windows = [windows[i] for i in indices]
    results = [
        Counts(windows, dataset.future, views, None if out is None else out / slug(row.name))
        for row in rows
    ]
    clips = ForRows(dataset, [one for row in rows for one in row.needs])
    cuda = torch.device(device).type == "cuda"
    loader = DataLoader(
        Subset(clips, indices), batch_size, num_workers=loaders(device, workers), pin_memory=cuda
    )
    done = 0
    with tqdm(total=len(indices), unit="clip", disable=not progress) as bar:
        for item in loader:
            batch = ClipBatch.of(item, device, seed)
            clips = [batch.clip(b) for b in range(len(batch.index))]
            for row, counts in zip(rows, results):
                with tf32(False):  # but where a row's forecaster allows it itself
                    pred = row.predict(batch)
                for b, clip in enumerate(clips):
                    for view in views:
                        counts.update(done + b, view, *look(view, pred[b], clip))
                for observe in observers:
                    observe(row, batch, pred)
            done += len(clips)
            bar.update(len(clips))
    return results


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
        Rows of `report.json`, grouped by protocol.
    """
    views = views_for(protocols, views)
    if any(needs_masks(v) for v in views) and not dataset.masks:
        raise UserError("a chosen protocol needs visibility masks; load the data set with masks")
    windows, indices = windows_of(dataset), options.get("indices")
    for protocol in protocols:  # before hours of inference, not after
        windows_under(protocol, windows if indices is None else [windows[i] for i in indices])
    counted = count(rows, dataset, views=views, observers=measures, **options)
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
