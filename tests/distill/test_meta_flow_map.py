"""Meta flow maps on Gaussians, where the posterior and its inner flow are closed forms."""

import pytest
import torch
from torch import nn

from occdistill.distill.base import only_grad
from occdistill.distill.flow_map import made_for, with_outer
from occdistill.distill.meta_flow_map import MetaFlowMap
from occdistill.flow.networks.occfm import OccFMTransition
from occdistill.flow.path import Draws, TimeLaw, expand
from occdistill.latents.condition import Condition
from tests import wide
from tests.distill.test_contract import make_batch
from tests.distill.test_contract import teacher as small
from tests.gaussian import SHIFT, seen
from tests.wide import MEAN, OFF, SHAPE, STD, average


def posterior(x_t, t, mean, std):
    """Mean and spread of x_1 given x_t: two precisions add up."""
    weight = (t / (1 - t)) ** 2
    total = 1 / std**2 + weight
    return (mean / std**2 + t * x_t / (1 - t) ** 2) / total, total**-0.5


class Posterior(nn.Module):
    """The inner flow map of the posterior of N(mean, std²), in closed form."""

    two_time = True

    def __init__(self, mean, std):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean, dtype=torch.float64))
        self.std = nn.Parameter(torch.tensor(std, dtype=torch.float64))
        self.calls = []

    def forward(self, y, a, condition, r=None, outer=None):
        x_t, t = outer
        if torch.is_grad_enabled():
            self.calls.append((y.detach(), a, r, x_t, t))
        law = posterior(x_t, expand(t, y), seen(self.mean, condition), self.std)
        return average(y, expand(a, y), expand(r, y), *law)


def build(mean=OFF[0], std=OFF[1], **options):
    teacher = wide.Flow([m - SHIFT for m in MEAN], list(STD))
    student = Posterior(list(mean), list(std))
    return MetaFlowMap(teacher, SHAPE, student=student, **options)


@pytest.mark.parametrize("kind", ["jvp", "difference"])
def test_residual_and_gradient_vanish_at_the_teachers_posterior(kind):
    """The teacher at the merged point gives the posterior's velocity exactly, for every t and a."""
    method = build(MEAN, STD, derivative=dict(kind=kind, step=1e-5), power=0.0)
    loss, gradient = wide.losses(method, 400)
    assert loss.logs["gap"] < (1e-20 if kind == "jvp" else 1e-9)
    assert gradient.abs().max() < (1e-9 if kind == "jvp" else 1e-4)
    assert (build().losses("student", wide.batch(), 0).logs["gap"]) > 0.01


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_off_the_optimum_loss_and_gradient_are_the_formulas(power):
    """At the points that the student was asked at, derivatives by autograd, w by two precisions."""
    method = build(power=power)
    loss, found = wide.losses(method, 60)
    student = method.nets["student"]
    y, a, b, x_t, t = student.calls[-1]
    assert (b >= a).all() and (b > a).any() and (b == a).any() and a.max() <= 0.98
    y, a_, b_ = (x.clone().requires_grad_() for x in (y, expand(a, y).expand_as(y), expand(b, y)))
    truth = posterior(x_t, expand(t, y), torch.tensor(MEAN).double(), torch.tensor(STD).double())
    w = average(y, a_, a_, *truth).detach()
    u = average(y, a_, b_, *posterior(x_t, expand(t, y), student.mean, student.std))
    along_a, along_y = torch.autograd.grad(u.sum(), (a_, y), retain_graph=True)
    target = w + (b_ - a_).detach() * (along_a + along_y * w)
    square = (u - target.detach()).square().flatten(1).sum(1)
    total = (square / (square.detach() + 0.01) ** power).mean()
    wide.close(loss.total, total)
    wide.close(found, torch.cat(torch.autograd.grad(total, [student.mean, student.std])))


def test_no_start_is_where_the_division_would_blow_up():
    late = dict(law="uniform_within", low=0.985, high=0.99)
    method = build(times=late, instantaneous=0.0)
    method.losses("student", wide.batch(20), 0)
    _, a, b, _, _ = method.nets["student"].calls[-1]
    assert (a == 0.98).all() and (b > 0.984).all()


def test_a_posterior_sample_is_one_call_and_follows_the_posterior():
    method = build(MEAN, STD)
    batch = wide.batch(50)
    x_t, t = batch.x_1 * 0.7, torch.linspace(0.1, 0.9, 50, dtype=torch.float64)
    e = batch.draws.normal(*SHAPE)
    mean, std = posterior(x_t, expand(t, e), torch.tensor(MEAN), torch.tensor(STD))
    wide.close(method.posterior(x_t, t, batch.condition, e), mean + std * e)


def networks():
    torch.manual_seed(0)
    occfm = OccFMTransition((8, 8, 8), past=2, future=2, trajectory_length=2, width=16)
    return {"small": small(), "occfm": occfm}


@pytest.mark.parametrize("family", ["small", "occfm"])
def test_a_network_is_told_of_the_outer_point_unless_its_time_is_zero(family):
    net, batch = networks()[family], make_batch()
    c, y = batch.condition, torch.randn(3, 2, 8, 8, 8)
    if family == "occfm":
        c = Condition(c.past, None, c.trajectory)
    told, half, one = with_outer(net), torch.full((3,), 0.5), torch.ones(3)
    point = torch.randn(3, 2, 8, 8, 8)
    with torch.no_grad():
        plain = net(y, half, c)
        torch.testing.assert_close(told(y, half, c, r=one, outer=(point, half)), plain)
        for part in (told.outer_in, told.outer_clock, told.end_clock):
            for parameter in part.parameters():
                nn.init.normal_(parameter, std=0.2)
        zero = torch.zeros(3)
        at_zero = [told(y, half, c, r=one, outer=(p, zero)) for p in (point, -point)]
        assert torch.equal(*at_zero)
        ones = [told(y, half, c, r=one, outer=(p, half)) for p in (point, -point)]
        assert not torch.allclose(*ones)
        assert not torch.allclose(told(y, half, c, r=one, outer=(0 * point, one)), at_zero[0])
        loaded = made_for(networks()[family], told.state_dict())
        loaded.load_state_dict(told.state_dict())
        assert torch.equal(loaded(y, half, c, r=one, outer=(point, half)), ones[0])


def test_the_student_alone_learns_and_data_are_needed():
    method = build()
    assert method.plan(0) == ("student",)
    with only_grad(method.nets, "student"):
        method.losses("student", wide.batch(), 0).total.backward()
    reached = {n for n, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"nets.student.mean", "nets.student.std"}
    batch = wide.batch()
    batch.x_1 = None
    with pytest.raises(ValueError, match="x_1"):
        method.losses("student", batch, 0)


def test_defaults_and_what_is_refused():
    method = build()
    assert method.outer_times == TimeLaw(high=0.98) and method.times == TimeLaw(mean=0.4)
    assert method.outer_times.times(Draws(range(500))).max() <= 0.98
    with pytest.raises(ValueError, match="outer_times.high"):
        build(outer_times=dict(high=1.0))
    with pytest.raises(ValueError, match="chunk"):
        build(derivative=dict(chunk=1))
