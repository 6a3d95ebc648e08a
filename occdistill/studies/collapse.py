"""What becomes of a student without an auxiliary (MFD, App. C.4)."""

from __future__ import annotations

import torch

from occdistill.distill.mfd import MFD
from occdistill.distill.no_auxiliary import NoAuxiliary
from occdistill.seeds import number
from occdistill.studies import toy
from occdistill.studies.result import Result, canvas


def study(quick: bool = False, seed: int = 0) -> Result:
    """Students with and without an auxiliary, unguided, seen on the upper half of the ring."""
    updates = 5 if quick else 800
    count = 2000
    reference = toy.teacher_samples(toy.teacher(quick), count, guidance=1.0, upper=True)
    clouds, values = {"teacher, 50 steps": reference}, {}
    rows = {
        "MFD": (MFD, dict(ratio=2 if quick else 5)),
        "without auxiliary": (NoAuxiliary, dict(ode_step=0.05)),
    }
    for name, (cls, options) in rows.items():
        torch.manual_seed(number(seed))
        method = cls(toy.teacher(quick), toy.SHAPE, guidance=1.0, **options)
        clouds[f"{name}, before"] = toy.student_samples(method, count, upper=True)
        toy.fit(method, updates, lr=toy.LEARNING_RATES, seed=seed)
        clouds[name] = toy.student_samples(method, count, upper=True)
    del clouds["without auxiliary, before"]  # the same student
    before = clouds.pop("MFD, before")
    clouds = {"teacher, 50 steps": clouds.pop("teacher, 50 steps"), "before": before, **clouds}
    for name, points in clouds.items():
        values[name] = {
            "mean": points.mean(0).tolist(),
            "std": float(points.var(0).sum().sqrt()),
            "modes": toy.modes_found(points),
            "energy_distance": toy.energy_distance(points, reference),
        }

    figure, axes = canvas(len(clouds), size=3.0)
    for axis, (name, points) in zip(axes, clouds.items()):
        axis.scatter(*points.T, s=2, alpha=0.4)
        axis.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
        axis.set_title(f"{name}\nstd {values[name]['std']:.2f}", fontsize=9)
    collapsed, kept = values["without auxiliary"], values["MFD"]
    teacher = values["teacher, 50 steps"]
    caption = (
        f"Upper half of the ring, spread and modes found: the teacher {_spread(teacher)}; the "
        f"student before training {_spread(values['before'])}, after MFD {_spread(kept)}, after as "
        f"many updates without an auxiliary {_spread(collapsed)}: it never leaves the point that one "
        "step of the teacher predicts, and becomes narrower still. The collapsed student's mean is "
        f"{_point(collapsed)}, the teacher's {_point(teacher)}: the paper's proposition that it "
        "ends in the teacher's mean is proved for Gaussians; in general the student is drawn to "
        "where the smoothed density is high."
    )
    settings = {"updates": updates, "seed": seed}
    return Result("Collapse without auxiliary", caption, figure, values, settings)


def _spread(row: dict) -> str:
    return f"{row['std']:.2f} and {row['modes']}"


def _point(row: dict) -> str:
    return "({:.2f}, {:.2f})".format(*row["mean"])
