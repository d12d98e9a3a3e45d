"""One player's gradient step."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from genjax.steps.state import Player


def apply_gradients(player: Player, grads: Any, optimizer: optax.GradientTransformation) -> Player:
    """The player after one step of its own optimizer."""
    updates, opt_state = optimizer.update(grads, player.opt_state, player.params)
    return Player(optax.apply_updates(player.params, updates), opt_state)


def global_norm(tree: Any) -> jax.Array:
    """The Euclidean norm over all leaves, []."""
    # Without the barrier XLA computes the squares once for this and for Adam, and so has to store
    # them; with it each is fused into its own pass (measured: 3% of the MLP GAN's step on a CPU).
    leaves = jax.lax.optimization_barrier(jax.tree.leaves(tree))
    return jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in leaves))
