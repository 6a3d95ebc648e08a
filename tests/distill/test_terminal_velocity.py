"""Terminal velocity matching against closed forms."""

import pytest
import torch

from occdistill.distill.terminal_velocity import TerminalVelocity
from occdistill.flow.path import TimeLaw, expand
from tests import wide
from tests.flow_map import build_map, data_batch, map_gradients
from tests.gaussian import TEACHER, BulkDraws, GaussianField
from tests.wide import Exact

KINDS = [dict(kind="jvp"), dict(kind="jvp", chunk=7), dict(kind="difference", step=1e-5)]


@pytest.mark.parametrize("derivative", KINDS, ids=str)
@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_gradient_runs_through_the_derivative_and_not_through_the_velocity(weight, derivative):
    method = wide.build(TerminalVelocity, empty_weight=weight, derivative=derivative)
    student = method.nets["student"]
    loss, found = wide.losses(method)
    draws = wide.batch().draws
    t, r = method.intervals(draws)
    x_1, noise = wide.batch().x_1, draws.normal(*wide.SHAPE)
    e = Exact(student, expand(t, noise) * (x_1 - noise) + noise, t, r)
    v_r = wide.teacher_velocity(e.x + e.gap * e.u, e.r).detach()
    terminal = (e.u + e.gap * e.d_r - v_r).square().mean()
    end = method.times.times(draws)
    noise = draws.normal(*wide.SHAPE)
    empty = Exact(student, expand(end, noise) * (x_1 - noise) + noise, end, end)
    expected = terminal + weight * (empty.u - empty.v).square().mean()
    tolerance = (
        dict(rtol=1e-5, atol=1e-8) if derivative["kind"] == "jvp" else dict(rtol=1e-3, atol=1e-4)
    )
    torch.testing.assert_close(loss.total, expected, **tolerance)
    torch.testing.assert_close(found, e.gradients(expected), **tolerance)
    torch.testing.assert_close(loss.logs["gap"], terminal.detach(), **tolerance)
    assert all(p.grad is None for p in method.teacher.parameters())


@pytest.mark.parametrize("derivative", KINDS[::2], ids=str)
def test_loss_and_gradient_vanish_at_the_teachers_flow_map(derivative):
    loss, found = wide.losses(wide.at_optimum(TerminalVelocity, derivative=derivative))
    bound = 1e-12 if derivative["kind"] == "jvp" else 1e-4
    assert loss.total < bound and found.abs().max() < bound


def test_empty_steps_are_where_the_source_has_them():
    assert wide.build(TerminalVelocity).times == TimeLaw(mean=0.4)


def test_intervals_have_the_stated_law():
    """The gap's law is kept; the end's is cut off at the gap, whatever that is."""
    method = wide.build(TerminalVelocity, end_std=0.8)
    t, r = method.intervals(BulkDraws(200_000))
    assert (t >= 0).all() and (t <= r).all() and (r <= 1).all()
    logit = torch.logit(r - t, eps=1e-6)
    assert (logit.mean().item(), logit.std().item()) == pytest.approx((-0.8, 1.0), abs=0.02)
    free = torch.sigmoid(
        0.4 + 0.8 * torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    )
    for low, high in ((0.2, 0.25), (0.5, 0.55)):
        chosen = r[(r - t > low) & (r - t < high)]
        expected = free[free > (low + high) / 2]
        assert chosen.mean().item() == pytest.approx(expected.mean().item(), abs=0.01)
        assert chosen.std().item() == pytest.approx(expected.std().item(), abs=0.01)
    with_long_steps = wide.build(TerminalVelocity, gap_mean=20.0).intervals(BulkDraws(1000))
    assert all(torch.isfinite(x).all() for x in with_long_steps)


def test_the_derivative_is_given_the_memory_that_chunks_bound():
    """Values and derivatives of a chunked batch are the whole batch's."""
    one, other = (
        build_map(TerminalVelocity, 1.5, 0.5, derivative=dict(chunk=chunk)) for chunk in (0, 3)
    )
    assert map_gradients(one, 16) == pytest.approx(map_gradients(other, 16), rel=1e-4)


def test_half_precision_is_within_tolerance():
    method = build_map(TerminalVelocity, 1.5, 0.5)
    exact = method.losses("student", data_batch(500), 0).total
    with torch.autocast("cpu", torch.bfloat16):
        rounded = method.losses("student", data_batch(500), 0).total
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0)


@pytest.mark.parametrize("mean", [0.5, 1.5])
def test_moving_u_alone_would_give_the_forward_regressions_gradient(mean):
    """METHODS: ±1.172 over logit-normal pairs for `|| u - sg target ||²`, the same residual."""
    method = build_map(TerminalVelocity, mean, 0.7)
    student, x_1 = method.nets["student"], data_batch(200_000).x_1
    pair = torch.sigmoid(BulkDraws(200_000, 5).normal(2)).sort(1).values
    t, r = pair.unbind(1)
    x_t = expand(t, x_1) * x_1 + (1 - expand(t, x_1)) * torch.randn_like(x_1)
    u = student(x_t, t, None, r=r)
    with torch.no_grad():
        value, d_r = method.value_and_end_derivative(x_t, t, r, data_batch(200_000).condition)
        v_r = GaussianField(*TEACHER)(x_t + expand(r - t, x_t) * value, r, None)
        residual = value + expand(r - t, x_t) * d_r - v_r
    gradient = torch.autograd.grad((2 * residual * u).mean(), student.mean)[0]
    assert gradient.item() == pytest.approx(1.172 * (1 if mean > 1 else -1), rel=0.015)


@pytest.mark.parametrize(
    "option",
    [dict(gap_std=0), dict(end_std=-1), dict(empty_weight=-1), dict(gap_mean=float("nan"))],
)
def test_bad_arguments_are_refused(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} must"):
        wide.build(TerminalVelocity, **option)
