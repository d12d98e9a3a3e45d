"""Computation of functions of a batch in groups of images; the group size divides the batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def map_groups(function: Callable[[jax.Array], jax.Array], group: int, x: jax.Array) -> jax.Array:
    """Apply a function of images, [B, ...] to [B, ...], to `group` of them at a time.

    The function must not mix images.
    """
    if group == x.shape[0]:
        return function(x)
    y = lax.map(function, x.reshape(-1, group, *x.shape[1:]))
    return y.reshape(x.shape[0], *y.shape[2:])


def sum_groups(function: Callable[..., Any], group: int, *batches: jax.Array) -> Any:
    """Apply a function whose results are sums over images to `group` of them at a time.

    Args:
        function: Function from batches [B, ...] to a pytree of sums over B.
        group: Number of images at a time.
        batches: The batches, of the same B.
    """
    if group == batches[0].shape[0]:
        return function(*batches)
    shapes = jax.eval_shape(function, *(x[:group] for x in batches))
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    total, _ = lax.scan(
        lambda total, images: (jax.tree.map(jnp.add, total, function(*images)), None),
        zeros,
        tuple(x.reshape(-1, group, *x.shape[1:]) for x in batches),
    )
    return total
