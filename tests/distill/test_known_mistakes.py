"""Mistakes that published code and notes make, each looked for here.

What other files look for: the gradient that leaves out how the auxiliary follows, wrong for means and
narrow students (test_named_weights, test_sid); full Jacobians (studies); one number of Euler steps by
the shortest interval (flow/test_solver); difference steps too long for a fast clock, attention
without a forward derivative (flow/test_derivatives, flow/test_occfm_network); the heads' layout
(test_occfm_network); one tangent for both roles (test_improved_meanflow); ADD's real side and its
sign, LADD's times (test_adversarial); the ratio's use as a mere weight (test_divergences).
"""

import pytest
import torch

from occdistill.distill.base import DistributionMatching, only_grad
from occdistill.distill.diff_instruct import DiffInstruct
from occdistill.distill.dmd2 import DMD2
from occdistill.distill.f_distill import FDistill
from occdistill.distill.flow_generator_matching import FlowGeneratorMatching
from occdistill.distill.mfd import MFD
from occdistill.distill.reflow import Reflow
from occdistill.distill.senseflow import SenseFlow
from occdistill.distill.sid import SiD
from occdistill.distill.velocity_matching import VelocityMatching
from occdistill.flow.parts import Transitions
from tests.distill.test_contract import METHODS, make_batch
from tests.distill.test_contract import SHAPE as CLIPS
from tests.distill.test_contract import teacher as small
from tests.plane import LINE, batch_of, build


def noises(method, count=20_000):
    """The noise that a sample was made of, and the one it is noised again with, `(count,)` each."""
    seen = {}
    student, field = method.nets["student"], method.teacher

    def first(key, net):
        net.register_forward_pre_hook(lambda _, args: seen.update({key: seen.get(key, args)}))

    first("z", student)
    first("x_t", field)
    with torch.no_grad():
        method.losses("student", batch_of(LINE, count), 0)
        z, (x_t, t) = seen["z"][0].flatten(), (args[-count:] for args in seen["x_t"][:2])
        sample = LINE["a"][0] * z + LINE["b"][0]
        return z, (x_t.flatten() - t * sample) / (1 - t)


# MFD's own re-noising is in its closed forms: its integrations reorder the batch
@pytest.mark.parametrize(
    "cls", [VelocityMatching, DiffInstruct, SiD, FlowGeneratorMatching, DMD2, FDistill]
)
def test_a_sample_is_noised_again_with_fresh_noise(cls):
    """A public flow-generator-matching code takes the noise that the sample was made of."""
    z, e = noises(build(cls, LINE))
    assert abs(torch.corrcoef(torch.stack([z, e]))[0, 1]) < 0.03
    assert e.std().item() == pytest.approx(1, abs=0.03)


def test_reflow_needs_the_very_same_noise():
    """There alone: a path goes from the noise to where it ended."""
    method, batch = build(Reflow, LINE, steps=3, times=dict(low=0.5, high=0.5)), batch_of(LINE, 50)
    asked = []
    method.nets["student"].register_forward_pre_hook(lambda _, args: asked.append(args[0]))
    with torch.no_grad():
        method.losses("student", batch, 0)
    z = batch_of(LINE, 50).draws.normal(*method.latent_shape)
    x_1 = 2 * asked[0] - z
    pair = torch.stack([z.flatten(), x_1.flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.999  # a Gaussian's coupling is affine


@pytest.mark.parametrize("cls", [MFD, DMD2, SenseFlow, SiD])
def test_the_auxiliary_trains_at_a_ratio_of_one(cls):
    """FastGen's schedule by a modulus would never train it there."""
    assert issubclass(cls, DistributionMatching)
    assert build(cls, LINE, ratio=1).plan(7) == ("auxiliary", "student")


def test_senseflows_gan_term_counts_at_all_noise_levels():
    """Its code weighs it by an entry of a table that is nearly 0 for a one-step student."""
    method = build(SenseFlow, LINE)
    batch = batch_of(LINE, 50)
    whole = method.losses("student", batch, 0)
    method.generator_weight = 0.0
    without = method.losses("student", batch_of(LINE, 50), 0)
    gan = whole.logs["generator"]
    torch.testing.assert_close(whole.total - without.total, 0.1 * gan, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_inner_flow_ends_where_the_head_says(steps):
    """With the sign that is printed for transition matching it ends at -1.6 (METHODS, V13)."""
    made = Transitions(small(), steps)
    made.network.head = lambda *_: torch.full((3, *CLIPS), 1.4)
    c = make_batch().condition
    features = made.trunk(torch.zeros(3, *CLIPS), torch.zeros(3), c)
    end = made.unroll(features, torch.full((3, *CLIPS), -0.1))
    torch.testing.assert_close(end, torch.full((3, *CLIPS), 1.4))


@pytest.mark.parametrize("name", ["MFD", "DMD2", "SenseFlow", "LADD", "Consistency", "MetaFlowMap"])
def test_sampling_and_losses_leave_no_flag_changed(name):
    """A validation that goes through the training step switches gradients and modes on the way."""
    cls, options = METHODS[name]
    method = cls(small(), CLIPS, **options)

    def flags():
        nets = [(n, m.training) for n, m in method.named_modules()]
        return nets + [(n, p.requires_grad) for n, p in method.named_parameters()]

    before = flags()
    method.sample(make_batch().condition, torch.randn(3, *CLIPS))
    assert flags() == before
    for net in method.nets:
        with only_grad(method.nets, net):
            method.losses(net, make_batch(), 5)
    assert flags() == before
