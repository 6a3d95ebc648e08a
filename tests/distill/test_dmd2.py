import copy

import pytest
import torch
from torch import nn

from occdistill.distill.base import only_grad
from occdistill.distill.discriminator import Head, tapped, taps_of
from occdistill.distill.dmd2 import DMD2
from occdistill.distill.senseflow import SenseFlow
from occdistill.flow.networks.occfm import OccFMTransition
from occdistill.flow.networks.small import SpaceTimeUNet
from occdistill.flow.path import expand
from occdistill.latents.condition import Condition
from tests.flow_map import data_batch
from tests.gaussian import (
    SHAPE,
    SHIFT,
    TEACHER,
    AffineStudent,
    BulkDraws,
    GaussianField,
    make_batch,
    teacher,
)

TIME = 0.5
FIXED = dict(low=TIME, high=TIME)


class OutputTap:
    """Read the network's own output; `Tap` with the identity for a layout."""

    module, channels = "", 1

    def volume(self, features, batch):
        return features


class LinearHead(nn.Module):
    def __init__(self, slope=1.0):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))
        self.bias = nn.Parameter(torch.tensor(0.0))

    def forward(self, volume):
        return self.slope * volume.flatten(1) + self.bias


class ExactHead(nn.Module):
    """log p_t(x) / q_t(x) of guided teacher and student (a, b) at t = TIME.

    It reads x off the teacher's own velocity: features aren't guided.
    """

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = a, b

    def forward(self, v):
        m, s = TEACHER
        slope = (TIME * s**2 - (1 - TIME)) / (TIME**2 * s**2 + (1 - TIME) ** 2)
        own = m - SHIFT
        x = (v - own) / slope + TIME * own
        real, fake = (
            torch.distributions.Normal(TIME * mean, ((TIME * std) ** 2 + (1 - TIME) ** 2) ** 0.5)
            for mean, std in ((m, s), (self.b, self.a))
        )
        return (real.log_prob(x) - fake.log_prob(x)).flatten(1)


def make(cls, a, b, head=None, shape=SHAPE, **kwargs):
    return cls(
        teacher(),
        shape,
        student=AffineStudent(a, b),
        auxiliary=GaussianField(b, abs(a)),
        taps=[OutputTap()],
        heads=[head or LinearHead()],
        **kwargs,
    )


def student_gradient(method, loss):
    return [g.item() for g in torch.autograd.grad(loss, list(method.nets["student"].parameters()))]


@pytest.mark.parametrize("student", [(0.7, 1.8), (1.1, 0.2), (0.4, 1.0)])
def test_matching_gradient_is_the_normalised_difference_of_clean_predictions(student):
    """dL/dx̂ = (1 - t)(v_A - v_T) / mean|x̂ - D_T|: (1 - t) v is the difference to the clean
    prediction, in closed form here. No chain rule's t: the gradient is put on x̂."""
    a, b = student
    shape, count, (m, s) = (1, 1, 4, 4), 40_000, TEACHER
    method = make(DMD2, a, b, shape=shape)
    x_1 = method.generate(batch := make_batch(count))
    found = student_gradient(method, method.matching(x_1, batch).total)

    draws = make_batch(count).draws
    z, t = draws.normal(*shape).flatten(1), method.times.times(draws)[:, None]
    x_1 = a * z + b
    x_t = t * x_1 + (1 - t) * draws.normal(*shape).flatten(1)

    def clean(mean, std):  # E[x_1 | x_t]
        return mean + t * std**2 / ((t * std) ** 2 + (1 - t) ** 2) * (x_t - t * mean)

    g = (clean(b, a) - clean(m, s)) / (x_1 - clean(m, s)).abs().mean(1, keepdim=True)
    assert found == pytest.approx([(g * z).mean().item(), g.mean().item()], rel=1e-3, abs=1e-4)
    assert found[1] * (b - m) >= 0  # descent moves the student's mean to the teacher's


def test_matching_gradient_vanishes_at_the_teacher():
    method = make(DMD2, 0.7, 1.0)
    x_1 = method.generate(batch := data_batch(10_000))
    found = student_gradient(method, method.matching(x_1, batch).total)
    assert found == pytest.approx([0, 0], abs=1e-6)


@pytest.mark.parametrize("student", [(0.7, 1.8), (1.1, 0.2), (0.4, 1.0)])
def test_gan_gradient_with_the_exact_logit_is_the_kl_gradient(student):
    """-E h with h = log p_t / q_t: `d/d(a, b) KL(q_t || p_t)` in closed form."""
    a, b = student
    method = make(DMD2, a, b, ExactHead(a, b), disc_on="teacher", gan="hinge", gan_times=FIXED)
    x_1 = method.generate(batch := data_batch(400_000))
    found = student_gradient(method, method.adversarial(x_1, batch))
    (m, s), t = TEACHER, TIME
    real, fake = (t * s) ** 2 + (1 - t) ** 2, (t * a) ** 2 + (1 - t) ** 2
    exact = [t**2 * a * (1 / real - 1 / fake), t**2 * (b - m) / real]
    assert found == pytest.approx(exact, rel=0.02, abs=0.003)


def test_logistic_gan_gradient_with_a_linear_logit():
    """`E softplus(-h)`, h = v_A(x_t): dL/db = -E[sigmoid(-h) slope t]."""
    a, b, t = 0.9, 0.4, TIME
    method = make(DMD2, a, b, gan_times=FIXED)
    x_1 = method.generate(batch := data_batch(200_000))
    found = student_gradient(method, method.adversarial(x_1, batch))[1]
    variance = (t * a) ** 2 + (1 - t) ** 2
    slope = (t * a**2 - (1 - t)) / variance
    h = b + slope * variance**0.5 * BulkDraws(200_000, 9).normal(1)
    assert found == pytest.approx(-(torch.sigmoid(-h) * slope * t).mean().item(), rel=0.02)


@pytest.mark.parametrize("disc_on", ["auxiliary", "teacher"])
def test_discriminator_trains_its_head_and_only_the_auxiliarys_trunk(disc_on):
    method = make(DMD2, 0.9, 0.4, disc_on=disc_on)
    auxiliary = method.nets["auxiliary"]
    trunk_gradients = []
    for weight in (0.0, 1.0):
        method.discriminator_weight = weight
        auxiliary.zero_grad()
        with only_grad(method.nets, "auxiliary"):
            method.losses("auxiliary", data_batch(512), 0).total.backward()
        trunk_gradients.append(auxiliary.flow.mean.grad.item())
    assert auxiliary.heads[0].slope.grad.abs() > 0
    assert (trunk_gradients[0] != trunk_gradients[1]) == (disc_on == "auxiliary")
    assert all(p.grad is None for p in method.teacher.parameters())
    assert all(p.grad is None for p in method.nets["student"].parameters())


@pytest.mark.parametrize("gan", ["logistic", "hinge"])
def test_discriminator_learns_which_side_is_real(gan):
    """Real data have the higher mean; where v falls with x, the slope must become negative."""
    options = dict(disc_on="teacher", gan=gan, gan_times=FIXED, discriminator_weight=1.0)
    method = make(DMD2, 0.7, -1.0, LinearHead(0.0), **options)
    head = method.nets["auxiliary"].heads[0]
    optimiser = torch.optim.SGD(head.parameters(), lr=0.5)
    for step in range(20):
        optimiser.zero_grad()
        loss = method.losses("auxiliary", data_batch(512, step), step)
        loss.total.backward()
        optimiser.step()
    assert head.slope < -0.1
    assert loss.logs["discriminator_right"] > 0.65


@pytest.mark.parametrize("cls", [DMD2, SenseFlow])
def test_the_parts_of_the_students_loss_add_up(cls):
    """The same draws whatever the weights, so the total is linear in them."""

    def total(**weights):
        return make(cls, 0.9, 0.4, **weights).losses("student", data_batch(500), 0)

    isg = {"isg_weight": 0.0} if cls is SenseFlow else {}
    bare = total(generator_weight=0.0, **isg)
    gan = total(generator_weight=3.0, **isg)
    assert gan.logs["generator"].abs() > 0.1
    torch.testing.assert_close(gan.total - bare.total, 3 * gan.logs["generator"])
    if cls is SenseFlow:
        both = total(generator_weight=0.0, isg_weight=2.0)
        assert both.logs["isg"] > 0.01
        torch.testing.assert_close(both.total - bare.total, 2 * both.logs["isg"])


def test_the_auxiliarys_loss_is_flow_matching_and_the_discriminators():
    losses = [
        make(DMD2, 0.9, 0.4, discriminator_weight=w).losses("auxiliary", data_batch(500), 0)
        for w in (0.0, 3.0)
    ]
    torch.testing.assert_close(losses[0].total, losses[0].logs["flow_matching"])
    torch.testing.assert_close(
        losses[1].total - losses[0].total, 3 * losses[1].logs["discriminator"]
    )


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 3), (3, 9), (4, 4)])
def test_a_head_reads_maps_of_any_size(size):
    torch.manual_seed(0)
    volume = torch.randn(2, 5, 3, *size, requires_grad=True)
    logits = Head(5)(volume)
    assert logits.shape == (2, 3 * max(1, size[0] // 4) * max(1, size[1] // 4))
    logits.square().sum().backward()
    assert torch.isfinite(volume.grad).all() and (volume.grad != 0).any()


def test_ida_draws_the_auxiliary_to_the_student_after_its_step_only():
    method = SenseFlow(
        GaussianField(*TEACHER), SHAPE, taps=[OutputTap()], heads=[LinearHead()], ida=0.98
    )
    with torch.no_grad():
        method.nets["student"].mean.fill_(2.0)
    flow = method.nets["auxiliary"].flow
    method.after("auxiliary", 0)
    assert flow.mean.item() == 1.0
    method.after("student", 0)
    assert flow.mean.item() == pytest.approx(0.98 * 1.0 + 0.02 * 2.0)
    assert method.plan(0) == ("auxiliary",) * 10 + ("student",)


def test_isg_compares_one_step_with_a_teachers_and_a_students_leg():
    a, b = 0.9, 0.4
    method = make(SenseFlow, a, b, isg_huber=1e-6)
    batch = data_batch(1000)
    z = batch.draws.normal(*SHAPE)
    x_1 = method.one_step(z, batch.condition)
    state = batch.draws.generator.get_state()
    found = method.intra_segment(z, x_1, batch)
    batch.draws.generator.set_state(state)
    t = expand(0.05 + 0.9 * batch.draws.uniform(1)[:, 0], z)
    m = TEACHER[0]
    x_t = z + t * (m - z)  # the teacher's velocity at t = 0 is m - z
    y = x_t + (1 - t) * ((a - 1) * x_t + b)
    torch.testing.assert_close(found, (x_1 - y).abs().mean(), atol=1e-5, rtol=1e-4)
    # |x_1 - y| moves with x_1 alone. The other leg starts nearer to the teacher's mean: drawn to it
    side = torch.sign(x_1 - y).detach()
    gradient = student_gradient(method, found)
    assert gradient == pytest.approx([(side * z).mean().item(), side.mean().item()], abs=1e-4)
    assert gradient[1] < 0 < m - b


def test_isg_is_zero_where_every_leg_agrees():
    """A student that is the teacher's straight line to one point: both ways end in it."""

    class ToPoint(nn.Module):
        def forward(self, x, t, condition, r=None):
            return (3.0 - x) / (1 - expand(t, x))

    method = SenseFlow(ToPoint(), SHAPE, taps=[OutputTap()], heads=[LinearHead()])
    z = torch.randn(100, *SHAPE)
    loss = method.intra_segment(z, method.one_step(z, None), make_batch(100))
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_senseflows_defaults_are_its_own():
    method = make(SenseFlow, 1.0, 0.0)
    assert (method.gan, method.generator_weight, method.ratio) == ("hinge", 0.1, 10)
    assert method.nets["auxiliary"]._source[0] is method.teacher
    losses = method.losses("student", data_batch(64), 0)
    assert {"gap", "generator", "isg"} <= losses.logs.keys()


def test_both_networks_have_a_place_to_read_features():
    """The coarse level: half the resolution, all frames that the network mixes."""
    small = SpaceTimeUNet((8, 8, 8), past=2, future=3, align=1, trajectory=5, width=16)
    full = OccFMTransition((4, 8, 8), past=2, future=3, trajectory_length=5, width=16)
    past, trajectory = torch.randn(2, 2, 8, 8, 8), torch.zeros(2, 5, 2)
    cases = (
        (small, Condition(past, torch.randn(2, 3, 8, 8, 8), trajectory), (2, 32, 3, 4, 4)),
        (full, Condition(past[:, :, :4], trajectory=trajectory), (2, 64, 5, 4, 4)),
    )
    for net, condition, shape in cases:
        (tap,) = taps_of(net)
        x = torch.randn(2, 3, 8 if net is small else 4, 8, 8)
        with torch.no_grad(), tapped(net, [tap]) as outputs:
            net(x, torch.rand(2), condition)
        volume = tap.volume(outputs[0], 2)
        assert volume.shape == shape and tap.channels == shape[1]
        assert Head(tap.channels)(volume).shape == (2, shape[2])
    with pytest.raises(TypeError, match="taps="):
        taps_of(GaussianField(0, 1))


def test_unknown_choices_are_refused():
    for options in (dict(disc_on="student"), dict(gan="wasserstein")):
        with pytest.raises(ValueError, match="neither"):
            make(DMD2, 1.0, 0.0, **options)


def test_a_method_that_needs_data_says_so():
    with pytest.raises(ValueError, match="x_1"):
        make(DMD2, 1.0, 0.0).losses("auxiliary", make_batch(4), 0)


def test_copying_a_method_keeps_the_frozen_source_frozen():
    method = copy.deepcopy(make(SenseFlow, 1.0, 0.0))
    assert not any(p.requires_grad for p in method.nets["auxiliary"]._source[0].parameters())
