import pytest
import torch

from occdistill.distill.ayf import AYF
from occdistill.flow.path import expand
from tests.flow_map import build_map, data_batch, map_gradients
from tests.gaussian import TEACHER, BulkDraws, GaussianField

FULL = dict(tangent_warmup=0, tangent_max=1.0)


@pytest.mark.parametrize("objective", ["emd", "lmd"])
def test_residual_and_gradient_vanish_at_the_teachers_flow_map(objective):
    method = build_map(AYF, 1.0, 0.7, objective=objective, **FULL)
    assert map_gradients(method, 20_000) == pytest.approx((0, 0), abs=1e-4)
    assert method.losses("student", data_batch(1000), 0).logs["gap"] < 1e-10


def discrete(method, objective, x_t, t, r, e):
    """The residual from two flow-map evaluations a small time e apart: the papers' own derivation."""
    student, teacher = method.nets["student"], GaussianField(*TEACHER).double()

    def f(x, t, r):
        return x + expand(r - t, x) * student(x, t, None, r=r)

    if objective == "emd":  # f must not change as the start moves along the teacher
        return (f(x_t, t, r) - f(x_t + e * teacher(x_t, t, None), t + e, r)) / e
    end = f(x_t, t, r)  # moving the end must move f with the teacher's velocity
    return (f(x_t, t, r + e) - end) / e - teacher(end, r, None)


@pytest.mark.parametrize("objective", ["emd", "lmd"])
def test_residual_is_the_limit_of_the_discrete_one(objective):
    method = build_map(AYF, 1.4, 0.5, objective=objective).double()
    x_t = torch.randn(50, 1, 1, 1, 1, dtype=torch.float64)
    t = torch.rand(50, dtype=torch.float64) * 0.8
    r = t + (0.99 - t) * torch.rand(50, dtype=torch.float64)
    with torch.no_grad():
        u = method.nets["student"](x_t, t, None, r=r)
        found = method.residual(u, x_t, t, r, data_batch(50).condition)
        close = discrete(method, objective, x_t, t, r, 1e-6)
    torch.testing.assert_close(found, close, atol=1e-4, rtol=1e-3)
    assert found.abs().max() > 0.1


@pytest.mark.parametrize("objective", ["emd", "lmd"])
def test_gradient_is_the_residuals_and_normalisation_only_rescales_it(objective):
    """`dL = 2 E g ∂u / (|g| + c)`; for huge c that is the plain residual gradient over c."""
    method = build_map(AYF, 1.5, 0.5, objective=objective, c=1e4, **FULL)
    found = map_gradients(method, 5000)
    batch = data_batch(5000)
    t, r = method.intervals(batch.draws)
    x_t = expand(t, batch.x_1) * batch.x_1
    x_t = x_t + (1 - expand(t, x_t)) * batch.draws.normal(1, 1, 1, 1)
    student = method.nets["student"]
    u = student(x_t, t, None, r=r)
    with torch.no_grad():
        g = method.residual(u.detach(), x_t, t, r, batch.condition)
    exact = torch.autograd.grad(2 * (g * u).mean() / 1e4, list(student.parameters()))
    assert found == pytest.approx([x.item() for x in exact], rel=1e-2)


@pytest.mark.parametrize("objective", ["emd", "lmd"])
def test_student_converges_to_the_teacher(objective):
    method = build_map(AYF, 0.2, 1.2, objective=objective, **FULL)
    student = method.nets["student"]
    optimiser = torch.optim.Adam(student.parameters(), lr=0.03)
    for step in range(150):
        optimiser.zero_grad()
        method.losses("student", data_batch(2048, step), step).total.backward()
        optimiser.step()
    assert (student.mean.item(), student.std.item()) == pytest.approx((1.0, 0.7), abs=0.06)


def test_intervals_lie_in_the_unit_interval_and_have_the_stated_lengths():
    method = build_map(AYF, 1.0, 0.7)
    t, r = method.intervals(BulkDraws(200_000))
    assert (t >= 0).all() and (t <= r).all() and (r <= 1).all()
    gap = torch.logit(r - t, eps=1e-6)
    assert (gap.mean().item(), gap.std().item()) == pytest.approx((-0.8, 1.6), abs=0.02)
    assert (t / (1 - (r - t))).mean().item() == pytest.approx(0.5, abs=0.01)  # anywhere it fits


def test_warm_up_starts_as_velocity_regression():
    method = build_map(AYF, 1.0, 0.7, tangent_warmup=100)
    u = method.nets["student"]
    batch = data_batch(100)
    t, r = method.intervals(batch.draws)
    x_t = torch.randn(100, 1, 1, 1, 1)
    g = method.eulerian(u(x_t, t, None, r=r), x_t, t, r, batch.condition, k=0.0)
    torch.testing.assert_close(g, u(x_t, t, None, r=r) - GaussianField(*TEACHER)(x_t, t, None))


def test_warm_up_ends_at_the_largest_k():
    """At the teacher's flow map the residual is `(1 - k) (u - v)`, so its square tells k."""
    method = build_map(AYF, 1.0, 0.7, tangent_warmup=100, tangent_max=0.9)
    gaps = [method.losses("student", data_batch(100), s).logs["gap"].item() for s in (0, 50, 1000)]
    assert gaps[1:] == pytest.approx([gaps[0] * 0.5**2, gaps[0] * 0.1**2], rel=1e-3)


@pytest.mark.parametrize("objective", ["emd", "lmd"])
def test_normalised_residual_is_regressed_away(objective):
    """`L = mean (g / (|g| + c))²` with |g| the root mean square over a sample's elements."""
    shape = (1, 1, 4, 4)
    method = build_map(AYF, 1.5, 0.5, shape=shape, objective=objective, **FULL)
    found = method.losses("student", data_batch(200, shape=shape), 0).total
    batch = data_batch(200, shape=shape)
    t, r = method.intervals(batch.draws)
    x_t = expand(t, batch.x_1) * (batch.x_1 - (noise := batch.draws.normal(*shape))) + noise
    with torch.no_grad():
        u = method.nets["student"](x_t, t, None, r=r)
        g = method.residual(u, x_t, t, r, batch.condition)
    size = g.square().mean((1, 2, 3, 4), keepdim=True).sqrt()
    torch.testing.assert_close(found, (g / (size + 0.1)).square().mean(), rtol=1e-4, atol=0)


def test_unknown_objective_is_refused():
    with pytest.raises(ValueError, match="esd"):
        build_map(AYF, 1.0, 0.7, objective="esd")
