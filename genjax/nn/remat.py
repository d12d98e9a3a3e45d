"""What a backward pass keeps of the forward pass, and what it computes again."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax
from jax.ad_checkpoint import checkpoint_name

Remat = Literal["none", "products", "blocks"]
BLOCK = "block"

F = TypeVar("F", bound=Callable)


def end_of_block(x: jax.Array) -> jax.Array:
    """Mark the output of a network's block, which `remat` may keep alone; x itself."""
    return checkpoint_name(x, BLOCK)


def remat(function: F, policy: Remat) -> F:
    """The same function, whose gradient needs less memory and more time (Chen et al. 2016).

    Args:
        function: Whose gradient will be taken.
        policy: Kept are: `none`: all that the gradient needs. `products`: the outputs of matrix
            products and convolutions, so that what is cheap is computed again. `blocks`: what
            `end_of_block` marked.
    """
    if policy == "none":
        return function
    policies = jax.checkpoint_policies
    kept = policies.dots_saveable if policy == "products" else policies.save_only_these_names(BLOCK)
    checkpointed: Any = jax.checkpoint(function, policy=kept)
    return checkpointed
