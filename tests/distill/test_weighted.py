"""Progressive weights: their means, their ends, and that they weigh any row of the family."""

import pytest
import torch

from occdistill.distill.alphaflow import AlphaFlow
from occdistill.distill.improved_meanflow import ImprovedMeanFlow
from occdistill.distill.meanflow import MeanFlow
from occdistill.distill.second_order import SecondOrderMeanFlow
from occdistill.distill.weighted import Weighted, WeightedMeanFlow
from tests import wide
from tests.gaussian import BulkDraws
from tests.wide import close


class WeightedAlphaFlow(Weighted, AlphaFlow):
    pass


class WeightedImproved(Weighted, ImprovedMeanFlow):
    pass


class WeightedSecond(Weighted, SecondOrderMeanFlow):
    pass


ROWS = [
    (WeightedMeanFlow, MeanFlow),
    (WeightedAlphaFlow, AlphaFlow),
    (WeightedImproved, ImprovedMeanFlow),
    (WeightedSecond, SecondOrderMeanFlow),
]
CENTRED = dict(mean=0.0, low=0.0, high=1.0)
# METHODS' table: law of the ends, 1 / E[1 - (r - t)]
LAWS = [
    (dict(law="uniform", low=0.0, high=1.0), 1.5),
    (CENTRED, 1.315),
    (dict(mean=0.4, low=0.0, high=1.0), 1.305),
]


def weights(method, step, count=100_000):
    """Each sample's weight, with its times."""
    t, r = method.intervals(BulkDraws(count), step)
    power, method.power = method.power, 0.0
    ones = torch.ones(count, 1, 1, 1, 1)
    found = method.distance(ones, t, r, step)
    method.power = power
    return found, t, r


@pytest.mark.parametrize("cls, row", ROWS)
def test_without_devices_and_after_its_steps_it_is_the_row(cls, row):
    one, other = wide.build(cls, steps=10, snr=None), wide.build(row)
    for step in (10, 99):
        close(wide.losses(one, step=step)[1], wide.losses(other, step=step)[1])
    assert (wide.losses(one)[1] - wide.losses(other)[1]).abs().max() > 1e-3


@pytest.mark.parametrize("law, scale", LAWS)
def test_gap_weight_has_mean_1_and_prefers_small_gaps(law, scale):
    method = wide.build(WeightedMeanFlow, steps=10, exponent=2.0, instantaneous=0.0, times=law)
    assert method.gap_scale == pytest.approx([scale], abs=1e-3)
    for step, s in ((0, 1.0), (5, 0.75), (10, 0.0)):
        found, t, r = weights(method, step)
        torch.testing.assert_close(found, 1 - s + method.gap_scale[0] * s * (1 - r + t))
        assert found.mean().item() == pytest.approx(1, abs=5e-3)


def test_velocity_weight_is_min_snr_with_mean_1():
    method = wide.build(WeightedMeanFlow, snr=5.0, instantaneous=1.0, times=CENTRED)
    for step in (0, 10**6):
        found, t, _ = weights(method, step)
        assert found.mean().item() == pytest.approx(1, abs=1e-2)
        snr = t**2 / (1 - t) ** 2
        shape = (1 - t) ** 2 * snr.clamp_max(5.0)
        torch.testing.assert_close(found, shape * (found / shape)[0], rtol=1e-3, atol=1e-6)
        assert (snr > 5).any() and (snr < 5).any()


def test_gradient_is_the_weighted_rows():
    """Of each sample alone, times its weight."""
    method = wide.build(WeightedMeanFlow, steps=10)
    _, found = wide.losses(method, step=4)
    student = method.nets["student"]
    x, t, r, _ = next(call for call in student.calls if call[3])
    e = wide.Exact(student, x, t, r)
    square = (e.u - (e.v + e.gap * e.d_t).detach()).square().sum((1, 2, 3, 4))
    small = 1 - 0.6 + 0.6 * method.gap_scale[0] * (1 - (r - t))
    snr = method.velocity_scale[0] * torch.minimum(t**2, 5 * (1 - t) ** 2)
    weight = torch.where(r == t, snr, small) / (square.detach() + 0.01)
    assert (r == t).any() and (r > t).any()
    close(found, e.gradients((weight * square).mean()))


@pytest.mark.parametrize("law", [law for law, _ in LAWS[:2]])
def test_difficulty_opens_the_starts_from_the_noisy_end(law):
    """With n parts open of 4, starts are those of the row that lie below their quantile n/4, and
    ends are not touched."""
    options = dict(steps=100, parts=4, snr=5.0, instantaneous=0.0, times=law)
    method = wide.build(WeightedMeanFlow, **options)
    _, t_all, r_all = weights(method, 99)
    assert [method.part(s) for s in (0, 24, 25, 60, 75, 100, 10_000)] == [0, 0, 1, 2, 3, 3, 3]
    for step, share in ((0, 0.25), (30, 0.5), (60, 0.75), (99, 1.0)):
        found, t, r = weights(method, step)
        torch.testing.assert_close(r, r_all)
        assert (t <= r).all()
        expected = torch.quantile(t_all, share * torch.tensor([0.1, 0.5, 0.9, 1.0]))
        low, middle, high, end = torch.quantile(t, torch.tensor([0.1, 0.5, 0.9, 1.0]))
        torch.testing.assert_close(
            torch.stack([low, middle, high]), expected[:3], atol=0.01, rtol=0
        )
        assert share == 1 or end <= expected[3] + 0.01
        assert found.mean().item() == pytest.approx(1, abs=5e-3)  # gaps are weighed anew


def test_difficulty_renews_the_velocity_weight_and_leaves_the_share_of_velocities():
    options = dict(steps=100, parts=4, instantaneous=0.3, times=CENTRED)
    for step in (0, 60):
        found, t, r = weights(wide.build(WeightedMeanFlow, **options), step)
        assert (t == r).float().mean().item() == pytest.approx(0.3, abs=0.01)
        assert found[t == r].mean().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    "option", [dict(steps=0), dict(steps=1.5), dict(exponent=0), dict(snr=0), dict(parts=0)]
)
def test_bad_arguments_are_refused(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} must"):
        wide.build(WeightedMeanFlow, **option)
