"""Adapters: what they add, what they share, and one launch for teacher and auxiliary."""

import copy

import pytest
import torch
from torch import nn

from occdistill.flow.adapters import Adapted, Adapter
from occdistill.flow.guidance import Guided, Pair
from occdistill.flow.networks import networks
from occdistill.flow.networks.occfm import OccFMTransition
from occdistill.latents.condition import Condition
from tests.flow.test_network_contract import build, inputs

# plans aren't frames of latents: tests/flow/test_plan_field.py has that network
OF_FRAMES = {name: kind for name, kind in networks().items() if name != "PlanField"}


@pytest.fixture(params=OF_FRAMES.items(), ids=lambda item: item[0])
def network(request):
    return build(request.param[1]).requires_grad_(False)


def adapted(network, rank=4):
    """With adapters that do something."""
    field = Adapted(network, rank)
    for adapter in field.adapters:
        nn.init.normal_(adapter.up.weight, std=0.2)
    return field


def merged(layer, adapter):
    """The layer's weight with the adapter's in it."""
    up, down = adapter.up.weight, adapter.down.weight
    if isinstance(layer, nn.Linear):
        return layer.weight + up @ down
    if isinstance(layer, nn.Conv2d):
        return layer.weight + torch.einsum("or,rikl->oikl", up[..., 0, 0], down)
    return layer.weight + torch.einsum("ri,rokl->iokl", down[..., 0, 0], up)


@pytest.mark.parametrize(
    "layer, shape",
    [
        (nn.Linear(6, 5), (3, 6)),
        (nn.Conv2d(6, 5, 4, stride=2, padding=1), (3, 6, 8, 8)),
        (nn.ConvTranspose2d(6, 5, 4, stride=2, padding=1), (3, 6, 4, 4)),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else "",
)
def test_an_adapter_is_a_low_rank_change_of_the_layers_weight(layer, shape):
    adapter, x = Adapter(layer, 2), torch.randn(shape)
    assert not adapter(x).any()  # at first it changes nothing
    nn.init.normal_(adapter.up.weight)
    change = merged(layer, adapter) - layer.weight
    axis = 0 if isinstance(layer, nn.ConvTranspose2d) else 1
    assert torch.linalg.matrix_rank(change.detach().flatten(1) if axis else change.flatten(1)) == 2
    expected = layer(x) + adapter(x)
    layer.weight.data = merged(layer, adapter).detach()
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    assert Adapter(nn.Linear(3, 8), 5).down.out_features == 3  # no more than there is


def test_it_starts_as_the_network_and_trains_the_adapters_alone(network):
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    field, (x, t, condition) = Adapted(network, 4), inputs(network)
    assert torch.equal(field(x, t, condition), network(x, t, condition))
    assert len(calls) == 1  # the adapted field's are not the network's
    field = adapted(network)
    v = field(x, t, condition)
    assert not torch.allclose(v, network(x, t, condition), atol=1e-3)
    v.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in field.parameters())
    assert all(p.grad is None for p in network.parameters())
    size = sum(p.numel() for p in field.parameters())
    assert size == sum(p.numel() for p in field.state_dict().values())
    assert size < 0.5 * sum(p.numel() for p in network.parameters())


def test_it_follows_the_networks_weights_and_copies_are_independent(network):
    field, (x, t, condition) = adapted(network), inputs(network)
    other, before = copy.deepcopy(field), field(x, t, condition)
    with torch.no_grad():
        next(p for n, p in network.named_parameters() if "in.weight" in n or "enter" in n).add_(0.1)
        field.adapters[0].up.weight.add_(0.1)
    assert not torch.allclose(field(x, t, condition), before, atol=1e-4)
    assert torch.equal(other(x, t, condition), before)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_teacher_and_auxiliary_of_one_network_share_a_launch(network, scale):
    field, (x, t, condition) = adapted(network), inputs(network)
    points = torch.stack([x, x.flip(-1) + 0.3], 1)
    guided, calls = Guided(network, scale), []
    apart = torch.stack([guided(points[:, 0], t, condition), field(points[:, 1], t, condition)], 1)
    for net in (network, field):
        net.register_forward_hook(lambda _net, args, _out: calls.append(len(args[0])))
    with torch.no_grad():
        together = Pair(guided, field)(points, t, condition)
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    assert calls == [len(x) * (2 if scale == 1.0 else 3)]
    calls.clear()
    with torch.no_grad():
        Pair(guided, Adapted(copy.deepcopy(network), 4))(points, t, condition)
    assert calls == [len(x) * (1 if scale == 1.0 else 2)]  # other weights: a launch of its own


def test_recomputed_activations_have_the_adapters_too():
    gradients = []
    for recompute in (False, True):
        net = build(OccFMTransition, recompute=recompute).requires_grad_(False)
        torch.manual_seed(0)
        field = adapted(net)
        field(*inputs(net)).square().mean().backward()
        gradients.append([p.grad for p in field.parameters()])
    for plain, recomputed in zip(*gradients):
        torch.testing.assert_close(plain, recomputed)


def test_what_cannot_be_adapted_is_refused():
    with pytest.raises(ValueError, match="rank of 1 or more, not 0"):
        Adapted(nn.Linear(2, 2), 0)
    with pytest.raises(ValueError, match="SiLU has no layer"):
        Adapted(nn.SiLU(), 2)


def test_a_layer_of_groups_is_left_as_it_is():
    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 1))

        def forward(self, x, t, condition):
            return self.layers(x)

    field = Adapted(Field(), 2)
    assert len(field.adapters) == 1
    assert field(torch.zeros(1, 4, 3, 3), torch.zeros(1), Condition(None)).shape == (1, 2, 1, 1)
