"""Inductive moment matching against closed forms and its own definition, written out in loops."""

import math

import pytest
import torch

from occdistill.distill.moment_matching import MomentMatching
from occdistill.flow.solver import sample
from tests import wide
from tests.flow_map import build_map, data_batch, map_gradients
from tests.gaussian import BulkDraws
from tests.wide import SHAPE, average, close


@pytest.mark.parametrize("ends", ["data", "teacher"])
@pytest.mark.parametrize("particles, width", [(1, 1.0), (3, 0.4)])
def test_gradient_is_that_of_the_definition(particles, width, ends):
    count = 12
    options = dict(particles=particles, width=width, ends=ends, halvings=9.0, steps=3)
    method = wide.build(MomentMatching, **options)
    loss, found = wide.losses(method, count)
    batch = wide.batch(count)
    t, q, r = method.times(batch.draws)
    assert (q < r).sum() > count / 2  # where they are one, `later` has no gradient to forget
    noise = batch.draws.normal(particles, *SHAPE)
    data = batch.x_1[:, None].expand_as(noise)
    if ends == "teacher":
        start = batch.draws.normal(particles, *SHAPE).flatten(0, 1)
        end = sample(method.guided_teacher, start, batch.condition.repeat(particles), 3)
        data = end.view_as(noise).detach()
    parameters = list(method.nets["student"].parameters())

    def jump(start, i, j):
        x = (start[i] * data[i, j] + (1 - start[i]) * noise[i, j]).flatten()
        return x + (r[i] - start[i]) * average(x, start[i], r[i], *parameters)

    def k(a, b, i):
        distance = (a - b).square().sum().clamp_min(1e-16).sqrt()
        return (-distance / (width * (1 - t[i]) * 2)).exp()

    expected = gap = 0
    for i in range(count):
        y = [jump(t, i, j) for j in range(particles)]
        z = [jump(q, i, j).detach() for j in range(particles)]
        pairs = [(a, b) for a in range(particles) for b in range(particles)]
        mmd = sum(k(y[a], y[b], i) + k(z[a], z[b], i) - 2 * k(y[a], z[b], i) for a, b in pairs)
        s, n = t[i].item(), 1 - t[i].item()
        weight = s / (1 + math.exp(2 * math.log(s / n) - 5)) / (s * n * (s**2 + n**2))
        gap = gap + mmd / particles**2 / count
        expected = expected + weight * mmd / particles**2 / count
    close(loss.total, expected)
    close(loss.logs["gap"], gap.detach())
    close(found, torch.cat(torch.autograd.grad(expected, parameters)))
    assert all(p.grad is None for p in method.teacher.parameters())


def test_starts_that_fall_together_leave_nothing_to_learn():
    """Both groups are then the same particles, and the gradients of the two kernels cancel."""
    loss, found = wide.losses(wide.build(MomentMatching, halvings=60.0))
    assert abs(loss.total) < 1e-10 and found.abs().max() < 1e-7


def test_gradient_points_back_to_the_teacher_from_both_sides():
    """At the optimum only the kernel means' bias is left, 1/M and towards a narrower student."""
    options = dict(ends="teacher", steps=40, halvings=5.0, width=0.3, guidance=1.0)

    def gradient(mean, std, particles=16):
        method = wide.build(MomentMatching, mean, std, particles=particles, **options)
        return wide.losses(method, 800)[1]

    low, high = (gradient([m + d for m in wide.MEAN], wide.STD) for d in (-0.4, 0.4))
    thin, thick = (gradient(wide.MEAN, [s * d for s in wide.STD]) for d in (0.6, 1.6))
    few, here, many = (gradient(wide.MEAN, wide.STD, count) for count in (4, 16, 32))
    assert (low[:2] < 0).all() and (high[:2] > 0).all()
    assert (thin[2:] < 0).all() and (thick[2:] > here[2:]).all()
    assert (here[:2].abs() < 0.3 * torch.minimum(-low, high)[:2]).all()
    assert (few[2:] > 1.8 * here[2:]).all() and (here[2:] > many[2:]).all() and (many[2:] > 0).all()


def test_times():
    """Starts from the noisiest one on, q a step of n later, never beyond the end."""
    t, q, r = wide.build(MomentMatching).times(BulkDraws(100_000))
    assert t.min().item() == pytest.approx(1 / 161, abs=1e-4)
    assert t.max().item() == pytest.approx(0.999, abs=1e-4)
    assert t.mean().item() == pytest.approx((1 / 161 + 0.999) / 2, abs=5e-3)
    assert (t <= q).all() and (q <= r).all() and (r <= 1).all()
    assert ((r - t) / (1 - t)).mean().item() == pytest.approx(0.5, abs=5e-3)
    free = (q < r) & (t < 0.9)
    n = (1 - t) / t - (1 - q) / q
    torch.testing.assert_close(n[free], torch.full_like(n[free], 160 / 4096), atol=2e-3, rtol=0)


def test_the_weight_has_a_power():
    t = torch.tensor([0.2, 0.7])
    one, three = (wide.build(MomentMatching, power=p).weight(t) for p in (1.0, 3.0))
    torch.testing.assert_close(three, one * t**2)


def test_half_precision_is_within_tolerance():
    method = build_map(MomentMatching, 1.5, 0.5, halvings=4.0)
    exact = method.losses("student", data_batch(500), 0).total
    with torch.autocast("cpu", torch.bfloat16):
        rounded = method.losses("student", data_batch(500), 0).total
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0)
    assert all(math.isfinite(x) for x in map_gradients(method, 100))


def test_data_are_asked_for():
    method, batch = wide.build(MomentMatching), wide.batch()
    batch.x_1 = None
    with pytest.raises(ValueError, match="batch.x_1"):
        method.losses("student", batch, 0)


@pytest.mark.parametrize(
    "option",
    [
        dict(particles=0),
        dict(ends="x"),
        dict(steps=0),
        dict(n_max=0),
        dict(halvings=-1),
        dict(bias=math.inf),
        dict(power=math.nan),
        dict(width=0),
    ],
)
def test_bad_arguments_are_refused(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} must"):
        wide.build(MomentMatching, **option)
