"""Scores of plans against closed forms and cases worked out by hand."""

import math

import pytest
import torch

from occdistill.evaluation.measures import plans as scores

F = 3
LEFT, RIGHT, STRAIGHT, BRAKE = (
    scores.MODES.index(m) for m in ("left", "right", "straight", "brake")
)


def straight(step, count=F, yaw=0.0):
    """Places of equal steps forward, the last one turned."""
    out = torch.zeros(count, 3)
    out[:, 0] = step * (1 + torch.arange(count))
    out[-1, 2] = yaw
    return out


def test_the_best_plan_may_differ_between_the_scores():
    truth = straight(1.0)[None]
    off = torch.zeros(1, 2, F, 3)
    off[0, 0, :, 1] = torch.tensor([3.0, 3.0, 0.0])  # ADE 2, ends right
    off[0, 1, :, 1] = torch.tensor([0.0, 0.0, 2.5])  # ADE 5/6, ends 2.5 m off
    plans = truth[:, None] + off
    assert scores.min_ade(plans, truth).item() == pytest.approx(2.5 / 3)
    assert scores.min_fde(plans, truth).item() == 0 and scores.missed(plans, truth).item() == 0
    assert scores.min_fde(plans[:, 1:], truth).item() == 2.5
    assert scores.missed(plans[:, 1:], truth).item() == 1
    near = truth[:, None] + torch.tensor([0.0, 1.99, 0.0])
    assert scores.missed(near, truth).item() == 0  # 2 m and less are hit


def test_the_energy_score_of_two_plans_by_hand():
    truth = torch.zeros(1, 1, 2)
    plans = torch.tensor([[[[3.0, 4.0]], [[0.0, 1.0]]]])
    # (5 + 1) / 2 - sqrt(9 + 9) / 2
    assert scores.energy_score(plans, truth).item() == pytest.approx(3 - math.sqrt(18) / 2)
    assert scores.energy_score(plans[:, :1], truth).item() == 5


def test_the_energy_score_takes_all_horizons_together():
    truth = torch.zeros(1, 4, 2)
    assert scores.energy_score(truth[:, None] + 1.0, truth).item() == pytest.approx(math.sqrt(8))


def test_the_energy_score_of_gaussians_has_its_closed_form_and_is_proper():
    """One dimension: E|X - y| - E|X - X'| / 2 of N(0, 1), averaged over y of N(0, 1), is 1/√π."""
    g = torch.Generator().manual_seed(0)

    def mean_score(spread):
        plans, truth = torch.zeros(4000, 50, 1, 2), torch.zeros(4000, 1, 2)
        plans[..., 0] = spread * torch.randn(4000, 50, 1, generator=g)
        truth[..., 0] = torch.randn(4000, 1, generator=g)
        return scores.energy_score(plans, truth).mean().item()

    assert mean_score(1.0) == pytest.approx(1 / math.sqrt(math.pi), abs=0.02)
    assert mean_score(0.3) > mean_score(1.0) + 0.05 and mean_score(2.5) > mean_score(1.0) + 0.05


def test_the_energy_distance_is_zero_for_one_law_and_the_gap_for_two_points():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 300, 40, 1, 2, generator=g).unbind()
    assert scores.energy_distance(a, b).mean().item() == pytest.approx(0, abs=0.02)
    one, other = torch.zeros(1, 5, 1, 2), torch.zeros(1, 7, 1, 2) + torch.tensor([3.0, 4.0])
    assert scores.energy_distance(one, other).item() == pytest.approx(10)


def test_ranks_of_one_law_are_uniform_and_others_miss_by_what_is_known():
    g = torch.Generator().manual_seed(0)
    values, truth = torch.randn(4000, 16, generator=g), torch.randn(4000, generator=g)
    u = torch.rand(4000, generator=g)
    assert scores.miscalibration(scores.rank(values, truth, u)) < 0.01
    below, above = torch.full((4000,), -99.0), torch.full((4000,), 99.0)
    for extreme in (below, above):
        error = scores.miscalibration(scores.rank(values, extreme, torch.full((4000,), 0.5)))
        assert error == pytest.approx(0.5 - 0.5 / 17, abs=1e-3)
    assert scores.miscalibration(torch.full((1000,), 0.5)) == pytest.approx(0.25, abs=1e-3)
    tied = scores.rank(torch.zeros(4000, 16), torch.zeros(4000), u)
    assert scores.miscalibration(tied) < 0.01  # ties are spread over all ranks


def test_ranks_count_from_below():
    values, half = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([0.5])
    assert scores.rank(values, torch.tensor([2.5]), half).item() == pytest.approx(2.5 / 4)


def test_modes_by_their_bounds():
    last = torch.tensor(2.0)
    cases = [
        (straight(2.0), STRAIGHT), (straight(0.99), BRAKE), (straight(1.01), STRAIGHT),
        (straight(2.0, yaw=0.27), LEFT), (straight(2.0, yaw=-0.27), RIGHT),
        (straight(0.5, yaw=0.27), LEFT), (straight(2.0, yaw=0.25), STRAIGHT),
    ]  # fmt: skip
    for plan, kind in cases:
        assert scores.modes(plan, last).item() == kind
    assert scores.modes(straight(0.0), torch.tensor(0.9)).item() == STRAIGHT  # stood before


def test_only_the_reference_s_minor_modes_are_asked_for():
    reference = torch.tensor([[0.6, 0.3, 0.1, 0.0], [1.0, 0.0, 0.0, 0.0], [0.95, 0.05, 0, 0]])
    assert scores.modes_kept(reference, reference) == 1
    lost = torch.tensor([[0.91, 0.07, 0.02, 0.0], [0.0, 1.0, 0, 0], [1.0, 0, 0, 0]])
    assert scores.modes_kept(lost, reference) == 0
    half = torch.tensor([[0.9, 0.076, 0.024, 0.0], [0.0, 1.0, 0, 0], [1.0, 0, 0, 0]])
    assert scores.modes_kept(half, reference) == 0.5
    assert math.isnan(scores.modes_kept(reference[1:], reference[1:]))


def test_shares_of_modes():
    plans = torch.stack([straight(2.0), straight(2.0), straight(2.0, yaw=1.0), straight(0.1)])
    shares = scores.mode_shares(plans[None], torch.tensor([2.0]))
    assert shares[0, [STRAIGHT, LEFT, RIGHT, BRAKE]].tolist() == [0.5, 0.25, 0, 0.25]
