"""Layers put into finished networks compute the same, are used, and leave the networks alone."""

import pytest
import torch
from torch import nn

from occdistill.autoencoder.light import LightDecoder
from occdistill.autoencoder.occfm import OccFMVAE
from occdistill.flow.guidance import Guided
from occdistill.flow.networks.occfm import OccFMTransition
from occdistill.latents.condition import Condition
from occdistill.runtime import shortcuts
from occdistill.runtime.shortcuts import (
    LAYERS,
    WinogradConv,
    attend_padded,
    most_likely,
    sliced,
    sliced_by_clip,
    swapped,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def many_slices(monkeypatch):
    """Slices so small that the tests' small maps make several."""
    monkeypatch.setattr(shortcuts.SlicedSwinBlock, "windows_per_slice", 3)
    monkeypatch.setattr(shortcuts.SlicedResidual, "maps_per_slice", 2)
    monkeypatch.setattr(shortcuts, "rows_of", lambda x: 5)
    monkeypatch.setattr(shortcuts.FrameByFrame, "voxels_per_slice", 1000)
    monkeypatch.setattr(shortcuts.SlicedLightDecoder, "logits_per_slice", 2**14)


@pytest.fixture
def winograds(monkeypatch):
    """Sizes of what `winograd` is called with."""
    sizes, original = [], shortcuts.winograd
    monkeypatch.setattr(
        shortcuts, "winograd", lambda x, *rest: sizes.append(x.shape[1]) or original(x, *rest)
    )
    return sizes


def autoencoder(**more):
    small = dict(channels=4, grid_shape=(40, 20, 4), width=(128, 32, 64), depths=(2, 2))
    return OccFMVAE(**{**small, **more}).eval()


def transition():
    network = OccFMTransition((4, 6, 6), past=3, future=2, trajectory_length=5, width=64).eval()
    condition = Condition(torch.randn(3, 3, 4, 6, 6), trajectory=torch.randn(3, 5, 2))
    return network, (torch.randn(3, 2, 4, 6, 6), torch.rand(3), condition)


def kinds(network):
    return {type(module) for module in network.modules()} & {*LAYERS, WinogradConv}


@torch.no_grad()
@pytest.mark.parametrize("frames", [None, 3])
def test_a_swapped_autoencoder_gives_the_same_latents_and_classes(many_slices, winograds, frames):
    vae = autoencoder(frames=frames)
    fast, voxels = swapped(vae), torch.randint(18, (6, 40, 20, 4), dtype=torch.uint8)
    mean = vae.encode(voxels).mean
    torch.testing.assert_close(fast.encode(voxels).mean, mean, atol=1e-5, rtol=1e-4)
    logits, classes = vae.logits(mean), fast.decode(mean)
    assert classes.dtype == torch.uint8 and classes.shape == voxels.shape
    chosen = logits.gather(-1, classes.long()[..., None])[..., 0]
    assert float((logits.amax(-1) - chosen).max()) < 1e-4
    assert kinds(fast) == {shortcuts.SlicedSwinBlock, shortcuts.FrameByFrame, WinogradConv}
    assert winograds and not kinds(vae)


@torch.no_grad()
@pytest.mark.parametrize("guidance", [None, 2.0])
def test_a_swapped_transition_gives_the_same_velocity(many_slices, winograds, guidance):
    network, point = transition()
    field = network if guidance is None else Guided(network, guidance)
    fast = swapped(field)
    torch.testing.assert_close(fast(*point), field(*point), atol=1e-4, rtol=1e-4)
    assert kinds(fast) == {
        shortcuts.SlicedResidual, shortcuts.SlicedAttention, shortcuts.SlicedTransformer,
        WinogradConv,
    }  # fmt: skip
    assert winograds and not kinds(field)


@torch.no_grad()
def test_a_light_decoder_takes_the_same_classes_in_slices(many_slices):
    decoder = LightDecoder((4, 32, 32), (64, 64, 8), width=(8,), blocks=(1,))
    z, fast = torch.randn(2, 4, 32, 32), swapped(decoder)
    assert type(fast) is shortcuts.SlicedLightDecoder
    assert torch.equal(fast.decode(z), decoder.decode(z))


def test_weights_are_shared_and_changes_seen():
    network, point = transition()
    fast = swapped(network)
    for one, other in zip(network.parameters(), fast.parameters(), strict=True):
        assert one is other
    with torch.no_grad():
        before = fast(*point)
        network.out.weight.mul_(2)
        network.out.bias.mul_(2)
        torch.testing.assert_close(fast(*point), 2 * before)


def test_what_has_no_shortcut_is_not_copied():
    small = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1), nn.SiLU())
    assert swapped(small) is small
    vae = autoencoder(width=(32, 32, 64))
    assert WinogradConv not in kinds(swapped(vae))  # too few channels to gain
    assert swapped(vae).embedding is vae.embedding


def test_convolutions_are_fast_only_where_they_are_exact(winograds):
    vae = autoencoder()
    conv = swapped(vae).decoder.ups[0]
    x = torch.randn(1, 128, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(conv(x), vae.decoder.ups[0](x), atol=1e-5, rtol=1e-4)
        assert winograds == [128]
        with torch.autocast("cpu", torch.bfloat16):
            conv(x)
        conv.bfloat16()(x.bfloat16())
    assert winograds == [128]


def test_slices_keep_the_order_of_rows_and_clips():
    rows = []

    def add(x, e=None):
        rows.append(len(x))
        return x if e is None else x + e

    x = torch.arange(10.0)[:, None]
    assert torch.equal(sliced(add, 4, x), x) and rows == [4, 4, 2]
    e = torch.tensor([[100.0], [200.0]])
    assert torch.equal(sliced_by_clip(add, 2, x, e), x + e.repeat_interleave(5, 0))
    assert rows[3:] == [2, 2, 1, 2, 2, 1]
    assert sliced(add, 4, torch.empty(10, device="meta")).device.type == "meta"
    assert rows[9:] == [10]  # elsewhere at once


@pytest.mark.parametrize("width", [4, 8, 16])
def test_padded_heads_attend_alike(width):
    q, k, v = torch.randn(3, 2, 8, 7, width)
    expected = (q @ k.transpose(-1, -2) / width**0.5).softmax(-1) @ v
    torch.testing.assert_close(attend_padded(q, k, v), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_most_likely_is_the_first_of_the_largest(dim, dtype):
    logits = torch.randn(5, 7, 6).to(dtype)
    found = most_likely(logits, dim)
    assert found.dtype == torch.uint8
    best = logits.amax(dim, keepdim=True)
    first = (logits == best).int().argmax(dim)  # of booleans, argmax gives the first
    assert torch.equal(found.long(), first)
    assert most_likely(torch.zeros(3, 18), 1).tolist() == [0, 0, 0]
