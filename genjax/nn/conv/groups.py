"""A batch taken a few of its images at a time: `group`, a divisor of it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def map_groups(function: Callable[[jax.Array], jax.Array], group: int, x: jax.Array) -> jax.Array:
    """`function(x)`, [B, ...] of [B, ...], which treats each image alone."""
    if group == len(x):
        return function(x)
    y = lax.map(function, x.reshape(-1, group, *x.shape[1:]))
    return y.reshape(len(x), *y.shape[2:])


def sum_groups(function: Callable[..., Any], group: int, *batches: jax.Array) -> Any:
    """`function(*batches)`, a tree of arrays each of which is a sum over images."""
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
