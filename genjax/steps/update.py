"""One player's gradient step, and the moving average of weights."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from genjax.steps.state import GanState, Player
from genjax.types import ImageSpec, Metrics


def new_player(variables: Any, optimizer: optax.GradientTransformation) -> Player:
    """A player at its first step, from a network's `{"params", "batch_stats"}`."""
    params = variables["params"]
    return Player(params, optimizer.init(params), variables.get("batch_stats", {}))


def new_game(generator: Player, discriminator: Player, spec: ImageSpec, has_ema: bool) -> GanState:
    """The state at step 0 of two players, with a moving average of the generator or without."""
    ema = jax.tree.map(jnp.copy, generator.variables) if has_ema else None
    return GanState(jnp.zeros((), jnp.int32), generator, discriminator, spec, ema)


def apply_gradients(player: Player, grads: Any, optimizer: optax.GradientTransformation) -> Player:
    """The player after one step of its own optimizer."""
    updates, opt_state = optimizer.update(grads, player.opt_state, player.params)
    params = optax.apply_updates(player.params, updates)
    return dataclasses.replace(player, params=params, opt_state=opt_state)


def accumulate(
    grad_fn: Callable[[Any, Any], tuple[Any, Any, Metrics]], carried: Any, batch: Any, parts: int
) -> tuple[Any, Any, Metrics]:
    """The mean gradient over the parts of a batch, one after the other: large batches, few devices.

    Args:
        grad_fn: `grad_fn(carried, part) -> (grads, carried, metrics)`, of means over the part.
        carried: What one part hands to the next, such as statistics.
        batch: A pytree of arrays [B, ...].
        parts: Into how many parts it goes; must divide the B of a replica.

    Returns:
        As `grad_fn`: gradients and metrics are means over the parts.
    """
    if parts == 1:
        return grad_fn(carried, batch)

    def split(x: jax.Array) -> jax.Array:
        # Every part takes its share from each device that holds some of the batch.
        return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)

    def one(sums: Any, part: Any) -> tuple[Any, None]:
        carried, *before = sums
        grads, carried, metrics = grad_fn(carried, part)
        return (carried, *jax.tree.map(jnp.add, before, [grads, metrics])), None

    split_batch = jax.tree.map(split, batch)
    first, rest = (jax.tree.map(lambda x, i=i: x[i], split_batch) for i in (0, slice(1, None)))
    grads, carried, metrics = grad_fn(carried, first)
    (carried, *sums), _ = jax.lax.scan(one, (carried, grads, metrics), rest)
    grads, metrics = jax.tree.map(lambda x: x / parts, sums)
    return grads, carried, metrics


def apply_network(
    network: nn.Module, params: Any, stats: Any, x: jax.Array, train: bool
) -> tuple[jax.Array, Any]:
    """A network that may have batch norm, on `x`.

    Returns:
        The output, and the `batch_stats` after it (those given, unless `train`).
    """
    variables = {"params": params, "batch_stats": stats}
    output, updated = network.apply(variables, x, train=train, mutable=["batch_stats"])
    return output, updated.get("batch_stats", {})


def update_ema(ema: Any, new: Any, decay: float | jax.Array, step: jax.Array) -> Any:
    """The exponential moving average after one more value: `a ema + (1 - a) new`.

    `a = min(decay, (1 + step) / (10 + step))`, so that the initial weights are soon forgotten.

    Args:
        ema: The average, a pytree; None stays None.
        new: Of the same structure.
        decay: Of an average over about `1 / (1 - decay)` steps.
        step: Steps taken before this one, [].
    """
    if ema is None:
        return None
    weight = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, value: weight * old + (1 - weight) * value, ema, new)


def global_norm(tree: Any) -> jax.Array:
    """The Euclidean norm over all leaves, []."""
    # Without the barrier XLA computes the squares once for this and for Adam, and so has to store
    # them; with it each is fused into its own pass (measured: 3% of the MLP GAN's step on a CPU).
    leaves = jax.lax.optimization_barrier(jax.tree.leaves(tree))
    return jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in leaves))
