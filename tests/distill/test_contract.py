"""What every method must keep, on a real network: the contract that the trainer relies on."""

import pytest
import torch

from occdistill.autoencoder.vae import VAE
from occdistill.distill import methods
from occdistill.distill.base import Batch, only_grad
from occdistill.distill.flow_map import decoupled
from occdistill.flow.networks.small import SpaceTimeUNet
from occdistill.flow.path import Draws
from occdistill.flow.solver import sample
from occdistill.latents.condition import Condition

SHAPE = (2, 8, 8, 8)
DECODER = dict(channels=8, embedding=2, width=(16, 16), blocks=(1, 1), decoder_width=16)
# what keeps a method small enough for a test, or what it can't do without
OPTIONS = {
    "MFD": dict(ode_step=0.25),
    "NoAuxiliary": dict(ode_step=0.25),
    "Consistency": dict(target_ema=0.9),
    "AYF": dict(tangent_warmup=0),
    "DMD2": dict(ratio=2),
    "FDistill": dict(ratio=2),
    "SenseFlow": dict(ratio=2),
    "Regression": dict(steps=2),
    "Reflow": dict(steps=2),
    "WeightedMeanFlow": dict(parts=3, steps=10),
    "MomentMatching": dict(particles=2, halvings=4.0),
    "ADD": dict(starts=(0.0, 0.5)),
    "LADD": dict(real_steps=2),
    "TransitionMatching": dict(ratio=2),
    "XPrediction": dict(decoder=VAE((32, 32, 2), **DECODER), clear_from=0.2),
}
# other ways to run one
VARIANTS = {
    "MFD, adapters": dict(ode_step=0.5, solver="midpoint", reuse=5, auxiliary_rank=4),
    "MFD, adapters on the student": dict(
        ode_step=0.5, solver="heun", auxiliary_rank=4, auxiliary_base="student"
    ),
    "TransitionMatching, stage 2": dict(ratio=2, stage=0),
    "AYF, lmd": dict(objective="lmd", derivative=dict(kind="difference", chunk=1)),
    "DMD2, teacher": dict(ratio=2, disc_on="teacher"),
    "SecondOrderMeanFlow, difference": dict(derivative=dict(kind="difference")),
    "ImprovedMeanFlow, data": dict(velocity="data"),
    "AlphaFlow, end": dict(alpha=0.0),
    "TerminalVelocity, difference": dict(derivative=dict(kind="difference", chunk=1)),
    "MomentMatching, teacher": dict(particles=2, halvings=4.0, ends="teacher", steps=2),
}
METHODS = {name: (kind, OPTIONS.get(name, {})) for name, kind in methods().items()}
METHODS |= {name: (METHODS[name.split(", ")[0]][0], options) for name, options in VARIANTS.items()}


def teacher():
    torch.manual_seed(0)
    net = SpaceTimeUNet((8, 8, 8), past=2, future=2, align=1, trajectory=3, width=16)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.08)
    return net


@pytest.fixture(params=METHODS)
def method(request):
    cls, options = METHODS[request.param]
    return cls(teacher(), SHAPE, **options)


def make_batch(order=(0, 1, 2)):
    generator = torch.Generator().manual_seed(1)
    condition = Condition(
        torch.randn(3, 2, 8, 8, 8, generator=generator),
        torch.randn(3, 2, 8, 8, 8, generator=generator),
        torch.randn(3, 3, 2, generator=generator),
    )
    data = torch.randn(3, *SHAPE, generator=generator)
    order = list(order)
    return Batch(condition.index(order), Draws([10 + i for i in order]), data[order])


def test_the_plan_covers_every_net_and_repeats(method):
    assert set(method.plan(0)) == set(method.nets)
    assert method.plan(0) == method.plan(1) == method.plan(1000)


def test_each_net_gets_gradients_of_its_own_and_nothing_else_does(method):
    for name in method.nets:
        method.zero_grad()
        with only_grad(method.nets, name):
            loss = method.losses(name, make_batch(), 5)
            loss.total.backward()
        assert torch.isfinite(loss.total) and not any(v.requires_grad for v in loss.logs.values())
        with_gradient = {
            n for n, p in method.named_parameters() if p.grad is not None and p.grad.any()
        }
        assert with_gradient and all(n.startswith(f"nets.{name}.") for n in with_gradient)
        gradients = [p.grad for p in method.nets[name].parameters() if p.grad is not None]
        assert all(torch.isfinite(g).all() for g in gradients)
        method.after(name, 5)
    with pytest.raises(KeyError, match="generator"):
        method.losses("generator", make_batch(), 0)


def test_sampling_is_one_student_call_and_starts_as_the_teachers_euler_step(method):
    c = make_batch().condition
    noise = torch.randn(3, *SHAPE)
    before = method.evaluations
    assert method.how_to_use() in ({"steps": 1, "renoise": plain} for plain in (False, True))
    found = method.sample(c, noise)
    assert method.evaluations - before == 3
    decoder_sees_end = method.nets["student"].decoupled  # it differs where r isn't t
    start = decoupled(teacher()) if decoder_sees_end else teacher()
    torch.testing.assert_close(found, sample(start, noise, c, steps=1))


def test_losses_do_not_depend_on_the_order_of_the_batch_or_on_torchs_own_numbers(method):
    for name in method.nets:
        found = []
        for seed, order in enumerate(((0, 1, 2), (2, 0, 1))):
            torch.manual_seed(seed)
            found.append(method.losses(name, make_batch(order), 5).total)
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_half_precision_gives_the_same_losses(method):
    """As the trainer computes them: under autocast, weights in float32."""
    for name in method.nets:
        exact = method.losses(name, make_batch(), 5).total
        with torch.autocast("cpu", torch.bfloat16):
            rounded = method.losses(name, make_batch(), 5).total
        torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.02)
        rounded.backward()


def test_two_steps_of_the_plan_leave_finite_new_weights(method):
    """As the trainer takes them: every optimiser in the plan, and what follows each."""
    optimisers = {n: torch.optim.Adam(net.parameters(), lr=1e-3) for n, net in method.nets.items()}
    before = {k: v.clone() for k, v in method.nets["student"].state_dict().items()}
    for step in range(2):
        for name in method.plan(step):
            optimisers[name].zero_grad()
            with only_grad(method.nets, name):
                method.losses(name, make_batch(), step).total.backward()
            optimisers[name].step()
            method.after(name, step)
    after = method.nets["student"].state_dict()
    assert all(torch.isfinite(v).all() for v in after.values())
    assert any(not torch.equal(before[k], after[k]) for k in before)
