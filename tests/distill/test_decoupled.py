"""Decoupled MeanFlow: its loss in closed form, and both networks without a new weight."""

import copy

import pytest
import torch

from occdistill.distill.decoupled import DecoupledMeanFlow
from occdistill.distill.flow_map import decoupled, made_for, two_time
from occdistill.flow.networks.occfm import OccFMTransition
from occdistill.flow.networks.small import SpaceTimeUNet
from occdistill.flow.path import TimeLaw
from occdistill.latents.condition import Condition
from occdistill.occfm.mapping import published_names
from tests import wide
from tests.flow_map import build_map, data_batch
from tests.gaussian import BulkDraws
from tests.wide import Exact, close


def rho(residual):
    return (residual.square().mean((1, 2, 3, 4)) + 0.01).log().mean()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_gradient_is_that_of_both_regressions(guidance):
    method = wide.build(DecoupledMeanFlow, guidance=guidance)
    student = method.nets["student"]
    loss, found = wide.losses(method)
    velocity, average = (Exact(student, *call[:3]) for call in student.calls if call[3])
    close(velocity.t, velocity.r)
    rest = average.u - (average.v + average.gap * average.d_t).detach()
    expected = (rho(velocity.u - velocity.v) + rho(rest)) / 2
    close(loss.total, expected)
    close(loss.logs["gap"], rest.square().mean().detach())
    close(found, velocity.gradients(expected))
    assert all(p.grad is None for p in method.teacher.parameters())


@pytest.mark.parametrize("derivative", [dict(kind="jvp"), dict(kind="difference")])
def test_gradient_vanishes_at_the_teachers_flow_map(derivative):
    method = wide.at_optimum(DecoupledMeanFlow, derivative=derivative)
    loss, found = wide.losses(method)
    bound = 1e-10 if derivative["kind"] == "jvp" else 1e-3
    assert found.abs().max() < bound and loss.logs["gap"] < bound


def test_intervals_and_times_are_the_sources():
    method = wide.build(DecoupledMeanFlow)
    assert method.times == TimeLaw()
    t, r = method.intervals(BulkDraws(100_000))
    assert (t <= r).all()
    both = torch.logit(t).mean() + torch.logit(r).mean()  # sorting keeps the sum
    assert both.item() == pytest.approx(-0.4 + 1.2, abs=0.02)
    # E max of N(-0.4, 1) and N(1.2, 1), whose difference has mean 1.6 and variance 2 (Clark 1961)
    a = torch.tensor(1.6 / 2**0.5)
    density = torch.exp(-(a**2) / 2) / (2 * torch.pi) ** 0.5
    above = torch.special.ndtr(a)
    largest = 1.2 * above - 0.4 * (1 - above) + 2**0.5 * density
    assert torch.logit(r).mean().item() == pytest.approx(largest.item(), abs=0.02)


def small():
    return SpaceTimeUNet((8, 4, 4), past=2, future=2, align=1, trajectory=3, width=16)


def occfm():
    return OccFMTransition((4, 4, 4), past=2, future=2, trajectory_length=3, width=16)


def condition(channels):
    generator = torch.Generator().manual_seed(0)
    past, aligned = torch.randn(2, 2, 2, channels, 4, 4, generator=generator)
    return Condition(past, aligned, torch.randn(2, 3, 2, generator=generator))


@pytest.mark.parametrize(
    "make, channels, early, late",
    [(small, 8, "middle.1", "up.1"), (occfm, 4, "middle1", "middle2")],
)
def test_the_encoder_sees_t_and_the_decoder_r(make, channels, early, late):
    torch.manual_seed(0)
    teacher = make()
    for parameter in teacher.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    net, c = decoupled(teacher), condition(channels)
    x, t, r = torch.randn(2, 2, channels, 4, 4), torch.tensor([0.1, 0.4]), torch.tensor([0.9, 0.5])
    assert net.two_time and not teacher.two_time
    assert [n for n, _ in net.named_parameters()] == [n for n, _ in teacher.named_parameters()]
    assert torch.equal(net(x, t, c, r=t), teacher(x, t, c))  # bit for bit
    assert torch.equal(net(x, t, c), teacher(x, t, c))

    seen = {}

    def embeddings(network, **options):
        for name in (early, late):
            module = network.get_submodule(name)
            module.register_forward_hook(
                lambda _, args, out, name=name: seen.__setitem__(name, (args[1], out))
            )
        network(x, options.get("t", t), c, r=options.get("r"))
        return dict(seen)

    step, start, end = (
        embeddings(net, r=r),
        embeddings(teacher),
        embeddings(copy.deepcopy(teacher), t=r),
    )
    assert torch.equal(
        step[early][1], start[early][1]
    )  # the encoder's output is the teacher's at t
    torch.testing.assert_close(step[late][0], end[late][0])  # what its decoder is told: r
    assert (net(x, t, c, r=r) - teacher(x, t, c)).abs().max() > 1e-3


@pytest.mark.parametrize("make", [small, occfm])
def test_a_checkpoint_tells(make):
    net = decoupled(make())
    loaded = made_for(make(), net.state_dict())
    loaded.load_state_dict(net.state_dict())
    assert loaded.decoupled and not made_for(make(), make().state_dict()).decoupled
    assert two_time(loaded).end_clock is None  # it takes the end already
    with pytest.raises(ValueError, match="end clock"):
        decoupled(two_time(make()))


def test_its_weights_keep_the_published_names():
    assert published_names(decoupled(occfm())) == published_names(occfm())


def test_the_default_student_is_the_decoupled_teacher():
    method = DecoupledMeanFlow(small(), (2, 8, 4, 4))
    assert method.nets["student"].decoupled and not method.teacher.decoupled


def test_half_precision_is_within_tolerance():
    method = build_map(DecoupledMeanFlow, 1.5, 0.5)
    exact = method.losses("student", data_batch(500), 0).total
    with torch.autocast("cpu", torch.bfloat16):
        rounded = method.losses("student", data_batch(500), 0).total
    torch.testing.assert_close(rounded, exact, rtol=0.03, atol=0.02)
