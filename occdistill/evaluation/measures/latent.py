"""Do forecasts look like real streets? Distances between sets of VAE features.

Fréchet distance (Heusel et al., 2017), precision and recall (Kynkäänniemi et al., 2019), density
and coverage (Naeem et al., 2020), over single frames and over whole clips. Numbers are comparable
only under the same feature extractor, so its fingerprint is part of the result.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from occdistill.evaluation.measures.base import Context, Measure, Observer
from occdistill.evaluation.metrics import horizon_names
from occdistill.evaluation.rows import ClipBatch, Row
from occdistill.evaluation.sums import Parts
from occdistill.latents.codec import Codec


def frechet_distance(
    mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray
) -> float:
    """`|m_a - m_b|² + tr(C_a + C_b - 2 (C_a C_b)^½)`, the squared 2-Wasserstein of two normals."""
    root = _sqrt(cov_a)
    cross = np.linalg.eigvalsh(root @ cov_b @ root).clip(0)
    gap = mean_a - mean_b
    return float(gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(cross).sum())


def _sqrt(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def manifold_scores(real: np.ndarray, fake: np.ndarray, k: int = 5) -> dict[str, float]:
    """Precision, recall, density, coverage of `fake (M, D)` against `real (N, D)`, 0 to 1 (density
    may exceed 1). A ball reaches to the k-th nearest neighbour within its own set.
    """
    k = min(k, len(real) - 1, len(fake) - 1)
    if k < 1:
        return dict.fromkeys(("precision", "recall", "density", "coverage"), float("nan"))
    radius_real = np.partition(_distances(real, real), k, axis=1)[:, k]
    radius_fake = np.partition(_distances(fake, fake), k, axis=1)[:, k]
    between = _distances(real, fake)
    in_real, in_fake = between <= radius_real[:, None], between <= radius_fake[None, :]
    return {
        "precision": float(in_real.any(0).mean()),
        "recall": float(in_fake.any(1).mean()),
        "density": float(in_real.sum() / (k * len(fake))),
        "coverage": float(in_real.any(1).mean()),
    }


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    square = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(square.clip(0))


class FeatureSet:
    """Running mean and covariance of feature vectors, and an evenly thinned sample of them.

    Args:
        keep: vectors kept for neighbourhood measures; memory is constant.
    """

    def __init__(self, keep: int = 2000) -> None:
        self.keep, self.count, self.stride = keep, 0, 1
        self.kept: list[np.ndarray] = []
        self.total = self.outer = 0.0

    def update(self, features: np.ndarray) -> None:
        """Add vectors `(n, D)`."""
        features = np.asarray(features, np.float64)
        self.total = self.total + features.sum(0)
        self.outer = self.outer + features.T @ features
        for vector in features:
            self._keep(vector.astype(np.float32))
            self.count += 1

    def _keep(self, vector: np.ndarray) -> None:
        if self.count % self.stride == 0:
            self.kept.append(vector)
        if len(self.kept) > self.keep:  # thin out: every second one stays
            self.kept, self.stride = self.kept[::2], 2 * self.stride

    def parts(self) -> Parts:
        """See `sums`."""
        numbers = np.array([self.count, self.stride])
        kept = np.stack(self.kept) if self.kept else np.zeros((0, 0), np.float32)
        sums = {"total": np.asarray(self.total), "outer": np.asarray(self.outer)}
        return {"numbers": numbers, "kept": kept, **sums}

    def add(self, more: Mapping[str, np.ndarray]) -> None:
        """Go on after another one's vectors: they come after this one's."""
        (count, stride), start = more["numbers"].tolist(), self.count
        for i, vector in enumerate(more["kept"]):
            self.count = start + i * stride
            self._keep(vector)
        self.count = start + count
        self.total, self.outer = self.total + more["total"], self.outer + more["outer"]

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean `(D,)` and unbiased covariance `(D, D)`."""
        mean = self.total / self.count
        cov = (self.outer - self.count * np.outer(mean, mean)) / max(self.count - 1, 1)
        return mean, cov


class LatentStatistics:
    """Compares forecasts with truth in the VAE's latent space.

    Args:
        codec: its encoder is the feature extractor.
        fingerprint: of its weights.
        pool: latent maps are averaged to `pool × pool` cells.
        keep: feature vectors kept for neighbourhood measures.
    """

    summed = ("real", "fake")

    def __init__(self, codec: Codec, fingerprint: str, pool: int = 4, keep: int = 2000) -> None:
        self.codec, self.fingerprint, self.pool = codec, fingerprint, pool
        self.real = {unit: FeatureSet(keep) for unit in ("frame", "clip")}
        self.fake = {unit: FeatureSet(keep) for unit in ("frame", "clip")}
        self.horizons: list[tuple[FeatureSet, FeatureSet]] = []  # truth, forecast

    def features(self, voxels: Tensor) -> np.ndarray:
        """Frame features `(F, D)` of one clip, uint8 `(F, X, Y, Z)`."""
        latents = self.codec.encode(voxels).float()
        return F.adaptive_avg_pool2d(latents, self.pool).flatten(1).cpu().numpy()

    def update(self, fake: np.ndarray, real: np.ndarray) -> None:
        """Add the frame features `(F, D)` of one forecast and of its truth."""
        while len(self.horizons) < len(real):
            self.horizons.append((FeatureSet(0), FeatureSet(0)))  # moments alone
        for sets, true, ours in zip(self.horizons, real, fake):
            for own, feature in zip(sets, (true, ours)):
                own.update(feature[None])
        for sets, features in ((self.fake, fake), (self.real, real)):
            sets["frame"].update(features)
            sets["clip"].update(features.reshape(1, -1))

    def result(self) -> dict:
        """Per unit (`frame`, `clip`): `frechet`, the four manifold scores, `count` and `dim`; and
        `horizons`, the Fréchet distance of the frames at each.

        A Fréchet distance from fewer than a few times `dim` vectors is biased upwards: compare
        only equal counts.
        """
        result: dict = {"extractor": self.fingerprint, "pool": self.pool}
        for unit in ("frame", "clip"):
            real, fake = self.real[unit], self.fake[unit]
            result[unit] = {
                "frechet": frechet_distance(*real.moments(), *fake.moments()),
                **manifold_scores(np.stack(real.kept), np.stack(fake.kept)),
                "count": real.count,
                "dim": len(real.total),
            }
        result["horizons"] = {
            name: frechet_distance(*real.moments(), *fake.moments())
            for name, (real, fake) in zip(horizon_names(len(self.horizons)), self.horizons)
        }
        return result


def observe(context: Context) -> Observer:
    """Distances in the latent space of the context's autoencoder."""
    codec, fingerprint = context.extractor()

    def feed(state: LatentStatistics, row: Row, batch: ClipBatch, pred: Tensor) -> None:
        key = ("latent features", id(codec))
        if key not in batch.shared:  # the truth's features are the same for every row
            batch.shared[key] = [state.features(truth) for truth in batch.future]
        for voxels, real in zip(pred, batch.shared[key]):
            state.update(state.features(voxels), real)

    return Observer("latent", lambda: LatentStatistics(codec, fingerprint), feed)


LATENT = Measure(
    "latent",
    observe,
    {
        "Fréchet, frames": ("latent", "frame", "frechet"),
        "Fréchet, clips": ("latent", "clip", "frechet"),
        "precision": ("latent", "frame", "precision"),
        "recall": ("latent", "frame", "recall"),
        "coverage": ("latent", "frame", "coverage"),
    },
    order=4,
)
