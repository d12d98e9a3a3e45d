"""Generative Adversarial Nets: the MLP GAN of Goodfellow et al. 2014 (arXiv:1406.2661).

A generator G maps noise z to an image, a discriminator D gives the odds that an image is real, and
the two play

    min_G max_D V(D, G) = E_x log D(x) + E_z log(1 - D(G(z)))          (equation 1)

G: 64 -> 256 -> H*W*C, tanh. D: H*W*C -> 128 -> 1, a logit. Each has its own optimizer.
"""

import dataclasses
import functools
from typing import Annotated, Any, Literal

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from pydantic import Field

from genjax.nn.batch import batch_noise
from genjax.nn.mlp import hidden_layers
from genjax.objectives import adversarial
from genjax.steps.diagnostics import standard_deviation
from genjax.steps.gan import (
    PenaltyConfig,
    create_gan_state,
    game_metrics,
    gradient_penalties,
    mask_penalties,
    real_images,
)
from genjax.steps.optim import OptimizerConfig, create_optimizer
from genjax.steps.state import GanState
from genjax.steps.update import (
    create_player,
    update_ema,
    update_player,
)
from genjax.types import Batch, Family, ImageSpec, Metrics, checked

LEAKY_SLOPE = 0.01


@checked
class PlayerConfig(OptimizerConfig):
    """The network and the optimizer of one player."""

    hidden_sizes: tuple[Annotated[int, Field(gt=0)], ...] = (256,)
    """Units of each hidden layer."""


@checked
class GanConfig(PenaltyConfig):
    """The config of the MLP GAN."""

    latent_size: Annotated[int, Field(gt=0)] = 64
    """Size of the noise vector z."""
    loss: adversarial.AdversarialLossName = "non_saturating"
    """Pair of losses: G minimizes -log D(G(z)) (non_saturating) or log(1 - D(G(z))) (saturating),
    both play on squared distances (least_squares), D up to a margin (hinge), or D tells which of a
    real and a generated image is the real one (relativistic, to go with R1 and R2)."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the moving average of G that is sampled from; 0 for none."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type; parameters, losses and updates stay float32."""
    generator: PlayerConfig = PlayerConfig()
    """The generator."""
    discriminator: PlayerConfig = PlayerConfig(hidden_sizes=(128,))
    """The discriminator."""


def leaky_relu(x: jax.Array) -> jax.Array:
    """Apply the activation of both networks to an array [...]."""
    return nn.leaky_relu(x, LEAKY_SLOPE)


class Generator(nn.Module):
    """The generator: z [B, Z] -> images [B, H, W, C], float32 in [-1, 1]."""

    spec: ImageSpec
    hidden_sizes: tuple[int, ...]
    dtype: str = "float32"

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        height, width, channels = self.spec.shape
        x = hidden_layers(z, self.hidden_sizes, leaky_relu, self.dtype)
        x = nn.Dense(height * width * channels, dtype=self.dtype, name="output")(x)
        return jnp.tanh(x.astype(jnp.float32)).reshape(-1, height, width, channels)


class Discriminator(nn.Module):
    """The discriminator: images [B, H, W, C] in [-1, 1] -> logits [B], D(x) = sigmoid(logit)."""

    hidden_sizes: tuple[int, ...]
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images.reshape(images.shape[0], -1)
        x = hidden_layers(x, self.hidden_sizes, leaky_relu, self.dtype)
        return nn.Dense(1, dtype=self.dtype, name="output")(x).astype(jnp.float32)[:, 0]


def apply(network: nn.Module, params: Any, x: jax.Array) -> jax.Array:
    """Return the network's output for x, [B, ...]."""
    output: Any = network.apply({"params": params}, x)
    return output


def networks(config: GanConfig, spec: ImageSpec) -> tuple[Generator, Discriminator]:
    """Return the generator and the discriminator that `config` describes."""
    return (
        Generator(spec, config.generator.hidden_sizes, config.dtype),
        Discriminator(config.discriminator.hidden_sizes, config.dtype),
    )


def from_params(config: GanConfig, spec: ImageSpec, params: dict) -> GanState:
    """Return the state at step 0 with the given `{"generator": ..., "discriminator": ...}`."""
    generator = create_player(
        {"params": params["generator"]}, create_optimizer(config.generator, 0)
    )
    discriminator = create_player(
        {"params": params["discriminator"]}, create_optimizer(config.discriminator, 0)
    )
    return create_gan_state(generator, discriminator, spec, config.ema_decay > 0)


def init(config: GanConfig, key: jax.Array, spec: ImageSpec) -> GanState:
    """Return the state at step 0, whose weights depend on `key` alone."""
    generator, discriminator = networks(config, spec)
    generator_key, discriminator_key = jax.random.split(key)
    z = jnp.zeros((1, config.latent_size))
    images = jnp.zeros((1, *spec.shape))
    params = {
        "generator": generator.init(generator_key, z)["params"],
        "discriminator": discriminator.init(discriminator_key, images)["params"],
    }
    return from_params(config, spec, params)


def discriminator_step(
    config: GanConfig,
    state: GanState,
    real: jax.Array,
    fake: jax.Array,
    key: jax.Array | None = None,
) -> tuple[GanState, Metrics]:
    """Take one step of D.

    Args:
        config: The model.
        state: The state before the step.
        real: Real images, float32 [B, H, W, C] in [-1, 1].
        fake: Generated images, float32 [B, H, W, C] in [-1, 1].
        key: The PRNG key of DRAGAN's noise; None without it.

    Returns:
        The state with the new discriminator, and the metrics `d_loss` (nats), `d_grad_norm`, and
        those of `game_metrics` and `gradient_penalties`.
    """
    _, discriminator = networks(config, state.spec)
    std = standard_deviation(real)

    def loss_fn(params: Any, carried: Any, part: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
        real, fake = part
        logits = functools.partial(apply, discriminator, params)
        losses = adversarial.ADVERSARIAL_LOSSES[config.loss]
        loss, metrics = game_metrics(losses, logits(real), logits(fake), real, fake)
        images, noise = (real, fake), (key, std)
        penalty, found = gradient_penalties(config, state.step, logits, images, noise)
        return loss + penalty, (carried, metrics | found)

    optimizer = create_optimizer(config.discriminator, state.step)
    player, metrics = update_player(
        loss_fn, state.discriminator, (real, fake), optimizer, config, "d_grad_norm"
    )
    metrics = mask_penalties(config, state.step, metrics)
    return dataclasses.replace(state, discriminator=player), metrics


def generator_step(
    config: GanConfig, state: GanState, z: jax.Array, real: jax.Array | None = None
) -> tuple[GanState, Metrics]:
    """Take one step of G against the state's discriminator, and update the moving average.

    Args:
        config: The model.
        state: The state before the step.
        z: Noise, [B, latent_size].
        real: Real images, float32 [B, H, W, C] in [-1, 1], which a relativistic loss needs.

    Returns:
        The state with the new generator, and the metrics `g_loss` (nats) and `g_grad_norm`.
    """
    generator, discriminator = networks(config, state.spec)
    losses = adversarial.ADVERSARIAL_LOSSES[config.loss]

    def loss_fn(params: Any, carried: Any, part: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
        z, *real = part
        images = (*real, apply(generator, params, z))
        logits = [apply(discriminator, state.discriminator.params, each) for each in images]
        loss = jnp.mean(losses.generator_loss(*logits))
        return loss, (carried, {"g_loss": loss})

    optimizer = create_optimizer(config.generator, state.step)
    batch = (z, real) if losses.is_relativistic else (z,)
    player, metrics = update_player(
        loss_fn, state.generator, batch, optimizer, config, "g_grad_norm"
    )
    ema = update_ema(state.ema, player.variables, config.ema_decay, state.step)
    return dataclasses.replace(state, generator=player, ema=ema), metrics


def update_players(
    config: GanConfig,
    state: GanState,
    real: jax.Array,
    z: jax.Array,
    key: jax.Array | None = None,
) -> tuple[GanState, Metrics]:
    """Take a step of D, then one of G against the new D (algorithm 1 with k = 1).

    Both players get images from the same noise, so the compiler generates them once.

    Args:
        config: The model.
        state: The state before the steps.
        real: Real images, float32 [B, H, W, C] in [-1, 1].
        z: Noise, [B, latent_size].
        key: The PRNG key of DRAGAN's noise; None without it.

    Returns:
        The state after both steps, and their metrics.
    """
    chex.assert_shape(real, (None, *state.spec.shape))
    chex.assert_shape(z, (real.shape[0], config.latent_size))
    generator, _ = networks(config, state.spec)
    fake = apply(generator, state.generator.params, z)
    state, d_metrics = discriminator_step(config, state, real, fake, key)
    state, g_metrics = generator_step(config, state, z, real)
    return dataclasses.replace(state, step=state.step + 1), {**d_metrics, **g_metrics}


def step(
    config: GanConfig, state: GanState, batch: Batch, key: jax.Array
) -> tuple[GanState, Metrics]:
    """Take a step of each player on uint8 images [B, H, W, C]; see `update_players`."""
    real = real_images(batch, state.spec)
    z = batch_noise(key, (real.shape[0], config.latent_size))
    return update_players(config, state, real, z, jax.random.fold_in(key, 0))


def decode(config: GanConfig, state: GanState, latents: jax.Array, labels: jax.Array) -> jax.Array:
    """Map latents [n, latent_size] to images, float32 [n, H, W, C] in [-1, 1]; ignores labels.

    This uses the moving average of the generator if there is one.
    """
    del labels
    generator, _ = networks(config, state.spec)
    return apply(generator, state.sampling_variables["params"], latents)


def sample(config: GanConfig, state: GanState, key: jax.Array, labels: jax.Array) -> jax.Array:
    """Draw n = len(labels) images from the generator, float32 [n, H, W, C] in [-1, 1]."""
    latents = jax.random.normal(key, (labels.shape[0], config.latent_size))
    return decode(config, state, latents, labels)


FAMILY = Family(GanConfig, init, step, sample, "Goodfellow et al. 2014", decode=decode)
