"""FreeFlow against closed forms."""

import pytest
import torch

from occdistill.distill.freeflow import FreeFlow
from occdistill.flow.path import TimeLaw, expand
from tests import wide
from tests.gaussian import SHIFT
from tests.wide import SHAPE, Exact, average, close


class FromNoise(wide.Flow):
    """A flow map that is taken to the data unless told otherwise."""

    def forward(self, x, t, condition, r=None):
        return super().forward(x, t, condition, torch.ones_like(t) if r is None else r)


AUXILIARY = ((0.4, 0.9), (1.1, 0.6))


def build(mean=wide.OFF[0], std=wide.OFF[1], auxiliary=AUXILIARY, **options):
    method = wide.build(FreeFlow, auxiliary=wide.Flow(*auxiliary), **options)
    method.nets["student"] = FromNoise(mean, std)
    return method


def parts(method, count=40, guided_from=0.3):
    """L_p, its g, u(z, 0, 1) and v_A - v_T, written out; then the method's draws are spent."""
    draws = wide.batch(count).draws
    z, d = draws.normal(*SHAPE), method.ends.times(draws)
    e = Exact(method.nets["student"], z, torch.zeros_like(d), d)
    v_T = wide.teacher_velocity(e.x + e.gap * e.u, e.r)
    g = e.u + e.gap * e.d_r - v_T
    square = (e.u - (v_T - e.gap * e.d_r).detach()).square().mean((1, 2, 3, 4))
    prediction = (square / (square.detach() + 0.01)).mean()
    z, noise = draws.normal(*SHAPE), draws.normal(*SHAPE)
    q = expand(method.times.times(draws), z)
    u = average(z, torch.zeros_like(q), torch.ones_like(q), *e.parameters)
    x_q = q * (z + u.detach()) + (1 - q) * noise
    mean = torch.tensor(wide.MEAN, dtype=torch.float64)
    mean = torch.where(q >= guided_from, mean, mean - SHIFT)  # guidance 2 adds SHIFT
    v_T = average(x_q, q, q, mean, torch.tensor(wide.STD, dtype=torch.float64))
    gap = average(x_q, q, q, *method.nets["auxiliary"].parameters()) - v_T
    return prediction, g.detach(), u, gap.detach()


def size(x):
    return x.square().mean((1, 2, 3, 4)).sqrt().mean()


@pytest.mark.parametrize("guided_from", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("share", [0.0, 0.75, 1.0])
def test_gradient_is_that_of_prediction_and_correction(share, guided_from):
    method = build(share=share, strength=1.7, guided_from=guided_from)
    loss, found = wide.losses(method)
    prediction, g, u, gap = parts(method, guided_from=guided_from)
    scale = 1.7 * size(g) / size(gap)
    expected = share * prediction + (1 - share) * scale * (gap * u).mean()
    close(loss.total, expected)
    parameters = list(method.nets["student"].parameters())
    close(found, torch.cat(torch.autograd.grad(expected, parameters)))
    close(loss.logs["error"], g.square().mean())
    close(loss.logs["gap"], gap.square().mean())
    for net in (method.teacher, method.nets["auxiliary"]):
        assert all(p.grad is None for p in net.parameters())


def test_everything_vanishes_at_the_teachers_flow_map():
    """Unguided, so that the teacher's field and the auxiliary's are one."""
    teacher = (wide.MEAN, wide.STD)
    loss, found = wide.losses(build(*teacher, auxiliary=teacher, guidance=1.0))
    assert abs(loss.total) < 1e-10 and found.abs().max() < 1e-8


def test_the_auxiliary_learns_the_students_samples():
    method = build(auxiliary=wide.OFF)  # its optimum: the student is the flow map of that Gaussian
    totals = []
    for shift in (-0.2, 0.0, 0.2):
        method.nets["auxiliary"] = wide.Flow([m + shift for m in wide.OFF[0]], wide.OFF[1])
        totals.append(method.losses("auxiliary", wide.batch(4000), 0).total.item())
    assert totals[1] < min(totals[0], totals[2])
    assert method.plan(0) == ("auxiliary", "student")


def test_default_laws():
    method = build()
    assert method.times == TimeLaw(mean=-0.8, low=0.0)
    assert method.ends == TimeLaw("uniform", low=0.0, high=1.0)
    assert method.auxiliary_times == TimeLaw()


def test_needs_no_data_and_half_precision_is_within_tolerance():
    method, batch = build().float(), wide.batch()
    batch.x_1 = None
    exact = method.losses("student", batch, 0).total
    batch = wide.batch()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = method.losses("student", batch, 0).total
    torch.testing.assert_close(rounded.float(), exact.float(), rtol=0.05, atol=0.01)


@pytest.mark.parametrize(
    "option",
    [
        dict(share=1.1),
        dict(strength=-1),
        dict(power=-1),
        dict(guided_from=2),
        dict(ratio=0),
        dict(steps=2),
    ],
)
def test_bad_arguments_are_refused(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} must"):
        build(**option)
