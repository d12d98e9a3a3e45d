"""Fidelity and diversity as separate metrics, by nearest neighbours of features."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from genjax.metrics.shapes import check_features
from genjax.types import UsageError

# The paper's choices of k: 3 for precision and recall, 5 for density and coverage.
NEAREST_K = 5
# Memory for the distances that are held at once; there are a few arrays of this size.
BLOCK_MIB = 16
# The fraction of distances from which on a product of all in float64 takes less time than pairs.
MOST_NEAR = 0.01
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

    Distances are exact up to rounding to float32. They are computed in blocks, so that memory grows
    with the number of examples, not with its square.

    Args:
        real: Features of the data, [N, D].
        fake: Features of the samples, [M, D].
        nearest_k: The neighbour that a ball reaches to, not counting the point itself.

    Raises:
        UsageError: A set has no more than `nearest_k` examples, they are not [N, D] and [M, D], or
            a feature is not finite.
    """
    check_features(real=real, fake=fake)
    fewest = min(len(real), len(fake))
    if not 1 <= nearest_k < fewest:
        raise UsageError(f"nearest_k = {nearest_k}: should be from 1 to {fewest - 1}")
    real, fake = np.asarray(real), np.asarray(fake)
    real, fake = (each.astype(np.result_type(each.dtype, np.float32)) for each in (real, fake))
    center = np.asarray(np.mean(real, axis=0, dtype=np.float64), real.dtype)
    offsets = [each - center for each in (real, fake)]
    # No square is too large or small for float32.
    scale = max(np.abs(each).max() for each in offsets) or 1.0
    least = (ROUNDING * (np.linalg.norm(real, axis=1) / scale).mean()) ** 2
    data, samples = (_scaled(each, scale) for each in offsets)
    data_radii, sample_radii = (_radii(each, nearest_k, least) for each in (data, samples))

    counts = np.zeros(len(fake), np.int64)
    recalled = covered = 0
    for rows, block in _blocks(data, samples):
        block.recompute_near(least, data_radii[rows, None], sample_radii)
        balls = block.distances <= data_radii[rows, None]
        counts += balls.sum(axis=0)
        covered += balls.any(axis=1).sum()
        recalled += (block.distances <= sample_radii).any(axis=1).sum()
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


def _radii(x: "_Points", nearest_k: int, least: float) -> np.ndarray:
    """Return each point's squared distance to its k-th neighbour, [N]; its 0th is itself."""
    radii = np.empty(len(x.offsets), np.float32)
    for rows, block in _blocks(x, x):
        roughly = np.partition(block.distances, nearest_k, axis=1)[:, nearest_k, None]
        block.recompute_near(least, roughly)
        radii[rows] = np.partition(block.distances, nearest_k, axis=1)[:, nearest_k]
    return radii


class _Points(NamedTuple):
    """Features as offsets [N, D] from a center, and their squared lengths [N], in float32."""

    offsets: np.ndarray
    squares: np.ndarray


def _scaled(offsets: np.ndarray, scale: float) -> _Points:
    offsets = (offsets / scale).astype(np.float32)
    return _Points(offsets, np.einsum("nd,nd->n", offsets, offsets))


class _Block:
    """Squared distances, float32 [n, M], of n points to M others.

    They are computed by a product of matrices, which takes half the time in float32, and those that
    matter again by differences in float64.
    """

    def __init__(self, a: _Points, b: _Points):
        self._a, self._b = a.offsets, b.offsets
        sums = a.squares[:, None] + b.squares
        self.distances = self._a @ self._b.T
        self.distances *= -2
        self.distances += sums
        # Twice what is very probably the most that rounding does to a sum of D products (Higham and
        # Mary 2019, theorem 2.4), since the radius compared with has the same error.
        size = self._a.shape[1]
        self._error_bound = sums * np.float32((8 * size**0.5 + 32) * np.finfo(np.float32).eps / 2)

    def recompute_near(self, least: float, *bounds: np.ndarray) -> None:
        """Compute those distances again of which rounding may decide whether they are in a bound.

        Those below `least` are 0.
        """
        near = self.distances - self._error_bound <= least
        for bound in bounds:
            near |= np.abs(self.distances - bound) <= self._error_bound
        i, j = np.nonzero(near)
        if len(i) > near.size * MOST_NEAR:  # as of samples that are all the same
            a, b = self._a.astype(np.float64), self._b.astype(np.float64)
            exact = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * (a @ b.T)
            self.distances[:] = np.where(exact < least, 0, exact)
            return
        for start in range(0, len(i), 1000):
            some = i[start : start + 1000], j[start : start + 1000]
            gaps = self._a[some[0]].astype(np.float64) - self._b[some[1]]
            exact = (gaps**2).sum(axis=1)
            self.distances[some] = np.where(exact < least, 0, exact)


def _blocks(a: _Points, b: _Points) -> Iterator[tuple[slice, _Block]]:
    """Iterate over the distances of all pairs in blocks of rows."""
    count = max(1, int(BLOCK_MIB * 2**20 / b.squares.nbytes))
    for start in range(0, len(a.squares), count):
        rows = slice(start, start + count)
        yield rows, _Block(_Points(a.offsets[rows], a.squares[rows]), b)
