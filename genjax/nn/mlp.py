"""Multilayer perceptrons."""

from collections.abc import Callable

import flax.linen as nn
import jax

from genjax.nn.remat import end_of_block


def hidden_layers(
    x: jax.Array, sizes: tuple[int, ...], activation: Callable[[jax.Array], jax.Array], dtype: str
) -> jax.Array:
    """Apply the dense layers `hidden_0`, `hidden_1`, ..., with an activation after each.

    They become children of the calling module: x [B, I] -> [B, sizes[-1]].
    """
    for i, size in enumerate(sizes):
        x = end_of_block(activation(nn.Dense(size, dtype=dtype, name=f"hidden_{i}")(x)))
    return x
