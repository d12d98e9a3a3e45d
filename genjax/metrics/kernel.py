"""The kernel distance between two sets of features: KID, if they are Inception's."""

import numpy as np

from genjax.metrics.shapes import check_features
from genjax.types import UsageError


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Estimate the squared maximum mean discrepancy without bias (Gretton et al. 2012, equation 3).

    The kernel is `(x . y / D + 1)^3` (Binkowski et al. 2018, section 3).

    Args:
        x: Features of one set, [N, D], N > 1.
        y: Features of the other set, [M, D], M > 1.

    Returns:
        The estimate; its mean is 0 if both sets are of one distribution, so it may be below 0.

    Raises:
        UsageError: The sets are not [N, D] and [M, D], or one has a single example.
    """
    check_features(x=x, y=y)
    if min(len(x), len(y)) < 2:
        raise UsageError(f"{len(x)} and {len(y)} examples: should be at least 2 of each")
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        base = a @ b.T / x.shape[1] + 1
        return base * base * base  # NumPy's power would take as long as the matrix product

    def mean_of_pairs(a: np.ndarray) -> float:
        values = kernel(a, a)
        return (values.sum() - np.trace(values)) / (len(a) * (len(a) - 1))

    return float(mean_of_pairs(x) + mean_of_pairs(y) - 2 * kernel(x, y).mean())


def kernel_distance(
    x: np.ndarray, y: np.ndarray, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Average `squared_mmd` over random subsets, and estimate the standard error.

    Args:
        x: Features of one set, [N, D].
        y: Features of the other set, [M, D].
        subsets: Number of subsets.
        subset_size: Examples of each set in a subset, at most half of the smaller set.
        seed: Seed of the subsets.

    Returns:
        The mean, and its standard error: by the delete-d jackknife (Shao and Wu 1989, equation 2.2)
        that of the two sets, and that of the choice of subsets. If both sets are of one
        distribution, it is too large rather than too small.

    Raises:
        UsageError: There are fewer than four examples, or fewer than two subsets, or the sets are
            not [N, D] and [M, D].
    """
    check_features(x=x, y=y)
    fewest = min(len(x), len(y))
    size = min(subset_size, fewest // 2)
    if size < 2 or subsets < 2:
        raise UsageError(f"{subsets} subsets of {size} examples: should be at least 2 of 2")
    rng = np.random.default_rng(seed)
    values = [
        squared_mmd(*(each[rng.choice(len(each), size, replace=False)] for each in (x, y)))
        for _ in range(subsets)
    ]
    variance = np.var(values) * (size / (fewest - size) + 1 / subsets)
    return float(np.mean(values)), float(variance**0.5)
