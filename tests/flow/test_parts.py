"""A narrower network that starts as some of a wider one's channels."""

import copy

import pytest
import torch
from torch import nn

from occdistill.build.builders import build_light_network, build_network
from occdistill.build.config import load_config
from occdistill.flow.networks.small import SpaceTimeUNet
from occdistill.flow.parts import start_from
from occdistill.latents.condition import Condition
from occdistill.runtime.roofline import work_of


class Doubled(nn.Module):
    """Layers of width n; those of width 2n below have every channel twice, side by side."""

    def __init__(self, n):
        super().__init__()
        self.enter = nn.Conv2d(3, n, 3, padding=1)
        self.norm = nn.GroupNorm(2, n)
        self.modulation = nn.Linear(5, 2 * n)
        self.down = nn.Conv2d(n, n, 2, stride=2)
        self.up = nn.ConvTranspose2d(n, n, 2, stride=2)
        self.out = nn.Conv2d(2 * n, 3, 1)
        self.place = nn.Parameter(torch.randn(n, 4, 4))

    def forward(self, x, e):
        scale, shift = self.modulation(e)[..., None, None].chunk(2, dim=1)
        h = entered = self.norm(self.enter(x) + self.place) * (1 + scale) + shift
        h = self.up(self.down(h).sin())
        return self.out(torch.cat([h, entered], dim=1))


def doubled(narrow):
    """A network twice as wide that computes the same: its channels come in equal pairs."""
    wide = Doubled(len(narrow.place) * 2)
    for (name, own), value in zip(wide.named_parameters(), narrow.parameters()):
        inputs = {"up.weight": 0}.get(name, 1)
        for axis, (has, had) in enumerate(zip(own.shape, value.shape)):
            if has != had:
                value = value.repeat_interleave(2, axis)
                if own.dim() in (2, 4) and axis == inputs:
                    value = value / 2  # of twice as many equal inputs
        own.data.copy_(value.detach())
    return wide


def test_of_equal_channels_one_of_two_is_enough():
    torch.manual_seed(0)
    one, wide = Doubled(4), doubled(Doubled(4))
    x, e = torch.randn(2, 3, 4, 4), torch.randn(2, 5)
    assert not torch.allclose(one(x, e), wide(x, e), atol=1e-2)
    assert start_from(one, wide) == ()
    torch.testing.assert_close(one(x, e), wide(x, e))


def test_channels_are_evenly_spread_also_where_the_widths_have_no_common_ratio():
    narrow, wide = nn.Linear(1, 3), nn.Linear(1, 8)
    wide.bias.data = torch.arange(8.0)
    start_from(narrow, wide)
    assert narrow.bias.tolist() == [0, 2, 5]


def test_what_the_wider_one_has_nothing_for_stays_and_is_named():
    torch.manual_seed(0)
    narrow = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2), "c": nn.Linear(2, 4)})
    wide = nn.ModuleDict({"a": nn.Linear(4, 4), "c": nn.Linear(4, 2)})
    before = copy.deepcopy(narrow)
    assert start_from(narrow, wide) == ("b.weight", "b.bias", "c.weight", "c.bias")
    assert torch.equal(narrow.b.weight, before.b.weight)
    assert torch.equal(narrow.c.weight, before.c.weight)
    assert not torch.equal(narrow.a.weight, before.a.weight)


def test_a_network_as_wide_starts_as_the_same_one():
    torch.manual_seed(0)
    options = dict(latent_shape=(4, 4, 4), past=2, future=2, align=1, trajectory=4, width=16)
    one, other = SpaceTimeUNet(**options), SpaceTimeUNet(**options)
    assert start_from(one, other) == ()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))


@pytest.mark.parametrize("name", ["demo", "demo_hist", "nus", "nus_hist"])
def test_light_networks_of_the_configs_are_made_of_the_full_ones_channels(name):
    config = load_config(f"configs/{name}.py")
    full, light = build_network(config), build_light_network(config)
    assert start_from(light, full) == () and light.takes == full.takes


def test_an_evaluation_at_full_size_takes_less_than_50_gflop():
    config = load_config("configs/nus.py")
    full, light = (f(config).to("meta") for f in (build_network, build_light_network))
    with torch.device("meta"):
        x, t = torch.empty(1, 6, 16, 50, 50), torch.empty(1)
        condition = Condition(torch.empty(1, 6, 16, 50, 50), None, torch.empty(1, 12, 2))
    flops = {net: work_of(lambda net=net: net(x, t, condition)).flops for net in (full, light)}
    assert 286e9 < flops[full] < 288e9
    assert 39e9 < flops[light] < 41e9  # configs/_base_/nus.py says 40
