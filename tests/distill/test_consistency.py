import pytest
import torch

from occdistill.distill.consistency import Consistency
from occdistill.distill.losses import adaptive, pseudo_huber
from tests.flow_map import build_map, data_batch, map_gradients, moments
from tests.gaussian import TEACHER, BulkDraws, GaussianField

UNIFORM = dict(law="uniform", low=0.0, high=0.999)


def closed_form(mean, std, gap, count=1_000_000):
    """(dL/dm', dL/ds') of the squared loss: every x_t is Gaussian, f and its target are affine.

    f = m' + a (x - t m'), a = s'/S'_t; in y = (x_t - t m)/S_t ~ N(0, 1) the residual is p + q y.
    """
    m, s = TEACHER
    t = BulkDraws(count, 3).uniform(1)[:, 0].double().clamp(0.0, 0.999)
    later = (t + gap).clamp_max(1.0)
    mu, spread = moments(t)
    slope = (t * s**2 - (1 - t)) / spread**2
    m_, s_ = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (mean, std))

    def f(offset, scale, time, m_, s_):  # of x = offset + scale y
        a = s_ / ((time * s_) ** 2 + (1 - time) ** 2).sqrt()
        return m_ + a * (offset - time * m_), a * scale

    p, q = f(mu, spread, t, m_, s_)
    p2, q2 = f(
        mu + (later - t) * m, spread * (1 + (later - t) * slope), later, m_.detach(), s_.detach()
    )
    loss = (((p - p2) ** 2 + (q - q2) ** 2) / (later - t)).mean()
    return [g.item() for g in torch.autograd.grad(loss, (m_, s_))]


@pytest.mark.parametrize("student", [(1.5, 0.7), (0.5, 0.7), (1.0, 1.0)])
def test_gradient_equals_the_closed_form(student):
    method = build_map(Consistency, *student, times=UNIFORM, huber=None)
    found, exact = map_gradients(method, 500_000), closed_form(*student, 0.02)
    assert found == pytest.approx(exact, rel=0.03, abs=0.01)
    if student[1] == 0.7:  # METHODS: ±0.53 for a mean error of ±0.5, depending on the time law
        assert abs(found[0]) == pytest.approx(0.51, abs=0.03)


@pytest.mark.parametrize("gap, bias", [(0.1, 0.094), (0.02, 0.0171), (0.005, 0.0042)])
def test_the_euler_step_leaves_a_bias_of_first_order_at_the_optimum(gap, bias):
    method = build_map(Consistency, 1.0, 0.7, times=UNIFORM, huber=None, gap=gap)
    d_mean, d_std = map_gradients(method, 500_000)
    assert d_std == pytest.approx(bias, rel=0.05)
    assert d_mean == pytest.approx(0, abs=3e-3)


def test_the_end_of_the_trajectory_is_its_own_target():
    """A gap that reaches t = 1 compares with the teacher's Euler step itself."""
    method = build_map(Consistency, 1.2, 0.9, gap=1.0, huber=None, times=dict(low=0.3, high=0.3))
    batch = data_batch(1000)
    found = method.losses("student", batch, 0).total
    batch = data_batch(1000)
    t = method.times.times(batch.draws)
    x_t = 0.3 * batch.x_1 + 0.7 * batch.draws.normal(1, 1, 1, 1)
    student, teacher = method.nets["student"], GaussianField(*TEACHER)
    difference = 0.7 * (student(x_t, t, None) - teacher(x_t, t, None))
    torch.testing.assert_close(found, difference.square().mean() / 0.7)


def test_target_network_follows_the_student_slowly():
    method = build_map(Consistency, 0.0, 1.0, target_ema=0.9)
    with torch.no_grad():
        method.nets["student"].mean.fill_(1.0)
    method.after("student", 0)
    assert method.target.mean.item() == pytest.approx(0.1)
    method.losses("student", data_batch(8), 0).total.backward()
    assert method.target.mean.grad is None and method.nets["student"].mean.grad is not None


def test_distances():
    square = torch.tensor([0.0, 1e-8, 4.0])
    huber = pseudo_huber(square, 0.01)
    assert huber[0] == 0
    assert huber[1].item() == pytest.approx(1e-8 / 0.02, rel=1e-3)
    assert huber[2].item() == pytest.approx(1.99, rel=1e-3)
    assert torch.equal(adaptive(square, power=0.0), square)
    x = torch.tensor(3.0, requires_grad=True)
    adaptive(x.square(), epsilon=1.0).backward()
    assert x.grad.item() == pytest.approx(6 / 10)  # the weight isn't differentiated
