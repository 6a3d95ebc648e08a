"""Train and score the runs of a table; finished ones are left alone, others are continued."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from occdistill import checkpoint as checkpoints
from occdistill.build.builders import (
    build_aligner,
    build_codec,
    build_dataset,
    build_method,
    build_teacher,
    build_vae,
)
from occdistill.build.config import load_config
from occdistill.build.lineup import lineup
from occdistill.build.models import Models
from occdistill.build.scoring import ROWS, build_measures, build_rows
from occdistill.distill.base import take_step
from occdistill.errors import Diverged, UserError
from occdistill.evaluation.counts import slug
from occdistill.evaluation.evaluate import count, forget, score_counts
from occdistill.evaluation.measures.base import results
from occdistill.evaluation.report import plain
from occdistill.evaluation.rows import Row, forecast_row
from occdistill.evaluation.shared import PastLatents
from occdistill.flow.path import Draws
from occdistill.runtime.latency import peak_mb, reset_peak
from occdistill.runtime.machine import device_name
from occdistill.store import read_json, write_json, write_text
from occdistill.studies.table1.plan import Plan, options_on
from occdistill.training.job import Job
from occdistill.training.teacher import latent_batch
from occdistill.training.train import train
from occdistill.training.updates import Updater, memory
from occdistill.training.validation import evenly

TEACHER_STEPS = (10, 2, 1)
REFERENCES = [name for name in ROWS if name != "student"]


def finished(folder: Path, signature: str | None = None) -> dict | None:
    """The record of a finished run, or None; with a signature, of one that has it."""
    try:
        record = read_json(folder / "run.json")
    except UserError:
        return None
    return record if signature in (None, record["signature"]) else None


def scored_in(folder: Path, test: str) -> Path:
    """Where a run, or the references, keep what was scored on the table's clips ("") or another
    of `Plan.also`.
    """
    return folder / "also" / slug(test) if test else folder


def finished_runs(
    plan: Plan, budget: str, key: str, test: str = ""
) -> dict[int, tuple[Path, dict]]:
    """Runs of a row that were scored on a test set, by seed: the folder of its counts, and the
    record with its scores; the reference's serve both budgets.
    """
    found = {}
    for seed in plan.seeds_of(key):
        folder = plan.folder("updates" if key == plan.reference else budget, key, seed)
        record, scored = finished(folder), finished(scored_in(folder, test))
        if record and scored and "diverged" not in record:
            found[seed] = scored_in(folder, test), {**record, **scored}
    return found


def diverged(plan: Plan, key: str) -> dict[int, str]:
    """How a row's runs with equal updates diverged, by seed; empty where one of them was scored."""
    found = {s: finished(plan.folder("updates", key, s)) for s in plan.seeds_of(key)}
    runs = {seed: run for seed, run in found.items() if run}
    causes = {seed: run["diverged"] for seed, run in runs.items() if "diverged" in run}
    return causes if len(causes) == len(runs) else {}


def updates_of(plan: Plan, budget: str, key: str) -> int:
    """Student updates that a row may take under a budget.

    For equal evaluations, as many as the reference row spends in `plan.updates` updates allow;
    what an update of either costs was counted in the finished runs of the first table.

    Raises:
        UserError: if one of the two has no such run yet.
    """
    if budget == "updates" or key == plan.reference:
        return plan.updates
    cost = {}
    for name in (key, plan.reference):
        runs = [record for _, record in finished_runs(plan, "updates", name).values()]
        if not runs:
            raise UserError(
                f"how many evaluations an update of {name} costs isn't known: finish one of its "
                "runs under the budget 'updates' first"
            )
        cost[name] = np.mean([run["evaluations"] / run["updates"] for run in runs])
    return max(1, round(plan.updates * cost[plan.reference] / cost[key]))


def inputs(plan: Plan, test: str = "") -> dict[str, str]:
    """Fingerprints of what every run of a table is made from: networks and clips.

    Args:
        plan: the table.
        test: whose clips are scored: the table's (""), or those of another of `Plan.also`.
    """
    options = plan.run_options(plan.reference, plan.updates)
    config, other = (load_config(plan.base, {**options, **options_on(t)}) for t in ("", test))
    weights = {
        "vae": checkpoints.fingerprint(build_vae(config).state_dict()),
        "teacher": checkpoints.fingerprint(build_teacher(config).state_dict()),
    }
    clips = {"train": build_dataset(config, "train"), "val": build_dataset(other, "val")}
    return weights | {split: clip.fingerprint[:12] for split, clip in clips.items()}


def signature(
    plan: Plan, made_of: Mapping[str, str], key: str = "", updates: int = 0, seed: int = 0
) -> str:
    """Of all that the result of a run, or without a row of the references, depends on.

    Args:
        plan: the table.
        made_of: its `inputs`.
        key: the row.
        updates: of the student.
        seed: of the training.
    """
    config = load_config(
        plan.base, plan.run_options(key or plan.reference, updates or plan.updates)
    )
    config = config.to_dict()
    used = ["data", "vae", "network", "conditioning", "guidance", "sampler"]
    used += ["method", "train_distill"] if key else []
    content = [{name: config.get(name) for name in used}, dict(made_of), plan.clips, seed]
    content.append(plan.samples)
    content += [tuple(plan.steps)] if key and tuple(plan.steps) != (1,) else []
    return hashlib.sha256(repr(content).encode()).hexdigest()[:12]


def run_one(plan: Plan, budget: str, key: str, seed: int, device: str) -> dict:
    """Train and score one run, or go on with it; returns its record.

    Raises:
        UserError: if its folder holds a run with other settings, networks or clips.
    """
    record = _trained(plan, budget, key, seed, device)
    if "diverged" not in record:
        folder, updates = plan.folder(budget, key, seed), updates_of(plan, budget, key)
        for test in plan.also:
            mark = signature(plan, inputs(plan, test), key, updates, seed)
            if not finished(scored_in(folder, test), mark):
                options = plan.run_options(key, updates)
                found = _students(plan, options, folder, device, test)
                about = {"made_of": inputs(plan, test), "signature": mark}
                write_json(scored_in(folder, test) / "run.json", {**about, **found})
    return record


def complete(folder: Path, marks: Mapping[str, str]) -> bool:
    """Whether a run is trained and scored, by the signatures of each of its test sets."""
    record = finished(folder, marks[""])
    scored = all(finished(scored_in(folder, test), mark) for test, mark in marks.items())
    return record is not None and ("diverged" in record or scored)


def _trained(plan: Plan, budget: str, key: str, seed: int, device: str) -> dict:
    """The record of a run, trained and scored on the table's clips."""
    folder, updates = plan.folder(budget, key, seed), updates_of(plan, budget, key)
    options, made_of = plan.run_options(key, updates), inputs(plan)
    mark = signature(plan, made_of, key, updates, seed)
    if record := finished(folder, mark):
        return record
    _claim(folder, mark)

    config = load_config(plan.base, options)
    about = {"row": key, "budget": budget, "seed": seed, "updates": updates, "made_of": made_of}
    try:
        train(config, "distill", work_dir=folder, resume=True, device=device, seed=seed)
    except Diverged as error:  # a result like any other, but for its scores
        record = {**about, "diverged": str(error), "signature": mark}
        write_json(folder / "run.json", record)
        return record
    state = checkpoints.load(folder / "student.pth", kind="distill")
    record = {
        **about,
        "evaluations": state["meta"]["nfe"],
        "passes": state["meta"]["passes"],
        "settings": dict(config.train_distill),
        "cost": cost(plan, key, made_of, device),
        **_students(plan, options, folder, device),
        "trained_for": state["meta"].get("steps", 1),
        "signature": mark,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }
    write_json(folder / "run.json", record)
    return record


def cost(plan: Plan, key: str, made_of: Mapping[str, str], device: str, repeats: int = 3) -> dict:
    """What a student update with its auxiliary updates costs, timed once per row.

    Methods may cost less later on: the updates timed are spread over the run.

    Returns:
        `seconds`, `peak_mb` (a GPU's tensors; on a CPU the whole process), `memory` (see there),
        `device`, `threads`.
    """
    path = plan.folder("updates", key, 0).parent / "cost.json"
    mark = signature(plan, made_of, key, plan.updates)
    if path.is_file() and (timed := read_json(path)).get("signature") == mark:
        return timed
    config = load_config(plan.base, plan.run_options(key, plan.updates))
    job = Job(config, "distill", device, seed=0)
    vae, vae_fingerprint = job.frozen_vae()
    clips = job.latents(build_codec(config, vae, build_aligner(config, vae)), vae_fingerprint)
    task = build_method(config, (config.data.future, *vae.latent_shape)).to(device)
    updaters = {name: Updater(net, job.settings.rate(name)) for name, net in task.nets.items()}
    seeds = range(job.settings.batch_size)
    items = default_collate([clips[i % len(clips)] for i in seeds])
    items = {name: value.to(device) for name, value in items.items()}
    batches = iter(lambda: latent_batch(items, Draws(seeds, device)), None)
    spread = [(2 * part + 1) * plan.updates // (2 * repeats) for part in range(repeats)]
    for number, step in enumerate([0, *spread]):
        if number == 1:  # the first one warms up
            reset_peak(job.device)
            start = time.perf_counter()
        take_step(task, batches, updaters, step)
        if job.device.type == "cuda":
            torch.cuda.synchronize(job.device)
    result = {
        "seconds": (time.perf_counter() - start) / repeats,
        "peak_mb": peak_mb(job.device),
        "memory": memory(task, updaters),
        "device": device_name(job.device),
        "threads": torch.get_num_threads(),
        "signature": mark,
    }
    write_json(path, result)
    return result


def _claim(folder: Path, mark: str) -> None:
    note = folder / "signature.txt"
    if note.is_file() and note.read_text(encoding="utf-8").strip() != mark:
        raise UserError(
            f"{folder} holds a run with other settings, networks or clips: move it away, or choose "
            "another --out"
        )
    write_text(note, mark + "\n")


def _students(
    plan: Plan, options: Mapping[str, Any], folder: Path, device: str, test: str = ""
) -> dict[str, Any]:
    """The scores of a run's student on a test set, with every number of evaluations."""
    config = load_config(plan.base, {**options, **options_on(test)})
    models, nfe = Models(config), sorted({1, *plan.steps})
    students = lineup(models, folder / "student.pth", (), nfe, device=device)
    past = PastLatents()
    rows = [forecast_row("student", entry.forecaster, past) for entry in students]
    scores = _score(plan, models, rows, scored_in(folder, test), device)
    return {"scores": scores[0], "by_steps": dict(zip(map(str, nfe), scores))}


def _score(plan: Plan, models: Models, rows: Sequence[Row], folder: Path, device: str) -> list:
    """Score rows on validation clips and keep their counts in `folder/counts/`."""
    dataset = build_dataset(models.config, "val")
    chosen = evenly(len(dataset), plan.clips) if plan.clips else None
    observers = build_measures(
        ["latent"], models, dataset, rows, samples=plan.samples, device=device
    )
    counted = count(
        rows, dataset, indices=chosen, device=device, out=folder / "counts", progress=False,
        observers=observers,
    )  # fmt: skip
    found = []
    for row, counts in zip(rows, counted):
        scores = score_counts(counts)
        found.append({name: scores[name] for name in ("mIoU", "IoU", "absent", "clips")})
        counts.save({"model": row.model, "nfe": row.nfe, **found[-1]})
        found[-1]["measures"] = plain(results(observers, row))
    forget(folder / "counts")
    return found


def prepare(plan: Plan, device: str, score: bool = True) -> None:
    """Build the latent cache, and score the teacher and the baselines on every test set, once.

    Args:
        plan: the table.
        device: where the networks run.
        score: False: the cache alone.
    """
    options = plan.run_options(plan.reference, plan.updates)
    job = Job(load_config(plan.base, options), "distill", device, seed=0)
    vae, vae_fingerprint = job.frozen_vae()
    job.latents(build_codec(job.config, vae, build_aligner(job.config, vae)), vae_fingerprint)
    for test in ("", *plan.also) if score else ():
        folder = scored_in(Path(plan.work_dir) / "references", test)
        made_of = inputs(plan, test)
        mark = signature(plan, made_of)
        if finished(folder, mark):
            continue
        models = Models(load_config(plan.base, {**options, **options_on(test)}))
        dataset = build_dataset(models.config, "val")
        rows = build_rows(REFERENCES, models, dataset, teacher_nfe=TEACHER_STEPS, device=device)
        scores = _score(plan, models, rows, folder, device)
        scored = {row.name: score for row, score in zip(rows, scores)}
        write_json(folder / "run.json", {"signature": mark, "made_of": made_of, "rows": scored})
