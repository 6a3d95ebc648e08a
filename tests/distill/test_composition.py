"""Composition against closed forms. The guide's own test of it is in test_guide.py."""

import torch

from occdistill.distill.composition import Composition
from occdistill.flow.path import TimeLaw, expand
from tests import wide
from tests.flow_map import build_map, data_batch
from tests.wide import close

BEND = 0.3


class Bent(wide.Flow):
    """A student that is no flow map, since flow maps compose whatever they are."""

    def forward(self, x, t, condition, r=None):
        r = t if r is None else r
        return super().forward(x, t, condition, r) + BEND * expand(r - t, x) * (x + self.mean)


def bent(x, t, r, mean, std):
    return wide.average(x, t, r, mean, std) + BEND * (r - t) * (x + mean)


def test_gradient_is_that_of_the_regression_on_two_half_steps():
    method = wide.build(Composition)
    method.nets["student"] = student = Bent(*wide.OFF)
    loss, found = wide.losses(method)
    (x, t, r), (_, _, empty) = [call[:3] for call in student.calls if call[3]]
    close(empty, t)
    t, r, p = expand(t, x), expand(r, x), list(student.parameters())
    q = (t + r) / 2
    first = bent(x, t, q, *p)
    second = bent(x + (q - t) * first, q, r, *p)
    whole = (bent(x, t, r, *p) - ((first + second) / 2).detach()).square().mean()
    now = bent(x, t, t, *p) - wide.teacher_velocity(x, t)
    close(loss.logs["gap"], whole.detach())
    close(loss.total, whole + now.square().mean())
    close(found, torch.cat(torch.autograd.grad(whole + now.square().mean(), p)))
    assert all(p.grad is None for p in method.teacher.parameters())


def test_loss_and_gradient_vanish_at_the_teachers_flow_map_and_nowhere_near_it():
    loss, found = wide.losses(wide.at_optimum(Composition))
    assert loss.total < 1e-20 and found.abs().max() < 1e-10
    for mean, std in (((-0.4, 1.5), wide.STD), (wide.MEAN, (1.3, 0.6))):
        assert wide.losses(wide.build(Composition, mean, std), 500)[1].abs().max() > 0.02


def test_another_flow_composes_too_and_only_its_empty_steps_betray_it():
    """Any flow map has no first term; the teacher enters by the second alone."""
    loss, _ = wide.losses(wide.build(Composition))
    assert loss.logs["gap"] < 1e-20 < loss.total


def test_default_times_are_the_teachers():
    assert wide.build(Composition).times == TimeLaw()


def test_half_precision_is_within_tolerance():
    method = build_map(Composition, 1.5, 0.5)
    exact = method.losses("student", data_batch(500), 0).total
    with torch.autocast("cpu", torch.bfloat16):
        rounded = method.losses("student", data_batch(500), 0).total
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0)
