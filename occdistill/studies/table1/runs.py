"""Train and score the runs of a table; finished ones are left alone, others are continued."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from torch.utils.data import default_collate

from occdistill import checkpoint as checkpoints
from occdistill.build.builders import (
    build_codec,
    build_dataset,
    build_grid,
    build_method,
    build_teacher,
    build_vae,
)
from occdistill.build.config import load_config
from occdistill.build.lineup import lineup
from occdistill.build.models import Models
from occdistill.distill.base import take_step
from occdistill.errors import Diverged, UserError
from occdistill.evaluation.evaluate import count, score_counts
from occdistill.evaluation.rows import (
    Row,
    ceiling_row,
    copy_last_row,
    ego_warp_row,
    forecast_row,
)
from occdistill.evaluation.shared import PastLatents
from occdistill.flow.path import Draws
from occdistill.runtime.latency import peak_mb, reset_peak
from occdistill.runtime.machine import device_name
from occdistill.store import read_json, write_json, write_text
from occdistill.studies.table1.plan import Plan
from occdistill.training.job import Job
from occdistill.training.teacher import latent_batch
from occdistill.training.train import train
from occdistill.training.updates import Updater
from occdistill.training.validation import evenly

TEACHER_STEPS = (10, 5, 2, 1)


def finished(folder: Path, signature: str | None = None) -> dict | None:
    """The record of a finished run, or None; with a signature, of one that has it."""
    try:
        record = read_json(folder / "run.json")
    except UserError:
        return None
    return record if signature in (None, record["signature"]) else None


def diverged(plan: Plan, key: str) -> dict[int, str]:
    """How a row's runs with equal updates diverged, by seed; empty where one of them was scored."""
    found = {seed: finished(plan.folder("updates", key, seed)) for seed in plan.seeds}
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
        runs = [finished(plan.folder("updates", name, seed)) for seed in plan.seeds]
        runs = [run for run in runs if run and "diverged" not in run]
        if not runs:
            raise UserError(
                f"how many evaluations an update of {name} costs isn't known: finish one of its "
                "runs under the budget 'updates' first"
            )
        cost[name] = np.mean([run["evaluations"] / run["updates"] for run in runs])
    return max(1, round(plan.updates * cost[plan.reference] / cost[key]))


def inputs(plan: Plan) -> dict[str, str]:
    """Fingerprints of what every run of a table is made from: networks and clips."""
    config = load_config(plan.base, plan.run_options(plan.reference, plan.updates))
    weights = {
        "vae": checkpoints.fingerprint(build_vae(config).state_dict()),
        "teacher": checkpoints.fingerprint(build_teacher(config).state_dict()),
    }
    clips = {split: build_dataset(config, split).fingerprint[:12] for split in ("train", "val")}
    return weights | clips


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
    content += [tuple(plan.steps)] if key and tuple(plan.steps) != (1,) else []
    return hashlib.sha256(repr(content).encode()).hexdigest()[:12]


def run_one(plan: Plan, budget: str, key: str, seed: int, device: str) -> dict:
    """Train and score one run, or go on with it; returns its record.

    Raises:
        UserError: if its folder holds a run with other settings, networks or clips.
    """
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
    students = lineup(
        Models(config), folder / "student.pth", (), sorted({1, *plan.steps}), device=device
    )
    past = PastLatents()
    rows = [forecast_row("student", entry.forecaster, past) for entry in students]
    scores = _score(plan, config, rows, folder, device)
    record = {
        **about,
        "evaluations": state["meta"]["nfe"],
        "settings": dict(config.train_distill),
        "cost": cost(plan, key, made_of, device),
        "scores": scores[0],
        "by_steps": {str(row.nfe): score for row, score in zip(rows, scores)},
        "trained_for": state["meta"].get("steps", 1),
        "signature": mark,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }
    write_json(folder / "run.json", record)
    return record


def cost(plan: Plan, key: str, made_of: Mapping[str, str], device: str, repeats: int = 2) -> dict:
    """What a student update with its auxiliary updates costs, timed once per row.

    Returns:
        `seconds`, `peak_mb` (a GPU's tensors; on a CPU the whole process), `device`, `threads`.
    """
    path = plan.folder("updates", key, 0).parent / "cost.json"
    mark = signature(plan, made_of, key, plan.updates)
    if path.is_file() and (timed := read_json(path)).get("signature") == mark:
        return timed
    config = load_config(plan.base, plan.run_options(key, plan.updates))
    job = Job(config, "distill", device, seed=0)
    vae, vae_fingerprint = job.frozen_vae()
    clips = job.latents(build_codec(config, vae), vae_fingerprint)
    task = build_method(config, (config.data.future, *vae.latent_shape)).to(device)
    updaters = {name: Updater(net, job.settings.rate(name)) for name, net in task.nets.items()}
    seeds = range(job.settings.batch_size)
    items = default_collate([clips[i % len(clips)] for i in seeds])
    items = {name: value.to(device) for name, value in items.items()}
    batches = iter(lambda: latent_batch(items, Draws(seeds, device)), None)
    for step in range(1 + repeats):
        if step == 1:  # the first one warms up
            reset_peak(job.device)
            start = time.perf_counter()
        take_step(task, batches, updaters, step)
        if job.device.type == "cuda":
            torch.cuda.synchronize(job.device)
    result = {
        "seconds": (time.perf_counter() - start) / repeats,
        "peak_mb": peak_mb(job.device),
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


def _score(plan: Plan, config: Config, rows: list[Row], folder: Path, device: str) -> list[dict]:
    """Score rows on validation clips and keep their counts in `folder/counts/`."""
    dataset = build_dataset(config, "val")
    chosen = evenly(len(dataset), plan.clips) if plan.clips else None
    out = folder / "counts"
    counted = count(rows, dataset, indices=chosen, device=device, out=out, progress=False)
    results = []
    for row, counts in zip(rows, counted):
        scores = score_counts(counts)
        results.append({name: scores[name] for name in ("mIoU", "IoU", "absent", "clips")})
        counts.save({"model": row.model, "nfe": row.nfe, **results[-1]})
    return results


def prepare(plan: Plan, device: str) -> dict:
    """Build the latent cache, and score the teacher and the baselines, once."""
    folder = Path(plan.work_dir) / "references"
    options = plan.run_options(plan.reference, plan.updates)
    config = load_config(plan.base, options)
    made_of = inputs(plan)
    mark = signature(plan, made_of)
    if record := finished(folder, mark):
        return record
    job = Job(config, "distill", device, seed=0)
    vae, vae_fingerprint = job.frozen_vae()
    codec = build_codec(config, vae)
    job.latents(codec, vae_fingerprint)

    teachers = lineup(Models(config), None, TEACHER_STEPS, device=device)
    past = PastLatents()
    rows = [forecast_row("teacher", entry.forecaster, past) for entry in teachers]
    rows.append(copy_last_row(config.data.future))
    if config.conditioning.kind == "gt":
        grid = build_grid(config)
        rows += (ego_warp_row(grid, config.data.future, carry=carry) for carry in (False, True))
    rows.append(ceiling_row(codec))
    scores = _score(plan, config, rows, folder, device)
    scored = {row.name: score for row, score in zip(rows, scores)}
    record = {"signature": mark, "made_of": made_of, "rows": scored}
    write_json(folder / "run.json", record)
    return record
