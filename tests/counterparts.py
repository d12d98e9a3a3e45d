"""Stand-ins for other implementations of a step, which processes of the benchmarks import."""

from collections.abc import Callable

from genjax.run.recipe import Recipe
from genjax.types import ImageSpec, UsageError

SECONDS, REASON = 10.0, "not on this machine"


def slow(recipe: Recipe, spec: ImageSpec, count: int) -> Callable[[], float]:
    """Return a function that claims to take `SECONDS` a step."""
    return lambda: SECONDS


def absent(recipe: Recipe, spec: ImageSpec, count: int) -> Callable[[], float]:
    """Raise the `UsageError` of an implementation that cannot run."""
    raise UsageError(REASON)
