"""How often do the intervals of compare.py and table1.py hold the truth, beside other recipes?

    python benchmarks/interval_coverage.py [--sets 500]
    python benchmarks/interval_coverage.py --seeds 5 5 3 3 --scenes 12 --only Δ

Draws many sets of scenes from populations whose true scores are known, makes every recipe's nominal
95 % interval of each set, and prints how many hold the truth: a few minutes on one core. With
`--seeds`, pairs of numbers, both models are trained several times, and every training has its luck.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from scipy.special import ndtr, ndtri

from occdistill.data.occ3d import FREE, NUM_CLASSES
from occdistill.evaluation.compare import average
from occdistill.evaluation.intervals import margin
from occdistill.evaluation.metrics import tally
from occdistill.evaluation.protocols import PROTOCOLS
from occdistill.evaluation.report import table

ONE_FRAME = {
    name: replace(PROTOCOLS[name], average="avg@all") for name in ("occdistill", "i2world")
}
Scores = Callable[[np.ndarray], np.ndarray]  # of summed counts `(...)` of runs, `(K, ...)`
VOXELS = 640_000  # of a frame
SIZE = np.geomspace(200, 40_000, FREE)  # median voxels of a class in a scene that holds it
LEAD = 0.15  # of the second model over the first, in log-odds
LUCK = 0.05  # of a training, in log-odds: in all, in a class, and in a class and scene
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

    def scenes(
        self, count: int, rng: np.random.Generator, seeds: Sequence[int] = (1, 1), luck: float = 0.0
    ) -> np.ndarray:
        """Tallies of both models' trainings, the first's first, int64 `(R, count, 1, 3, C)`."""
        shape = (count, FREE)
        here = rng.random(shape) < self.presence
        true = here * SIZE * np.exp(rng.normal(0, 0.8, shape))
        ease = self.skill + rng.normal(0, 0.5, (count, 1)) + rng.normal(0, 0.5, shape)
        runs = []
        for better, _ in ((b, r) for b, number in zip((0.0, LEAD), seeds) for r in range(number)):
            if len(runs) in (0, seeds[0]):
                own = rng.normal(0, 0.1, (count, 1)) + rng.normal(0, 0.25, shape)
            chance = sum(rng.normal(0, luck, s) for s in (1, FREE, shape)) if luck else 0.0
            missed = true / (1 + np.exp(ease + better + own + chance))
            invented = 0.7 * missed * np.exp(rng.normal(0, 0.2, shape))
            matrix = np.zeros((count, NUM_CLASSES, NUM_CLASSES))
            matrix[:, :FREE, :FREE] = 0.4 * missed[..., None] * SIZE / SIZE.sum()
            matrix[:, range(FREE), range(FREE)] += true - missed
            matrix[:, :FREE, FREE] = 0.6 * missed
            matrix[:, FREE, :FREE] = invented
            matrix[:, FREE, FREE] = VOXELS - invented.sum(1)
            runs.append(tally(matrix.round().astype(np.int64)))
        return np.stack(runs)[:, :, None]


@dataclass(frozen=True)
class Forecasts:
    """Scenes as the Brier skill sees them: errors of two models and of the rule, log-normal.

    The rule's varies most; a model's is a share of it that depends on the scene, a little on the
    model there, on the training, and on the training there.
    """

    def scenes(
        self, count: int, rng: np.random.Generator, seeds: Sequence[int] = (1, 1), luck: float = 0.0
    ) -> np.ndarray:
        """Each training's error and the rule's, `(R, count, 2)`."""
        rule = np.exp(rng.normal(0, 0.6, count))
        hard, runs = rng.normal(0, 0.15, count), []
        for better, number in zip((0.0, LEAD / 5), seeds):
            own = rng.normal(0, 0.05, count)
            for _ in range(number):
                chance = sum(rng.normal(0, luck / 2, s) for s in (1, count)) if luck else 0.0
                error = rule * np.exp(-0.4 - better + hard + own + chance)
                runs.append(np.stack([error, rule], -1))
        return np.stack(runs)


@dataclass(frozen=True)
class Effects:
    """Scores that are sums: of the scene, of the model there, of the training, of the training there.

        y = lead + scene_s + own_ms + seed_r + noise_rs

    Both models meet the same scenes, and no training is of both. What is shared is large and falls
    out of their difference; `own` and `noise` have a deviation of 0.2, so what scenes add to the
    difference of two models over a dozen of them is 0.08 and more.

    Attributes:
        seed: deviation of a training, as a multiple of `LUCK`.
    """

    seed: float

    def scenes(
        self, count: int, rng: np.random.Generator, seeds: Sequence[int] = (1, 1), luck: float = 0.0
    ) -> np.ndarray:
        """Each training's score and a one to count scenes by, `(R, count, 2)`."""
        shared, runs = rng.normal(0, 1, count), []
        for better, number in zip((0.0, LEAD), seeds):
            own = rng.normal(0, 4 * LUCK, count)
            for _ in range(number):
                chance = rng.normal(0, self.seed * luck) + rng.normal(0, 4 * luck, count)
                runs.append(np.stack([better + shared + own + chance, np.ones(count)], -1))
        return np.stack(runs)


def truth(
    population: Population | Forecasts | Effects,
    scores: Scores,
    rng: np.random.Generator,
    luck: float = 0.0,
) -> np.ndarray:
    """The numbers of 20,000 scenes together; with luck, the mean over 400 trainings."""
    if isinstance(population, Effects):
        return np.array([0.0, LEAD])  # known, as means of sums
    if not luck:
        return numbers(sum(population.scenes(1000, rng).sum(1) for _ in range(20)), scores)
    several = (population.scenes(1000, rng, (20, 20), luck).sum(1) for _ in range(20))
    return np.mean([numbers(total, scores, 20) for total in several], 0)


def _iou(protocol: str) -> Scores:
    return lambda tallies: np.stack(
        [average(tallies, metric, ONE_FRAME[protocol]) for metric in ("mIoU", "IoU")]
    )


def _skill(errors: np.ndarray) -> np.ndarray:
    return 100 * (1 - errors[..., 0] / errors[..., 1])[None]


def _mean(sums: np.ndarray) -> np.ndarray:
    return (sums[..., 0] / sums[..., 1])[None]


_COMMON = np.full(FREE, 0.95)
_RARE = np.array([0.08, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, *_COMMON[8:]])
_SKILL = np.linspace(-0.5, 1.5, FREE)
_LOST = np.array([-9.0, -9.0, -9.0, *_SKILL[3:]])
POPULATIONS = {
    "all classes common": (Population(_COMMON, _SKILL), _iou("occdistill")),
    "half of them rare": (Population(_RARE, _SKILL), _iou("occdistill")),
    "three hardly ever hit, `i2world`": (Population(_COMMON, _LOST), _iou("i2world")),
    "Brier skill and its Δ": (Forecasts(), _skill),
}
ADDED = {  # with several trainings; what they add to a difference is less and more than the scenes do
    "a mean and its Δ, seeds alike": (Effects(0.5), _mean),
    "a mean and its Δ, seeds differ": (Effects(2), _mean),
    "a mean and its Δ, seeds decide": (Effects(8), _mean),
}


def numbers(
    counts: np.ndarray, scores: Scores, first: int = 1, times: np.ndarray | None = None
) -> np.ndarray:
    """The first model's scores and the second's minus them, of the trainings `(R, ...)` of both, the
    `first` of which are the first's; `(2K, ...)`.

    Args:
        counts: summed over scenes.
        scores: of one training.
        first: how many trainings the first model has.
        times: how often each training is drawn, `(R, D)`; default once.
    """
    found = scores(counts)
    weights = np.ones(found.shape[1]) if times is None else times
    weights = weights.reshape(weights.shape + (1,) * (found.ndim - 1 - weights.ndim))
    a, b = (
        (found[:, part] * weights[part]).sum(1) / weights[part].sum(0)
        for part in (slice(first), slice(first, None))
    )
    return np.concatenate([a, b - a])


class Sample:
    """One set of scenes, and everything that recipes make intervals of.

    Attributes:
        value: the numbers, `(N,)`.
        without: leave-one-out values, `(N, S)`.
        seeds: of each number, the values of the trainings that it is a mean of, or a difference of
            means.
        draws: of the bootstrap over scenes, and over each model's trainings, `(N, D)`.
    """

    def __init__(
        self, tallies: np.ndarray, scores: Scores, rng, draws: int = 400, seeds=(1, 1)
    ) -> None:
        self.tallies, self.scores, self.scenes = tallies, scores, tallies.shape[1]
        total, self.first = tallies.sum(1), seeds[0]
        self.value = numbers(total, scores, self.first)
        self.without = numbers(total[:, None] - tallies, scores, self.first)
        runs = scores(total)
        self.seeds = [[own[: self.first]] for own in runs]
        self.seeds += [[own[: self.first], own[self.first :]] for own in runs]
        self.times = rng.multinomial(self.scenes, np.full(self.scenes, 1 / self.scenes), draws)
        self.drawn = np.einsum("ds,rs...->rd...", self.times, tallies)
        taken = None
        if max(seeds) > 1:
            parts = (rng.multinomial(n, np.full(n, 1 / n), draws).T for n in seeds)
            taken = np.concatenate([*parts])
        self.draws = numbers(self.drawn, scores, self.first, taken)

    def errors_of_draws(self) -> np.ndarray:
        """Jackknife standard error of every bootstrap draw, `(4, D)`."""
        without = numbers(self.drawn[:, :, None] - self.tallies[:, None], self.scores, self.first)
        without = np.where(
            self.times > 0, without, 0.0
        )  # a scene that isn't there can't be left out
        mean = (self.times * without).sum(-1, keepdims=True) / self.scenes
        squares = (self.times * (without - mean) ** 2).sum(-1)
        return np.sqrt((self.scenes - 1) / self.scenes * squares)


def jackknife_t(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """What tools/compare.py does, and tools/table1.py with several trainings."""
    half = np.array([margin(w, seeds=s) for w, s in zip(sample.without, sample.seeds)])
    return sample.value - half, sample.value + half


def scenes_alone(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """The same as if another training would end alike."""
    half = np.array([margin(values) for values in sample.without])
    return sample.value - half, sample.value + half


def percentile(sample: Sample) -> np.ndarray:
    """Quantiles of the bootstrap (Efron and Tibshirani, 1993, chapter 13)."""
    return np.percentile(sample.draws, [2.5, 97.5], axis=1)


def bca(sample: Sample) -> np.ndarray:
    """Bias-corrected and accelerated quantiles (the same, chapter 14); scenes and each model's
    trainings are groups that are drawn by themselves, and bend together.
    """
    count, ends = sample.draws.shape[1], []
    parts = zip(sample.value, sample.draws, sample.without, sample.seeds)
    for value, draws, without, seeds in parts:
        below = np.clip(
            (draws < value).mean() + (draws == value).mean() / 2, 1 / count, 1 - 1 / count
        )
        pulls = [(without.mean() - without) * (sample.scenes - 1) / sample.scenes]
        signs = (1,) if len(seeds) == 1 else (-1, 1)
        pulls += [s * (v - v.mean()) / len(v) for s, v in zip(signs, seeds) if len(v) > 1]
        pull = np.concatenate(pulls)
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
WITH_SEEDS = {  # a studentised draw would need trainings of its own
    "t, scenes and seeds": jackknife_t,
    "t, scenes alone": scenes_alone,
    "BCa": bca,
    "percentile": percentile,
}


def coverage(
    population: Population | Forecasts | Effects,
    scores: Scores,
    scenes: int,
    sets: int,
    recipes: dict[str, Callable] = RECIPES,
    seed: int = 0,
    seeds: Sequence[int] = (1, 1),
    draws: int = 400,
) -> dict[str, np.ndarray]:
    """Share of intervals that hold the truth.

    Args:
        population: where scenes come from.
        scores: of a training.
        scenes: in a set.
        sets: how many are drawn.
        recipes: of intervals.
        seed: of all that is drawn.
        seeds: trainings of either model; one each has no luck.
        draws: of the bootstrap.

    Returns:
        Recipe to percent `(N,)`, one for each number; and `bias`, how far the sets' values lie above
        the truth on average, and `width`, the mean width of the first recipe, in points.
    """
    luck = LUCK if max(seeds) > 1 else 0.0
    target = truth(population, scores, np.random.default_rng([seed, 0]), luck)
    rng = np.random.default_rng([seed, scenes])
    held = {name: np.zeros(len(target)) for name in recipes}
    bias, width = np.zeros((2, len(target)))
    for _ in range(sets):
        sample = Sample(population.scenes(scenes, rng, seeds, luck), scores, rng, draws, seeds)
        bias += (sample.value - target) / sets
        for i, (name, recipe) in enumerate(recipes.items()):
            low, high = recipe(sample)
            held[name] += 100 * ((low <= target) & (target <= high)) / sets
            width += (high - low) / sets * (i == 0)
    return {**held, "bias": bias, "width": width}


def rows(
    sets: int,
    sizes: Sequence[int],
    seed: int,
    seeds: Sequence[Sequence[int]] = (),
    only: str = "",
) -> Iterator[list]:
    """Lines of the table, of the populations whose names hold `only`."""
    all_recipes = WITH_SEEDS if seeds else RECIPES
    known = POPULATIONS | ADDED if seeds else POPULATIONS
    populations = {name: found for name, found in known.items() if only in name}
    settings = product(populations.items(), sizes, seeds or [(1, 1)])
    for (name, (population, scores)), scenes, both in settings:
        recipes = dict(all_recipes)
        if scenes > 50:  # a jackknife of every draw grows with scenes times draws
            recipes.pop("bootstrap-t", None)
        found = coverage(population, scores, scenes, sets, recipes, seed, both)
        cells = [
            " / ".join(f"{share:.0f}" for share in found[recipe]) if recipe in found else "–"
            for recipe in all_recipes
        ]
        of_whom = ["{} and {}".format(*both)] if seeds else []
        ends = [f"{found['bias'][0]:+.1f}", f"{found['width'][0]:.1f}"]
        yield [name, scenes, *of_whom, *cells, *ends]


def main() -> None:
    """Simulate and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", type=int, default=500, help="sets of scenes per line")
    parser.add_argument("--scenes", type=int, nargs="+", default=[6, 12, 30, 150])
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[], help="of either model, in pairs"
    )
    parser.add_argument("--only", default="", help="populations whose names hold this")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start, pairs = time.perf_counter(), list(zip(args.seeds[::2], args.seeds[1::2]))
    body = list(rows(args.sets, args.scenes, args.seed, pairs, args.only))
    header = ["seeds", *WITH_SEEDS] if pairs else [*RECIPES]
    print(table(["population", "scenes", *header, "bias of the first", "width"], body))
    print(f"\n{' / '.join(NUMBERS)}; {args.sets} sets; {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
