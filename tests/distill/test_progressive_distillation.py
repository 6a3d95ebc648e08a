"""Progressive distillation against closed forms."""

import pytest
import torch

from occdistill.distill.progressive_distillation import ProgressiveDistillation
from occdistill.flow.path import expand
from occdistill.flow.solver import shifted_grid
from tests import wide
from tests.wide import average, close, graded


def two_steps(grid, x, t, mean, std):
    """Average of two Euler steps of a Gaussian flow from t along the grid, t broadcast to x."""
    index = (t[..., None] - grid).abs().argmin(-1)
    q, r = grid[index + 1], grid[index + 2]
    first = average(x, t, t, mean, std)
    second = average(x + (q - t) * first, q, q, mean, std)
    return ((q - t) * first + (r - q) * second) / (r - t)


class TwoSteps(wide.Flow):
    """A student that does in one step what a Gaussian flow does in two."""

    grid = shifted_grid(8)

    def forward(self, x, t, condition):
        mean = wide.seen(self.mean, condition)
        return two_steps(self.grid, x, expand(t, x).expand_as(x), mean, self.std)


@pytest.mark.parametrize("weight", ["flat", "snr"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_gradient_is_that_of_the_regression_on_two_steps(weight, shift):
    method = wide.build(ProgressiveDistillation, weight=weight, shift=shift)
    loss, found = wide.losses(method)
    student = method.nets["student"]
    x, t, _ = graded(student)
    t = expand(t, x).expand_as(x)
    grid = shifted_grid(8, shift)
    assert set(t.flatten().tolist()) == set(grid[:-1:2].tolist())
    target = two_steps(grid, x, t, torch.tensor(wide.MEAN), torch.tensor(wide.STD)).detach()
    square = (average(x, t, t, *student.parameters()) - target).square()
    c = torch.maximum(t**2, (1 - t) ** 2) if weight == "snr" else 1.0
    close(loss.total, (c * square).mean())
    close(loss.logs["gap"], square.mean().detach())
    close(found, torch.cat(torch.autograd.grad((c * square).mean(), list(student.parameters()))))
    assert all(p.grad is None for p in method.teacher.parameters())


def test_loss_and_gradient_vanish_for_a_student_that_has_learned_it():
    method = wide.build(ProgressiveDistillation)
    method.nets["student"] = TwoSteps(wide.MEAN, wide.STD)
    loss, found = wide.losses(method)
    assert loss.total < 1e-12 and found.abs().max() < 1e-6


def test_the_student_takes_the_teachers_place_for_half_as_many_steps():
    """Then its teacher is what it was at that moment, whatever it learns, and no guidance."""
    method = wide.build(ProgressiveDistillation, stage=10)
    student = method.nets["student"]
    wide.losses(method, step=9)
    for stage, step in ((1, 10), (2, 20), (2, 500)):
        handed = [p.detach().clone() for p in student.parameters()]
        wide.losses(method, step=step)
        with torch.no_grad():
            student.mean += 0.3
        loss, _ = wide.losses(method, step=step + 5)
        x, t, _ = graded(student)
        t = expand(t, x).expand_as(x)
        grid = shifted_grid(8)[:: 2**stage]
        assert set(t.flatten().tolist()) == set(grid[:-1:2].tolist())
        if step == 500:
            handed = [handed[0] - 0.3, handed[1]]  # no stage begins there
        now = average(x, t, t, student.mean, student.std)
        close(loss.total, (now - two_steps(grid, x, t, *handed)).square().mean())
    assert set(t.flatten().tolist()) == {0.0}  # one step is left


def test_a_stage_is_resumed():
    method, other = (wide.build(ProgressiveDistillation, stage=10) for _ in range(2))
    wide.losses(method, step=12)
    with torch.no_grad():
        method.nets["student"].std += 0.2
    other.load_state_dict(method.state_dict())
    assert wide.losses(method, step=13)[0].total == wide.losses(other, step=13)[0].total
    assert not any(p.requires_grad for p in method.previous.parameters())


@pytest.mark.parametrize(
    "option", [dict(steps=6), dict(steps=1), dict(stage=0), dict(shift=0), dict(weight="x")]
)
def test_bad_arguments_are_refused(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} must"):
        wide.build(ProgressiveDistillation, **option)
