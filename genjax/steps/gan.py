"""What GANs share whose networks see a noise vector or images, and labels."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from genjax.steps.state import GanState, Player
from genjax.steps.update import GradientConfig, apply_network, update_player
from genjax.types import Batch, ImageSpec, Metrics, images_of


def create_gan_state(
    generator: Player, discriminator: Player, spec: ImageSpec, has_ema: bool
) -> GanState:
    """Return the state at step 0 of two players, with a moving average of G if `has_ema`."""
    ema = jax.tree.map(jnp.copy, generator.variables) if has_ema else None
    return GanState(jnp.zeros((), jnp.int32), generator, discriminator, spec, ema)


def init_networks(
    networks: tuple[nn.Module, nn.Module],
    key: jax.Array,
    latent_size: int,
    spec: ImageSpec,
    conditional: bool,
) -> dict[str, Any]:
    """Return the initial variables of both networks, `{"generator": ..., "discriminator": ...}`.

    Args:
        networks: G and D, `network(x, labels, train)`, with x [B, latent_size] or [B, H, W, C].
        key: The PRNG key of the weights.
        latent_size: Size of the noise vector.
        spec: The shape of the images.
        conditional: Whether the networks see labels, int32 [B], or None.
    """
    generator, discriminator = networks
    generator_key, discriminator_key = jax.random.split(key)
    labels = jnp.zeros(1, jnp.int32) if conditional else None
    z, images = jnp.zeros((1, latent_size)), jnp.zeros((1, *spec.shape))
    return {
        "generator": generator.init(generator_key, z, labels, train=False),
        "discriminator": discriminator.init(discriminator_key, images, labels, train=False),
    }


def real_images(batch: Batch, spec: ImageSpec) -> jax.Array:
    """Return a batch's uint8 images as float32 [B, H, W, C] in [-1, 1]; see `types.images_of`."""
    return images_of(batch, spec).astype(jnp.float32) / 127.5 - 1


def decode(
    networks: tuple[nn.Module, nn.Module],
    state: GanState,
    latents: jax.Array,
    labels: jax.Array | None,
) -> jax.Array:
    """Map latents to images, by the moving average of G if there is one, and running statistics.

    Args:
        networks: G and D, as in `init_networks`.
        state: The state.
        latents: [n, latent_size].
        labels: int32 [n] if conditional, else None.

    Returns:
        float32 [n, H, W, C] in [-1, 1].
    """
    generator, _ = networks
    images: Any = generator.apply(state.sampling_variables, latents, labels, train=False)
    return images


def update_generator(
    networks: tuple[nn.Module, nn.Module],
    generator_loss: Callable[[jax.Array], jax.Array],
    state: GanState,
    batch: tuple[jax.Array, jax.Array | None],
    optimizer: optax.GradientTransformation,
    config: GradientConfig,
    penalty: Callable[[Any], jax.Array] | None = None,
    augment: Callable[[jax.Array], jax.Array] = lambda images: images,
) -> tuple[Player, Metrics]:
    """Take one step of G against the state's discriminator.

    Args:
        networks: G and D, as in `init_networks`.
        generator_loss: Function from D's logits of generated images, [B], to G's losses, [B].
        state: The state before the step.
        batch: Noise, [B, latent_size], and labels, int32 [B] or None.
        optimizer: G's optimizer.
        config: The model's config.
        penalty: Function from G's parameters to a penalty that is added to the loss; None for none.
        augment: Function from generated images to what D sees of them.

    Returns:
        G after the step, and the metrics `g_loss`, without the penalty, and `g_grad_norm`.
    """
    generator, discriminator = networks
    opponent = state.discriminator

    def loss_fn(params: Any, carried: Any, part: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
        z, labels = part
        fake, carried = apply_network(generator, params, carried, z, labels)
        logits, _ = apply_network(
            discriminator, opponent.params, opponent.collections, augment(fake), labels
        )
        loss = jnp.mean(generator_loss(logits))
        total = loss if penalty is None else loss + penalty(params)
        return total, (carried, {"g_loss": loss})

    return update_player(loss_fn, state.generator, batch, optimizer, config, "g_grad_norm")
