"""AlphaFlow against closed forms, and its two limits."""

import pytest
import torch

from occdistill.distill.alphaflow import AlphaFlow
from occdistill.distill.meanflow import MeanFlow
from occdistill.flow.path import expand
from tests import wide
from tests.flow_map import build_map, data_batch
from tests.wide import Exact, close

PLAIN = dict(power=0.0, instantaneous=0.0)


def exact(student):
    """At the points of the call with gradients."""
    return Exact(student, *[c[:3] for c in student.calls if c[3]][-1])


def step_target(e, alpha):
    """`a v + (1 - a) u(x_q, q, r)`, written out."""
    q = e.t + alpha * (e.r - e.t)
    x_q = e.x + (q - e.t) * e.v
    return (alpha * e.v + (1 - alpha) * wide.average(x_q, q, e.r, *e.parameters)).detach()


@pytest.mark.parametrize("power", [0.0, 1.0])
@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.1])
def test_gradient_is_that_of_the_regression(alpha, power):
    """With power 1, the source's `a ||.||² / sg(||.||² + a² 0.01)`; r = t learns the velocity."""
    method = wide.build(AlphaFlow, alpha=alpha, power=power, instantaneous=0.4)
    loss, found = wide.losses(method)
    e = exact(method.nets["student"])
    empty = (e.r == e.t)[:, 0, 0, 0, 0]
    assert 0 < empty.sum() < len(empty)
    a = torch.where(empty, 1.0, alpha).double()
    square = (e.u - step_target(e, expand(a, e.x))).square().sum((1, 2, 3, 4))
    weight = a / (square.detach() + a**2 * 0.01) if power else 1 / a
    close(loss.total, (weight * square).mean())
    close(found, e.gradients((weight * square).mean()))


def test_gradient_tends_to_meanflows():
    """METHODS' table: (target - u) / a is off MeanFlow's residual by nearly 1/a."""
    limit = wide.losses(wide.build(MeanFlow, **PLAIN))[1]
    errors = [
        (
            (wide.losses(wide.build(AlphaFlow, alpha=a, **PLAIN))[1] - limit).norm() / limit.norm()
        ).item()
        for a in (0.1, 0.01, 0.001)
    ]
    assert errors[0] < 0.3 and errors[2] < 3e-3
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.3)
    assert errors[2] == pytest.approx(errors[1] / 10, rel=0.1)


def test_alpha_0_is_meanflow():
    one = wide.losses(wide.build(AlphaFlow, alpha=0.0, instantaneous=0.5))
    other = wide.losses(wide.build(MeanFlow))
    close(one[0].total, other[0].total)
    close(one[1], other[1])


def test_at_the_teachers_flow_map_only_the_euler_step_is_left():
    """The residual over a falls with a; at 0, and where r = t, it is nothing."""

    def gap(**options):
        method = wide.at_optimum(AlphaFlow, **{**PLAIN, **options})
        loss, gradient = wide.losses(method, 2000)
        return loss.logs["gap"].item() ** 0.5, gradient.abs().max().item()

    sizes = [gap(alpha=a)[0] for a in (0.08, 0.04)]
    assert sizes[1] == pytest.approx(sizes[0] / 4, rel=0.15)  # O(a²)
    assert gap(alpha=0.0) == pytest.approx((0, 0), abs=1e-12)
    assert gap(alpha=0.5, instantaneous=1.0) == pytest.approx((0, 0), abs=1e-12)


def test_curriculum_falls_from_1_to_0():
    method = wide.build(AlphaFlow, curriculum=(100, 300))
    logistic = 1 / (1 + 2.718281828**2.5)
    found = [method.alpha(step) for step in (0, 100, 180, 200, 220, 300, 10_000)]
    assert found == pytest.approx([1, 1, 1 - logistic, 0.5, logistic, 0, 0], rel=1e-6)
    assert found[1] == 1 and found[-2] == 0  # and not nearly
    for step, alpha in ((150, 0.998), (200, 0.5), (400, 0.0)):
        fixed = wide.build(AlphaFlow, alpha=1.0 if alpha > 0.995 else alpha)
        close(wide.losses(method, step=step)[1], wide.losses(fixed)[1])


def test_targets_are_clipped():
    found = wide.build(AlphaFlow, alpha=0.5, clip=0.3)
    wide.losses(found)
    e = exact(found.nets["student"])
    a = torch.where(e.r == e.t, 1.0, 0.5).double()
    rest = e.u - step_target(e, a).clamp(-0.3, 0.3)
    close(wide.losses(found)[0].logs["gap"], rest.square().mean().detach())


def test_half_precision_is_within_tolerance():
    method = build_map(AlphaFlow, 1.5, 0.5, alpha=0.5)
    whole = method.losses("student", data_batch(500), 0).total
    with torch.autocast("cpu", torch.bfloat16):
        rounded = method.losses("student", data_batch(500), 0).total
    torch.testing.assert_close(rounded, whole, rtol=0.02, atol=0)


@pytest.mark.parametrize(
    "option",
    [
        dict(alpha=1.5),
        dict(curriculum=(5, 5)),
        dict(curriculum=(-1, 5)),
        dict(sharpness=0),
        dict(clip=0),
    ],
)
def test_bad_arguments_are_refused(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} must"):
        wide.build(AlphaFlow, **option)
