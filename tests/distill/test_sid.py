"""SiD and FGM against the true gradient of E||v_T - v_student||² (METHODS, V7)."""

import pytest
import torch

from occdistill.distill.base import only_grad
from occdistill.distill.sid import SiD
from occdistill.flow.path import TimeLaw
from tests.gaussian import TEACHER, BulkDraws, build, gradients, make_batch

FLAT = dict(weight="velocity")
TRUE = -0.8746  # d/da of E||v_T - v_student||² at a = 0.4, b = 1, by quadrature


@pytest.mark.parametrize("alpha, expected", [(0.5, TRUE), (1.0, -1.090), (1.2, -1.177)])
def test_scale_gradient_is_exact_for_one_half_and_biased_beyond(alpha, expected):
    found = gradients(build(SiD, 0.4, 1.0, alpha=alpha, **FLAT))
    assert found == pytest.approx((expected, 0), abs=0.01)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.2])
def test_mean_gradient_is_exact_for_any_alpha(alpha):
    """The plain square's would be 0 here: the auxiliary's dependence on the student is all."""
    found = gradients(build(SiD, 0.7, 1.8, alpha=alpha, **FLAT))
    assert found == pytest.approx((0, 2.158), abs=0.02)


@pytest.mark.parametrize("options", [FLAT, {}])
def test_no_gradient_at_the_optimum(options):
    found = gradients(build(SiD, 0.7, 1.0, alpha=0.5, **options))
    assert found == pytest.approx((0, 0), abs=2e-3)


@pytest.mark.parametrize("student", [(0.4, 1.0), (0.7, 1.8), (1.1, 0.2)])
def test_denoiser_weight_is_the_sources_difference_of_clean_predictions(student):
    """`(D_T - D_A) · ((D_T - x̂) - alpha (D_T - D_A)) / mean |x̂ - D_T|`, no time in it; the clean
    predictions are closed forms, and gradients run through all but the divisor."""
    shape, count, alpha, (m, s) = (1, 1, 4, 4), 20_000, 1.2, TEACHER
    found = gradients(build(SiD, *student, shape=shape, alpha=alpha), count)

    a, b = (torch.tensor(v, requires_grad=True) for v in student)
    draws = make_batch(count).draws
    x_1 = a * draws.normal(*shape).flatten(1) + b
    noise, t = draws.normal(*shape).flatten(1), TimeLaw().times(draws)[:, None]
    x_t = t * x_1 + (1 - t) * noise

    def clean(mean, std):  # E[x_1 | x_t]
        return mean + t * std**2 / ((t * std) ** 2 + (1 - t) ** 2) * (x_t - t * mean)

    D_T, D_A = clean(m, s), clean(b.detach(), a.detach())
    inner = ((D_T - D_A) * ((D_T - x_1) - alpha * (D_T - D_A))).mean(1)
    loss = 2 * (inner / (x_1 - D_T).abs().mean(1).detach()).mean()
    exact = [g.item() for g in torch.autograd.grad(loss, (a, b))]
    assert found == pytest.approx(exact, rel=2e-3, abs=1e-3)


def test_gradient_passes_through_both_fields_but_stays_out_of_their_weights():
    method = build(SiD, 1.1, 0.2)
    with only_grad(method.nets, "student"):
        method.losses("student", make_batch(64), 0).total.backward()
    assert method.nets["student"].a.grad.abs() > 0
    others = [*method.teacher.parameters(), *method.nets["auxiliary"].parameters()]
    assert all(p.grad is None for p in others)


def test_student_converges_to_the_teacher_with_an_ideal_auxiliary():
    method = build(SiD, 0.3, -1.0, alpha=0.5, **FLAT)
    student, auxiliary = method.nets["student"], method.nets["auxiliary"]
    optimiser = torch.optim.Adam(student.parameters(), lr=0.05)
    for step in range(150):
        with torch.no_grad():
            auxiliary.mean.copy_(student.b)
            auxiliary.std.copy_(student.a.abs())
        optimiser.zero_grad()
        method.losses("student", make_batch(4096, step), step).total.backward()
        optimiser.step()
    assert (student.a.item(), student.b.item()) == pytest.approx((0.7, 1.0), abs=0.05)


def test_one_auxiliary_update_per_student_update_by_default():
    assert build(SiD, 1.0, 0.0).plan(3) == ("auxiliary", "student")


def test_the_sources_times_are_the_noisier_four_fifths():
    method = build(SiD, 1.0, 0.0, times=dict(law="uniform_within", low=0.0, high=0.8))
    t = method.times.times(BulkDraws(100_000))
    assert t.max() < 0.8
    assert (t.mean().item(), t.std().item()) == pytest.approx((0.4, 0.8 / 12**0.5), abs=3e-3)


def test_unknown_weight_is_refused():
    with pytest.raises(ValueError, match="score"):
        build(SiD, 1.0, 0.0, weight="score")
