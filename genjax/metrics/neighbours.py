"""Fidelity and diversity apart: how two sets of features lie among each other."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from genjax.types import UsageError

# The paper's choices of k: 3 for precision and recall, 5 for density and coverage.
NEAREST_K = 5
# Of the distances that are held at once.
BLOCK_MIB = 128


class Prdc(NamedTuple):
    """How samples and data cover each other.

    Attributes:
        precision: Share of samples within a ball of the data: fidelity (Kynkaanniemi et al. 2019,
            equation 2).
        recall: Share of the data within a ball of the samples: diversity.
        density: Balls of the data around a sample, as a share of k: fidelity that one outlier of
            the data does not lift (Naeem et al. 2020, equation 3); can exceed 1.
        coverage: Share of the data whose ball holds a sample: diversity (equation 4).
        precision_error: The standard error of each, with the balls as they are: of a share, or of a
            mean over the samples.
        recall_error: Likewise.
        density_error: Likewise.
        coverage_error: Likewise.
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
    """Precision, recall, density and coverage, by balls that reach to the k-th neighbour.

    Exact, in blocks: memory grows with the number of examples, not with its square.

    Args:
        real: Features of data, [N, D].
        fake: Features of samples, [M, D].
        nearest_k: Which neighbour in its own set a ball reaches to, the point itself not counted.

    Raises:
        UsageError: No more than `nearest_k` examples.
    """
    fewest = min(len(real), len(fake))
    if not 1 <= nearest_k < fewest:
        raise UsageError(f"nearest_k = {nearest_k}: should be from 1 to {fewest - 1}")
    real, fake = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    real_radii, fake_radii = _radii(real, nearest_k), _radii(fake, nearest_k)

    counts = np.zeros(len(fake), np.int64)
    recalled = covered = start = 0
    for distances in _distances(real, fake):
        balls = distances < real_radii[start : start + len(distances), None]
        counts += balls.sum(axis=0)
        covered += balls.any(axis=1).sum()
        recalled += (distances < fake_radii[None]).any(axis=1).sum()
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
    """Distance of each point to its k-th neighbour; the nearest of all is the point itself."""

    def kth(distances: np.ndarray, start: int) -> np.ndarray:
        del start
        return np.partition(distances, nearest_k, axis=1)[:, nearest_k]

    return np.concatenate(list(_distances(x, reduce_func=kth)))


def _distances(*points: np.ndarray, **options: Any) -> Iterator[np.ndarray]:
    """Of all to all, in blocks of rows."""
    from sklearn.metrics import pairwise_distances_chunked  # a second to import

    return pairwise_distances_chunked(*points, working_memory=BLOCK_MIB, **options)
