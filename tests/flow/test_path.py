import pytest
import torch

from occdistill.flow.path import Draws, TimeLaw, denoise, interpolate, score


def test_conversions_agree_with_the_gaussian_flow():
    """For data N(m, s²): E[x_1 | x_t] and the score are textbook formulas."""
    m, s = 1.0, 0.7
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    x = torch.tensor([-1.0, 0.3, 2.0], dtype=torch.float64)
    variance = (t * s) ** 2 + (1 - t) ** 2
    v = m + (t * s**2 - (1 - t)) / variance * (x - t * m)
    torch.testing.assert_close(score(x, v, t), -(x - t * m) / variance)
    torch.testing.assert_close(denoise(x, v, t), m + t * s**2 / variance * (x - t * m))


def test_interpolation_ends_at_noise_and_data_per_sample():
    x_1, x_0 = torch.ones(2, 3, 4), torch.zeros(2, 3, 4)
    x_t = interpolate(x_1, x_0, torch.tensor([0.0, 0.25]))
    assert (x_t[0] == 0).all() and (x_t[1] == 0.25).all()


def test_draws_do_not_depend_on_the_batch_split():
    whole = Draws([3, 1, 4, 1])
    parts = [Draws([3, 1]), Draws([4, 1])]
    for _ in range(2):
        a = whole.normal(2, 5)
        assert torch.equal(a, torch.cat([p.normal(2, 5) for p in parts]))
    assert torch.equal(a[1], a[3]) and not torch.equal(a[0], a[2])


def test_intervals_are_sorted_and_follow_their_law():
    class Bulk:
        def normal(self, n):
            return torch.randn(200_000, n, generator=torch.Generator().manual_seed(0))

        def uniform(self, n):
            return torch.rand(200_000, n, generator=torch.Generator().manual_seed(0))

    t, r = TimeLaw(low=0, high=1).intervals(Bulk())
    assert (t <= r).all()
    assert (r - t).mean().item() == pytest.approx(0.239, abs=2e-3)
    assert torch.ceil((r - t) / 0.02).mean().item() == pytest.approx(12.5, abs=0.1)
    t, r = TimeLaw("uniform", low=0, high=1).intervals(Bulk())
    assert (r - t).mean().item() == pytest.approx(1 / 3, abs=2e-3)


def test_a_law_within_bounds_has_no_mass_at_them_and_a_clipped_one_has():
    class Bulk:
        def uniform(self, n):
            return torch.rand(100_000, n, generator=torch.Generator().manual_seed(0))

    t = TimeLaw("uniform_within", low=0.2, high=0.6).times(Bulk())
    assert t.min() >= 0.2 and t.max() <= 0.6 and (t == t.max()).float().mean() < 1e-3
    assert (t.mean().item(), t.std().item()) == pytest.approx((0.4, 0.4 / 12**0.5), abs=2e-3)
    t = TimeLaw("uniform", low=0.2, high=0.6).times(Bulk())
    assert [(t == e).float().mean().item() for e in (t.min(), t.max())] == pytest.approx(
        [0.2, 0.4], abs=0.01
    )


@pytest.mark.parametrize(
    "options, sentence",
    [
        (dict(law="lognormal"), "'lognormal' is not one of logit_normal, uniform, uniform_within"),
        (dict(low=0.5, high=0.2), "low <= high"),
        (dict(low=-0.1), "low=-0.1"),
        (dict(high=1.1), "high=1.1"),
        (dict(high=float("nan")), "high=nan"),
        (dict(std=-1.0), "std=-1.0"),
        (dict(mean=float("inf")), "mean=inf"),
    ],
)
def test_a_time_law_that_is_none_is_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        TimeLaw(**options)
