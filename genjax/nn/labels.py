"""Class labels as inputs of a network."""

from typing import Any

import jax
import jax.numpy as jnp

from genjax.types import ImageSpec, UsageError


def check_conditional(conditional: bool, spec: ImageSpec) -> None:
    """Raise a `UsageError` if a conditional model gets data without classes."""
    if conditional and not spec.classes:
        raise UsageError("conditional = True: the data has no classes; should be False")


def is_conditional(config: Any, spec: ImageSpec) -> bool:
    """Return whether a model with a field `conditional` sees the class: there must be several."""
    return bool(config.conditional) and spec.classes > 1


def append_planes(x: jax.Array, planes: jax.Array | None) -> jax.Array:
    """Append features to `x`, different for each pixel or the same at all of them.

    Args:
        x: [B, ..., C].
        planes: [B, ..., K], which broadcasts to the pixels of `x` and has its rank; None returns
            `x` as it is.

    Returns:
        [B, ..., C + K].
    """
    if planes is None:
        return x
    planes = jnp.broadcast_to(planes, (*x.shape[:-1], planes.shape[-1]))
    return jnp.concatenate([x, planes.astype(x.dtype)], axis=-1)


def append_labels(x: jax.Array, labels: jax.Array | None, classes: int) -> jax.Array:
    """Append one-hot labels as features, the same at every pixel (Mirza and Osindero 2014).

    Args:
        x: [B, ..., C].
        labels: int32 [B]; None returns `x` as it is.
        classes: Number of classes K.

    Returns:
        [B, ..., C + K].
    """
    if labels is None:
        return x
    one_hot = jax.nn.one_hot(labels, classes, dtype=x.dtype)
    return append_planes(x, one_hot.reshape(x.shape[0], *[1] * (x.ndim - 2), classes))
