"""What full size needs on a GPU, counted on tensors without contents, before anybody buys one."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from occdistill.autoencoder.occfm import OccFMVAE
from occdistill.data.occ3d import OCC3D
from occdistill.latents.codec import Codec
from occdistill.occfm.memory import PeakBytes, live_bytes
from occdistill.training.validation import ForecastScore


@pytest.fixture(autouse=True)
def only_pretended(gpu):
    if gpu.waits is None:
        pytest.skip("on a real GPU memory is measured: tests/occfm/test_full_size.py")


def fused(q, k, v, attn_mask=None):
    """Attention as CUDA runs it, which keeps no matrix of logits; the CPU's build would keep them."""
    q, k, v = (x.to(torch.get_autocast_dtype("cuda")) for x in (q, k, v))
    if attn_mask is None:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
    bias = attn_mask.to(q.dtype).expand(len(q), -1, -1, -1)
    return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, True)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("recompute", "least", "most"), [(False, 8e9, 20e9), (True, 1e9, 7e9)])
def test_mfd_at_batch_8_fits_a_card_of_24_or_recomputing_of_8_gb(
    gpu, monkeypatch, recompute, least, most
):
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", fused)
    found = live_bytes(batch=8, dtype=torch.float16, recompute=recompute, device="cuda")
    assert least < found["peak"] < most


class Clips:
    """One batch of full size."""

    past = 6

    def __len__(self):
        return 8

    def __getitem__(self, i):
        shape = (6, *OCC3D.shape)
        return {
            "past": torch.zeros(shape, dtype=torch.uint8),
            "future": torch.zeros(shape, dtype=torch.uint8),
            "poses": torch.eye(4).expand(12, 4, 4),
            "trajectory": torch.zeros(12, 2),
        }


def test_what_validation_encodes_first_takes_less_than_8_gb(gpu, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: x)
    monkeypatch.setattr(nn.Module, "to", lambda net, *where: net)  # it is made there
    with FakeTensorMode(allow_non_fake_inputs=True), PeakBytes() as counted:
        with torch.device("cuda"):
            codec = Codec(OccFMVAE(), OCC3D, future=6)
        score = ForecastScore(Clips(), codec, count=8)
        ((condition, future),) = score.batches
        assert condition.past.shape == (8, 6, 16, 50, 50) and future.shape[:2] == (8, 6)
    assert 1e9 < counted.peak < 8e9
