"""The Gaussian fixture: a flow, a student and an auxiliary whose every quantity is closed form.

Every mean depends on the condition: `mean` where the past is 1, as in all batches here, and SHIFT
less where guidance has zeroed it. Two Gaussian flows of one spread differ in velocity by their
means' difference alone, so guidance with scale w moves a teacher's mean by (w - 1) SHIFT and leaves
it Gaussian. An unguided teacher, or a net that is given the null condition, misses by SHIFT.
"""

import torch
from torch import nn

from occdistill.distill.base import Batch, DistributionMatching
from occdistill.flow.path import expand
from occdistill.latents.condition import Condition

SHIFT = 0.4


def seen(mean, condition):
    """The mean under a condition; None stands for that of the batches."""
    return mean if condition is None else mean + SHIFT * (condition.past - 1)


class GaussianField(nn.Module):
    """Velocity of the flow from N(0, 1) to N(m, s²)."""

    def __init__(self, mean, std):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(float(mean)))
        self.std = nn.Parameter(torch.tensor(float(std)))

    def forward(self, x, t, condition, r=None):
        t, s2 = expand(t, x), self.std**2
        slope = (t * s2 - (1 - t)) / (t**2 * s2 + (1 - t) ** 2)
        mean = seen(self.mean, condition)
        return mean + slope * (x - t * mean)


class AffineStudent(nn.Module):
    """G(z) = a z + b as a one-step velocity network: N(z) = (a - 1) z + b."""

    def __init__(self, a, b):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(float(a)))
        self.b = nn.Parameter(torch.tensor(float(b)))
        self.calls = 0

    def forward(self, x, t, condition, r=None):
        self.calls += 1
        return (self.a - 1) * x + seen(self.b, condition)


class BulkDraws:
    """Many samples from one stream: what `Draws` gives, fast enough for Monte Carlo checks."""

    def __init__(self, count, seed=0):
        self.count = count
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self):
        return self.count

    def normal(self, *shape):
        return torch.randn(self.count, *shape, generator=self.generator)

    def uniform(self, *shape):
        return torch.rand(self.count, *shape, generator=self.generator)


TEACHER = (1.0, 0.7)  # mean, standard deviation of the guided teacher
SHAPE = (1, 1, 1, 1)


def teacher(guidance=2.0):
    """A teacher that becomes N(TEACHER) under this guidance."""
    mean, std = TEACHER
    return GaussianField(mean - (guidance - 1) * SHIFT, std)


def make_batch(count, seed=0):
    return Batch(Condition(torch.ones(count, 1, 1, 1, 1)), BulkDraws(count, seed))


def gradients(method, count=400_000, seed=0, name="student"):
    """(dL/da, dL/db) of an affine student, by Monte Carlo."""
    student = method.nets["student"]
    student.zero_grad()
    method.losses(name, make_batch(count, seed), 0).total.backward()
    return student.a.grad.item(), student.b.grad.item()


def build(cls, a, b, **kwargs):
    """A method with an affine student and, where it has one, the exact auxiliary of that student."""
    if issubclass(cls, DistributionMatching):
        kwargs["auxiliary"] = GaussianField(b, abs(a))
    return cls(teacher(), kwargs.pop("shape", SHAPE), student=AffineStudent(a, b), **kwargs)
