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
        UsageError: The sets are not [N, D] and [M, D], one has a single example, or a feature is
            not finite.
    """
    check_features(x=x, y=y)
    x, y = np.asarray(x), np.asarray(y)
    if min(len(x), len(y)) < 2:
        raise UsageError(f"{len(x)} and {len(y)} examples: should be at least 2 of each")
    return _squared_mmd(x, y, _center(x, y))


def _center(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    means = [np.mean(each, axis=0, dtype=np.float64) for each in (x, y)]
    return np.mean(means, axis=0).astype(np.float32)


def _squared_mmd(x: np.ndarray, y: np.ndarray, center: np.ndarray) -> float:
    """Estimate as `squared_mmd` does: products of offsets in float32, the rest in float64.

    `x . y = c . c + d . c + e . c + d . e` for offsets d and e from the center c. So rounding is
    about 1e-7 of |d| |e|, not of |x| |y|, and its sign varies from pair to pair, so that it nearly
    cancels in their mean.
    """
    size, about = len(center), center.astype(np.float64)
    offsets = [(each - center).astype(np.float32) for each in (x, y)]
    dot_center = [each.astype(np.float64) @ about / size for each in offsets]

    def bases(i: int, j: int) -> np.ndarray:
        """Compute x . y / D + 1 of all pairs, [N, M]."""
        found = (offsets[i] @ offsets[j].T).astype(np.float64)
        found *= 1 / size
        found += (dot_center[i] + (about @ about / size + 1))[:, None]
        found += dot_center[j]
        return found

    def mean_of_pairs(i: int) -> float:
        base = bases(i, i)
        pairs = len(base) * (len(base) - 1)
        # NumPy's power would take as long as the product of the matrices.
        return float((np.vdot(base * base, base) - (np.diagonal(base) ** 3).sum()) / pairs)

    mixed = bases(0, 1)
    return (
        mean_of_pairs(0) + mean_of_pairs(1) - 2 * float(np.vdot(mixed * mixed, mixed)) / mixed.size
    )


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
        UsageError: There are fewer than four examples, or fewer than two subsets, the sets are not
            [N, D] and [M, D], or a feature is not finite.
    """
    check_features(x=x, y=y)
    x, y = np.asarray(x), np.asarray(y)
    fewest = min(len(x), len(y))
    size = min(subset_size, fewest // 2)
    if size < 2 or subsets < 2:
        raise UsageError(f"{subsets} subsets of {size} examples: should be at least 2 of 2")
    rng, center = np.random.default_rng(seed), _center(x, y)
    values = []
    for _ in range(subsets):
        a, b = (each[rng.choice(len(each), size, replace=False)] for each in (x, y))
        values.append(_squared_mmd(a, b, center))
    variance = np.var(values) * (size / (fewest - size) + 1 / subsets)
    return float(np.mean(values)), float(variance**0.5)
