"""Two Gaussian worlds, the fixture's own and one of two dimensions, and discriminators for them."""

import pytest
import torch
from torch import nn

from occdistill.distill.adversarial import Adversarial
from occdistill.distill.base import DistributionMatching
from occdistill.distill.dmd2 import DMD2
from tests.gaussian import SHIFT, AffineStudent, BulkDraws, GaussianField, make_batch

# mean and spread of the guided teacher, and a student's a and b
LINE = dict(m=[1.0], s=[0.7], a=[1.1], b=[0.2])
PLANE = dict(m=[-0.5, 2.0], s=[1.3, 0.4], a=[0.6, 0.9], b=[0.3, 1.5])
BOTH = pytest.mark.parametrize("case", [LINE, PLANE], ids=["line", "plane"])
COUNT = 100_000


class OutputTap:
    """Read the network's own output; `Tap` with the identity for a layout."""

    module, channels = "", 1

    def volume(self, features, batch):
        return features


class Linear(nn.Module):
    """A logit `slope · feature + bias` for every element."""

    def __init__(self, slope=0.0):
        super().__init__()
        self.slope, self.bias = nn.Parameter(torch.tensor(slope)), nn.Parameter(torch.zeros(()))

    def forward(self, volume):
        return self.slope * volume.flatten(1) + self.bias


class Ratio(nn.Module):
    """log p_t / q_t of guided teacher and student at one time, per element.

    It reads x off the teacher's own velocity: features aren't guided.
    """

    def __init__(self, case, t):
        super().__init__()
        self.case, self.t = {k: torch.tensor(v) for k, v in case.items()}, t

    def forward(self, v):
        m, s, a, b = self.case.values()
        own, t = m - SHIFT, self.t
        x = (v.flatten(1) - own) / slope(t, s) + t * own
        real, fake = (torch.distributions.Normal(t * q, spread(t, w)) for q, w in ((m, s), (b, a)))
        return real.log_prob(x) - fake.log_prob(x)


def spread(t, s):
    """Of x_t: `S_t`."""
    return ((t * s) ** 2 + (1 - t) ** 2) ** 0.5


def slope(t, s):
    """Of the velocity in x: `k_t`."""
    return (t * s**2 - (1 - t)) / spread(t, s) ** 2


def wide(net, **values):
    """The net with these values, one for each element."""
    for name, value in values.items():
        setattr(net, name, nn.Parameter(torch.tensor(value).view(-1, 1, 1)))
    return net


def build(cls, case, head=None, **kwargs):
    """A method with an affine student, the exact auxiliary of it, and a head on the output."""
    own = [m - SHIFT for m in case["m"]]  # guidance 2 adds SHIFT
    if issubclass(cls, DistributionMatching):
        kwargs["auxiliary"] = wide(GaussianField(0, 1), mean=case["b"], std=case["a"])
    if issubclass(cls, (Adversarial, DMD2)):
        kwargs.update(taps=[OutputTap()], heads=[Linear() if head is None else head])
    return cls(
        wide(GaussianField(0, 1), mean=own, std=case["s"]),
        (1, len(own), 1, 1),
        student=wide(AffineStudent(0, 0), a=case["a"], b=case["b"]),
        **kwargs,
    )


def batch_of(case, count=COUNT, seed=0):
    """With data that follow the guided teacher's law."""
    batch = make_batch(count, seed)
    m, s = (torch.tensor(case[key]).view(-1, 1, 1) for key in ("m", "s"))
    batch.x_1 = m + s * BulkDraws(count, seed + 1).normal(1, *m.shape)
    return batch


def student_gradient(method, case, loss=None, count=COUNT):
    """dL/da and dL/db, each times the number of elements that the loss averages over."""
    loss = loss or (lambda batch: method.losses("student", batch, 0).total)
    student = method.nets["student"]
    grads = torch.autograd.grad(loss(batch_of(case, count)), [student.a, student.b])
    return torch.stack(grads).flatten(1) * len(case["m"])


def quadrature(function, law, points=4001):
    """`E f(t)` under a time law, each clip's own stream evenly spread; f gives a value per element."""

    class Even:
        def normal(self, _):
            u = (torch.arange(points, dtype=torch.float64) + 0.5) / points
            return torch.special.ndtri(u)[:, None]

        def uniform(self, _):
            return ((torch.arange(points, dtype=torch.float64) + 0.5) / points)[:, None]

    return function(law.times(Even())[:, None]).mean(0)


def close(found, expected, **tolerance):
    torch.testing.assert_close(found.double(), expected.double(), **tolerance)


def numbers(case):
    return (torch.tensor(case[key], dtype=torch.float64) for key in "msab")
