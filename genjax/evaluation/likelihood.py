"""The likelihood of images under a trained model, and signs of numerical trouble."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from genjax.console import console
from genjax.figures.latents import CHUNK, encoder, split_into_chunks
from genjax.objectives.likelihood import bits_per_dim
from genjax.run.recipe import Recipe
from genjax.steps.diagnostics import active_units
from genjax.types import Batch, Likelihood, State


@functools.lru_cache(maxsize=8)
def _evaluator(recipe: Recipe, samples: int | None) -> Callable[..., Likelihood]:
    assert recipe.functions.evaluate is not None
    evaluate = functools.partial(recipe.functions.evaluate, recipe.model)
    return jax.jit(lambda state, batch, key: evaluate(state, batch, key, samples))


def likelihoods(
    recipe: Recipe, state: State, batch: Batch, key: jax.Array, samples: int | None = None
) -> Likelihood:
    """Compute the likelihood of images under a state, in nats, a chunk at a time.

    Args:
        recipe: The recipe of the state, of a family that has an `evaluate`.
        state: The state.
        batch: Images uint8 [N, H, W, C] and labels [N].
        key: Key of all draws.
        samples: Importance samples for each image; None for as many as training takes.

    Returns:
        The likelihood, as NumPy arrays [N].
    """
    evaluator = _evaluator(recipe, samples)
    quiet = not samples or not console.isatty()
    parts = []
    chunks = tqdm(
        split_into_chunks(batch),
        desc="evaluating",
        unit=f"x{CHUNK} images",
        file=console,
        disable=quiet,
    )
    for i, some in enumerate(chunks):
        parts.append(jax.device_get(evaluator(state, some, jax.random.fold_in(key, i * CHUNK))))
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


def likelihood(
    recipe: Recipe, state: State, batch: Batch, seed: int, samples: int
) -> dict[str, float]:
    """Return the metrics of likelihoods, means over images with standard errors; see `evaluate`."""
    key = jax.random.split(jax.random.key(seed))[1]
    metrics: dict[str, float] = {}
    for name, values in likelihoods(recipe, state, batch, key, samples)._asdict().items():
        if values is not None:
            metrics[name] = float(np.mean(values, dtype=np.float64))
            error = float(np.std(values, dtype=np.float64) / len(values) ** 0.5)
            # One image says nothing about the spread of others.
            metrics[f"{name}_error"] = error if len(values) > 1 else math.nan
    dimensions = math.prod(batch.images.shape[1:])
    for name in ("", "_error"):
        metrics[f"bits_per_dim{name}"] = bits_per_dim(metrics[f"nll{name}"], dimensions)
    if "elbo" in metrics and recipe.functions.encode is not None:
        encode = encoder(recipe)
        means = jnp.concatenate([encode(state, some, key) for some in split_into_chunks(batch)])
        metrics["active_units"] = int(active_units(means))
    return metrics
