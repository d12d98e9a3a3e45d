"""Generative Adversarial Nets: the MLP GAN of Goodfellow et al. 2014 (arXiv:1406.2661).

A generator G maps noise z to an image, a discriminator D gives the odds that an image is real, and
the two play

    min_G max_D V(D, G) = E_x log D(x) + E_z log(1 - D(G(z)))          (equation 1)

G: 64 -> 256 -> H*W*C, tanh. D: H*W*C -> 128 -> 1, a logit. Each has its own Adam.
"""

from typing import Annotated, Any, Literal

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from pydantic import Field
from pydantic.dataclasses import dataclass

from genjax.objectives import adversarial
from genjax.steps.diagnostics import game_metrics
from genjax.steps.optim import AdamConfig, adam
from genjax.steps.replicas import mean_over_replicas, normal_for_batch
from genjax.steps.state import GanState, Player
from genjax.steps.update import apply_gradients, global_norm
from genjax.types import CHECKED, Batch, Config, Family, ImageSpec, Metrics

LEAKY_SLOPE = 0.01


@dataclass(frozen=True, config=CHECKED)
class PlayerConfig(AdamConfig):
    """One player: the width of its hidden layer, and its Adam."""

    hidden_size: Annotated[int, Field(gt=0)] = 256
    """Units in the hidden layer."""


@dataclass(frozen=True, config=CHECKED)
class GanConfig(Config):
    """The MLP GAN."""

    latent_size: Annotated[int, Field(gt=0)] = 64
    """Size of the noise vector z."""
    generator_loss: Literal["non_saturating", "saturating"] = "non_saturating"
    """What G minimizes: -log D(G(z)), or the textbook's log(1 - D(G(z)))."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type; parameters, losses and updates stay float32."""
    generator: PlayerConfig = PlayerConfig()
    """The generator."""
    discriminator: PlayerConfig = PlayerConfig(hidden_size=128)
    """The discriminator."""


GENERATOR_LOSSES = {
    "non_saturating": adversarial.non_saturating_generator_loss,
    "saturating": adversarial.saturating_generator_loss,
}


class Generator(nn.Module):
    """z [B, Z] -> images [B, H, W, C], float32 in [-1, 1]."""

    spec: ImageSpec
    hidden_size: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        height, width, channels = self.spec.shape
        x = nn.Dense(self.hidden_size, dtype=self.dtype, name="hidden")(z)
        x = nn.leaky_relu(x, LEAKY_SLOPE)
        x = nn.Dense(height * width * channels, dtype=self.dtype, name="output")(x)
        return jnp.tanh(x.astype(jnp.float32)).reshape(-1, height, width, channels)


class Discriminator(nn.Module):
    """Images [B, H, W, C] in [-1, 1] -> logits [B], float32; D(x) = sigmoid(logit)."""

    hidden_size: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images.reshape(len(images), -1)
        x = nn.Dense(self.hidden_size, dtype=self.dtype, name="hidden")(x)
        x = nn.leaky_relu(x, LEAKY_SLOPE)
        return nn.Dense(1, dtype=self.dtype, name="output")(x).astype(jnp.float32)[:, 0]


def apply(network: nn.Module, params: Any, x: jax.Array) -> jax.Array:
    """The network's output on `x`."""
    output: Any = network.apply({"params": params}, x)
    return output


def networks(config: GanConfig, spec: ImageSpec) -> tuple[Generator, Discriminator]:
    """The two networks that `config` describes."""
    return (
        Generator(spec, config.generator.hidden_size, config.dtype),
        Discriminator(config.discriminator.hidden_size, config.dtype),
    )


def from_params(config: GanConfig, spec: ImageSpec, params: dict) -> GanState:
    """A state at step 0 with given `{"generator": ..., "discriminator": ...}` parameters."""

    def player(name: str, player_config: PlayerConfig) -> Player:
        return Player(params[name], adam(player_config).init(params[name]))

    return GanState(
        jnp.zeros((), jnp.int32),
        player("generator", config.generator),
        player("discriminator", config.discriminator),
        spec,
    )


def init(config: GanConfig, key: jax.Array, spec: ImageSpec) -> GanState:
    """Initial weights, a function of `key` alone."""
    generator, discriminator = networks(config, spec)
    generator_key, discriminator_key = jax.random.split(key)
    z = jnp.zeros((1, config.latent_size))
    images = jnp.zeros((1, *spec.shape))
    params = {
        "generator": generator.init(generator_key, z)["params"],
        "discriminator": discriminator.init(discriminator_key, images)["params"],
    }
    return from_params(config, spec, params)


def play(
    config: GanConfig, state: GanState, real: jax.Array, z: jax.Array
) -> tuple[GanState, Metrics]:
    """One round of the game (algorithm 1, k = 1): a step of D, then one of G against the new D.

    Args:
        config: The model.
        state: Before the round.
        real: Real images, float32 [B, H, W, C] in [-1, 1].
        z: Noise, [B, latent_size]; both players see the same fakes.

    Returns:
        The state after it, and metrics: `d_loss` and `g_loss` (nats), `d_grad_norm`,
        `g_grad_norm`, and those of `game_metrics`.
    """
    chex.assert_shape(real, (None, *state.spec.shape))
    chex.assert_shape(z, (len(real), config.latent_size))
    generator, discriminator = networks(config, state.spec)
    generator_loss_fn = GENERATOR_LOSSES[config.generator_loss]

    # One forward pass of G serves both players; D's update does not reach into it.
    fake, pull_back = jax.vjp(lambda p: apply(generator, p, z), state.generator.params)

    def discriminator_loss(params: dict) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        both = apply(discriminator, params, jnp.concatenate([real, fake]))
        real_logits, fake_logits = jnp.split(both, 2)
        loss = adversarial.minimax_discriminator_loss(real_logits, fake_logits)
        return jnp.mean(loss), (real_logits, fake_logits)

    (d_loss, (real_logits, fake_logits)), d_grads = jax.value_and_grad(
        discriminator_loss, has_aux=True
    )(state.discriminator.params)
    d_loss, d_grads = mean_over_replicas((d_loss, d_grads))
    new_discriminator = apply_gradients(state.discriminator, d_grads, adam(config.discriminator))

    def generator_loss(images: jax.Array) -> jax.Array:
        fake_logits = apply(discriminator, new_discriminator.params, images)
        return jnp.mean(generator_loss_fn(fake_logits))

    g_loss, image_grads = jax.value_and_grad(generator_loss)(fake)
    (g_grads,) = pull_back(image_grads)
    g_loss, g_grads = mean_over_replicas((g_loss, g_grads))
    new_generator = apply_gradients(state.generator, g_grads, adam(config.generator))

    metrics = {
        "d_loss": d_loss,
        "g_loss": g_loss,
        "d_grad_norm": global_norm(d_grads),
        "g_grad_norm": global_norm(g_grads),
        **game_metrics(real_logits, fake_logits, real, fake),
    }
    return GanState(state.step + 1, new_generator, new_discriminator, state.spec), metrics


def step(
    config: GanConfig, state: GanState, batch: Batch, key: jax.Array
) -> tuple[GanState, Metrics]:
    """One round of the game on a batch of uint8 images; see `play`."""
    real = jnp.asarray(batch.images, jnp.float32) / 127.5 - 1
    return play(config, state, real, normal_for_batch(key, (len(real), config.latent_size)))


def sample(config: GanConfig, state: GanState, key: jax.Array, n: int) -> jax.Array:
    """`n` images from the generator, float32 [n, H, W, C] in [-1, 1]."""
    generator, _ = networks(config, state.spec)
    z = jax.random.normal(key, (n, config.latent_size))
    return apply(generator, state.generator.params, z)


FAMILY = Family(GanConfig, init, step, sample, "Goodfellow et al. 2014")
