"""How much of the data do one-step students cover? On handwritten digits (MFD, App. D.1: CIFAR-10).

Every method gets the same teacher and as many network evaluations; samples are compared with digits
that nothing was trained on, class by class as often as there, in pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from occdistill.distill.base import Method
from occdistill.distill.diff_instruct import DiffInstruct
from occdistill.distill.dmd2 import DMD2
from occdistill.distill.meanflow import MeanFlow
from occdistill.distill.mfd import MFD
from occdistill.distill.moment_matching import MomentMatching
from occdistill.evaluation.measures.latent import frechet_distance, manifold_scores
from occdistill.flow.solver import sample
from occdistill.seeds import number, torch_generator
from occdistill.studies import toy
from occdistill.studies.digits import SHAPE, Digits, digits, head, teacher
from occdistill.studies.result import Result, canvas

ROWS = {
    "MFD": (MFD, dict(ratio=5), 3e-4),
    "Diff-Instruct": (DiffInstruct, dict(ratio=5), 3e-4),
    "DMD2": (DMD2, dict(ratio=5), 3e-4),
    "moment matching (IMM)": (MomentMatching, {}, 1e-3),
    "MeanFlow": (MeanFlow, {}, 1e-3),
}
AUXILIARY = 1e-3  # learning rate
SCORES = ("precision", "recall", "density", "coverage", "frechet")
TEACHER = "teacher, NFE 100"


def study(quick: bool = False, seed: int = 0) -> Result:
    """Teacher with 100 evaluations, with one, and one-step students of three seeds."""
    evaluations, steps = (60, 20) if quick else (6000, 4000)
    seeds = range(seed, seed + (2 if quick else 3))
    seen, held_out = digits()
    field = teacher(steps, seen)
    measured: dict[str, list[dict[str, float]]] = {
        "training digits": [scores(seen.images[: len(held_out.images)], held_out)]
    }
    updates = {}
    for one in seeds:
        for name, nfe in ((TEACHER, 5 if quick else 100), ("teacher, NFE 1", 1)):
            made = sample(field, noise(held_out, one), held_out.condition(), nfe, shift=1.0)
            measured.setdefault(name, []).append(scores(made, held_out))
        for name, (cls, options, lr) in ROWS.items():
            torch.manual_seed(number(one))
            more = dict(heads=[head()]) if cls is DMD2 else {}
            method = cls(field, SHAPE, guidance=1.0, **options, **more)
            updates[name] = max(1, round(evaluations / cost_of(method)))
            rates = {"student": lr, "auxiliary": AUXILIARY}
            falling = dict(updates=updates[name], final_lr=lr / 10)
            toy.fit(
                method, updates[name], 128, rates, seed=one, points=seen.batch, clip=1.0, **falling
            )
            made = method.sample(held_out.condition(), noise(held_out, one))
            measured.setdefault(name, []).append(scores(made, held_out))

    values = {
        name: {key: _mean_and_spread([row[key] for row in rows]) for key in SCORES}
        for name, rows in measured.items()
    }
    settings = dict(
        evaluations=evaluations, teacher_updates=steps, seeds=list(seeds), batch_size=128,
        updates=updates, learning_rates={name: lr for name, (_, _, lr) in ROWS.items()}, neighbours=5,
    )  # fmt: skip
    return Result(
        "Coverage on digits (App. D.1)", _caption(values), _figure(values), values, settings
    )


def cost_of(method: Method) -> float:
    """Of a student update with its share of the others', in F, a batch of forward passes."""
    return method.cost + (len(method.plan(0)) - 1) * method.other_cost


def noise(data: Digits, seed: int) -> Tensor:
    """A noise for each image, the same for every row."""
    draws = toy.SharedDraws(len(data.images), torch_generator(seed, toy.STUDENT_SAMPLES))
    return draws.normal(*SHAPE)


@torch.no_grad()
def scores(made: Tensor, real: Digits) -> dict[str, float]:
    """Of samples `(N, 1, 1, 8, 8)` against digits, by their 64 pixels."""
    made, true = (x.flatten(1).double().numpy() for x in (made, real.images))
    moments = [m for x in (true, made) for m in (x.mean(0), np.cov(x.T))]
    return {**manifold_scores(true, made), "frechet": frechet_distance(*moments)}


def _mean_and_spread(found: list[float]) -> dict[str, float | list[float]]:
    spread = float(np.std(found, ddof=1)) if len(found) > 1 else 0.0
    return {"mean": float(np.mean(found)), "spread": spread, "values": found}


def _figure(values: dict):
    figure, axes = canvas(len(SCORES), size=2.6)
    for axis, key in zip(axes, SCORES):
        means, spreads = (
            [row[key][what] for row in values.values()] for what in ("mean", "spread")
        )
        axis.barh(range(len(values)), means, xerr=spreads, color="#5b8fb9")
        axis.set_yticks(range(len(values)), list(values) if axis is axes[0] else [])
        axis.invert_yaxis()
        axis.set_title(key, fontsize=9)
    return figure


def _caption(values: dict) -> str:
    said = [
        f"{name} " + " / ".join(f"{row[key]['mean']:.2f}" for key in SCORES)
        for name, row in values.items()
    ]
    students = {name: values[name]["coverage"]["mean"] for name in ROWS}
    best = max(students, key=students.get)
    spread = max(values[name]["coverage"]["spread"] for name in ROWS)
    return (
        "Precision / recall / density / coverage / Fréchet distance against held-out digits, means "
        f"over seeds: {'; '.join(said)}. Of the students {best} covers most; coverage of one student "
        f"differs between seeds by up to {spread:.3f} (standard deviation). Every student was given "
        "as many network evaluations, not as many updates."
    )
