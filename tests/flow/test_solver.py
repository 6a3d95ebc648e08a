import math

import pytest
import torch

from occdistill.flow.guidance import Guided
from occdistill.flow.solver import average_velocity, sample, shifted_grid
from occdistill.latents.condition import Condition
from tests.gaussian import SHIFT, TEACHER, GaussianField, make_batch, teacher


def condition(batch):
    """Another one for each sample, so that Gaussian means are `means(batch)`."""
    return Condition(torch.arange(batch, dtype=torch.float64).view(batch, 1, 1, 1, 1))


def means(batch):
    return 1.0 + SHIFT * (condition(batch).past - 1)


def exact(x, t, r, m, s):
    """Average velocity of the Gaussian flow: the ODE map scales (x - t m) by S_r / S_t."""
    spread = [((q * s) ** 2 + (1 - q) ** 2).sqrt() for q in (t, r)]
    t, r, rho = (q.view(-1, 1, 1, 1, 1) for q in (t, r, spread[1] / spread[0]))
    return (r * m + rho * (x - t * m) - x) / (r - t)


def test_grid_is_occfms():
    expected = [0, 0.035714, 0.076923, 0.125, 0.181818, 0.25, 0.333333, 0.4375, 0.571429, 0.75, 1]
    assert shifted_grid(10).tolist() == pytest.approx(expected, abs=1e-6)
    assert shifted_grid(4, shift=1.0).tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    with pytest.raises(ValueError, match="at least one"):
        shifted_grid(0)


def test_sampling_carries_noise_to_the_data_law():
    field = GaussianField(1.0, 0.7).double()
    noise = torch.linspace(-2, 2, 50, dtype=torch.float64).view(50, 1, 1, 1, 1)
    with torch.no_grad():
        end = sample(field, noise, condition(50), steps=400, shift=1.0)
    torch.testing.assert_close(end, means(50) + 0.7 * noise, atol=1e-2, rtol=0)


TIMES = (
    torch.tensor([0.0, 0.1, 0.2, 0.5, 0.7, 0.9], dtype=torch.float64),
    torch.tensor([1.0, 0.3, 0.9, 0.8, 0.99, 0.98], dtype=torch.float64),
)
POINTS = torch.linspace(-2, 2, 6, dtype=torch.float64).view(6, 1, 1, 1, 1)


def gaussian_error(step, solver):
    """Root mean square over `TIMES`, and evaluations per sample."""
    field, calls = GaussianField(1.0, 0.7).double(), []
    field.register_forward_hook(lambda module, args, output: calls.append(len(output)))
    with torch.no_grad():
        u = average_velocity(field, POINTS, *TIMES, condition(6), step, solver)
    return (u - exact(POINTS, *TIMES, means(6), 0.7)).square().mean().sqrt().item(), sum(calls) / 6


def test_average_velocity_converges_with_first_order_to_the_closed_form():
    coarse, fine = (gaussian_error(step, "euler")[0] for step in (0.02, 0.01))
    assert coarse < 0.03
    assert coarse / fine == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("solver, order", [("euler", 1), ("midpoint", 2), ("heun", 2)])
def test_solvers_have_their_order_on_a_field_whose_flow_is_known(solver, order):
    """`v = x + t` flows along `X_r = (x + t + 1) exp(r - t) - r - 1`."""
    t, r = (q.view(-1, 1, 1, 1, 1) for q in TIMES)
    known = ((POINTS + t + 1) * (r - t).exp() - r - 1 - POINTS) / (r - t)
    errors = []
    for step in (0.1, 0.05, 0.025):
        u = average_velocity(
            lambda x, t, c: x + t.view(-1, 1, 1, 1, 1), POINTS, *TIMES, condition(6), step, solver
        )
        errors.append((u - known).square().mean().sqrt().item())
    for coarse, fine in zip(errors, errors[1:]):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


def test_few_second_order_steps_are_as_good_as_many_euler_steps():
    euler, price = gaussian_error(0.02, "euler")
    for solver, step, share in (("midpoint", 0.5, 0.15), ("heun", 0.25, 0.25)):
        error, evaluations = gaussian_error(step, solver)
        assert error < euler and evaluations < share * price


def test_average_velocity_of_an_empty_interval_is_the_velocity():
    field = GaussianField(1.0, 0.7)
    x, t = torch.randn(3, 1, 1, 1, 1), torch.tensor([0.2, 0.4, 0.9])
    with torch.no_grad():
        c = make_batch(3).condition
        assert torch.equal(average_velocity(field, x, t, t, c), field(x, t, c))


class Recorder(torch.nn.Module):
    """A field that depends on the sample's condition, and records the batch sizes it sees."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, x, t, condition):
        self.batches.append(len(x))
        return x * t.view(-1, 1, 1, 1, 1) + condition.past


def test_each_sample_takes_its_own_steps_and_none_are_wasted():
    field = Recorder()
    x = torch.randn(3, 1, 1, 1, 1, dtype=torch.float64)
    t = torch.tensor([0.5, 0.0, 0.3], dtype=torch.float64)
    r = torch.tensor([0.51, 0.1, 0.36], dtype=torch.float64)
    u = average_velocity(field, x, t, r, condition(3), step=0.02)
    assert field.batches == [3, 2, 2, 1, 1]  # 1 + 5 + 3 evaluations
    for i in range(3):  # alone or in a batch: the same numbers
        one = slice(i, i + 1)
        alone = average_velocity(field, x[one], t[one], r[one], condition(3).index(one), 0.02)
        torch.testing.assert_close(u[one], alone)


@pytest.mark.parametrize("solver", ["midpoint", "heun"])
def test_a_second_order_step_is_two_evaluations(solver):
    field = Recorder()
    x, t = torch.randn(2, 1, 1, 1, 1), torch.tensor([0.1, 0.4])
    average_velocity(field, x, t, torch.tensor([0.2, 0.9]), condition(2), 0.25, solver)
    assert field.batches == [2, 2, 1, 1]


def test_steps_are_planned_before_the_first_one(monkeypatch):
    """In the loop no number is asked for, which would wait for a GPU."""
    field = Recorder()

    def inside(*_):
        assert not field.batches, "asked between two steps"
        return original(*_)

    for name in ("item", "tolist", "cpu", "__bool__", "__int__", "__float__", "nonzero"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, inside)
        x, t, field.batches = torch.zeros(2, 1, 1, 1, 1), torch.tensor([0.1, 0.4]), []
        average_velocity(field, x, t, torch.tensor([0.9, 0.5]), condition(2), 0.1)
        monkeypatch.undo()
        assert len(field.batches) == 8


def test_an_unknown_solver_is_refused():
    x, t = torch.zeros(1, 1, 1, 1, 1), torch.tensor([0.5])
    with pytest.raises(ValueError, match="'rk4' is not one of euler, midpoint, heun"):
        average_velocity(Recorder(), x, t, t + 0.1, condition(1), solver="rk4")


def test_backward_interval_is_refused():
    with pytest.raises(ValueError, match="r >= t"):
        x, t = torch.zeros(1, 1, 1, 1, 1), torch.tensor([0.5])
        average_velocity(Recorder(), x, t, t - 0.1, condition(1))


@pytest.mark.parametrize("step", [0, -1, 1.5, float("nan")])
def test_a_step_that_is_none_is_refused(step):
    x, t = torch.zeros(1, 1, 1, 1, 1), torch.tensor([0.5])
    with pytest.raises(ValueError, match=r"step in \(0, 1\]"):
        average_velocity(Recorder(), x, t, t + 0.1, condition(1), step)


@pytest.mark.parametrize("scale", [1.0, 2.0, 3.0])
def test_guidance_makes_the_fixtures_teacher_what_the_fixture_says(scale):
    x, t = torch.randn(50, 1, 1, 1, 1), torch.rand(50)
    found = Guided(teacher(scale), scale)(x, t, make_batch(50).condition)
    torch.testing.assert_close(found, GaussianField(*TEACHER)(x, t, None), atol=1e-5, rtol=1e-5)


def test_guidance_extrapolates_from_the_null_branch_in_one_launch():
    field = Recorder()
    c = Condition(torch.full((2, 1, 1, 1, 1), 3.0), trajectory=torch.ones(2, 4, 2))
    x, t = torch.randn(2, 1, 1, 1, 1), torch.tensor([0.2, 0.8])
    v = Guided(field, 2.0)(x, t, c)
    assert field.batches == [4]
    torch.testing.assert_close(v, x * t.view(-1, 1, 1, 1, 1) + 2 * 3.0)
    assert torch.equal(c.null().trajectory, c.trajectory)


def test_noised_again_after_each_step_a_consistency_model_keeps_the_data_law():
    """From anywhere it knows the way to the data: with fresh noise each time, law and all stay."""

    class Ends(torch.nn.Module):
        """`x̂ = x + (1 - t) v` is the end of the Gaussian flow's trajectory through x."""

        def forward(self, x, t, condition):
            calls.append(t[0].item())
            return exact(x, t, torch.ones_like(t), 1.0, 0.7)

    noise = torch.randn(20_000, 1, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    ones = Condition(torch.ones(20_000, 1, 1, 1, 1))
    for steps in (1, 2, 4):
        calls = []
        end = sample(Ends(), noise, ones, steps, renoise=1.0)
        assert end.mean().item() == pytest.approx(1.0, abs=0.02)
        assert end.std().item() == pytest.approx(0.7, abs=0.02)
        assert calls == pytest.approx(shifted_grid(steps)[:-1].tolist())
    first = sample(Ends(), noise, ones, 1)
    assert torch.corrcoef(torch.stack([first.flatten(), end.flatten()]))[0, 1] < 0.95


def test_fresh_noise_is_a_function_of_the_clips_own():
    field, ones = GaussianField(1.0, 0.7), Condition(torch.ones(4, 1, 1, 1, 1))
    noise = torch.randn(4, 2, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = sample(field, noise, ones, 3, renoise=1.0)
        parts = [sample(field, x[None], ones.index(slice(1)), 3, renoise=1.0) for x in noise]
        assert torch.equal(whole, torch.cat(parts))
        assert not torch.equal(whole, sample(field, noise, ones, 3, renoise=0.5))
        assert torch.equal(
            sample(field, noise, ones, 1, renoise=1.0), sample(field, noise, ones, 1)
        )
