import torch
from torch import nn

from occdistill.build.settings import TeacherSettings
from occdistill.distill.base import Batch
from occdistill.flow.path import Draws
from occdistill.latents.condition import Condition
from occdistill.training.teacher import FlowMatching


class Constant(nn.Module):
    """The same velocity everywhere, learnt."""

    def __init__(self):
        super().__init__()
        self.v = nn.Parameter(torch.zeros(1))

    def forward(self, x_t, t, condition):
        return self.v.expand_as(x_t)


def batch(moving):
    shape = (3, 3, 1, 6, 6)
    x_1 = torch.zeros(shape)
    x_1[..., 0, 0] = 5.0
    condition = Condition(torch.zeros(3, 1, 1, 6, 6), torch.zeros(3, 3, 1, 6, 6))
    return Batch(condition, Draws([1, 2, 3]), x_1, moving)


def loss(weight, moving, dropout=0.0):
    settings = TeacherSettings(
        iterations=1, batch_size=3, condition_dropout=dropout, moving_weight=weight
    )
    task = FlowMatching(Constant(), settings)
    return task.losses("teacher", batch(moving), 0)


def test_the_moving_weight_counts_the_cells_that_something_may_have_reached():
    moving = torch.zeros(3, 3, 6, 6)
    moving[:, :, 0, 0] = 1
    plain, weighted = loss(1.0, moving), loss(3.0, moving)
    x_1, draws = batch(moving).x_1, Draws([1, 2, 3])
    errors = (x_1 - draws.normal(3, 1, 6, 6)).square()
    near = torch.zeros(3, 1, 6, 6)
    near[:2, :, :2, :2] = 1  # one cell further
    near[2, :, :3, :3] = 1  # a second later one more
    torch.testing.assert_close(plain.total, errors.mean())
    torch.testing.assert_close(weighted.total, (errors * (1 + 2 * near)).mean())
    assert weighted.logs["error"] == plain.logs["error"] == plain.total


def test_where_everything_moves_the_weight_is_a_factor():
    everywhere = torch.ones(3, 3, 6, 6)
    torch.testing.assert_close(loss(4.0, everywhere).total, 4 * loss(1.0, None).total)


def test_a_dropped_condition_leaves_no_trace_in_the_weight():
    everywhere = torch.ones(3, 3, 6, 6)
    torch.testing.assert_close(loss(4.0, everywhere, 1.0).total, loss(1.0, None, 1.0).total)
