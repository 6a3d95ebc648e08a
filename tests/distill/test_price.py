"""What makes distillation cheaper: each saving against what it must leave alone."""

import pytest
import torch
from torch import nn

from occdistill.distill.base import only_grad, take_step
from occdistill.distill.mfd import MFD
from occdistill.distill.sid import SiD
from occdistill.flow.path import TimeLaw
from tests.distill.test_contract import SHAPE, make_batch, teacher
from tests.gaussian import build
from tests.gaussian import make_batch as gaussian_batch


class Counting:
    """An updater that keeps its net as it is, and what it was told."""

    def __init__(self):
        self.losses = []

    def backward(self, loss):
        self.losses.append(loss.item())

    def step(self):
        return torch.tensor(0.0)


def step(method, parts=1):
    """One step; losses of the auxiliary's updates and the batches used."""
    used = []

    def batches():
        while True:
            used.append(gaussian_batch(64, len(used)))
            yield used[-1]

    updaters = {name: Counting() for name in method.nets}
    take_step(method, batches(), updaters, 0, parts=parts)
    return updaters["auxiliary"].losses, used


def test_the_ratio_falls_and_stays():
    method = build(MFD, 1.0, 0.0, ratio=10, final_ratio=2, fall=4)
    counts = [method.plan(step).count("auxiliary") for step in range(7)]
    assert counts == [10, 8, 6, 4, 2, 2, 2]
    assert all(method.plan(step)[-1] == "student" for step in range(7))


@pytest.mark.parametrize("parts", [1, 2])
def test_a_sample_serves_several_updates_with_fresh_noise_and_times(parts):
    method = build(MFD, 1.1, 0.2, ratio=5, reuse=2, ode_step=0.5)
    losses, used = step(method, parts)
    # samples for updates 1 and 2, 3 and 4, 5; then the student's own
    assert method.batches(0) == [*[("auxiliary", n) for n in (2, 2, 1)], ("student", 1)]
    assert len(used) == 4 * parts and method.nets["student"].calls == 4 * parts
    assert len(losses) == 5 * parts == len(set(losses))
    assert [batch.sample is not None for batch in used] == [True] * 3 * parts + [False] * parts
    method = build(MFD, 1.1, 0.2, ratio=5, ode_step=0.5)
    _, used = step(method, parts)
    assert len(used) == 6 * parts == method.nets["student"].calls


def test_what_is_reused_is_the_sample():
    method = build(MFD, 1.1, 0.2, reuse=2)
    batch, other = gaussian_batch(64), gaussian_batch(64)
    first, sample = method.losses("auxiliary", batch, 0).total, batch.sample
    second = method.losses("auxiliary", batch, 0).total
    assert batch.sample is sample and not sample.requires_grad
    assert torch.equal(sample, method.generate(other)) and first != second


@pytest.mark.parametrize("base", ["teacher", "student"])
def test_adapters_start_as_the_whole_copy_does(base):
    torch.manual_seed(0)
    options = dict(ode_step=0.5, solver="midpoint")
    whole = MFD(teacher(), SHAPE, **options)
    light = MFD(teacher(), SHAPE, auxiliary_rank=4, auxiliary_base=base, **options)
    for name in ("student", "auxiliary"):
        found = [m.losses(name, make_batch(), 0).total for m in (whole, light)]
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)
    assert (whole.evaluations, light.evaluations) == (whole.evaluations,) * 2


def test_adapters_on_the_student_are_their_own_net():
    """They see the student's weights move, are trained apart from them, and never move them."""
    method = MFD(teacher(), SHAPE, auxiliary_rank=4, auxiliary_base="student", ode_step=1.0)
    auxiliary, student = method.nets["auxiliary"], method.nets["student"]
    for adapter in auxiliary.adapters:
        nn.init.normal_(adapter.up.weight, std=0.2)
    assert auxiliary.adapts(student) and not auxiliary.adapts(method.teacher)
    for name in method.nets:
        method.zero_grad()
        with only_grad(method.nets, name):
            method.losses(name, make_batch(), 0).total.backward()
        for other, net in method.nets.items():
            got = [p.grad is not None and bool(p.grad.any()) for p in net.parameters()]
            assert all(got) if other == name == "auxiliary" else any(got) == (other == name)
    assert not {id(p) for p in auxiliary.parameters()} & {id(p) for p in student.parameters()}


def test_a_loss_that_runs_through_its_auxiliary_has_none_that_moves():
    with pytest.raises(ValueError, match="auxiliary_base must be 'teacher' for this loss"):
        SiD(teacher(), SHAPE, auxiliary_rank=4, auxiliary_base="student")
    assert SiD(teacher(), SHAPE, auxiliary_rank=4).nets["auxiliary"].adapters


def test_passes_count_backward_passes():
    """Intervals shorter than a step: one step each, two evaluations at its midpoint."""
    near = TimeLaw(std=0.0)
    options = dict(times=near, ode_step=1.0, solver="midpoint")
    for rank, of_update in ((0, 1 + 3), (4, 1 + 2)):
        method = MFD(teacher(), SHAPE, auxiliary_rank=rank, **options)
        for name, forward, both in (
            ("student", 1 + 2 * 3, 3 + 2 * 3),
            ("auxiliary", 2, of_update),
        ):
            method.evaluations = method.passes = 0
            with only_grad(method.nets, name):
                method.losses(name, make_batch(), 0)
            assert (method.evaluations, method.passes) == (3 * forward, 3 * both)
