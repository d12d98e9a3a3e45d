"""Fidelity and diversity as separate metrics, by nearest neighbours of features."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from genjax.metrics.shapes import check_features
from genjax.types import UsageError

# The paper's choices of k: 3 for precision and recall, 5 for density and coverage.
NEAREST_K = 5
# Memory for the distances that are held at once.
BLOCK_MIB = 128
# Features that differ by less than this fraction of their size differ by rounding: they are equal.
ROUNDING = 1e-6


class Prdc(NamedTuple):
    """Precision, recall, density and coverage, with standard errors for fixed balls.

    Each point has a ball that reaches to its k-th neighbour in its own set, and that point is in
    it: where there are k copies of a point, its ball is the point alone.

    Attributes:
        precision: Fraction of samples that lie in a ball of the data: fidelity (Kynkaanniemi et al.
            2019, equation 2).
        recall: Fraction of the data that lie in a ball of the samples: diversity.
        density: Mean number of balls of the data that a sample lies in, divided by k: fidelity,
            which one outlier of the data does not raise (Naeem et al. 2020, equation 3); can
            exceed 1.
        coverage: Fraction of the data whose ball holds a sample: diversity (equation 4).
        precision_error: Standard error of `precision`.
        recall_error: Standard error of `recall`.
        density_error: Standard error of `density`.
        coverage_error: Standard error of `coverage`.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    precision_error: float
    recall_error: float
    density_error: float
    coverage_error: float


def prdc(real: np.ndarray, fake: np.ndarray, nearest_k: int = NEAREST_K) -> Prdc:
    """Compute precision, recall, density and coverage of samples.

    The result is exact. It is computed in blocks, so that memory grows with the number of examples,
    not with its square.

    Args:
        real: Features of the data, [N, D].
        fake: Features of the samples, [M, D].
        nearest_k: The neighbour that a ball reaches to, not counting the point itself.

    Raises:
        UsageError: A set has no more than `nearest_k` examples, or they are not [N, D] and [M, D].
    """
    check_features(real=real, fake=fake)
    fewest = min(len(real), len(fake))
    if not 1 <= nearest_k < fewest:
        raise UsageError(f"nearest_k = {nearest_k}: should be from 1 to {fewest - 1}")
    real_radii, fake_radii = _radii(real, nearest_k), _radii(fake, nearest_k)

    counts = np.zeros(len(fake), np.int64)
    recalled = covered = start = 0
    for distances in _distances(real, fake):
        balls = distances <= real_radii[start : start + len(distances), None]
        counts += balls.sum(axis=0)
        covered += balls.any(axis=1).sum()
        recalled += (distances <= fake_radii[None]).any(axis=1).sum()
        start += len(distances)
    precision, recall, coverage = (counts > 0).mean(), recalled / len(real), covered / len(real)

    def error(share: float, count: int) -> float:
        return float((share * (1 - share) / count) ** 0.5)

    return Prdc(
        precision=float(precision),
        recall=float(recall),
        density=float(counts.mean() / nearest_k),
        coverage=float(coverage),
        precision_error=error(precision, len(fake)),
        recall_error=error(recall, len(real)),
        density_error=float(counts.std() / nearest_k / len(fake) ** 0.5),
        coverage_error=error(coverage, len(real)),
    )


def _radii(x: np.ndarray, nearest_k: int) -> np.ndarray:
    """Return each point's distance to its k-th neighbour, [N]; its 0th neighbour is itself."""

    def kth(distances: np.ndarray, start: int) -> np.ndarray:
        del start
        # A copy, because a view would keep the whole block.
        return np.partition(distances, nearest_k, axis=1)[:, nearest_k].copy()

    return np.concatenate(list(_distances(x, reduce_func=kth)))


def _distances(
    *points: np.ndarray, reduce_func: Callable[[np.ndarray, int], np.ndarray] | None = None
) -> Iterator[np.ndarray]:
    """Iterate over the distances of all pairs in blocks of rows; those of equal points are 0."""
    from sklearn.metrics import pairwise_distances_chunked  # a second to import

    least = ROUNDING * np.linalg.norm(points[0], axis=1).mean()

    def reduced(distances: np.ndarray, start: int) -> np.ndarray:
        distances[distances < least] = 0
        return distances if reduce_func is None else reduce_func(distances, start)

    return pairwise_distances_chunked(*points, working_memory=BLOCK_MIB, reduce_func=reduced)
