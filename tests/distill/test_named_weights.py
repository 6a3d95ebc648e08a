"""Rows that are another method with its weight fixed: FGM, and Diff-Instruct's other two weights."""

import pytest
import torch

from occdistill.distill.base import only_grad
from occdistill.distill.diff_instruct import (
    WEIGHTS,
    DiffInstruct,
    DiffInstructScore,
    DiffInstructVelocity,
)
from occdistill.distill.flow_generator_matching import FlowGeneratorMatching
from occdistill.flow.path import TimeLaw, interpolate
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

NARROW = dict(m=[1.0], s=[0.7], a=[0.4], b=[1.0])
SHIFTED = dict(m=[1.0], s=[0.7], a=[0.7], b=[1.8])


@pytest.mark.parametrize("case, expected", [(NARROW, (-0.8746, 0)), (SHIFTED, (0, 2.158))])
def test_fgm_has_the_gradients_of_methods_v7(case, expected):
    found = student_gradient(build(FlowGeneratorMatching, case), case, count=400_000)
    close(found, torch.tensor(expected)[:, None], rtol=0.01, atol=0.01)


@BOTH
def test_fgm_is_the_true_gradient_of_the_velocity_divergence(case):
    """`E || v_T - v_student ||²` in closed form: `(m - b)² (1 - t k_T)² + (k_T - k_A)² S_A²`."""
    m, s, a, b = numbers(case)
    a, b = a.requires_grad_(), b.requires_grad_()

    def divergence(t):
        k_T, k_A = slope(t, s), slope(t, a)
        return ((m - b) * (1 - t * k_T)) ** 2 + ((k_T - k_A) * spread(t, a)) ** 2

    total = quadrature(divergence, TimeLaw()).sum()
    exact = torch.stack(torch.autograd.grad(total, (a, b)))
    method = build(FlowGeneratorMatching, case)
    close(student_gradient(method, case, count=400_000), exact, rtol=0.03, atol=0.03)


def test_fgms_loss_is_its_papers():
    """`|| d ||² + 2 d · (v_A - w)`, from the same draws."""
    method = build(FlowGeneratorMatching, PLANE)
    batch = batch_of(PLANE, 500)
    found = method.losses("student", batch_of(PLANE, 500), 0).total
    x_1 = method.generate(batch)
    e, t = batch.draws.normal(*method.latent_shape), method.times.times(batch.draws)
    x_t = interpolate(x_1, e, t)
    v_T = method.guided_teacher(x_t, t, batch.condition)
    v_A = method.nets["auxiliary"](x_t, t, batch.condition)
    d = v_T - v_A
    torch.testing.assert_close(found, (d**2 + 2 * d * (v_A - (x_1 - e))).mean())
    assert method.plan(0) == ("auxiliary", "student")


@BOTH
@pytest.mark.parametrize(
    "cls, weight",
    [
        (DiffInstructScore, lambda t: t**2 / (1 - t)),
        (DiffInstructVelocity, lambda t: t),
        (DiffInstruct, lambda t: 1 - t),
    ],
)
def test_diff_instructs_three_weights(case, cls, weight):
    """`dL/da = a E[w t (k_A - k_T)]`, `dL/db = (b - m) E[w (1 - t) / S_T²]` (METHODS §2, §3)."""
    m, s, a, b = numbers(case)
    law = TimeLaw(low=0.02, high=0.98)
    d_a = a * quadrature(lambda t: weight(t) * t * (slope(t, a) - slope(t, s)), law)
    d_b = (b - m) * quadrature(lambda t: weight(t) * (1 - t) / spread(t, s) ** 2, law)
    method = build(cls, case)
    assert method.times == law
    found = student_gradient(method, case, count=400_000)
    close(found, torch.stack([d_a, d_b]), rtol=0.03, atol=0.01)


@pytest.mark.parametrize("cls", [FlowGeneratorMatching, DiffInstructScore, DiffInstructVelocity])
def test_rest_at_the_teacher_and_nothing_reaches_other_nets(cls):
    case = {**PLANE, "a": PLANE["s"], "b": PLANE["m"]}
    found = student_gradient(build(cls, case), case, count=10_000)
    close(found, torch.zeros(2, 2), rtol=0, atol=1e-4)
    method = build(cls, PLANE)
    assert set(method.plan(0)) == set(method.nets)
    with only_grad(method.nets, "student"):
        method.losses("student", batch_of(PLANE, 64), 0).total.backward()
    others = [p for n, p in method.named_parameters() if not n.startswith("nets.student")]
    assert all(p.grad is None or not p.grad.any() for p in others)
    assert (method.nets["student"].a.grad != 0).all()


def test_the_scores_weight_needs_times_below_one():
    with pytest.raises(ValueError, match="high"):
        build(DiffInstructScore, LINE, times=dict(high=1.0))
    build(DiffInstructVelocity, LINE, times=dict(high=1.0))
    assert build(DiffInstruct, LINE).weight is WEIGHTS["x1"]
