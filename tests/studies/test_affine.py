"""Closed forms of guided Gaussians, and that the library's own methods rest where they say."""

import numpy as np
import pytest
import torch

from occdistill.distill.diff_instruct import DiffInstruct
from occdistill.distill.mfd import MFD
from occdistill.distill.velocity_matching import VelocityMatching
from occdistill.studies.affine import (
    GuidedGaussian,
    average_velocity,
    gaussian_velocity,
    logit_normal,
    rest_point,
    sampler_output,
    sorted_pairs,
    uniform,
)
from tests.flow_map import GaussianFlowMap
from tests.gaussian import SHAPE, AffineStudent, GaussianField, make_batch


def test_average_velocity_converges_to_the_flow_map():
    t, r = np.array([0.0, 0.2, 0.5]), np.array([1.0, 0.7, 0.5])
    offset, slope = average_velocity(lambda x: gaussian_velocity(x, 1.0, 0.7), t, r, 1e-3)
    net = GaussianFlowMap(1.0, 0.7).double()
    for x in (-1.0, 2.0):
        points = torch.full((3, 1, 1, 1, 1), x, dtype=torch.float64)
        exact = net(points, torch.from_numpy(t), None, r=torch.from_numpy(r)).flatten()
        assert offset + slope * x == pytest.approx(exact.tolist(), abs=2e-3)


def test_unguided_students_rest_at_the_teacher():
    teacher = GuidedGaussian(conditional=(1.0, 0.7), scale=1.0)
    assert sampler_output(teacher) == pytest.approx((1.0, 0.7), abs=1e-3)
    t, r, weight = sorted_pairs(logit_normal(20))
    assert rest_point(teacher, t, r, weight * t, 0.02) == pytest.approx((1.0, 0.7), abs=1e-6)


def test_guided_sampler_of_two_gaussians():
    """Guidance 2 of N(1, s²) against N(0, 1) narrows to s² exactly: `S_c² / S_0` at t = 1."""
    mean, std = sampler_output(GuidedGaussian(conditional=(1.0, 0.5)))
    assert std == pytest.approx(0.25, abs=1e-3)
    assert mean == pytest.approx(1.380, abs=2e-3)


@pytest.mark.parametrize(
    "quantiles, expected", [(logit_normal, (1.382, 0.242)), (uniform, (1.341, 0.299))]
)
def test_mfd_under_guidance_rests_near_the_sampler(quantiles, expected):
    t, r, weight = sorted_pairs(quantiles(40))
    found = rest_point(GuidedGaussian(), t, r, weight * t, 0.02)
    assert found == pytest.approx(expected, abs=0.012)


@pytest.mark.parametrize(
    "quantiles, expected", [(logit_normal, (1.380, 0.272)), (uniform, (1.361, 0.304))]
)
def test_velocity_matching_under_guidance_rests_where_the_quadrature_says(quantiles, expected):
    """At logit-normal times as near to the sampler's mean as MFD, with a little more spread."""
    t = quantiles(20_000)
    found = rest_point(GuidedGaussian(), t, t, t / t.size)
    assert found == pytest.approx(expected, abs=1e-3)


class TwoBranches(torch.nn.Module):
    """A teacher whose null branch is another Gaussian."""

    def __init__(self, teacher):
        super().__init__()
        self.with_, self.without = GaussianField(*teacher.conditional), GaussianField(*teacher.null)

    def forward(self, x, t, condition):
        with_, without = self.with_(x, t, None), self.without(x, t, None)
        return torch.where(condition.past > 0, with_, without)


@pytest.mark.parametrize(
    "cls, options",
    [
        (MFD, dict(ode_step=0.02)),
        (VelocityMatching, {}),
        (DiffInstruct, dict(weight="x1")),
        (DiffInstruct, dict(weight="score")),
    ],
)
def test_the_methods_themselves_have_no_gradient_where_the_closed_form_rests(cls, options):
    teacher = GuidedGaussian()
    t, r, weight = sorted_pairs(logit_normal(40))
    if cls is not MFD:
        t = logit_normal(4000)
        t = t if cls is VelocityMatching else t.clip(0.02, 0.98)
        r, weight = t, np.full(t.shape, 1 / t.size)
    factor = {"x1": 1 - t, "score": t**2 / (1 - t)}.get(options.get("weight"), t)
    mean, std = rest_point(teacher, t, r, weight * factor, 0.02)
    method = cls(
        TwoBranches(teacher),
        SHAPE,
        guidance=teacher.scale,
        student=AffineStudent(std, mean),
        auxiliary=GaussianField(mean, std),
        **options,
    )
    method.losses("student", make_batch(200_000), 0).total.backward()
    student = method.nets["student"]
    assert (student.a.grad.item(), student.b.grad.item()) == pytest.approx((0, 0), abs=6e-3)
