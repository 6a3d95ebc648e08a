"""Where students come to rest when the teacher is guided, method by method, in closed form.

A guided velocity is the flow of no data law, so no student makes `u_A = u_T` everywhere. Each
method settles on a compromise of its own, which depends on where in time it looks.
"""

from __future__ import annotations

import numpy as np

from occdistill.studies.affine import (
    Array,
    GuidedGaussian,
    logit_normal,
    rest_point,
    sampler_output,
    sorted_pairs,
    uniform,
)
from occdistill.studies.result import Result, canvas


def instantaneous(t: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Empty intervals at times t with the gradient weight of each."""
    return t, t, weight / t.size


def settings(count: int) -> dict[str, tuple[Array, Array, Array]]:
    """Starts, ends and gradient weights of each method."""
    logit, flat = logit_normal(count), uniform(count)
    clipped = np.clip(logit_normal(count * count), 0.02, 0.98)
    rows = {}
    for law, quantiles in (("logit-normal", logit), ("uniform", flat)):
        t, r, weight = sorted_pairs(quantiles)
        rows[f"MFD, {law}"] = (t, r, weight * t)
    many = {"logit-normal": logit_normal(count * count), "uniform": uniform(count * count)}
    for law, t in many.items():
        rows[f"velocity matching, {law}"] = instantaneous(t, t)
    rows["Diff-Instruct, x1 weight"] = instantaneous(clipped, 1 - clipped)
    rows["Diff-Instruct, score weight"] = instantaneous(clipped, clipped**2 / (1 - clipped))
    t = many["logit-normal"]
    rows["MFD to the end, r = 1"] = (t[::count], np.ones(count), t[::count] / count)
    return rows


def study(quick: bool = False, seed: int = 0) -> Result:
    """Rest points at guidance 2, and along the guidance scale for the main methods."""
    count = 24 if quick else 80
    teacher = GuidedGaussian()
    target = sampler_output(teacher)
    rows = {name: rest_point(teacher, *row) for name, row in settings(count).items()}

    scales = [1.0, 1.5, 2.0, 2.5, 3.0]
    curves: dict[str, list[tuple[float, float]]] = {"sampler": []}
    chosen = ("MFD, logit-normal", "velocity matching, logit-normal", "Diff-Instruct, x1 weight")
    for scale in scales:
        guided = GuidedGaussian(scale=scale)
        curves["sampler"].append(sampler_output(guided))
        for name in chosen:
            row = settings(12 if quick else 40)[name]
            curves.setdefault(name, []).append(rest_point(guided, *row))

    figure, axes = canvas(3)
    names, places = list(rows), np.arange(len(rows))
    for axis, part, label in zip(axes[:2], (0, 1), ("mean", "standard deviation")):
        axis.barh(places, [rows[name][part] for name in names], color="#5b8fb9")
        axis.axvline(target[part], color="k", linestyle="--", label="guided sampler")
        axis.set_yticks(places, names if part == 0 else [])
        axis.invert_yaxis()
        axis.set_xlabel(f"{label} of the student at rest")
        axis.legend(fontsize=8)
    axes[0].set_xlim(left=0.9 * min(row[0] for row in rows.values()))
    for name, points in curves.items():
        axes[2].plot(
            scales, [p[1] for p in points], "k--" if name == "sampler" else "-o", label=name
        )
    axes[2].set_xlabel("guidance scale")
    axes[2].set_ylabel("standard deviation")
    axes[2].legend(fontsize=7)

    distance = {n: float(np.hypot(*np.subtract(rows[n], target))) for n in names}
    caption = (
        f"Guidance 2 of N(1, 0.5²) against N(0, 1): the sampler's output has mean and standard "
        f"deviation {_pair(target)}. With logit-normal times MFD rests at "
        f"{_pair(rows['MFD, logit-normal'])} and velocity matching at "
        f"{_pair(rows['velocity matching, logit-normal'])}; with uniform times "
        f"{_pair(rows['MFD, uniform'])} and {_pair(rows['velocity matching, uniform'])}. The usual "
        f"weight of Diff-Instruct overshoots, {_pair(rows['Diff-Instruct, x1 weight'])}, the exact "
        f"KL weight undershoots, {_pair(rows['Diff-Instruct, score weight'])}. Nearest to the "
        f"sampler is {min(distance, key=distance.get)}, but the law of the times moves the result "
        "more than the interval does. At guidance "
        f"{scales[-1]:g} the spread that is left is {curves['sampler'][-1][1]:.2f} for the sampler, "
        + ", ".join(f"{curves[name][-1][1]:.2f} for {name}" for name in chosen)
        + ". The paper does not discuss this bias, which has nothing to do with variance."
    )
    values = {
        "sampler": target,
        "at_rest": rows,
        "distance": distance,
        "scales": scales,
        "along_scale": curves,
    }
    return Result("Guidance fixed points", caption, figure, values, {"quantiles": count})


def _pair(point: tuple[float, float]) -> str:
    return f"{point[0]:.3f}/{point[1]:.3f}"
