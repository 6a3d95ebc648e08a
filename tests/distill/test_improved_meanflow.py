"""Improved MeanFlow against closed forms."""

import pytest
import torch

from occdistill.distill.improved_meanflow import ImprovedMeanFlow
from occdistill.distill.meanflow import MeanFlow
from occdistill.flow.path import expand
from tests import wide
from tests.flow_map import build_map, data_batch, map_gradients
from tests.gaussian import SHIFT
from tests.wide import Exact, close

ONLY = dict(instantaneous_weight=0.0)


def square(residual, power=1.0):
    total = residual.square().sum((1, 2, 3, 4))
    return total / (total.detach() + 0.01) ** power


@pytest.mark.parametrize("guidance", [1.0, 2.0, 3.5])
def test_gradient_is_that_of_the_regression_on_the_velocity(guidance):
    method = wide.build(ImprovedMeanFlow, guidance=guidance, instantaneous_weight=0.6)
    student = method.nets["student"]
    loss, found = wide.losses(method)
    x, t, r = [call[:3] for call in student.calls if call[3]][-1]
    now = wide.average(x, expand(t, x), expand(t, x), *student.parameters())
    e = Exact(student, x, t, r, tangent=now.detach())
    implied = e.u - e.gap * e.d_t.detach()
    expected = (square(implied - e.v) + 0.6 * square(now - e.v)).mean()
    close(loss.total, expected)
    close(found, e.gradients(expected))
    close(loss.logs["gap"], (implied - e.v).square().mean().detach())


ALONG = dict(tangent="teacher", **ONLY)


def test_along_the_teacher_it_is_meanflow():
    one, other = wide.build(ImprovedMeanFlow, **ALONG), wide.build(MeanFlow)
    close(wide.losses(one)[1], wide.losses(other)[1])
    close(wide.losses(one)[0].total, wide.losses(other)[0].total)


@pytest.mark.parametrize("derivative", [dict(kind="jvp"), dict(kind="difference", chunk=9)])
@pytest.mark.parametrize("tangent", ["student", "teacher"])
def test_loss_and_gradient_vanish_at_the_teachers_flow_map(tangent, derivative):
    options = dict(tangent=tangent, derivative=derivative, power=0.0)
    loss, found = wide.losses(wide.at_optimum(ImprovedMeanFlow, **options))
    bound = 1e-10 if derivative["kind"] == "jvp" else 1e-4
    assert loss.total < bound and found.abs().max() < bound


def test_the_datas_velocity_is_x_1_minus_x_0_guided_by_the_student_itself():
    """Here the student's two velocities differ by `(1 - k t) SHIFT`, k the flow's slope."""
    for guidance in (1.0, 2.0, 4.0):
        method = wide.build(ImprovedMeanFlow, velocity="data", guidance=guidance)
        batch = wide.batch()
        t = batch.draws.uniform(1)[:, 0]
        noise = batch.draws.normal(*wide.SHAPE)
        x_t = expand(t, noise) * batch.x_1 + (1 - expand(t, noise)) * noise
        with torch.no_grad():
            now = method.nets["student"](x_t, t, batch.condition)
            found = method.target(now, x_t, t, batch)
        s2, q = torch.tensor(wide.OFF[1]) ** 2, expand(t, x_t)
        slope = (q * s2 - (1 - q)) / (q**2 * s2 + (1 - q) ** 2)
        difference = (1 - 1 / guidance) * (1 - slope * q) * SHIFT
        close(found, batch.x_1 - noise + difference)


def test_the_datas_velocity_has_its_mean_at_the_guided_field():
    """`u_c = w v + (1 - w) u_0` with w = 2, v of mean 1 and u_0 SHIFT below u_c: mean 1.2."""
    options = dict(velocity="data", guidance=2.0, power=0.0, instantaneous=1.0, **ONLY)
    found = [
        map_gradients(build_map(ImprovedMeanFlow, mean, 0.7, **options), 100_000)[0]
        for mean in (1.0, 1.2, 1.4)
    ]
    assert found[1] == pytest.approx(0, abs=0.02) and found[0] < -0.2 and found[2] > 0.2


def test_nothing_flows_through_the_datas_velocity():
    method = wide.build(ImprovedMeanFlow, velocity="data", power=0.0, instantaneous=1.0, **ONLY)
    student = method.nets["student"]
    _, found = wide.losses(method)
    x, t, r = [call[:3] for call in student.calls if call[3]][-1]
    with torch.no_grad():
        now = student(x, t, wide.batch().condition)
        target = method.target(now, x, t, wide.batch())
    e = Exact(student, x, t, r)
    close(found, e.gradients(square(e.u - target, 0.0).mean()))


def test_half_precision_is_within_tolerance():
    method = build_map(ImprovedMeanFlow, 1.5, 0.5)
    exact = method.losses("student", data_batch(500), 0).total
    with torch.autocast("cpu", torch.bfloat16):
        rounded = method.losses("student", data_batch(500), 0).total
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0)


@pytest.mark.parametrize(
    "option",
    [
        dict(velocity="x"),
        dict(tangent="data"),
        dict(instantaneous_weight=-1),
        dict(guidance=0.0, velocity="data"),
    ],
)
def test_bad_arguments_are_refused(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} must"):
        wide.build(ImprovedMeanFlow, **option)


@pytest.mark.parametrize(
    "student, expected", [((1.5, 0.7), 1.264), ((0.5, 0.7), -1.264), ((1.0, 1.0), 0.631)]
)
def test_gradient_equals_the_closed_form(student, expected):
    """METHODS' numbers for MeanFlow, by quadrature over logit-normal pairs."""
    plain = dict(power=0.0, instantaneous=0.0, times=dict(mean=0.0, low=0.0, high=1.0))
    d_mean, d_std = map_gradients(build_map(ImprovedMeanFlow, *student, **plain, **ALONG))
    assert (d_std if student[0] == 1.0 else d_mean) == pytest.approx(expected, rel=0.015)
