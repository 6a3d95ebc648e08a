"""The simulation behind the choice of intervals, in small."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "interval_coverage.py"


@pytest.fixture(scope="module")
def simulation():
    spec = importlib.util.spec_from_file_location("interval_coverage", FILE)
    module = sys.modules["interval_coverage"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_dozen_scenes_are_covered_better_than_by_the_percentiles(simulation):
    population, scores = simulation.POPULATIONS["half of them rare"]
    names = ("t, jackknife", "percentile")
    recipes = {name: simulation.RECIPES[name] for name in names}
    found = simulation.coverage(population, scores, 12, 150, recipes)
    ours, theirs = (found[name] for name in names)
    assert (ours >= 88).all() and (ours <= 99).all()
    assert (theirs < ours).all() and theirs[0] < 88
    assert found["bias"][0] > 1  # rare classes that no scene shows leave the mean
    assert abs(found["bias"][1]) < 1.5


def test_seeds_are_covered_by_who_takes_them(simulation):
    population, scores = simulation.POPULATIONS["Brier skill and its Δ"]
    names = ("t, scenes and seeds", "t, scenes alone", "percentile")
    recipes = {name: simulation.WITH_SEEDS[name] for name in names}
    found = simulation.coverage(population, scores, 12, 400, recipes, seeds=(3, 3))
    assert (found[names[0]] >= 92).all()
    assert found[names[1]][1] < 90 and found[names[2]][1] < 92  # of the paired difference


@pytest.mark.parametrize("seeds", [(3, 3), (5, 5)])
@pytest.mark.parametrize("luck", ["alike", "differ", "decide"])
def test_twelve_scenes_and_a_few_seeds_are_held_as_often_as_said(simulation, luck, seeds):
    """The difference of two rows whose students share scenes and no seed."""
    population, scores = simulation.ADDED[f"a mean and its Δ, seeds {luck}"]
    recipes = {"ours": simulation.jackknife_t, "scenes": simulation.scenes_alone}
    found = simulation.coverage(population, scores, 12, 800, recipes, seeds=seeds, draws=1)
    assert 93 <= found["ours"][1] <= 98
    assert abs(found["bias"]).max() < 0.05  # what is said to be true is
    if luck == "decide":
        assert found["scenes"][1] < 75


def test_drawn_trainings_are_weighted(simulation):
    counts = np.array([[1.0], [3.0], [10.0]])  # two trainings of the first model, one of the other
    times = np.array([[2, 0, 1], [0, 2, 1], [1, 1, 1]])
    found = simulation.numbers(counts.repeat(3, 1), lambda x: x[None], 2, times)
    assert found.tolist() == [[1, 3, 2], [9, 7, 8]]


def test_scenes_are_consistent_counts(simulation):
    population, scores = simulation.POPULATIONS["half of them rare"]
    tallies = population.scenes(300, np.random.default_rng(0))
    hits, true, predicted = np.moveaxis(tallies[:, :, 0], 2, 0)
    assert (true.sum(-1) == predicted.sum(-1)).all()  # each voxel has one class in either
    assert (hits <= np.minimum(true, predicted)).all()
    assert (np.abs(true.sum(-1)[0] - true.sum(-1)[1]) < 400).all()  # one truth, up to rounding
    shown = (true[0, :, :17] > 0).mean(0)
    assert shown[0] < 0.15 and shown[16] > 0.9
    gaps = simulation.numbers(tallies.sum(1), scores)[2:]
    assert (gaps > 0).all()  # the second model is the better one


def test_recipes_agree_where_theory_says_so(simulation):
    """Many alike scenes: every recipe gives nearly the same interval."""
    population, scores = simulation.POPULATIONS["all classes common"]
    rng = np.random.default_rng(1)
    tallies = population.scenes(150, rng)
    sample = simulation.Sample(tallies, scores, rng, draws=2000)
    low, high = simulation.jackknife_t(sample)
    for recipe in (simulation.percentile, simulation.bca):
        other = recipe(sample)
        np.testing.assert_allclose(other[0], low, atol=0.15 * (high - low).max())
        np.testing.assert_allclose(other[1], high, atol=0.15 * (high - low).max())
    # the error of a draw that holds every scene once is the sample's own
    sample.times, sample.drawn = np.ones((1, 150), int), tallies.sum(1)[:, None]
    errors = sample.errors_of_draws()[:, 0]
    np.testing.assert_allclose(errors * 2 * 1.976013, high - low, rtol=1e-6)
