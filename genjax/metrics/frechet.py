"""Frechet distance between two sets of features: FID, when they are Inception's."""

from typing import NamedTuple, Self

import numpy as np

from genjax.types import UsageError


class Moments(NamedTuple):
    """Mean and covariance of features seen so far, float64; those of parts can be merged.

    Attributes:
        examples: Their number.
        mean: [D].
        scatter: Sum of the outer products of what is left without the mean, [D, D].
    """

    examples: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Self:
        """Of features [N, D]."""
        features = np.asarray(features, np.float64)
        mean = features.mean(axis=0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    def merge(self, other: Self) -> Self:
        """Of both parts together (Chan et al. 1979, equations 2.1): in any order, any number."""
        count = self.examples + other.examples
        gap = other.mean - self.mean
        mean = self.mean + gap * (other.examples / count)
        between = np.outer(gap, gap) * (self.examples * other.examples / count)
        return type(self)(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased estimate, [D, D].

        Raises:
            UsageError: Of fewer than two examples.
        """
        if self.examples < 2:
            raise UsageError(f"{self.examples} example: a covariance needs at least 2")
        return self.scatter / (self.examples - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Frechet distance between the normal distributions of two sets (Heusel et al. 2017).

    `|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))`, equation 6. With factors `C = F F^T` the
    trace of that root is the sum of the singular values of `F_a^T F_b`: no root of a product that
    is not symmetric, and exact however low the ranks are.

    Args:
        a: Moments of one set, D features.
        b: Of the other.

    Returns:
        The distance, 0 or more up to rounding. Its bias falls with the number of examples, so only
        distances of equal counts compare.
    """
    covariances = a.covariance, b.covariance
    factors = [_factor(covariance) for covariance in covariances]
    root_trace = np.linalg.svd(factors[0].T @ factors[1], compute_uv=False).sum()
    traces = sum(np.trace(covariance) for covariance in covariances)
    gap = a.mean - b.mean
    return float(gap @ gap + traces - 2 * root_trace)


def frechet_distance_error(
    a: np.ndarray, b: np.ndarray, rng: np.random.Generator, resamplings: int = 20
) -> float:
    """Standard error of the distance of two sets of features, by drawing both anew (bootstrap).

    Args:
        a: Features, [N, D].
        b: [M, D].
        rng: Of the draws.
        resamplings: How often; at least 2.
    """
    distances = []
    for _ in range(resamplings):
        drawn = (Moments.of(x[rng.integers(0, len(x), len(x))]) for x in (a, b))
        distances.append(frechet_distance(*drawn))
    return float(np.std(distances, ddof=1))


def _factor(covariance: np.ndarray) -> np.ndarray:
    """F with `F F^T` the covariance, [D, D]."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0))
