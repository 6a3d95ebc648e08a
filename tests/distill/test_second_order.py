"""The (alpha, beta) family against closed forms; METHODS' values by quadrature, and autograd's."""

import pytest
import torch

from occdistill.distill.ayf import AYF
from occdistill.distill.meanflow import MeanFlow
from occdistill.distill.second_order import SecondOrderMeanFlow
from tests import wide
from tests.flow_map import build_map, data_batch, map_gradients
from tests.wide import Exact, close, graded

FREE = dict(clip=float("inf"), first_order=0.0)
PLAIN = dict(power=0.0, instantaneous=0.0)
MEMBERS = [(1.0, 0.0), (0.0, 0.0), (0.5, 1.0), (0.5, 0.0), (0.3, 0.8)]


@pytest.mark.parametrize("alpha, beta", MEMBERS)
def test_gradient_is_that_of_the_regression_on_the_right_hand_side(alpha, beta):
    method = wide.build(SecondOrderMeanFlow, alpha=alpha, beta=beta, **FREE)
    loss, found = wide.losses(method)
    e = Exact(method.nets["student"], *graded(method.nets["student"]))
    v_r = wide.teacher_velocity(e.x + e.gap * e.u, e.r)
    target = alpha * e.v + (1 - alpha) * v_r
    target = target + e.gap * ((alpha - beta / 2) * e.d_t - (1 - alpha - beta / 2) * e.d_r)
    target = target - beta / 2 * e.gap**2 * e.d_tr
    square = (e.u - target.detach()).square().sum((1, 2, 3, 4))
    weighted = square / (square.detach() + 0.01)
    close(loss.total, weighted.mean())
    close(found, e.gradients(weighted.mean()))


@pytest.mark.parametrize("derivative", [dict(kind="jvp", chunk=7), dict(kind="difference")])
@pytest.mark.parametrize("alpha, beta", MEMBERS)
def test_residual_and_gradient_vanish_at_the_teachers_flow_map(alpha, beta, derivative):
    options = dict(alpha=alpha, beta=beta, derivative=derivative, **PLAIN)
    method = wide.at_optimum(SecondOrderMeanFlow, **options, clip=float("inf"))
    loss, found = wide.losses(method)
    bound = 1e-10 if derivative["kind"] == "jvp" else 1e-4
    assert loss.total < bound and found.abs().max() < bound


def test_beta_0_alpha_1_is_meanflow():
    """Value, gradient and evaluations, whatever share is called first-order."""
    exact = wide.build(MeanFlow)
    loss, gradient = wide.losses(exact)
    for share in (0.0, 0.5):
        method = wide.build(SecondOrderMeanFlow, alpha=1.0, beta=0.0, first_order=share)
        found, g = wide.losses(method)
        close(found.total, loss.total)
        close(g, gradient)
        close(found.logs["gap"], loss.logs["gap"])
        assert method.evaluations == exact.evaluations


def test_beta_0_alpha_0_is_the_forward_row():
    method = wide.build(SecondOrderMeanFlow, alpha=0.0, beta=0.0, first_order=0.0)
    ayf = wide.build(AYF, objective="lmd")
    wide.losses(method)
    x, t, r = graded(method.nets["student"])
    c = wide.batch().condition
    with torch.no_grad():
        u = method.nets["student"](x, t, c, r=r)
        close(u - method.targets(u, x, t, r, c, 0)[1], ayf.lagrangian(u, x, t, r, c))


def test_first_order_share_mixes_two_losses():
    pure, member, mixed = (
        wide.losses(wide.build(SecondOrderMeanFlow, first_order=p, clip=0.4))[1]
        for p in (1.0, 0.0, 0.3)
    )
    close(pure, wide.losses(wide.build(MeanFlow))[1])
    assert (pure - member).abs().max() > 0.01
    close(mixed, 0.3 * pure + 0.7 * member)


def test_the_correction_is_clipped_to_the_velocity():
    method = wide.build(SecondOrderMeanFlow, clip=0.5)
    correction = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]).view(3, 1, 1, 1, 2)
    velocity = torch.tensor([[2.0, 0.0], [0.0, -2.0], [1.0, 0.0]]).view(3, 1, 1, 1, 2)
    expected = torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]).view(3, 1, 1, 1, 2)
    torch.testing.assert_close(method.clipped(correction, velocity), expected)


@pytest.mark.parametrize("clip", [1e-9, 0.03])
def test_clipping_touches_the_second_derivative_alone(clip):
    """Its norm is held below `clip` times that of the velocities at both ends, mixed."""
    method = wide.build(SecondOrderMeanFlow, alpha=0.3, beta=0.8, first_order=0.0, clip=clip)
    _, found = wide.losses(method)
    e = Exact(method.nets["student"], *graded(method.nets["student"]))
    ends = 0.3 * e.v + 0.7 * wide.teacher_velocity(e.x + e.gap * e.u, e.r)
    second = 0.4 * e.gap**2 * e.d_tr
    sizes = [x.norm(dim=-1, keepdim=True) for x in (second, ends)]
    bound = (clip * sizes[1] / sizes[0].clamp_min(1e-12)).clamp_max(1)
    assert (bound < 1).any()
    target = ends + e.gap * (-0.1 * e.d_t - 0.3 * e.d_r) - bound * second
    square = (e.u - target.detach()).square().sum((1, 2, 3, 4))
    close(found, e.gradients((square / (square.detach() + 0.01)).mean()))


def test_beta_rises():
    rising = wide.build(SecondOrderMeanFlow, alpha=0.3, beta_warmup=10, **FREE)
    for step, beta in ((0, 0.0), (4, 0.4), (10, 1.0), (25, 1.0)):
        fixed = wide.build(SecondOrderMeanFlow, alpha=0.3, beta=beta, **FREE)
        close(wide.losses(rising, step=step)[1], wide.losses(fixed)[1])


def test_half_precision_is_within_tolerance():
    method = build_map(SecondOrderMeanFlow, 1.5, 0.5)
    exact = method.losses("student", data_batch(500), 0).total
    with torch.autocast("cpu", torch.bfloat16):
        rounded = method.losses("student", data_batch(500), 0).total
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0)


@pytest.mark.parametrize(
    "option",
    [dict(alpha=1.5), dict(beta=-1), dict(first_order=2), dict(clip=0), dict(beta_warmup=-1)],
)
def test_bad_arguments_are_refused(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} must"):
        wide.build(SecondOrderMeanFlow, **option)


@pytest.mark.parametrize(
    "student, expected", [((1.5, 0.7), 1.212), ((0.5, 0.7), -1.212), ((1.0, 1.0), 0.654)]
)
def test_gradient_equals_the_closed_form(student, expected):
    times = dict(mean=0.0, low=0.0, high=1.0)
    method = build_map(SecondOrderMeanFlow, *student, times=times, **PLAIN, **FREE)
    d_mean, d_std = map_gradients(method, 200_000)
    assert (d_std if student[0] == 1.0 else d_mean) == pytest.approx(expected, rel=0.015)
