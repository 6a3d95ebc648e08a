"""Students of the distribution-matching methods that are trained with several evaluations."""

import pytest
import torch

from occdistill.distill.base import only_grad
from occdistill.distill.diff_instruct import DiffInstruct
from occdistill.distill.dmd2 import DMD2
from occdistill.distill.mfd import MFD
from occdistill.distill.senseflow import SenseFlow
from occdistill.distill.sid import SiD
from occdistill.distill.velocity_matching import VelocityMatching
from occdistill.flow.path import TimeLaw
from occdistill.flow.solver import shifted_grid
from tests.plane import (
    BOTH,
    LINE,
    PLANE,
    batch_of,
    build,
    close,
    numbers,
    quadrature,
    slope,
    spread,
    student_gradient,
)


def affine(case, steps):
    """`A z + B`: what Euler steps of N(x) = (a - 1) x + b make of z; and a, b with gradients."""
    _, _, a, b = numbers(case)
    a, b = a.requires_grad_(), b.requires_grad_()
    A, B = torch.ones_like(a), torch.zeros_like(b)
    for h in shifted_grid(steps).diff():
        A, B = A + h * (a - 1) * A, B + h * ((a - 1) * B + b)
    return A, B, a, b


def one_step_case(case, steps):
    """The one-step student that makes the same samples."""
    A, B, _, _ = affine(case, steps)
    return {**case, "a": A.tolist(), "b": B.tolist()}


def chained(case, steps, gradient):
    """A gradient in (A, B) as one in (a, b)."""
    A, B, a, b = affine(case, steps)
    return torch.stack(torch.autograd.grad((A, B), (a, b), tuple(gradient.double())))


def build_steps(cls, case, steps, **options):
    """With the exact auxiliary of the student's samples."""
    method, same = build(cls, case, steps=steps, **options), one_step_case(case, steps)
    exact = build(cls, same, **options).nets["auxiliary"]
    method.nets["auxiliary"].load_state_dict(exact.state_dict())
    return method


@BOTH
@pytest.mark.parametrize("steps", [2, 4])
def test_gradient_runs_through_all_steps(case, steps):
    """Velocity matching's closed form for the samples A z + B, then the chain rule to a and b."""
    m, s, _, _ = numbers(case)
    A, B, _, _ = (x.detach() for x in affine(case, steps))
    d_A = A * quadrature(lambda t: t**2 * (slope(t, A) - slope(t, s)), TimeLaw())
    d_B = (B - m) * quadrature(lambda t: t * (1 - t) / spread(t, s) ** 2, TimeLaw())
    found = student_gradient(build_steps(VelocityMatching, case, steps), case, count=200_000)
    close(found, chained(case, steps, torch.stack([d_A, d_B])), rtol=0.03, atol=0.01)


@BOTH
@pytest.mark.parametrize("cls", [MFD, DiffInstruct, SiD, DMD2])
def test_several_steps_are_the_one_step_student_of_the_same_samples(cls, case):
    """Draw by draw: only the way from (a, b) to the sample differs."""
    found = student_gradient(build_steps(cls, case, 4), case, count=2000)
    same = one_step_case(case, 4)
    expected = chained(case, 4, student_gradient(build(cls, same), same, count=2000))
    close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_auxiliary_learns_samples_of_that_many_steps(steps):
    method = build_steps(MFD, PLANE, steps)
    before = method.evaluations
    batch = batch_of(PLANE, 50_000)
    with only_grad(method.nets, "auxiliary"):
        method.losses("auxiliary", batch, 0).total.backward()
    assert method.evaluations - before == 50_000 * (steps + 1)
    gradient = torch.stack([p.grad.flatten() for p in method.nets["auxiliary"].parameters()])
    close(gradient, torch.zeros(2, 2), rtol=0, atol=0.05)  # the exact one has nothing to learn
    sample = method.sample(batch.condition, batch.draws.normal(*method.latent_shape)).flatten(1)
    A, B, _, _ = (x.detach() for x in affine(PLANE, steps))
    close(sample.mean(0), B, rtol=0, atol=0.02)
    close(sample.std(0), A, rtol=0.02, atol=0)


def test_one_step_has_the_bits_of_before():
    method, batch = build(MFD, PLANE), batch_of(PLANE, 100)
    assert method.steps == 1
    z = batch_of(PLANE, 100).draws.normal(*method.latent_shape)
    assert torch.equal(method.generate(batch), method.one_step(z, batch.condition))


def test_sampling_can_still_be_asked_for_other_steps():
    method, c = build(MFD, PLANE, steps=3), batch_of(PLANE, 5).condition
    student = method.nets["student"]
    for steps, calls in ((None, 3), (1, 1), (2, 2)):
        student.calls = 0
        method.sample(c, torch.randn(5, *method.latent_shape), steps)
        assert student.calls == calls


@pytest.mark.parametrize("steps", [0, -1, 2.0])
def test_bad_steps_are_refused(steps):
    with pytest.raises(ValueError, match="steps must be a whole number"):
        build(MFD, LINE, steps=steps)


def test_senseflows_segment_is_the_whole_way():
    with pytest.raises(ValueError, match="steps must be 1"):
        build(SenseFlow, LINE, steps=4)
