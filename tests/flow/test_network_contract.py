"""What every velocity network must keep: found by walking the package."""

import pytest
import torch

from occdistill.flow.networks import networks
from occdistill.flow.networks.base import takes_end
from occdistill.latents.condition import Condition

LATENT = (8, 8, 8)
FRAMES = dict(past=2, future=2)


def build(kind, **options):
    """A small one whose every parameter does something."""
    torch.manual_seed(0)
    net = kind(LATENT, **FRAMES, width=32, **options)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.08)
    return net.eval()


def inputs(net, batch=2):
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    aligned = net.takes.get("aligned")
    condition = Condition(
        normal(batch, net.takes["past"], *LATENT),
        None if aligned is None else normal(batch, 2, aligned * LATENT[0], *LATENT[1:]),
        normal(batch, net.takes["trajectory"], 2),
    )
    return normal(batch, 2, *LATENT), torch.linspace(0.2, 0.7, batch), condition


# plans aren't frames of latents: tests/flow/test_plan_field.py has that network
OF_FRAMES = {name: kind for name, kind in networks().items() if name != "PlanField"}


@pytest.fixture(params=OF_FRAMES.items(), ids=lambda item: item[0])
def kind(request):
    return request.param[1]


def test_both_shipped_networks_are_found():
    assert {"SpaceTimeUNet", "OccFMTransition"} <= networks().keys()


def test_it_gives_a_velocity_that_depends_on_all_that_it_takes(kind):
    net = build(kind)
    x, t, condition = inputs(net)
    with torch.no_grad():
        v = net(x, t, condition)
        assert v.shape == x.shape and torch.isfinite(v).all()
        assert set(net.takes) <= {"past", "aligned", "trajectory"}
        others = [net(x + 0.1, t, condition), net(x, t + 0.1, condition)]
        for name in net.takes:
            entry = getattr(condition, name)
            changed = Condition(**{**vars(condition), name: entry + 0.5})
            others.append(net(x, t, changed))
    assert not any(torch.allclose(v, other, atol=1e-5) for other in others)


def test_a_sample_is_the_same_alone_and_in_a_batch(kind):
    net = build(kind)
    x, t, condition = inputs(net)
    with torch.no_grad():
        whole = net(x, t, condition)
        alone = net(x[1:], t[1:], condition.index(slice(1, 2)))
    torch.testing.assert_close(whole[1:], alone, rtol=1e-4, atol=1e-5)


def test_the_clocks_say_what_they_are(kind):
    one = build(kind)
    assert not one.two_time and one.end_clock is None and not takes_end(one)
    two = build(kind, two_time=True)
    assert two.two_time and takes_end(two) and not takes_end(lambda x, t, c: x)
    x, t, condition = inputs(two)
    with torch.no_grad():
        near, far = (two(x, t, condition, r=t + gap) for gap in (0.1, 0.3))
    assert not torch.allclose(near, far, atol=1e-5)
    # the last linear layer of each clock is where a new clock is made silent
    last = [m for m in two.end_clock.modules() if isinstance(m, torch.nn.Linear)][-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    with torch.no_grad():
        near, far = (two(x, t, condition, r=t + gap) for gap in (0.1, 0.3))
    torch.testing.assert_close(near, far)


def test_its_taps_are_read_as_they_say(kind):
    net = build(kind)
    x, t, condition = inputs(net)
    read = {}
    hooks = [
        net.get_submodule(tap.module).register_forward_hook(
            lambda _module, _inputs, output, tap=tap: read.update({tap: output})
        )
        for tap in net.taps
    ]
    with torch.no_grad():
        net(x, t, condition)
    assert len(hooks) == len(read) > 0
    for tap, features in read.items():
        assert tap.volume(features, len(x)).shape[:2] == (len(x), tap.channels)
