"""How often do the intervals of tools/compare.py hold the truth, beside other recipes?

    python benchmarks/interval_coverage.py [--sets 500]

Draws many sets of scenes from populations whose true scores are known, makes every recipe's nominal
95 % interval of each set, and prints how many hold the truth: a few minutes on one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr, ndtri

from occdistill.data.occ3d import FREE, NUM_CLASSES
from occdistill.evaluation.compare import average, margin
from occdistill.evaluation.metrics import tally
from occdistill.evaluation.protocols import PROTOCOLS, Protocol
from occdistill.evaluation.report import table

ONE_FRAME = {
    name: replace(PROTOCOLS[name], average="avg@all") for name in ("occdistill", "i2world")
}
VOXELS = 640_000  # of a frame
SIZE = np.geomspace(200, 40_000, FREE)  # median voxels of a class in a scene that holds it
LEAD = 0.15  # of the second model over the first, in log-odds
NUMBERS = ("mIoU", "IoU", "Δ mIoU", "Δ IoU")


@dataclass(frozen=True)
class Population:
    """Scenes like a driving data set's, as a hierarchy: population, scene, class in a scene, model.

    A class is in a scene or not; its size there is log-normal about `SIZE`; its recall is logistic in a skill of
    the class, plus how hard the scene is, plus how hard the class is there, both shared by the two
    models that are compared, plus what is each model's own. What is missed goes to free (60 %) and
    to other classes by their size; air is taken for a class the more, the more of it is missed.

    Attributes:
        presence: chance that a scene holds a class, `(17,)`.
        skill: log-odds of a class's recall, `(17,)`.
    """

    presence: np.ndarray
    skill: np.ndarray

    def scenes(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Tallies of both models, int64 `(2, count, 1, 3, C)`."""
        shape = (count, FREE)
        here = rng.random(shape) < self.presence
        true = here * SIZE * np.exp(rng.normal(0, 0.8, shape))
        ease = self.skill + rng.normal(0, 0.5, (count, 1)) + rng.normal(0, 0.5, shape)
        both = []
        for better in (0.0, LEAD):
            own = rng.normal(0, 0.1, (count, 1)) + rng.normal(0, 0.25, shape)
            missed = true / (1 + np.exp(ease + better + own))
            invented = 0.7 * missed * np.exp(rng.normal(0, 0.2, shape))
            matrix = np.zeros((count, NUM_CLASSES, NUM_CLASSES))
            matrix[:, :FREE, :FREE] = 0.4 * missed[..., None] * SIZE / SIZE.sum()
            matrix[:, range(FREE), range(FREE)] += true - missed
            matrix[:, :FREE, FREE] = 0.6 * missed
            matrix[:, FREE, :FREE] = invented
            matrix[:, FREE, FREE] = VOXELS - invented.sum(1)
            both.append(tally(matrix.round().astype(np.int64)))
        return np.stack(both)[:, :, None]

    def truth(self, protocol: Protocol, rng: np.random.Generator) -> np.ndarray:
        """The four `NUMBERS` of 20,000 scenes together."""
        total = sum(self.scenes(1000, rng).sum(1) for _ in range(20))
        return numbers(total, protocol)


_COMMON = np.full(FREE, 0.95)
_RARE = np.array([0.08, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, *_COMMON[8:]])
_SKILL = np.linspace(-0.5, 1.5, FREE)
_LOST = np.array([-9.0, -9.0, -9.0, *_SKILL[3:]])
POPULATIONS = {
    "all classes common": (Population(_COMMON, _SKILL), "occdistill"),
    "half of them rare": (Population(_RARE, _SKILL), "occdistill"),
    "three hardly ever hit, `i2world`": (Population(_COMMON, _LOST), "i2world"),
}


def numbers(tallies: np.ndarray, protocol: Protocol) -> np.ndarray:
    """`NUMBERS` of two models' tallies, `(2, ..., 1, 3, C)` to `(4, ...)`."""
    (a, b), (c, d) = (average(tallies, metric, protocol) for metric in ("mIoU", "IoU"))
    return np.stack([a, c, b - a, d - c])


class Sample:
    """One set of scenes, and everything that recipes make intervals of.

    Attributes:
        value: the four numbers, `(4,)`.
        without: leave-one-out values, `(4, S)`.
        draws: of the bootstrap over scenes, `(4, D)`.
    """

    def __init__(self, tallies: np.ndarray, protocol: Protocol, rng, draws: int = 400) -> None:
        self.tallies, self.protocol, self.scenes = tallies, protocol, tallies.shape[1]
        total = tallies.sum(1)
        self.value = numbers(total, protocol)
        self.without = numbers(total[:, None] - tallies, protocol)
        self.times = rng.multinomial(self.scenes, np.full(self.scenes, 1 / self.scenes), draws)
        self.drawn = np.einsum("ds,rs...->rd...", self.times, tallies)
        self.draws = numbers(self.drawn, protocol)

    def errors_of_draws(self) -> np.ndarray:
        """Jackknife standard error of every bootstrap draw, `(4, D)`."""
        without = numbers(self.drawn[:, :, None] - self.tallies[:, None], self.protocol)
        without = np.where(
            self.times > 0, without, 0.0
        )  # a scene that isn't there can't be left out
        mean = (self.times * without).sum(-1, keepdims=True) / self.scenes
        squares = (self.times * (without - mean) ** 2).sum(-1)
        return np.sqrt((self.scenes - 1) / self.scenes * squares)


def jackknife_t(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """What tools/compare.py does."""
    half = np.array([margin(values) for values in sample.without])
    return sample.value - half, sample.value + half


def percentile(sample: Sample) -> np.ndarray:
    """Quantiles of the bootstrap (Efron and Tibshirani, 1993, chapter 13)."""
    return np.percentile(sample.draws, [2.5, 97.5], axis=1)


def bca(sample: Sample) -> np.ndarray:
    """Bias-corrected and accelerated quantiles (the same, chapter 14)."""
    count = sample.draws.shape[1]
    ends = []
    for value, draws, without in zip(sample.value, sample.draws, sample.without):
        below = np.clip(
            (draws < value).mean() + (draws == value).mean() / 2, 1 / count, 1 - 1 / count
        )
        pull = without.mean() - without
        bias = ndtri(below)
        bend = (pull**3).sum() / (6 * (pull**2).sum() ** 1.5)
        z = bias + ndtri([0.025, 0.975])
        ends.append(np.percentile(draws, 100 * ndtr(bias + z / (1 - bend * z))))
    return np.transpose(ends)


def bootstrap_t(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Studentised (the same, chapter 12), with jackknife errors inside and outside."""
    error = np.sqrt((sample.scenes - 1) * sample.without.var(1))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (sample.draws - sample.value[:, None]) / sample.errors_of_draws()
    low, high = np.percentile(
        np.nan_to_num(t, nan=0.0, posinf=1e9, neginf=-1e9), [2.5, 97.5], axis=1
    )
    return sample.value - high * error, sample.value - low * error


RECIPES = {
    "t, jackknife": jackknife_t,
    "bootstrap-t": bootstrap_t,
    "BCa": bca,
    "percentile": percentile,
}


def coverage(
    population: Population,
    protocol: Protocol,
    scenes: int,
    sets: int,
    recipes: dict[str, Callable] = RECIPES,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Share of intervals that hold the truth.

    Args:
        population: where scenes come from.
        protocol: of one frame.
        scenes: in a set.
        sets: how many are drawn.
        recipes: of intervals.
        seed: of all that is drawn.

    Returns:
        Recipe to percent `(4,)`, one for each of `NUMBERS`; and `bias`, how far the sets' values lie
        above the truth on average, and `width`, the mean width of the first recipe, in points.
    """
    truth = population.truth(protocol, np.random.default_rng([seed, 0]))
    rng = np.random.default_rng([seed, scenes])
    held = {name: np.zeros(len(NUMBERS)) for name in recipes}
    bias, width = np.zeros((2, len(NUMBERS)))
    for _ in range(sets):
        sample = Sample(population.scenes(scenes, rng), protocol, rng)
        bias += (sample.value - truth) / sets
        for i, (name, recipe) in enumerate(recipes.items()):
            low, high = recipe(sample)
            held[name] += 100 * ((low <= truth) & (truth <= high)) / sets
            width += (high - low) / sets * (i == 0)
    return {**held, "bias": bias, "width": width}


def rows(sets: int, sizes: list[int], seed: int) -> Iterator[list]:
    """Lines of the table."""
    for name, (population, protocol) in POPULATIONS.items():
        for scenes in sizes:
            recipes = dict(RECIPES)
            if scenes > 50:  # a jackknife of every draw grows with scenes times draws
                del recipes["bootstrap-t"]
            found = coverage(population, ONE_FRAME[protocol], scenes, sets, recipes, seed)
            cells = [
                " / ".join(f"{share:.0f}" for share in found[recipe]) if recipe in found else "–"
                for recipe in RECIPES
            ]
            yield [name, scenes, *cells, f"{found['bias'][0]:+.1f}", f"{found['width'][0]:.1f}"]


def main() -> None:
    """Simulate and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", type=int, default=500, help="sets of scenes per line")
    parser.add_argument("--scenes", type=int, nargs="+", default=[6, 12, 30, 150])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start = time.perf_counter()
    body = list(rows(args.sets, args.scenes, args.seed))
    print(table(["population", "scenes", *RECIPES, "bias of mIoU", "width"], body))
    print(f"\n{' / '.join(NUMBERS)}; {args.sets} sets; {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
