"""Table 1 on plans: methods told apart where the future is really open.

The ego's next six steps given its last three: it may turn left or right, go straight, or brake. An
average of these is a plan that nobody drives, and that is what one step of a teacher gives. Trained
on drives of the embedded world (`world.simulate.drives`), scored on towns that nothing was trained
on. Every method starts from the same teacher; nothing of a method but its ratio is changed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor, nn

from occdistill.build.settings import TeacherSettings
from occdistill.data.plans import constant_turn, constant_velocity, places, steps_along, windows
from occdistill.distill import methods
from occdistill.distill.base import Batch, DistributionMatching, Method, frozen
from occdistill.evaluation.compare import margin
from occdistill.evaluation.measures.plans import (
    energy_distance,
    miscalibration,
    mode_shares,
    modes_kept,
    plan_scores,
    rank,
)
from occdistill.flow.networks.plan import PlanField, motion
from occdistill.flow.solver import sample
from occdistill.seeds import number, torch_generator
from occdistill.studies.result import Result, canvas
from occdistill.studies.toy import SharedDraws, fit
from occdistill.training.teacher import FlowMatching
from occdistill.world.motion import read_folder
from occdistill.world.simulate import drives

PAST, FUTURE = 3, 6  # steps
SAMPLES = 16
SHAPE = (FUTURE, 3, 1, 1)
SCORES = ("minADE", "minFDE", "missed", "energy")
# what numbers are drawn for
TEACHER, STUDENT, SCORING, RANKS, SHOWN = range(10, 15)
LEARNING_RATES = {"student": 3e-4, "auxiliary": 1e-3, "discriminator": 1e-3}
UNFIT = ("XPrediction",)  # it needs a decoder of voxels


@dataclass
class Plans:
    """Windows of drives: past steps `(N, 3, 3)`, plans `(N, 6, 3)`, and the town `(N,)` of each."""

    past: Tensor
    plan: Tensor
    town: Tensor

    @property
    def true(self) -> Tensor:
        """Where the plans lead, `(N, 6, 3)`."""
        return places(self.plan)

    @staticmethod
    def of_world(split: str, towns: int, seed: int = 0, stride: int = 1) -> Plans:
        """Windows of everybody's drives about the first `towns` towns of a split."""
        parts = [
            (n, *windows(steps_along(track), PAST, FUTURE, stride))
            for n in range(towns)
            for track in drives(seed, split, n)
        ]
        town = torch.cat([torch.full((len(past),), n) for n, past, _ in parts])
        return Plans(torch.cat([p[1] for p in parts]), torch.cat([p[2] for p in parts]), town)

    @staticmethod
    def recorded(folder: str | Path) -> Plans:
        """Windows of the ego's drives in recorded scenes, see `world.motion.read_folder`."""
        scenes = read_folder(folder)
        parts = [windows(steps_along(s.keyframes().ego), PAST, FUTURE) for s in scenes]
        town = torch.cat([torch.full((len(past),), n) for n, (past, _) in enumerate(parts)])
        return Plans(torch.cat([p for p, _ in parts]), torch.cat([p for _, p in parts]), town)

    def batch(self, field: PlanField, count: int, generator: torch.Generator) -> Batch:
        """`count` random windows as a flow or method takes them."""
        which = torch.randint(len(self.past), (count,), generator=generator)
        past = self.past[which]
        x_1 = field.scaled(self.plan[which], past)
        return Batch(motion(past), SharedDraws(count, generator), x_1)

    def some(self, count: int) -> Plans:
        """`count` windows, spread evenly, or all where there are no more."""
        which = torch.linspace(0, len(self.past) - 1, min(count, len(self.past))).round().long()
        return Plans(self.past[which], self.plan[which], self.town[which])


def train_teacher(data: Plans, steps: int, seed: int = 0) -> PlanField:
    """The flow of plans given past steps, frozen."""
    torch.manual_seed(number(seed))
    field = PlanField(FUTURE, PAST)
    field.fit_scales(data.past, data.plan)
    settings = TeacherSettings(iterations=steps, batch_size=256, condition_dropout=0.0)
    draw = lambda count, generator: data.batch(field, count, generator)
    task = FlowMatching(field, settings)
    return frozen(fit(task, steps, 256, 1e-3, seed, TEACHER, points=draw).nets["teacher"])


def make_method(name: str, teacher: PlanField) -> Method:
    """A method around an unguided teacher; an auxiliary of ten updates gets five (Table 1)."""
    kind = methods()[name]
    options: dict[str, Any] = {}
    if issubclass(kind, DistributionMatching) and kind(teacher, SHAPE).ratio == 10:
        options["ratio"] = 5
    return kind(teacher, SHAPE, guidance=1.0, **options)


def distil(method: Method, data: Plans, field: PlanField, steps: int, seed: int) -> nn.Module:
    """The method's student after `steps` updates, frozen."""
    draw = lambda count, generator: data.batch(field, count, generator)
    rates = {name: LEARNING_RATES.get(name, 1e-3) for name in method.nets}
    fit(method, steps, 128, rates, seed, STUDENT, points=draw)
    return frozen(method.nets["student"])


@torch.no_grad()
def futures(field: nn.Module, data: Plans, steps: int, seed: int = 0, use: int = SCORING) -> Tensor:
    """Where K sampled plans of each window lead, `(N, K, 6, 3)`."""
    past = data.past.repeat_interleave(SAMPLES, 0)
    noise = torch.randn(len(past), *SHAPE, generator=torch_generator(seed, use))
    x = sample(field, noise, motion(past), steps)
    return places(field.plans(x, past)).unflatten(0, (-1, SAMPLES))


def judge(found: Tensor, data: Plans, reference: Tensor) -> dict[str, Any]:
    """Scores of sampled places `(N, K, 6, 3)`: means, and of each town those that are means.

    Args:
        found: what is judged.
        data: the truth.
        reference: the teacher's places, from other noise.
    """
    last = data.past[:, -1, :2].norm(dim=-1)
    scores = plan_scores(found, data.true)
    scores["distance"] = energy_distance(found, reference)
    towns = data.town.unique()
    by_town = {
        key: [float(value[data.town == t].mean()) for t in towns] for key, value in scores.items()
    }
    u = torch.rand(len(last), generator=torch_generator(0, RANKS))
    along = rank(found[:, :, -1, 0], data.true[:, -1, 0], u)
    shares = [mode_shares(plans, last) for plans in (found, reference)]
    return {
        "by_town": by_town,
        "kept": modes_kept(*shares),
        "miscalibration": miscalibration(along),
    }


def interval(by_seed_and_town: np.ndarray) -> tuple[float, float]:
    """Mean of `(seeds, towns)` numbers and half its 95 % interval over both.

    Each axis gives a jackknife margin (`evaluation.compare.margin`; for a mean, Student's t), and
    as they are drawn apart, their squares add up.
    """
    values = np.asarray(by_seed_and_town, float)
    half = 0.0
    for axis in (0, 1):
        mean = values.mean(1 - axis)
        if len(mean) > 1:
            half += margin((mean.sum() - mean) / (len(mean) - 1)) ** 2
    return float(values.mean()), half**0.5


def run(
    names: list[str], train: Plans, test: Plans, teacher: PlanField, steps: int, seeds: int
) -> dict[str, Any]:
    """Every row's scores: the rules, the teacher at 10, 2 and 1 steps, and each method's student."""
    reference = futures(teacher, test, 10, use=SHOWN)
    rows: dict[str, Any] = {}
    for name, plan in (("constant velocity", constant_velocity), ("constant turn", constant_turn)):
        found = places(plan(test.past, FUTURE))[:, None]
        rows[name] = {"runs": [judge(found, test, reference)]}
    for nfe in (10, 2, 1):
        found = [
            judge(futures(teacher, test, nfe, s), test, reference) for s in range(min(seeds, 3))
        ]
        rows[f"teacher@{nfe}"] = {"runs": found}
    for name in names:
        start, runs, spent = time.process_time(), [], 0
        for seed in range(seeds):
            torch.manual_seed(number(seed, STUDENT))
            method = make_method(name, teacher)
            method.evaluations = 0
            student = distil(method, train, teacher, steps, seed)
            spent += method.evaluations
            runs.append(judge(futures(student, test, 1, seed), test, reference))
        rows[name] = {
            "runs": runs,
            "evaluations_per_update": spent / seeds / steps / 128,
            "seconds": (time.process_time() - start) / seeds,
        }
    return rows


def summary(rows: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Mean and half-width of every score of each row, and of MFD minus the row for the energy."""
    table: dict[str, dict[str, Any]] = {}
    values = {
        name: {k: np.array([r["by_town"][k] for r in row["runs"]]) for k in (*SCORES, "distance")}
        for name, row in rows.items()
    }
    for name, row in rows.items():
        table[name] = {key: interval(v) for key, v in values[name].items()}
        for key in ("kept", "miscalibration"):
            runs = np.array([r[key] for r in row["runs"]])
            half = 0.0
            if len(runs) > 1:
                t = stdtrit(len(runs) - 1, 0.975)
                half = float(t * runs.std(ddof=1) / len(runs) ** 0.5)
            table[name][key] = (float(runs.mean()), half)
        same = "MFD" in rows and len(row["runs"]) == len(rows["MFD"]["runs"])
        if same and name != "MFD":
            table[name]["MFD minus this"] = interval(
                values["MFD"]["energy"] - values[name]["energy"]
            )
    return table


def study(quick: bool = False, seed: int = 0, real: str | Path | None = None) -> Result:
    """Every method from one teacher.

    Args:
        quick: seconds instead of an hour or so on one free core.
        seed: of towns, teacher and students.
        real: folder of recorded scenes that are scored on instead of other towns.

    Raises:
        UserError: there are no recorded scenes.
    """
    names = ["MFD", "Regression"] if quick else [n for n in methods() if n not in UNFIT]
    towns, checks, steps, updates, seeds = (1, 1, 20, 2, 2) if quick else (40, 12, 6000, 1000, 10)
    train = Plans.of_world("train", towns, seed)
    test = Plans.of_world("val", checks, seed, stride=5) if real is None else Plans.recorded(real)
    test = test.some(50 if quick else 1000)
    checks = len(test.town.unique())
    teacher = train_teacher(train, steps, seed)
    rows = run(names, train, test, teacher, updates, seeds)
    table = summary(rows)
    order = sorted(table, key=lambda name: table[name]["energy"][0])
    figure, axes = canvas(2)
    for axis, key in zip(axes, ("energy", "kept")):
        means, halves = zip(*(table[name][key] for name in order))
        axis.errorbar(means, range(len(order)), xerr=halves, fmt="o", markersize=3)
        axis.set_yticks(range(len(order)), order if key == "energy" else [], fontsize=6)
        axis.set_xlabel({"energy": "energy score, m", "kept": "minor modes kept"}[key])
    said = ", ".join(
        f"{name} {100 * table[name]['missed'][0]:.0f} % / {table[name]['energy'][0]:.2f}"
        for name in order
    )
    caption = (
        f"{len(train.past)} windows of {towns} towns to train on, {len(test.past)} of {checks} "
        f"{'other towns' if real is None else 'recorded scenes'} to score on; {updates} updates, {seeds} seeds, {SAMPLES} plans a window. Misses of "
        f"the best plan beyond 2 m at 3 s, and energy score in metres, best first: {said}."
    )
    settings = dict(
        towns=towns, test_towns=checks, teacher_steps=steps, updates=updates, seeds=seeds,
        samples=SAMPLES, seed=seed, recorded=real is not None,
    )  # fmt: skip
    costs = {name: {k: v for k, v in row.items() if k != "runs"} for name, row in rows.items()}
    return Result(
        "Table 1 on plans",
        caption,
        figure,
        {"table": table, "costs": costs, "rows": rows},
        settings,
    )
