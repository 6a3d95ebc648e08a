"""Fast convolutions give what direct ones give."""

import pytest
import torch
import torch.nn.functional as F

from occdistill.runtime import winograd as module
from occdistill.runtime.winograd import transforms, winograd


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


def test_transforms_multiply_polynomials_at_any_points():
    inputs, kernel, outputs = (m.double() for m in transforms((0.0, 1.0, -1.0), 2))
    x, g = torch.randn(4, 4, dtype=torch.double), torch.randn(3, 3, dtype=torch.double)
    products = (inputs @ x.flatten()) * (kernel @ g.flatten())
    wanted = F.conv2d(x[None, None], g[None, None]).flatten()
    assert torch.allclose(outputs @ products, wanted, atol=1e-6)


def test_rounding_stays_near_that_of_the_direct_convolution():
    x, conv = torch.randn(1, 128, 20, 20), torch.nn.Conv2d(128, 128, 3, padding=1)
    with torch.no_grad():
        wanted = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
        error = (winograd(x, conv.weight, conv.bias) - wanted).std() / wanted.std()
    assert 0 < float(error) < 3e-6
