"""Fast convolutions give what direct ones give, and only where they may."""

import pytest
import torch
import torch.nn.functional as F

from occdistill.autoencoder import winograd as module
from occdistill.autoencoder.tiles import in_slices, plain, tiled
from occdistill.autoencoder.winograd import Conv3x3, transforms, winograd


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 7, 9), (5, 4, 3), (1, 50, 17)])
@pytest.mark.parametrize("chunk", [1, 6, 100])
def test_equals_the_direct_convolution(monkeypatch, shape, chunk):
    monkeypatch.setattr(module, "CHUNK", chunk)
    n, height, width = shape
    x, weight, bias = torch.randn(n, 5, height, width), torch.randn(6, 5, 3, 3), torch.randn(6)
    wanted = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        result = winograd(x.contiguous(memory_format=memory_format), weight, bias)
        assert result.shape == wanted.shape
        assert result.permute(0, 2, 3, 1).stride(-1) == 1
        assert float((result - wanted).abs().max()) < 1e-4


def test_rounding_stays_near_that_of_the_direct_convolution():
    x, conv = torch.randn(1, 128, 20, 20), Conv3x3(128, 128)
    with torch.no_grad():
        wanted = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
        error = (conv(x) - wanted).std() / wanted.std()
    assert 0 < float(error) < 3e-6


def test_transforms_multiply_polynomials_at_any_points():
    inputs, kernel, outputs = (m.double() for m in transforms((0.0, 1.0, -1.0), 2))
    x, g = torch.randn(4, 4, dtype=torch.double), torch.randn(3, 3, dtype=torch.double)
    products = (inputs @ x.flatten()) * (kernel @ g.flatten())
    wanted = F.conv2d(x[None, None], g[None, None]).flatten()
    assert torch.allclose(outputs @ products, wanted, atol=1e-6)


def test_layer_is_fast_only_where_it_may_be(monkeypatch):
    conv, x = Conv3x3(128, 128), torch.randn(1, 128, 8, 8)
    calls = []
    monkeypatch.setattr(module, "winograd", lambda *args: calls.append(1) or winograd(*args))
    with torch.no_grad():
        conv(x)
        assert len(calls) == 1
        with plain():
            conv(x)
        with torch.autocast("cpu", torch.bfloat16):
            conv(x)
        Conv3x3(64, 128)(x[:, :64])
        conv.double()(x.double())
    conv.float()(x).sum().backward()
    assert len(calls) == 1
    assert conv.weight.grad is not None
    assert conv.state_dict().keys() == {"weight", "bias"}


def test_changed_weights_are_seen():
    conv, x = Conv3x3(128, 128), torch.randn(1, 128, 8, 8)
    with torch.no_grad():
        before = conv(x)
        conv.weight.data.mul_(2)
        conv.bias.data.mul_(2)
        assert torch.allclose(conv(x), 2 * before, atol=1e-4)


def test_forward_derivative_without_gradients():
    conv, x = Conv3x3(128, 128), torch.randn(1, 128, 8, 8)
    with torch.no_grad():
        value, slope = torch.func.jvp(conv, (x,), (torch.ones_like(x),))
        with plain():
            assert torch.allclose(value, conv(x), atol=1e-4)
            wanted = conv(torch.ones_like(x)) - conv(torch.zeros_like(x))
    assert torch.allclose(slope, wanted, atol=1e-4)


def test_plain_computes_whole_and_ends_with_its_block():
    rows = []

    def double(x):
        rows.append(len(x))
        return 2 * x

    x = torch.ones(5, 2)
    with torch.no_grad():
        with plain():
            assert not in_slices(x)
            whole = tiled(double, 2, x)
        with pytest.raises(RuntimeError), plain():
            raise RuntimeError
        assert in_slices(x)
        assert torch.equal(tiled(double, 2, x), whole)
    assert rows == [5, 2, 2, 1]
    assert not in_slices(x)
