"""A second Gaussian fixture: two dimensions of other means and spreads, derivatives by autograd.

The student notes where it is asked, so that a test can compute at the very same points, in float64,
what a method's formula must give, with derivatives taken in another way than the methods take them.
"""

import torch
from torch import nn

from occdistill.distill.base import Batch
from occdistill.flow.path import expand
from occdistill.latents.condition import Condition
from tests.gaussian import SHIFT, seen

SHAPE = (1, 1, 1, 2)
MEAN, STD = (-0.6, 1.5), (1.3, 0.4)  # of the guided teacher
OFF = ((0.1, 1.1), (0.8, 0.7))  # a student that is not the teacher


def average(x, t, r, mean, std):
    """Average velocity of the flow from N(0, 1) to N(mean, std²), every argument elementwise."""
    s_t, s_r = (((q * std) ** 2 + (1 - q) ** 2).sqrt() for q in (t, r))
    k = ((r + t) * (std**2 + 1) - 2) / (s_t * (s_r + s_t))
    return mean + k * (x - t * mean)


class Flow(nn.Module):
    """A Gaussian flow map; without r, its velocity. `calls` holds (x, t, r, with gradients)."""

    two_time = True

    def __init__(self, mean, std):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean, dtype=torch.float64))
        self.std = nn.Parameter(torch.tensor(std, dtype=torch.float64))
        self.calls = []

    def forward(self, x, t, condition, r=None):
        r = t if r is None else r
        self.calls.append((x, t, r, torch.is_grad_enabled()))
        return average(x, expand(t, x), expand(r, x), seen(self.mean, condition), self.std)


class Draws64:
    """Draws of many samples from one stream, in float64."""

    def __init__(self, count, seed=0):
        self.count, self.generator = count, torch.Generator().manual_seed(seed)

    def __len__(self):
        return self.count

    def normal(self, *shape):
        return torch.randn(self.count, *shape, generator=self.generator, dtype=torch.float64)

    def uniform(self, *shape):
        return torch.rand(self.count, *shape, generator=self.generator, dtype=torch.float64)


def batch(count=40, seed=0):
    """Clips whose data follow the guided teacher's law."""
    data = torch.tensor(MEAN) + torch.tensor(STD) * Draws64(count, seed + 1).normal(*SHAPE)
    past = torch.ones(count, 1, 1, 1, 1, dtype=torch.float64)
    return Batch(Condition(past), Draws64(count, seed), data)


def build(cls, mean=OFF[0], std=OFF[1], guidance=2.0, **options):
    """A method with a Gaussian student and a teacher that is N(MEAN, STD²) under its guidance."""
    shift = (guidance - 1) * SHIFT
    teacher = Flow([m - shift for m in MEAN], list(STD))
    student = Flow(list(mean), list(std))
    return cls(teacher, SHAPE, guidance=guidance, student=student, **options)


def losses(method, count=40, seed=0, step=0):
    """The student's loss and its gradients in mean and std, `(4,)`, the calls noted afresh."""
    student = method.nets["student"]
    student.zero_grad()
    student.calls.clear()
    loss = method.losses("student", batch(count, seed), step)
    loss.total.backward()
    return loss, torch.cat([student.mean.grad, student.std.grad])


def at_optimum(cls, **options):
    """A method whose student is the guided teacher."""
    return build(cls, MEAN, STD, **options)


class Exact:
    """What a flow-map student is at given points `x (B, 1, 1, 1, 2)`, `t`, `r` `(B,)`.

    `u`, `d_t`, `d_r`, `d_tr` carry gradients in `mean` and `std`; `v` is the guided teacher's
    velocity and the tangent of `d_t` and `d_tr`, unless another one is given.
    """

    def __init__(self, student, x, t, r, tangent=None):
        self.parameters = list(student.parameters())
        self.x = x.detach().requires_grad_()
        self.t, self.r = (expand(q, x).expand_as(x).clone().requires_grad_() for q in (t, r))
        self.gap = (self.r - self.t).detach()
        self.v = teacher_velocity(self.x, self.t).detach()
        tangent = self.v if tangent is None else tangent
        self.u = average(self.x, self.t, self.r, *self.parameters)
        self.d_r = self._grad(self.u, self.r)
        self.d_t, self.d_tr = (
            self._grad(y, self.t) + self._grad(y, self.x) * tangent for y in (self.u, self.d_r)
        )

    @staticmethod
    def _grad(y, x):
        return torch.autograd.grad(y.sum(), x, create_graph=True)[0]

    def gradients(self, loss):
        """Of a scalar in mean and std, `(4,)`."""
        return torch.cat(torch.autograd.grad(loss, self.parameters, retain_graph=True))


def teacher_velocity(x, t):
    """Of the guided teacher; t broadcast to x."""
    return average(x, t, t, torch.tensor(MEAN, dtype=x.dtype), torch.tensor(STD, dtype=x.dtype))


def graded(student):
    """Where the student was asked with gradients: the first `(x, t, r)` of those calls."""
    return next((x.detach(), t, r) for x, t, r, grad in student.calls if grad)


def close(found, expected):
    """Equal to rounding."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
