"""The pretended GPU keeps CUDA's rules: what it lets pass has to pass on a real one."""

import copy

import pytest
import torch
import torch.distributed as dist
from mmengine.dist import all_reduce
from torch import nn

from tests.pretended.device import one_of_two


def test_numbers_are_the_hosts_and_tensors_are_the_gpus(gpu):
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    there = a.to("cuda") @ b.to("cuda")
    assert there.is_cuda and there.device == torch.device("cuda", 0)
    torch.testing.assert_close(there.cpu(), a @ b)
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        there.numpy()
    view = there[1:, ::2]
    view += 1
    torch.testing.assert_close(there.cpu()[1:, ::2], (a @ b)[1:, ::2] + 1)
    twin = copy.deepcopy(there)
    twin.zero_()
    assert twin.is_cuda and there.any()
    empty = torch.empty(0, device="cuda")
    torch.add(there, there, out=empty)
    torch.testing.assert_close(empty.cpu(), 2 * there.cpu())


@pytest.mark.parametrize(
    "mixed",
    [
        lambda here, there: here + there,
        lambda here, there: there @ here,
        lambda here, there: torch.cat([there, here]),
        lambda here, there: torch.cat([there[0], here[0, :0].sum()[None]]),
        lambda here, there: there.add_(here),
        lambda here, there: here[there[0].long()],
        lambda here, there: nn.functional.embedding(there.long(), here),
        lambda here, there: nn.Linear(4, 4)(there),
        lambda here, there: torch.where(there > 0, there, here),
        lambda here, there: there.normal_(generator=torch.Generator()),
    ],
)
def test_devices_do_not_mix(gpu, mixed):
    with pytest.raises((RuntimeError, IndexError), match="same device|device type|indices should"):
        mixed(torch.zeros(4, 4), torch.zeros(4, 4, device="cuda"))


def test_a_number_of_the_hosts_goes_along(gpu):
    there = torch.ones(4, device="cuda")
    number = torch.tensor(2.0)
    assert (there * number).is_cuda and torch.where(there > 0, number, there).is_cuda
    assert there.masked_fill(there > 0, number).tolist() == [2] * 4
    assert there[torch.tensor([0, 1])].is_cuda


def test_what_makes_the_host_wait_is_counted(gpu):
    if gpu.waits is None:
        pytest.skip("on a real GPU, PyTorch counts")
    there = torch.arange(4.0, device="cuda")
    for wait, what in (
        (lambda: there.sum().item(), {"_local_scalar_dense"}),
        (lambda: bool(there.any()), {"_local_scalar_dense"}),
        (lambda: there.tolist(), {"to the host"}),
        (lambda: there.cpu(), {"to the host"}),
        (lambda: there.nonzero(), {"nonzero"}),
        (lambda: there[there > 1], {"nonzero"}),
        (lambda: there[[0, 1]], {"from the host"}),
        (lambda: torch.ones(2).to("cuda"), {"from the host"}),
        (lambda: torch.ones(2).to("cuda", non_blocking=True), {"from the host"}),
        (lambda: there.new_tensor([1.0]), {"from the host"}),
        (lambda: torch.cuda.synchronize(), {"synchronize"}),
    ):
        gpu.waits.clear()
        wait()
        assert {kind for kind, _ in gpu.waits} == what
    with gpu.nothing_waits():
        torch.ones(2).pin_memory().to("cuda", non_blocking=True)
        there[1:].mul_(2).sort().values.cumsum(0).new_full((3,), 1.0)
        torch.zeros(3, device="cuda")[torch.arange(2, device="cuda")] = 1.0
    with pytest.raises(AssertionError), gpu.nothing_waits():
        there.sum().item()


def test_gradients_and_derivatives_forward_are_the_cpus(gpu):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, groups=1), nn.SiLU(), nn.Conv2d(8, 8, 3, groups=8))
    x = torch.randn(2, 3, 9, 9)

    def both(net, x):
        value, slope = torch.func.jvp(net, (x,), (torch.ones_like(x),))
        net.zero_grad()
        net(x).square().mean().backward()
        return [value, slope, *(p.grad for p in net.parameters())]

    here = [one.clone() for one in both(net, x)]
    there = both(net.to("cuda"), x.to("cuda"))
    assert all(one.is_cuda for one in there)
    for a, b in zip(there, here):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-4, atol=1e-5)


def test_half_precision_follows_cudas_list(gpu):
    x = torch.randn(4, 4, device="cuda", requires_grad=True)
    with torch.autocast("cuda", torch.float16):
        assert (x @ x).dtype == torch.float16
        assert torch.softmax(x @ x, -1).dtype == torch.float32
        assert nn.functional.layer_norm(x @ x, (4,)).dtype == torch.float32
        torch.softmax(x @ x, -1)[0, 0].backward()
    assert x.grad.dtype == torch.float32 and x.grad.any()


def test_under_nccl_only_the_gpus_tensors_are_reduced(gpu, monkeypatch):
    if gpu.waits is None:
        pytest.skip("the other process is pretended")
    with one_of_two():
        assert dist.get_world_size() == 2
        dist.all_reduce(torch.ones(2, device="cuda"))
        with pytest.raises(RuntimeError, match="No backend type associated with device type cpu"):
            dist.all_reduce(torch.ones(2))
        all_reduce(torch.ones(2), "mean")  # mmengine moves it itself
