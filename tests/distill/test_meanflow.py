"""MeanFlow against its closed forms; METHODS: gradients of || u - target ||² by quadrature."""

import pytest
import torch

from occdistill.distill.meanflow import MeanFlow
from tests.flow_map import build_map, data_batch, map_gradients
from tests.gaussian import TEACHER, GaussianField

PLAIN = dict(power=0.0, instantaneous=0.0)
CENTRED = dict(mean=0.0, low=0.0, high=1.0)


# (student mean, std) and (dL/dm', dL/ds') over logit-normal pairs: the residual is quadratic in u
@pytest.mark.parametrize(
    "student, expected", [((1.5, 0.7), 1.264), ((0.5, 0.7), -1.264), ((1.0, 1.0), 0.631)]
)
def test_gradient_equals_the_closed_form(student, expected):
    method = build_map(MeanFlow, *student, times=CENTRED, **PLAIN)
    d_mean, d_std = map_gradients(method, 1_000_000)
    found = d_std if student[0] == 1.0 else d_mean
    assert found == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("derivative", [dict(kind="jvp"), dict(kind="difference", step=1e-3)])
def test_residual_and_gradient_vanish_at_the_teachers_flow_map(derivative):
    method = build_map(MeanFlow, 1.0, 0.7, derivative=derivative, **PLAIN)
    assert map_gradients(method, 10_000) == pytest.approx((0, 0), abs=1e-3)
    assert method.losses("student", data_batch(1000), 0).logs["gap"] < 1e-5


def test_instantaneous_samples_learn_the_velocity():
    """With r = t everywhere the loss is flow matching: the derivative has no weight."""
    method = build_map(MeanFlow, 1.5, 0.7, instantaneous=1.0, power=0.0)
    batch = data_batch(1000)
    found = method.losses("student", batch, 0).total
    batch = data_batch(1000)
    t = method.times.intervals(batch.draws)[0]
    batch.draws.uniform(1)
    x_t = t.view(-1, 1, 1, 1, 1) * batch.x_1
    x_t = x_t + (1 - t.view(-1, 1, 1, 1, 1)) * batch.draws.normal(1, 1, 1, 1)
    student, teacher = method.nets["student"], GaussianField(*TEACHER)
    expected = (student(x_t, t, None, r=t) - teacher(x_t, t, None)).square().mean()
    torch.testing.assert_close(found, expected)


def test_adaptive_weight_makes_the_loss_insensitive_to_scale():
    losses = [
        build_map(MeanFlow, mean, 0.7, instantaneous=0.0).losses("student", data_batch(5000), 0)
        for mean in (5.0, 50.0)
    ]
    assert losses[0].total.item() == pytest.approx(1, abs=0.05)
    assert losses[1].total.item() == pytest.approx(1, abs=0.01)


def test_warm_up_fades_the_derivative_in():
    """At step 0 the target is the plain velocity; at full strength the identity's right side, and
    no more of it ever after. At the teacher's flow map the residual is `(1 - fade) (u - v)`.
    """
    method = build_map(MeanFlow, 1.0, 0.7, tangent_warmup=10, **PLAIN)
    steps = (0, 4, 10, 25)
    gaps = [method.losses("student", data_batch(1000), s).logs["gap"].item() for s in steps]
    assert gaps[0] > 0.05
    assert gaps[1] == pytest.approx(0.6**2 * gaps[0], rel=1e-3) and max(gaps[2:]) < 1e-10


def test_a_share_of_the_samples_is_instantaneous():
    """At the teacher's flow map those have no residual, whatever the derivative's fade."""
    gaps = [
        build_map(MeanFlow, 1.0, 0.7, tangent_warmup=10, instantaneous=share)
        .losses("student", data_batch(50_000), 0)
        .logs["gap"]
        .item()
        for share in (0.0, 0.25, 1.0)
    ]
    assert gaps[1] == pytest.approx(0.75 * gaps[0], rel=0.03) and gaps[2] < 1e-10
