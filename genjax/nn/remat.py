"""Rematerialization: which activations the backward pass keeps, and which it recomputes."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax
from jax.ad_checkpoint import checkpoint_name

Remat = Literal["none", "products", "blocks"]
BLOCK = "block"

F = TypeVar("F", bound=Callable)


def end_of_block(x: jax.Array) -> jax.Array:
    """Return x, [...], marked as the output of a block, which is all that policy `blocks` keeps."""
    return checkpoint_name(x, BLOCK)


def remat(function: F, policy: Remat) -> F:
    """Return the function with a gradient that needs less memory and more time (Chen et al. 2016).

    Args:
        function: The function to be differentiated.
        policy: What the backward pass keeps. `none`: everything it needs. `products`: the outputs
            of matrix products and convolutions, so that cheap operations are recomputed. `blocks`:
            what `end_of_block` has marked.
    """
    if policy == "none":
        return function
    policies = jax.checkpoint_policies
    kept = policies.dots_saveable if policy == "products" else policies.save_only_these_names(BLOCK)
    checkpointed: Any = jax.checkpoint(function, policy=kept)
    return checkpointed
