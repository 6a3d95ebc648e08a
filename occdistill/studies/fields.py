"""Average velocities under a noisy auxiliary: the field, and its variance against N (MFD, Fig. 4).

The paper's argument for intervals: if each evaluation of the auxiliary has an independent error,
averaging N of them divides the variance by N. A network's error is a function of x and t, and at
neighbouring times it is nearly the same; the second noise here is of that kind.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from occdistill.flow.solver import average_velocity
from occdistill.latents.condition import Condition
from occdistill.seeds import torch_generator
from occdistill.studies import toy
from occdistill.studies.result import Result, canvas

START, END = 0.3, 0.9


class Noisy(nn.Module):
    """A field with unit Gaussian noise on each evaluation, correlated over time or not.

    Args:
        field: the clean one.
        correlation: length of the exponential kernel in time; 0 for independent noise.
        generator: of the noise.
    """

    def __init__(self, field: nn.Module, correlation: float, generator: torch.Generator) -> None:
        super().__init__()
        self.field, self.correlation, self.generator = field, correlation, generator
        self.noise, self.time = None, 0.0

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Velocity plus noise; times of successive calls must not fall."""
        fresh = torch.randn(x_t.shape, generator=self.generator)
        if self.noise is None or not self.correlation:
            self.noise = fresh
        else:  # an Ornstein-Uhlenbeck path, exactly
            keep = math.exp(-(float(t[0]) - self.time) / self.correlation)
            self.noise = keep * self.noise + math.sqrt(1 - keep**2) * fresh
        self.time = float(t[0])
        return self.field(x_t, t, condition) + self.noise


def study(quick: bool = False, seed: int = 0) -> Result:
    """Fields on a grid, and the variance of u for both noises."""
    side, repeats = (5, 4) if quick else (15, 100)
    counts = [1, 2, 5] if quick else [1, 2, 5, 10, 30, 60]
    field = toy.teacher(quick, seed)
    ticks = torch.linspace(-2.5, 2.5, side)
    grid = torch.cartesian_prod(ticks, ticks)
    points = grid.repeat(repeats, 1).view(-1, *toy.SHAPE)
    t, r = torch.full((len(points),), START), torch.full((len(points),), END)
    upper = Condition(torch.ones(len(points), 1, 1, 1, 1))

    def average(source: nn.Module, steps: int) -> Tensor:  # (repeats, grid, 2)
        with torch.no_grad():
            u = average_velocity(source, points, t, r, upper, (END - START) / steps)
        return u.view(repeats, -1, 2)

    variance: dict[str, list[float]] = {"independent": [], "correlated": []}
    shown = {"v, clean": None, "u, clean": average(field, 30)[0]}
    for name, length in (("independent", 0.0), ("correlated", 0.1)):
        for steps in counts:
            generator = torch_generator(seed, toy.FIELD, steps)
            u = average(Noisy(field, length, generator), steps)
            variance[name].append(float(u.var(0).mean()))
            if steps == counts[0] and not length:
                shown["v, noisy"] = u[0]
            if steps == counts[-1]:
                shown[f"u of {steps}, {name}"] = u[0]
    shown["v, clean"] = average(field, 1)[0]

    figure, axes = canvas(3, 2, size=3.4)
    axes = axes.ravel()
    for axis, (label, u) in zip(axes, shown.items()):
        axis.quiver(*grid.T, *u.T, np.hypot(*u.T), cmap="viridis", angles="xy")
        axis.set_title(label, fontsize=9)
        axis.set_aspect("equal")
    for name, line in variance.items():
        axes[-1].loglog(counts, line, "o-", label=name)
    axes[-1].loglog(counts, [variance["independent"][0] / n for n in counts], "k:", label="1/N")
    axes[-1].set_xlabel("evaluations in the average, N")
    axes[-1].set_ylabel("variance of u")
    axes[-1].legend(fontsize=8)

    last = counts[-1]
    caption = (
        f"Equal noise of variance 1 on every evaluation of the auxiliary, t = {START}, r = {END}. "
        f"Independent noise: variance {variance['independent'][0]:.2f} at N = 1 falls to "
        f"{variance['independent'][-1]:.3f} at N = {last} (1/N would be {1 / last:.3f}; the flow's "
        "own stretching adds the rest), as in the paper. Noise correlated over a tenth of the time "
        f"axis: {variance['correlated'][-1]:.3f} at N = {last}, and more evaluations stop helping. "
        "A trained auxiliary is a deterministic network, whose error is of the second kind."
    )
    values = {"N": counts, "variance": variance}
    settings = {"grid": side, "repeats": repeats, "correlation": 0.1, "seed": seed}
    return Result("Gradient field and its variance (Fig. 4)", caption, figure, values, settings)
