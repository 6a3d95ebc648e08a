"""Reflow against closed forms: a Gaussian teacher's sampler is affine, `x̂ = A z + B`."""

import pytest
import torch
from torch import nn

from occdistill.distill.reflow import Reflow
from occdistill.flow.path import TimeLaw, expand
from occdistill.flow.solver import sample, shifted_grid
from tests import wide
from tests.wide import SHAPE, average, close


def coupling(steps=10, shift=3.0):
    """A and B of Euler's method on the guided teacher's velocity `k x + c`."""
    a, b = torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    mean, std = (torch.tensor(x, dtype=torch.float64) for x in (wide.MEAN, wide.STD))
    grid = shifted_grid(steps, shift)
    for t, r in zip(grid[:-1], grid[1:]):
        c = average(torch.zeros(2), t, t, mean, std)
        k = average(torch.ones(2), t, t, mean, std) - c
        a, b = a + (r - t) * k * a, b + (r - t) * (k * b + c)
    return a, b


class Straight(nn.Module):
    """The flow along straight paths from z to `A z + B`."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = nn.Parameter(a.clone()), nn.Parameter(b.clone())

    def forward(self, x, t, condition):
        t, b = expand(t, x), wide.seen(self.b, condition)
        z = (x - t * b) / (t * self.a + 1 - t)
        return (self.a - 1) * z + b


def gradients(method, count=40):
    loss = method.losses("student", wide.batch(count), 0)
    loss.total.backward()
    student = method.nets["student"]
    return loss, torch.cat([student.a.grad, student.b.grad])


@pytest.mark.parametrize("options", [{}, dict(steps=3, shift=1.0)])
def test_the_coupling_has_straight_paths_and_one_step_walks_them(options):
    method = wide.build(Reflow, **options)
    method.nets["student"] = Straight(*coupling(**options))
    loss, found = gradients(method)
    assert loss.total < 1e-12 and found.abs().max() < 1e-6
    c, z = wide.batch().condition, wide.Draws64(40, 3).normal(*SHAPE)
    close(method.sample(c, z), sample(method.guided_teacher, z, c, **options))


@pytest.mark.parametrize("times", [None, TimeLaw(mean=-1.0)])
def test_gradient_is_that_of_flow_matching_on_the_teachers_pairs(times):
    method = wide.build(Reflow, times=times)
    a, b = coupling()
    method.nets["student"] = Straight(a - 0.2, b + 0.5)
    loss, found = gradients(method)
    draws = wide.batch().draws
    z = draws.normal(*SHAPE)
    law = times or TimeLaw("uniform", low=0.0, high=1.0)
    assert method.times == law
    t = law.times(draws)
    student, x = method.nets["student"], a * z + b
    v = student(expand(t, z) * x + (1 - expand(t, z)) * z, t, None)
    expected = (v - (x - z)).square().mean()
    close(loss.total, expected)
    close(loss.logs["gap"], expected.detach())
    close(found, torch.cat(torch.autograd.grad(expected, [student.a, student.b])))
    assert all(p.grad is None for p in method.teacher.parameters())


@pytest.mark.parametrize("option", [dict(steps=0), dict(shift=-1.0)])
def test_bad_arguments_are_refused(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} must"):
        wide.build(Reflow, **option)
