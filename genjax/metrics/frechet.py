"""The Frechet distance between two sets of features: FID, if they are Inception's."""

import functools
from typing import NamedTuple, Self

import numpy as np

from genjax.metrics.shapes import check_features
from genjax.types import UsageError

# Examples whose moments are computed at once.
BLOCK = 4096


class Moments(NamedTuple):
    """The first two moments of features, in float64; those of parts can be merged.

    Attributes:
        examples: Number of examples.
        mean: Mean of the features, [D].
        scatter: Sum of the outer products of the features minus their mean, [D, D].
    """

    examples: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, rows: np.ndarray | None = None) -> Self:
        """Compute the moments of features [N, D], or of those at the indices `rows` alone.

        Only a block at a time is held in float64.

        Raises:
            UsageError: The features are not [N, D].
        """
        check_features(features=features)
        count = len(features) if rows is None else len(rows)
        blocks = [slice(start, start + BLOCK) for start in range(0, max(count, 1), BLOCK)]
        parts = (features[block if rows is None else rows[block]] for block in blocks)
        return functools.reduce(cls.merge, map(cls._of_block, parts))

    @classmethod
    def _of_block(cls, features: np.ndarray) -> Self:
        features = np.asarray(features, np.float64)
        mean = features.mean(axis=0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    def merge(self, other: Self) -> Self:
        """Return the moments of both parts together (Chan et al. 1979, equations 2.1)."""
        count = self.examples + other.examples
        gap = other.mean - self.mean
        mean = self.mean + gap * (other.examples / count)
        between = np.outer(gap, gap) * (self.examples * other.examples / count)
        return type(self)(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased estimate of the covariance, [D, D].

        Raises:
            UsageError: There are fewer than two examples.
        """
        if self.examples < 2:
            raise UsageError(f"{self.examples} example: a covariance needs at least 2")
        return self.scatter / (self.examples - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """Compute the squared Frechet distance between normal distributions (Heusel et al. 2017).

    Equation 6: `|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))`. With factors `C = F F^T` the
    trace of the root is the sum of the singular values of `F_a^T F_b`. This needs no root of a
    matrix that is not symmetric, and is exact however low the ranks are.

    Args:
        a: Moments of one set, of D features.
        b: Moments of the other set.

    Returns:
        The distance, at least 0 up to rounding. Its bias falls with the number of examples, so
        compare only distances of equally many.

    Raises:
        UsageError: The sets have fewer than two examples, or not one D.
    """
    if len(a.mean) != len(b.mean):
        raise UsageError(f"moments of {len(a.mean)} and of {len(b.mean)} features: wanted of one D")
    covariances = a.covariance, b.covariance
    factors = [_factor(covariance) for covariance in covariances]
    root_trace = np.linalg.svd(factors[0].T @ factors[1], compute_uv=False).sum()
    traces = sum(np.trace(covariance) for covariance in covariances)
    gap = a.mean - b.mean
    return float(gap @ gap + traces - 2 * root_trace)


def frechet_distance_error(
    a: np.ndarray, b: np.ndarray, rng: np.random.Generator, resamplings: int = 20
) -> float:
    """Estimate the standard error of the distance by the bootstrap, resampling both sets.

    Args:
        a: Features of one set, [N, D].
        b: Features of the other set, [M, D].
        rng: Generator of the draws.
        resamplings: Number of resamplings, at least 2.

    Returns:
        The standard deviation of the resampled distances.

    Raises:
        UsageError: The sets are not [N, D] and [M, D], or there are fewer than two resamplings.
    """
    check_features(a=a, b=b)
    if resamplings < 2:
        raise UsageError(f"resamplings = {resamplings}: should be at least 2")
    distances = []
    for _ in range(resamplings):
        rows = [rng.integers(0, len(each), len(each)) for each in (a, b)]
        distances.append(_quick_distance(a, b, *rows))
    return float(np.std(distances, ddof=1))


def _quick_distance(a: np.ndarray, b: np.ndarray, rows_a: np.ndarray, rows_b: np.ndarray) -> float:
    """Compute the distance of some rows in half the time, up to the root of a float's rounding.

    The trace of the root of `C_a C_b` is that of the root of `F_a^T C_b F_a`, whose eigenvalues are
    not as exact as singular values. Of fewer examples than features the centred examples are a
    factor.
    """
    moments_a, moments_b = Moments.of(a, rows_a), Moments.of(b, rows_b)
    if len(rows_a) <= a.shape[1]:
        factor = (a[rows_a].astype(np.float64) - moments_a.mean).T / (len(rows_a) - 1) ** 0.5
    else:
        factor = _factor(moments_a.covariance)
    values = np.linalg.eigvalsh(factor.T @ moments_b.covariance @ factor)
    traces = sum(np.trace(moments.covariance) for moments in (moments_a, moments_b))
    gap = moments_a.mean - moments_b.mean
    return float(gap @ gap + traces - 2 * np.sqrt(np.maximum(values, 0)).sum())


def _factor(covariance: np.ndarray) -> np.ndarray:
    """Return an F, [D, D], such that `F F^T` is the covariance."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0))
