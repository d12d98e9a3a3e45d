"""Gradients of a batch, one player's gradient step, and the moving average of weights."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from pydantic import Field

from genjax.nn.batch import in_parts, mean_over_replicas, one_part
from genjax.nn.precision import exact
from genjax.nn.remat import Remat, remat
from genjax.steps.state import Player
from genjax.types import Config, MaskedMetric, Metrics, UsageError, checked

# `loss_fn(params, carried, part) -> (loss, (carried, metrics))`.
LossFunction = Callable[[Any, Any, Any], tuple[jax.Array, tuple[Any, Metrics]]]
State = TypeVar("State")
AnyPlayer = TypeVar("AnyPlayer", bound=Player)


def create_player(variables: Any, optimizer: optax.GradientTransformation) -> Player:
    """Return a player with a new optimizer state, from a network's `{"params", "batch_stats"}`."""
    params = variables["params"]
    return Player(params, optimizer.init(params), variables.get("batch_stats", {}))


def apply_gradients(
    player: AnyPlayer, grads: Any, optimizer: optax.GradientTransformation
) -> AnyPlayer:
    """Return the player after one step of its own optimizer."""
    updates, opt_state = optimizer.update(grads, player.opt_state, player.params)
    params = optax.apply_updates(player.params, updates)
    return dataclasses.replace(player, params=params, opt_state=opt_state)


@checked
class GradientConfig(Config):
    """How gradients are computed where memory is short, which does not change their values."""

    gradient_accumulation_steps: Annotated[int, Field(gt=0)] = 1
    """Number of parts that a batch is cut into to fit into memory; their gradients are computed one
    after the other and averaged. Batch norm and metrics that compare images see a part at a time;
    running statistics and the vectors of spectral norm are updated after each."""
    remat: Remat = "none"
    """What the backward pass keeps of the forward pass: everything (none), the outputs of matrix
    products and convolutions (products), or those of blocks (blocks). It recomputes the rest."""


AnyConfig = TypeVar("AnyConfig", bound=GradientConfig)


def gradients(
    loss_fn: LossFunction, params: Any, carried: Any, batch: Any, config: GradientConfig
) -> tuple[Any, Any, Metrics]:
    """Compute the gradient of a batch's mean loss, in parts of the batch if the config says so.

    Args:
        loss_fn: `loss_fn(params, carried, part) -> (loss, (carried, metrics))`; loss and metrics
            are means over the part.
        params: The parameters to differentiate by.
        carried: Values that one part hands to the next, such as statistics.
        batch: A pytree of arrays [B, ...].
        config: The model's config.

    Returns:
        The gradient, the values carried after the last part, and the metrics; gradient and metrics
        are means over the global batch.

    Raises:
        UsageError: The batch does not divide into `config.gradient_accumulation_steps` parts.
    """

    def of_part(carried: Any, part: Any) -> tuple[Any, Any, Metrics]:
        function = remat(lambda params: loss_fn(params, carried, part), config.remat)
        grads, (carried_on, metrics) = jax.grad(function, has_aux=True)(params)
        return grads, carried_on, metrics

    parts = config.gradient_accumulation_steps
    if parts == 1:
        grads, carried, metrics = of_part(carried, batch)
        return mean_over_replicas(grads), carried, mean_over_replicas(metrics)

    def add(sums: Any, item: Any) -> tuple[Any, None]:
        index, part = item
        carried, *before = sums
        with one_part(parts, index):
            grads, carried, metrics = of_part(carried, part)
        return (carried, *jax.tree.map(jnp.add, before, [grads, metrics])), None

    split = _split(batch, parts)
    shapes = jax.eval_shape(of_part, carried, jax.tree.map(lambda x: x[0], split))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (shapes[0], shapes[2]))
    (carried, *sums), _ = jax.lax.scan(add, (carried, *zeros), (jnp.arange(parts), split))
    grads, metrics = mean_over_replicas(jax.tree.map(lambda x: x / parts, sums))
    return grads, carried, metrics


def update_player(
    loss_fn: LossFunction,
    player: AnyPlayer,
    batch: Any,
    optimizer: optax.GradientTransformation,
    config: GradientConfig,
    norm: str,
) -> tuple[AnyPlayer, Metrics]:
    """Take one step of a player's optimizer down the gradient of a batch's mean loss.

    Args:
        loss_fn: As `gradients` takes it; it carries the player's `collections`.
        player: One of a GAN's two, or a model that is trained alone.
        batch: A pytree of arrays [B, ...].
        optimizer: The player's optimizer.
        config: The model's config.
        norm: Name of the metric with the gradient's norm.

    Returns:
        The player after the step, and the metrics.
    """
    grads, collections, metrics = gradients(
        loss_fn, player.params, player.collections, batch, config
    )
    player = apply_gradients(player, grads, optimizer).with_collections(collections)
    return player, metrics | {norm: global_norm(grads)}


def when(
    is_due: jax.Array,
    take_step: Callable[[State], tuple[State, Metrics]],
    state: State,
    names: Sequence[str],
) -> tuple[State, Metrics]:
    """Take a step if `is_due`; otherwise return the state unchanged and masked metrics.

    Args:
        is_due: bool [].
        take_step: `take_step(state) -> (state, metrics)`.
        state: The state before the step.
        names: Names of the step's metrics, each a scalar.

    Returns:
        The state, and the step's metrics.
    """

    def skip(state: State) -> tuple[State, Metrics]:
        return state, {name: jnp.zeros(()) for name in names}

    state, metrics = jax.lax.cond(is_due, take_step, skip, state)
    return state, {name: MaskedMetric(value, is_due) for name, value in metrics.items()}


def mean_by_parts(function: Callable[[Any], Any], batch: Any, config: GradientConfig) -> Any:
    """Compute means over the global batch, a part at a time.

    They are for losses that are computed part by part, and need means of the whole batch.

    Args:
        function: Function from a part to a pytree of means over the part.
        batch: A pytree of arrays [B, ...].
        config: The model's config, with the number of parts.

    Returns:
        The pytree of means over the global batch.

    Raises:
        UsageError: The batch does not divide into `config.gradient_accumulation_steps` parts.
    """
    parts = config.gradient_accumulation_steps

    def of_part(item: Any) -> Any:
        index, part = item
        with one_part(parts, index):
            return function(part)

    values = jax.lax.map(of_part, (jnp.arange(parts), _split(batch, parts)))
    return mean_over_replicas(jax.tree.map(lambda x: jnp.mean(x, axis=0), values))


def batch_mean(
    function: Callable[[Any], Any], batch: Any, config: GradientConfig
) -> Callable[[Any], Any]:
    """Return `mean(value)`: it replaces a part's `function` by its mean over the global batch.

    A loss that is computed in parts needs it, because it sees one of them only: `function` is then
    evaluated for all parts beforehand. Arguments are those of `mean_by_parts`.
    """
    if config.gradient_accumulation_steps == 1:
        return mean_over_replicas
    mean = mean_by_parts(function, batch, config)
    return lambda _: mean


def fewer_parts(config: AnyConfig, images: int) -> AnyConfig:
    """Return the config with fewer parts, into which a batch of `images` images divides."""
    parts = math.gcd(images, config.gradient_accumulation_steps)
    return dataclasses.replace(config, gradient_accumulation_steps=parts)


def _split(batch: Any, parts: int) -> Any:
    size = jax.tree.leaves(batch)[0].shape[0]
    if size % parts:
        raise UsageError(f"gradient_accumulation_steps = {parts}: should divide the {size} images")
    return jax.tree.map(lambda x: in_parts(x, parts), batch)


def apply_network(
    network: nn.Module,
    params: Any,
    collections: dict[str, Any],
    x: jax.Array,
    labels: jax.Array | None,
    train: bool = True,
) -> tuple[jax.Array, dict[str, Any]]:
    """Apply a player's network to `x`, [B, ...], and to labels, int32 [B] or None.

    Returns:
        The output and the new `collections`, which without `train` are those given.
    """
    output, updated = network.apply(
        {"params": params, **collections}, x, labels, train, mutable=list(collections)
    )
    return output, {**collections, **updated}


def update_ema(ema: Any, new: Any, decay: float | jax.Array, step: jax.Array) -> Any:
    """Update an exponential moving average: `a ema + (1 - a) new`.

    Here `a = min(decay, (1 + step) / (10 + step))`, so that the initial weights are soon forgotten.

    Args:
        ema: The average, a pytree; None stays None.
        new: The new values, a pytree of the same structure.
        decay: The decay, for an average over about `1 / (1 - decay)` steps.
        step: Number of steps taken before this one, [].
    """
    if ema is None:
        return None
    weight = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, value: weight * old + (1 - weight) * value, ema, new)


@exact()
def global_norm(tree: Any) -> jax.Array:
    """Compute the Euclidean norm over all leaves, []."""
    # Without the barrier XLA computes the squares once for this norm and for Adam, and has to store
    # them; with it each fuses them into its own pass (measured: 3% of the MLP GAN's step on a CPU).
    leaves = jax.lax.optimization_barrier(jax.tree.leaves(tree))
    return jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in leaves))
