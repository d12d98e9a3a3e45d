"""The likelihood of images under a trained model, and signs of numerical trouble."""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from genjax.data.batches import exchange
from genjax.data.processes import all_gather
from genjax.evaluation.images import OfImages, over_images
from genjax.figures.latents import split_into_chunks
from genjax.models import FAMILIES
from genjax.objectives.likelihood import bits_per_dim
from genjax.run.recipe import Recipe
from genjax.steps.diagnostics import ACTIVE_VARIANCE
from genjax.types import Batch, Likelihood, State, UsageError


def importance_samples_of(recipe: Recipe, draws: int | None, default: int | None = None) -> int:
    """Return the number of importance samples of each image, by default the family's.

    Raises:
        UsageError: The family has no likelihood, or the number is impossible.
    """
    if recipe.functions.evaluate is None:
        having = [name for name, each in FAMILIES.items() if each.evaluate is not None]
        raise UsageError(
            f"family {recipe.family!r} has no likelihood; wanted a run of {', '.join(having)}"
        )
    return checked_draws(draws, default or recipe.functions.importance_samples)


def checked_draws(draws: int | None, default: int) -> int:
    """Return a number of importance samples, or the default; a `UsageError` if it is impossible."""
    if draws is None:
        return default
    if not 1 <= draws < 2**31:
        raise UsageError(f"importance_samples = {draws}: should be from 1 to {2**31 - 1}")
    return draws


@functools.lru_cache(maxsize=8)
def _evaluator(recipe: Recipe, samples: int | None) -> OfImages:
    evaluate = recipe.functions.evaluate
    assert evaluate is not None
    return over_images(lambda state, image, key: evaluate(recipe.model, state, image, key, samples))


def likelihoods(
    recipe: Recipe,
    state: State,
    batches: Iterable[Batch],
    key: jax.Array,
    samples: int | None = None,
) -> Likelihood:
    """Compute the likelihood of images under a state, in nats.

    Args:
        recipe: The recipe of the state, of a family that has an `evaluate`.
        state: The state.
        batches: Images uint8 [B, H, W, C] and labels [B] in batches of any sizes, at least one; a
            few are held at a time.
        key: Key of all draws. Those of an image depend on its index among all images alone.
        samples: Importance samples for each image; None for as many as training takes.

    Returns:
        The likelihood, as NumPy arrays [N].
    """
    return _joined(_evaluator(recipe, samples)(state, batches, key))


def _joined(parts: Iterable[Likelihood]) -> Likelihood:
    return jax.tree.map(lambda *values: np.concatenate(values), *parts)


@functools.lru_cache(maxsize=8)
def _health(recipe: Recipe) -> Callable[[State, Batch], dict[str, jax.Array]]:
    assert recipe.functions.health is not None
    return jax.jit(functools.partial(recipe.functions.health, recipe.model))


def health(recipe: Recipe, state: State, batch: Batch) -> dict[str, np.ndarray]:
    """Measure signs of numerical trouble on 100 images, each [n]; the largest values are the worst.

    The result is empty for a family that has no such signs.
    """
    if recipe.functions.health is None:
        return {}
    return jax.device_get(_health(recipe)(state, split_into_chunks(batch)[0]))


@functools.lru_cache(maxsize=8)
def _measurer(recipe: Recipe, samples: int) -> OfImages:
    """Compile `evaluate` and, where its likelihood is a bound, `encode`."""
    evaluate, encode = recipe.functions.evaluate, recipe.functions.encode
    assert evaluate is not None

    def measure(state: State, image: Batch, key: jax.Array) -> tuple[Likelihood, Any]:
        found = evaluate(recipe.model, state, image, key, samples)
        if found.elbo is None or encode is None:
            return found, None
        return found, encode(recipe.model, state, image, key)

    return over_images(measure)


def likelihood(
    recipe: Recipe,
    state: State,
    batches: Iterable[Batch],
    seed: int,
    samples: int,
    first: int = 0,
) -> dict[str, float]:
    """Return the metrics of likelihoods, means over images with standard errors; see `evaluate`.

    All processes of a run call this together, each with its share of the images, of which the first
    has the index `first` among all.
    """
    key = jax.random.split(jax.random.key(seed))[1]
    parts, units = [], _ActiveUnits()
    for found, latents in _measurer(recipe, samples)(state, batches, key, first):
        parts.append(found)
        if latents is not None:
            units.add(latents)
    own = _joined(parts)
    counts = all_gather(np.array(len(own.nll)))
    metrics: dict[str, float] = {}
    for name, values in jax.tree.map(lambda x: exchange(x, counts), own)._asdict().items():
        if values is not None:
            metrics[name] = float(np.mean(values, dtype=np.float64))
            error = float(np.std(values, dtype=np.float64) / len(values) ** 0.5)
            # One image says nothing about the spread of others.
            metrics[f"{name}_error"] = error if len(values) > 1 else math.nan
    dimensions = math.prod(state.spec.shape)
    for name in ("", "_error"):
        metrics[f"bits_per_dim{name}"] = bits_per_dim(metrics[f"nll{name}"], dimensions)
    if units.images:
        metrics["active_units"] = units.count()
    return metrics


class _ActiveUnits:
    """The latents whose posterior mean varies over images, from sums over images."""

    def __init__(self) -> None:
        self.images = 0
        self._sum: Any = 0.0
        self._squares: Any = 0.0

    def add(self, means: np.ndarray) -> None:
        """Add the posterior means of images, [n, Z]."""
        means = means.astype(np.float64)
        self.images += len(means)
        self._sum += means.sum(axis=0)
        self._squares += (means**2).sum(axis=0)

    def count(self) -> int:
        """Count them over all processes; see `steps.diagnostics.active_units`."""
        images, total, squares = (
            all_gather(np.asarray(each)).sum(axis=0)
            for each in (self.images, self._sum, self._squares)
        )
        variance = squares / images - (total / images) ** 2
        return int(np.sum(variance > ACTIVE_VARIANCE))
