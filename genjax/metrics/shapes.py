"""Shapes of what metrics take: NumPy would broadcast some mistakes to a number."""

import numpy as np

from genjax.types import UsageError


def check_shape(name: str, array: np.ndarray, wanted: tuple[int | str, ...]) -> None:
    """Raise a `UsageError` unless an array has a shape, in which a letter stands for any size.

    The size of a letter is at least 1.
    """
    shape = np.shape(array)
    fits = len(shape) == len(wanted) and all(
        size > 0 if isinstance(want, str) else size == want
        for size, want in zip(shape, wanted, strict=True)
    )
    if not fits:
        raise UsageError(
            f"{name}: shape [{', '.join(map(str, shape))}]; wanted [{', '.join(map(str, wanted))}]"
        )


def check_features(**sets: np.ndarray) -> None:
    """Raise a `UsageError` unless all are finite features [N, D] of the same D."""
    size: int | str = "D"
    for name, features in sets.items():
        check_shape(name, features, ("N", size))
        size = features.shape[1]
        if not np.isfinite(features).all():
            raise UsageError(f"{name}: holds NaN or infinities")
