"""What a test of the benchmarks runs beside our steps; processes of its own import it."""

from collections.abc import Callable

from genjax.run.recipe import Recipe
from genjax.types import ImageSpec, UsageError

SECONDS, REASON = 10.0, "not on this machine"


def slow(recipe: Recipe, spec: ImageSpec, count: int) -> Callable[[], float]:
    """Take `SECONDS` a step, it says."""
    return lambda: SECONDS


def absent(recipe: Recipe, spec: ImageSpec, count: int) -> Callable[[], float]:
    """Refuse."""
    raise UsageError(REASON)
