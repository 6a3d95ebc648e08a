"""Integrating a velocity field: sampling from noise, and average velocities over an interval."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from occdistill.flow.networks.base import takes_end
from occdistill.flow.path import Draws, expand
from occdistill.latents.condition import Condition

VelocityField = Callable[[Tensor, Tensor, Condition], Tensor]


def shifted_grid(steps: int, shift: float = 3.0) -> Tensor:
    """Times `t_0 = 0 < ... < t_steps = 1`, denser near noise for shift > 1 (float64).

    With `s = 1 - k / steps`: `t_k = 1 - shift s / (1 + (shift - 1) s)`. OccFM uses shift 3.
    """
    if steps < 1:
        raise ValueError(f"a sampler needs at least one step, got {steps}")
    s = 1 - torch.arange(steps + 1, dtype=torch.float64) / steps
    return 1 - shift * s / (1 + (shift - 1) * s)


def sample(
    field: VelocityField,
    noise: Tensor,
    condition: Condition,
    steps: int = 10,
    shift: float = 3.0,
    renoise: float | None = None,
) -> Tensor:
    """From noise `(B, F, C, H, W)` at t = 0 to data at t = 1 on the shifted grid, by Euler steps.

    A network that also takes the end time of the step (`two_time`) is given it. The state is kept in
    the noise's dtype, so that a half-precision field doesn't accumulate rounding.

    With `renoise` each step goes to the end and back, as consistency models and others do that know
    the way from anywhere to the data alone:

        x̂ = x_t + (1 - t) v(x_t, t),   x_r = r x̂ + (1 - r) e

    e is fresh noise of that standard deviation, a function of the clip's own first noise.
    """
    x = noise
    grid = shifted_grid(steps, shift).tolist()
    fresh = None if renoise is None or steps == 1 else fresh_draws(noise)
    for t, r in zip(grid[:-1], grid[1:]):
        end = r if renoise is None else 1.0
        x = x + (end - t) * step_velocity(field, x, t, end, condition).to(x.dtype)
        if end > r:
            x = r * x + (1 - r) * renoise * fresh.normal(*x.shape[1:]).to(x.dtype)
    return x


def fresh_draws(noise: Tensor) -> Draws:
    """Random streams that are a function of each clip's own noise `(B, ...)`, of its bits."""
    each = (
        hashlib.blake2b(z.tobytes(), digest_size=16) for z in noise.detach().float().cpu().numpy()
    )
    keys = [int.from_bytes(digest.digest(), "big") for digest in each]
    return Draws(keys, noise.device)


def step_velocity(field: VelocityField, x: Tensor, t: float, r: float, c: Condition) -> Tensor:
    """The field at time t, told the end time r if it is an average-velocity network."""
    start = x.new_full((x.shape[0],), t)
    if takes_end(field):
        return field(x, start, c, r=x.new_full((x.shape[0],), r))
    return field(x, start, c)


def average_velocity(
    field: VelocityField,
    x_t: Tensor,
    t: Tensor,
    r: Tensor,
    condition: Condition,
    step: float = 0.02,
) -> Tensor:
    """Average velocity `u = (X_{t -> r}(x_t) - x_t) / (r - t)` of the field's ODE (MFD, Eq. 10).

    Each sample takes `N = max(1, ceil((r - t) / step))` equal Euler steps of its own; samples whose
    interval is done leave the batch, so no evaluation is wasted. Where r = t this is `field(x_t, t)`.

    Args:
        field: velocity field.
        x_t: start points `(B, F, C, H, W)`.
        t: start times `(B,)`.
        r: end times `(B,)`, r >= t.
        condition: of the same batch.
        step: largest Euler step, in (0, 1].

    Raises:
        ValueError: if an interval runs backwards, or for a step outside (0, 1].
    """
    if not 0 < step <= 1:
        raise ValueError(f"average_velocity needs a step in (0, 1], not {step!r}")
    if bool((r < t).any()):
        raise ValueError("average_velocity needs r >= t for every sample")
    count = torch.ceil((r - t) / step - 1e-6).clamp_min(1)
    count, order = count.sort(descending=True)  # active samples are always a prefix
    x, t, dt = x_t[order], t[order], (r - t)[order] / count
    condition = condition.index(order)
    total = torch.zeros_like(x)
    steps = count.tolist()  # asked for once: on a GPU each answer is waited for
    for k in range(int(steps[0])):
        active = slice(sum(n > k for n in steps))
        v = field(x[active], t[active] + k * dt[active], condition.index(active)).to(x.dtype)
        total[active] += v
        x = torch.cat([x[active] + expand(dt[active], v) * v, x[active.stop :]])
    mean = total / expand(count, total)
    return torch.empty_like(mean).index_copy_(0, order, mean)
