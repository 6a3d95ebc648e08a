"""The Gaussian fixture's flow map: its average velocity in closed form, and how to check with it."""

import torch
from torch import nn

from occdistill.flow.networks.base import VelocityNetwork
from occdistill.flow.path import expand
from tests.gaussian import SHAPE, TEACHER, BulkDraws, make_batch, seen, teacher


class GaussianFlowMap(VelocityNetwork):
    """Average velocity of the flow from N(0, 1) to N(m, s²): `u = m + k (x_t - t m)`.

    `k = (S_r / S_t - 1) / (r - t)` written without its removable pole, so r = t is the velocity.
    """

    takes, taps, two_time = {}, (), True

    def __init__(self, mean, std):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(float(mean)))
        self.std = nn.Parameter(torch.tensor(float(std)))

    def forward(self, x, t, condition, r=None):
        t = expand(t, x)
        r = torch.ones_like(t) if r is None else expand(r, x)
        s_t, s_r = (((q * self.std) ** 2 + (1 - q) ** 2).sqrt() for q in (t, r))
        k = ((r + t) * (self.std**2 + 1) - 2) / (s_t * (s_r + s_t))
        mean = seen(self.mean, condition)
        return mean + k * (x - t * mean)


def data_batch(count, seed=0, shape=SHAPE):
    """A batch whose data follow the teacher's law."""
    batch = make_batch(count, seed)
    batch.x_1 = TEACHER[0] + TEACHER[1] * BulkDraws(count, seed + 1).normal(*shape)
    return batch


def build_map(cls, mean, std, **kwargs):
    """A method whose student is the exact flow map of N(mean, std²)."""
    shape = kwargs.pop("shape", SHAPE)
    return cls(teacher(), shape, student=GaussianFlowMap(mean, std), **kwargs)


def map_gradients(method, count=200_000, seed=0, step=0):
    """(dL/dm', dL/ds') of a Gaussian flow-map student, by Monte Carlo."""
    student = method.nets["student"].zero_grad() or method.nets["student"]
    method.losses("student", data_batch(count, seed), step).total.backward()
    return student.mean.grad.item(), student.std.grad.item()


def moments(times):
    """Of x_t under the teacher's law: mean and standard deviation at `times`."""
    m, s = TEACHER
    return times * m, ((times * s) ** 2 + (1 - times) ** 2).sqrt()
