"""Every method on a GPU: the CPU's losses and gradients, and half precision that loses none."""

import copy
from types import SimpleNamespace

import pytest
import torch

from occdistill.distill.base import Batch, only_grad
from occdistill.flow.path import Draws
from occdistill.training.trainer import Trainer
from tests.distill.test_contract import METHODS, SHAPE, make_batch, teacher

SCALE = 1024.0  # of a loss in half precision, as a loss scaler has it


def made(name, device):
    kind, options = METHODS[name]
    return kind(teacher(), SHAPE, **copy.deepcopy(options)).to(device)


def batch_on(device):
    batch = make_batch()
    return Batch(batch.condition.to(device), Draws([10, 11, 12], device), batch.x_1.to(device))


def loss_and_gradients(method, name, device, half=False):
    """On the CPU, and which parameters of the net have a gradient at all."""
    method.zero_grad()
    autocast = Trainer.autocast(SimpleNamespace(device=torch.device(device), half=half))
    with only_grad(method.nets, name):
        with autocast:
            loss = method.losses(name, batch_on(device), 5)
        (SCALE * loss.total).backward()
    for x in (loss.total, *loss.logs.values()):
        assert x.device.type == device
    found = {n: p.grad for n, p in method.nets[name].named_parameters() if p.grad is not None}
    return loss.total.detach().float().cpu(), {n: g.cpu() / SCALE for n, g in found.items()}


@pytest.mark.parametrize("kind", METHODS)
def test_a_method_computes_what_it_computes_on_the_cpu(gpu, kind):
    here, there = made(kind, "cpu"), made(kind, "cuda")
    for name in here.nets:
        loss, gradients = loss_and_gradients(here, name, "cpu")
        same, the_same = loss_and_gradients(there, name, "cuda")
        torch.testing.assert_close(same, loss, rtol=1e-4, atol=1e-6)
        assert the_same.keys() == gradients.keys()
        for key, gradient in gradients.items():
            room = 1e-4 * float(gradient.abs().max()) + 1e-7
            torch.testing.assert_close(the_same[key], gradient, rtol=1e-3, atol=room)
        rounded, of_half = loss_and_gradients(there, name, "cuda", half=True)
        torch.testing.assert_close(rounded, loss, rtol=0.05, atol=0.02)
        # less is what rounding leaves of a sum that cancels, as a hinge loss's over real and fake
        least = 1e-4 * max(float(g.abs().max()) for g in gradients.values())
        there_is_one = [key for key, g in gradients.items() if g.abs().max() > least]
        lost = [key for key in there_is_one if not of_half[key].any()]
        assert not lost, f"half precision loses the gradients of {lost}"
        there.after(name, 5)
    noise = torch.randn(3, *SHAPE)
    forecast = there.sample(batch_on("cuda").condition, noise.to("cuda"))
    close = here.sample(batch_on("cpu").condition, noise)
    torch.testing.assert_close(forecast.cpu(), close, rtol=1e-3, atol=1e-3)
