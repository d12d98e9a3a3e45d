"""Kernel distance between two sets of features: KID, when they are Inception's."""

import numpy as np

from genjax.types import UsageError


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy (Gretton et al. 2012, equation 3).

    With the kernel `(x . y / D + 1)^3` of Binkowski et al. 2018, section 3.

    Args:
        x: [N, D], at least 2.
        y: [M, D], at least 2.

    Returns:
        The estimate; below 0 as often as above where both are of one distribution.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        base = a @ b.T / x.shape[1] + 1
        return base * base * base  # NumPy's power takes as long as the product of matrices

    def mean_of_pairs(a: np.ndarray) -> float:
        values = kernel(a, a)
        return (values.sum() - np.trace(values)) / (len(a) * (len(a) - 1))

    return float(mean_of_pairs(x) + mean_of_pairs(y) - 2 * kernel(x, y).mean())


def kernel_distance(
    x: np.ndarray, y: np.ndarray, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The mean of `squared_mmd` over random subsets, and its standard error.

    Args:
        x: [N, D].
        y: [M, D].
        subsets: How many.
        subset_size: Examples of each set in one; at most as many as there are.
        seed: Of the choice.

    Returns:
        The mean, and the standard deviation over the subsets by the root of their number; where
        they overlap much, that is less than the error of the distance of the whole sets.

    Raises:
        UsageError: Fewer than two examples, or no subset.
    """
    size = min(subset_size, len(x), len(y))
    if size < 2 or subsets < 1:
        raise UsageError(
            f"{subsets} subsets of {size} examples: should be at least 1 of at least 2"
        )
    rng = np.random.default_rng(seed)
    values = [
        squared_mmd(*(each[rng.choice(len(each), size, replace=False)] for each in (x, y)))
        for _ in range(subsets)
    ]
    return float(np.mean(values)), float(np.std(values) / subsets**0.5)
