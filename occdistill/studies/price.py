"""What a student update costs, by counting, and what a step of an integration is worth.

Nothing is trained for it but the ring's teacher: errors of the solvers against the evaluations they
take, on a field whose flow is known and on a guided network; the cost of settings of `MFD`; the
memory of whole and adapted auxiliaries for both network families, without activations.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from occdistill.distill.mfd import MFD
from occdistill.flow.adapters import Adapted
from occdistill.flow.guidance import Guided
from occdistill.flow.networks.occfm import OccFMTransition
from occdistill.flow.networks.small import SpaceTimeUNet, gaussian_velocity
from occdistill.flow.path import TimeLaw, expand, interpolate
from occdistill.flow.solver import SOLVERS, VelocityField, average_velocity
from occdistill.latents.condition import Condition
from occdistill.seeds import torch_generator
from occdistill.studies import toy
from occdistill.studies.result import Result, canvas

MEAN, STD = 1.0, 0.7
STEPS = {
    "euler": (0.1, 0.05, 0.02, 0.01),
    "midpoint": (1.0, 0.5, 0.25, 0.15, 0.1),
    "heun": (1.0, 0.5, 0.25, 0.15, 0.1),
}
PAPER = ("euler", 0.02)
CHEAP = dict(ratio=10, final_ratio=4, reuse=5, ode_step=0.15, solver="midpoint")
SETTINGS: dict[str, dict[str, Any]] = {
    "the paper's": {},
    "midpoint steps of 0.15": dict(ode_step=0.15, solver="midpoint"),
    "ratio fallen to 4": dict(final_ratio=4),
    "a sample for 5 updates": dict(reuse=5),
    "adapters": dict(auxiliary_rank=16),
    "midpoint, fallen, reuse": CHEAP,
    "and adapters": dict(CHEAP, auxiliary_rank=16),
}
# as the configs of the demo and of nuScenes build them
FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "demo": partial(SpaceTimeUNet, (8, 24, 24), align=4, width=48, blocks=(1, 1, 2)),
    "OccFM": partial(OccFMTransition, (16, 50, 50), history=4, trajectory_length=12),
}


def gaussian_flow(x_t: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """Average velocity from t to r of the flow from noise to `N(MEAN, STD²)`, in closed form."""
    t, r = expand(t, x_t), expand(r, x_t)
    spread_t, spread_r = (((q * STD) ** 2 + (1 - q) ** 2).sqrt() for q in (t, r))
    return (r * MEAN + spread_r / spread_t * (x_t - t * MEAN) - x_t) / (r - t)


def solver_errors(
    field: VelocityField, exact: Tensor, x_t: Tensor, t: Tensor, r: Tensor, condition: Condition
) -> dict[str, list[tuple[float, float, float]]]:
    """By solver, for every one of its `STEPS`: the step, evaluations and error of u.

    Args:
        field: velocity field.
        exact: average velocities, the shape of x_t.
        x_t, t, r, condition: as `average_velocity` takes them.

    Returns:
        Evaluations are means per interval, errors root mean squares.
    """
    clips = 0

    def counted(x: Tensor, t: Tensor, c: Condition) -> Tensor:
        nonlocal clips
        clips += len(x)
        return field(x, t, c)

    found: dict[str, list[tuple[float, float, float]]] = {}
    for solver, steps in STEPS.items():
        for step in steps:
            clips = 0
            u = average_velocity(counted, x_t, t, r, condition, step, solver)
            error = (u - exact).square().mean().sqrt()
            found.setdefault(solver, []).append((step, clips / len(t), float(error)))
    return found


def needed(errors: dict[str, list[tuple[float, float, float]]]) -> dict[str, tuple[float, float]]:
    """By solver: its longest step that is as exact as the paper's, and its evaluations."""
    limit = next(e for step, _, e in errors[PAPER[0]] if step == PAPER[1])
    return {
        solver: next((step, n) for step, n, error in found if error <= limit)
        for solver, found in errors.items()
        if any(error <= limit for *_, error in found)
    }


def update_cost(evaluations: float, method: MFD, step: int) -> float:
    """F of a student update: forward passes over the batch, a backward pass two of them.

    Args:
        evaluations: of a field, per interval.
        method: whose plan it is; its auxiliary says what a backward pass costs.
        step: number of the update.
    """
    updates = method.plan(step).count("auxiliary")
    samples = -(-updates // method.reuse)
    backward = 1 if isinstance(method.nets["auxiliary"], Adapted) else 2
    return 3 + 3 * evaluations + samples + updates * (1 + backward)


def held(build: Callable[[], nn.Module], rank: int) -> dict[str, float]:
    """MiB of weights, gradients and Adam's moments in float32; rank 0: a whole auxiliary."""
    with torch.device("meta"):
        network = build()
        auxiliary = Adapted(network, rank) if rank else network
    student, other = (sum(p.numel() for p in net.parameters()) for net in (network, auxiliary))
    numbers = {
        "weights": 2 * student + other,  # with the teacher's
        "gradients": max(student, other),  # the nets are updated one after the other
        "optimisers": 2 * (student + other),
    }
    return {name: 4 * count / 2**20 for name, count in numbers.items()}


def study(quick: bool = False, seed: int = 0) -> Result:
    """Errors, costs and memory."""
    count = 200 if quick else 4000
    batch = toy.make_batch(count, torch_generator(seed, toy.FIELD))
    t, r = TimeLaw().intervals(batch.draws)
    noise, points = (batch.draws.normal(*toy.SHAPE) for _ in range(2))
    guided = Guided(toy.teacher(quick, seed), 2.0)
    with torch.no_grad():
        x_t = interpolate(MEAN + STD * points, noise, t).double()
        exact = gaussian_flow(x_t, t.double(), r.double())
        known = solver_errors(
            lambda x, t, c: gaussian_velocity(x, t, torch.full_like(x, MEAN), STD),
            exact, x_t, t.double(), r.double(), batch.condition,
        )  # fmt: skip
        x_t = interpolate(batch.x_1, noise, t)
        fine = 0.1 if quick else 0.005
        exact = average_velocity(guided, x_t, t, r, batch.condition, fine, "midpoint")
        ring = solver_errors(guided, exact, x_t, t, r, batch.condition)

    evaluations = {(s, step): n for s, rows in known.items() for step, n, _ in rows}
    costs = {}
    for name, options in SETTINGS.items():
        method = MFD(toy.ToyField(), toy.SHAPE, **options)
        each = evaluations[method.solver, method.ode_step]
        costs[name] = [update_cost(each, method, step) for step in (0, 10**6)]
    ranks = (0, 4, 16)
    memory = {name: {n: held(build, n) for n in ranks} for name, build in FAMILIES.items()}

    figure, axes = canvas(2)
    for axis, errors, title in zip(
        axes, (known, ring), ("Gaussian, whose flow is known", "ring, guided teacher")
    ):
        for solver in SOLVERS:
            axis.loglog(*zip(*((n, error) for _, n, error in errors[solver])), "o-", label=solver)
        axis.set_xlabel("evaluations per interval")
        axis.set_title(title, fontsize=10)
    axes[0].set_ylabel("error of the average velocity")
    axes[0].legend()

    def words(errors: dict) -> str:
        return ", ".join(f"{s} {step} ({n:.1f})" for s, (step, n) in needed(errors).items())

    fallen = ", ".join(f"{name} {last:.1f}" for name, (_, last) in costs.items())
    totals = {
        family: ", ".join(
            f"{'a whole auxiliary' if rank == 0 else f'rank {rank}'} {sum(mib.values()):.0f}"
            for rank, mib in by_rank.items()
        )
        for family, by_rank in memory.items()
    }
    caption = (
        "Longest steps as exact as Euler's of 0.02, with evaluations per interval: on the Gaussian "
        f"{words(known)}; on the ring {words(ring)}. F per student update, where a ratio falls at "
        f"its end: {fallen}. MiB of weights, gradients and Adam's moments: "
        + "; ".join(f"{family}, {text}" for family, text in totals.items())
        + "."
    )
    values = {
        "gaussian": known,
        "ring": ring,
        "needed": {"gaussian": needed(known), "ring": needed(ring)},
        "F_first_and_last": costs,
        "memory_mib": memory,
    }
    settings = {"intervals": count, "guidance": 2.0, "mean": MEAN, "std": STD, "seed": seed}
    return Result("The price of a student update", caption, figure, values, settings)
