"""Functions of a batch, computed for `group` images at a time, a divisor of the batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def map_groups(function: Callable[[jax.Array], jax.Array], group: int, x: jax.Array) -> jax.Array:
    """Return `function(x)`, [B, ...] of [B, ...], for a function that treats each image alone."""
    if group == len(x):
        return function(x)
    y = lax.map(function, x.reshape(-1, group, *x.shape[1:]))
    return y.reshape(len(x), *y.shape[2:])


def sum_groups(function: Callable[..., Any], group: int, *batches: jax.Array) -> Any:
    """Return `function(*batches)`, a tree of arrays each of which is a sum over images."""
    if group == len(batches[0]):
        return function(*batches)
    shapes = jax.eval_shape(function, *(x[:group] for x in batches))
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    total, _ = lax.scan(
        lambda total, images: (jax.tree.map(jnp.add, total, function(*images)), None),
        zeros,
        tuple(x.reshape(-1, group, *x.shape[1:]) for x in batches),
    )
    return total
