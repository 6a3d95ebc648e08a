"""Gaussian flows under guidance, in closed form: where a method's student comes to rest.

Teacher branches N(m_c, s_c²) and N(m_0, s_0²), so that the guided velocity is affine in x,
`v_T = alpha(t) + beta(t) x`. A student `G(z) = a z + b` has the exact auxiliary N(b, a²). Every
method here moves the student until `E w [u_A - u_T](x_t)` vanishes against 1 (its mean) and z (its
spread), which are two scalar equations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Affine = tuple[Array, Array]  # alpha, beta of alpha + beta x


def gaussian_velocity(t: Array, mean: float, std: float) -> Affine:
    """Velocity of the flow from N(0, 1) to N(mean, std²)."""
    slope = (t * std**2 - (1 - t)) / (t**2 * std**2 + (1 - t) ** 2)
    return mean * (1 - slope * t), slope


@dataclass(frozen=True)
class GuidedGaussian:
    """Two branches and a guidance scale.

    Attributes:
        conditional: mean and standard deviation.
        null: the same without the condition.
        scale: of guidance.
    """

    conditional: tuple[float, float] = (1.0, 0.5)
    null: tuple[float, float] = (0.0, 1.0)
    scale: float = 2.0

    def velocity(self, t: Array) -> Affine:
        """Guided velocity at times t."""
        with_, without = (gaussian_velocity(t, *b) for b in (self.conditional, self.null))
        alpha, beta = (n + self.scale * (c - n) for c, n in zip(with_, without))
        return alpha, beta


def average_velocity(
    velocity: Callable[[Array], Affine], t: Array, r: Array, step: float = 0.005
) -> Affine:
    """Average velocity over [t, r] by N = max(1, ceil((r - t) / step)) Euler steps, elementwise."""
    count = np.maximum(1, np.ceil((r - t) / step - 1e-9))
    dt = (r - t) / count
    offset, scale = np.zeros_like(t), np.ones_like(t)  # x at the end = offset + scale x
    mean_alpha, mean_beta = np.zeros_like(t), np.zeros_like(t)
    for k in range(int(count.max())):
        active = count > k
        alpha, beta = velocity(t + np.minimum(k, count) * dt)
        v_offset, v_scale = alpha + beta * offset, beta * scale
        mean_alpha += np.where(active, v_offset, 0.0)
        mean_beta += np.where(active, v_scale, 0.0)
        offset = offset + np.where(active, dt * v_offset, 0.0)
        scale = scale + np.where(active, dt * v_scale, 0.0)
    return mean_alpha / count, mean_beta / count


def sampler_output(teacher: GuidedGaussian, step: float = 0.0005) -> tuple[float, float]:
    """Mean and standard deviation of what the teacher's ODE makes of N(0, 1)."""
    alpha, beta = average_velocity(teacher.velocity, np.zeros(1), np.ones(1), step)
    return float(alpha[0]), float(1 + beta[0])


def logit_normal(count: int = 80) -> Array:
    """Midpoint quantiles of `sigmoid(N(0, 1))`."""
    from scipy.special import ndtri

    return 1 / (1 + np.exp(-ndtri((np.arange(count) + 0.5) / count)))


def uniform(count: int = 80) -> Array:
    """Midpoint quantiles of the uniform law."""
    return (np.arange(count) + 0.5) / count


def sorted_pairs(quantiles: Array) -> tuple[Array, Array, Array]:
    """Starts, ends and weights of two independent draws, put in order."""
    first, second = np.meshgrid(quantiles, quantiles)
    t, r = np.minimum(first, second).ravel(), np.maximum(first, second).ravel()
    return t, r, np.full(t.shape, 1.0 / t.size)


def rest_point(
    teacher: GuidedGaussian, t: Array, r: Array, weight: Array, step: float = 0.005
) -> tuple[float, float]:
    """Mean b and standard deviation a > 0 of the student at rest.

    Args:
        teacher: the guided flow.
        t: starts of the intervals; r = t for instantaneous methods.
        r: ends.
        weight: probability times the method's own weight on the gradient in x̂, without the factor
            t by which x̂ enters x_t.
        step: largest Euler step of both integrations.
    """
    p, q = average_velocity(teacher.velocity, t, r, step)

    def gradients(mean: float, std: float) -> tuple[float, float]:
        pa, qa = average_velocity(lambda x: gaussian_velocity(x, mean, std), t, r, step)
        d_mean = weight * (pa - p + (qa - q) * t * mean)
        return float(d_mean.sum()), float((weight * (qa - q) * t).sum())

    std = _root(lambda s: gradients(0.0, s)[1], 1e-3, 3.0)
    low, high = gradients(0.0, std)[0], gradients(1.0, std)[0]  # affine in the mean
    return -low / (high - low), std


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Zero of an increasing function by bisection."""
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if function(middle) > 0 else (middle, high)
    return (low + high) / 2
