"""Transition matching: the inner flow on Gaussians, and networks that split into trunk and head."""

import pytest
import torch
from torch import nn

from occdistill.distill.base import only_grad
from occdistill.distill.dmd2 import DMD2
from occdistill.distill.flow_map import made_for
from occdistill.distill.transition_matching import TransitionMatching
from occdistill.flow.parts import Transitions, Trunk
from occdistill.flow.path import expand
from occdistill.flow.solver import fresh_draws
from occdistill.latents.condition import Condition
from tests import wide
from tests.distill.test_contract import SHAPE, make_batch
from tests.distill.test_contract import teacher as small
from tests.distill.test_meta_flow_map import networks
from tests.gaussian import SHIFT, seen
from tests.plane import Linear, OutputTap
from tests.wide import MEAN, OFF, STD, average


class Held(tuple):
    """An outer point, as features."""

    def float(self):
        return self


class Inner(nn.Module):
    """The inner flow map of `y = x_1 - x_0` given x_t: a normal law, or its mean alone."""

    def __init__(self, mean, std, point):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean, dtype=torch.float64))
        self.std = nn.Parameter(torch.tensor(std, dtype=torch.float64))
        self.point = point

    def trunk(self, x_t, t, condition):
        return Held((x_t, t, condition))

    def inner_average(self, features, y, a, b):
        x_t, t, condition = features
        t, mean = expand(t, y), seen(self.mean, condition)
        spread = 0 * self.std if self.point else self.std / S(t, self.std)
        v = average(x_t, t, t, mean, self.std)
        return average(y, expand(a, y), expand(b, y), v, spread)


def S(t, std):
    return ((t * std) ** 2 + (1 - t) ** 2).sqrt()


def build(mean=OFF[0], std=OFF[1], **options):
    point = options.get("target") == "teacher"
    teacher, auxiliary = (wide.Flow([m - SHIFT for m in MEAN], list(STD)) for _ in range(2))
    return TransitionMatching(
        teacher, wide.SHAPE, student=Inner(list(mean), list(std), point), auxiliary=auxiliary,
        taps=[OutputTap()], heads=[Linear()], **options,
    )  # fmt: skip


def losses(method, count):
    student = method.nets["student"]
    student.zero_grad()
    loss = method.losses("student", wide.batch(count), 0)
    loss.total.backward()
    return loss, torch.cat([student.mean.grad, student.std.grad])


def test_where_the_velocity_is_a_point_the_residual_vanishes():
    method = build(MEAN, STD, target="teacher", power=0.0, instantaneous=0.25)
    loss, gradient = losses(method, 300)
    assert loss.logs["gap"] < 1e-20 and gradient.abs().max() < 1e-9
    assert losses(build(target="teacher"), 300)[0].logs["gap"] > 0.01


def test_where_it_is_a_law_the_gradient_vanishes_at_its_flow_map():
    """One sample's residual does not: its velocity is one of many."""
    method = build(MEAN, STD, power=0.0, inner_times=dict(high=0.9))
    loss, gradient = losses(method, 400_000)
    assert loss.logs["gap"] > 0.1 and gradient.abs().max() < 0.05
    off = losses(build(power=0.0, inner_times=dict(high=0.9)), 400_000)[1]
    assert (off.abs() > 0.1).sum() >= 3


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_stage_ones_loss_and_gradient_are_the_formulas(power):
    """From the same draws, derivatives by autograd."""
    method = build(power=power)
    loss, found = losses(method, 60)
    student, batch = method.nets["student"], wide.batch(60)
    draws = batch.draws
    t = method.outer_times.times(draws)
    x_0, e = draws.normal(*wide.SHAPE), draws.normal(*wide.SHAPE)
    y = batch.x_1 - x_0
    x_t = expand(t, y) * batch.x_1 + expand(1 - t, y) * x_0
    a, b = method.inner_times.intervals(draws)
    a = a.clamp_max(0.95)
    b = torch.where(draws.uniform(1)[:, 0] < 0.75, a, b)
    assert (b > a).any() and (b == a).any()
    y_a = (expand(a, y) * y + expand(1 - a, y) * e).requires_grad_()
    a = a.requires_grad_()
    w = student.inner_average((x_t, t, batch.condition), y_a, a, b)
    ones = torch.ones_like(w)
    along_y = torch.autograd.grad(w, y_a, ones, retain_graph=True)[0]
    each = [torch.autograd.grad(w[..., i].sum(), a, retain_graph=True)[0] for i in range(2)]
    along_a = torch.stack(each, -1).view_as(w)
    target = (y - e) + expand(b - a, w).detach() * (along_a + along_y * (y - e))
    square = (w - target.detach()).square().flatten(1).sum(1)
    total = (square / (square.detach() + 0.01) ** power).mean()
    wide.close(loss.total, total)
    wide.close(found, torch.cat(torch.autograd.grad(total, [student.mean, student.std])))


def test_no_inner_step_starts_where_the_division_would_blow_up():
    late = dict(law="uniform_within", low=0.97, high=0.99)
    a, b = build(inner_times=late, instantaneous=0.0).inner_interval(wide.Draws64(50))
    assert (a == 0.95).all() and (b > 0.97).all()


def test_stage_two_is_dmd2_on_the_unrolled_student():
    """At first the head says what the teacher says, whatever the inner noise: DMD2's own loss."""
    torch.manual_seed(1)
    one = TransitionMatching(small(), SHAPE, stage=3, inner_steps=3)
    torch.manual_seed(1)
    other = DMD2(small(), SHAPE)
    other.nets["auxiliary"].load_state_dict(one.nets["auxiliary"].state_dict())
    with torch.no_grad():
        found, expected = (m.losses("student", make_batch(), 3).total for m in (one, other))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        assert "generator" not in one.losses("student", make_batch(), 2).logs


def loosened(net, steps):
    """Transitions whose head listens to its inner state."""
    made = Transitions(net, steps)
    for part in (made.fusion, made.inner_clock, made.inner_end_clock):
        for parameter in part.parameters():
            nn.init.normal_(parameter, std=0.2)
    return made


@pytest.mark.parametrize("family", ["small", "occfm"])
def test_the_trunk_runs_once_and_the_head_n_times(family, monkeypatch):
    net, c = networks()[family], make_batch().condition
    if family == "occfm":
        c = Condition(c.past, None, c.trajectory)
    x, t = torch.randn(3, *SHAPE), torch.full((3,), 0.3)
    with torch.no_grad():
        plain = net(x, t, c)
        assert torch.equal(plain, net.head(net.trunk(x, t, c)))
        torch.testing.assert_close(Transitions(net, 3)(x, t, c), plain, rtol=1e-4, atol=1e-5)
        features, width = net.trunk(x, t, c), net.told_time(net.clock, t).shape[1]
        for more in ((torch.randn(3, width), None), (None, torch.randn(6, net.fusion, 8, 8))):
            assert not torch.allclose(net.head(features, *more), plain, atol=1e-3)
        made, calls = loosened(net, 3), []
        for part in ("trunk", "head"):
            plain_call = getattr(made.network, part)
            monkeypatch.setattr(
                made.network, part, lambda *a, f=plain_call, n=part: (calls.append(n), f(*a))[1]
            )
        found = made(x, t, c)
        assert calls == ["trunk", "head", "head", "head"]
        features, y = made.trunk(x, t, c), fresh_draws(x).normal(*SHAPE)
        for a, b in ((0.0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1.0)):
            y = y + (b - a) * made.inner_average(
                features, y, torch.full((3,), a), torch.full((3,), b)
            )
        torch.testing.assert_close(found, y, rtol=1e-4, atol=1e-4)
        half = torch.full((3,), 0.5)
        ends = [made.inner_average(features, x, half, half) / 2 + x for x in (y, -y)]
        assert not torch.allclose(*ends, atol=1e-3)  # the head listens to the inner state
        again = made(torch.cat([x[:1], -x[1:]]), t, c)
        torch.testing.assert_close(again[0], found[0], rtol=1e-4, atol=1e-4)
        loaded = made_for(networks()[family], made.state_dict())
        loaded.load_state_dict(made.state_dict())
        assert int(loaded.inner_steps) == 3
        torch.testing.assert_close(loaded(x, t, c), found)


def test_the_head_is_told_where_an_inner_step_starts_and_how_long_it_is():
    made, told = loosened(small(), 4), {"inner_clock": [], "inner_end_clock": []}
    for name, times in told.items():
        part = getattr(made, name)
        part.register_forward_pre_hook(lambda _, args, seen=times: seen.append(args[0][0].item()))
    with torch.no_grad():
        made(torch.randn(3, *SHAPE), torch.full((3,), 0.3), make_batch().condition)
    assert told == {"inner_clock": [0, 0.25, 0.5, 0.75], "inner_end_clock": [0.25] * 4}


def test_gradients_run_through_all_inner_steps():
    """Against a difference quotient in a weight of the fusion."""
    made = loosened(small(), 2).double()
    c = make_batch().condition.index(slice(1))
    c = Condition(c.past.double(), c.aligned.double(), c.trajectory.double())
    x, t = torch.randn(1, *SHAPE, dtype=torch.float64), torch.full((1,), 0.3, dtype=torch.float64)
    features = made.trunk(x, t, c)
    bias, y = made.fusion.bias, torch.randn(1, *SHAPE, dtype=torch.float64)
    made.unroll(features, y).sum().backward(retain_graph=True)
    found, step = bias.grad[0].item(), 1e-5
    with torch.no_grad():
        values = []
        for change in (step, -2 * step):
            bias[0] += change
            values.append(made.unroll(features, y).sum().item())
    assert found == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4)


def test_a_trunk_has_the_features_of_its_network_and_no_head():
    for family, net in networks().items():
        c = make_batch().condition
        c = Condition(c.past, None, c.trajectory) if family == "occfm" else c
        trunk, x, t = Trunk(net), torch.randn(3, *SHAPE), torch.full((3,), 0.3)
        assert torch.equal(trunk(x, t, c), net.trunk(x, t, c).deep)
        assert trunk.get_submodule(trunk.taps[0].module) is not None
        left = sum(p.numel() for p in trunk.parameters())
        assert left < sum(p.numel() for p in net.parameters())


def test_the_plan_covers_both_nets_and_each_learns_alone():
    method = build()
    assert method.plan(0) == ("auxiliary",) * 5 + ("student",) and set(method.nets) == set(
        method.plan(0)
    )
    with only_grad(method.nets, "student"):
        method.losses("student", wide.batch(), 0).total.backward()
    reached = {n for n, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"nets.student.mean", "nets.student.std"}
    batch = wide.batch()
    batch.x_1 = None
    with pytest.raises(ValueError, match="x_1"):
        method.losses("student", batch, 0)


@pytest.mark.parametrize(
    "options, sentence",
    [
        (dict(inner_steps=0), "inner_steps must"),
        (dict(stage=-1), "stage must"),
        (dict(target="noise"), "target must"),
        (dict(instantaneous=1.5), "instantaneous must"),
        (dict(power=-1.0), "power must"),
        (dict(derivative=dict(chunk=2)), "chunk"),
    ],
)
def test_bad_arguments_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(**options)
