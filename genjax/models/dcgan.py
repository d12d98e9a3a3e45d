"""Deep Convolutional GAN: Radford, Metz and Chintala 2016 (arXiv:1511.06434), section 3.

G projects z to a few pixels with many channels, then doubles the size and halves the channels by
fractionally strided convolutions; D is its mirror image in strided ones. No pooling and no hidden
dense layers; batch norm everywhere but at G's output and D's input; ReLU in G, LeakyReLU(0.2) in D.
For 64x64 and 64 features:

    G: 100 -> 4x4x512 -> 8x8x256 -> 16x16x128 -> 32x32x64 -> 64x64x3, tanh
    D: 64x64x3 -> 32x32x64 -> 16x16x128 -> 8x8x256 -> 4x4x512 -> 1, a logit
"""

import dataclasses
import functools
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from pydantic import Field

from genjax.nn.batch import batch_noise, batch_size
from genjax.nn.conv import Conv, ConvTranspose
from genjax.nn.labels import append_labels, check_conditional
from genjax.nn.norm import BatchNorm
from genjax.nn.remat import end_of_block
from genjax.nn.resolution import base_resolution
from genjax.objectives import adversarial
from genjax.steps import gan
from genjax.steps.augment import (
    AugmentConfig,
    adapt_probability,
    augment_images,
    real_sign,
    with_probability,
)
from genjax.steps.diagnostics import standard_deviation
from genjax.steps.gan import (
    PenaltyConfig,
    create_gan_state,
    game_metrics,
    gradient_penalties,
    init_networks,
    mask_penalties,
    real_images,
    update_generator,
)
from genjax.steps.optim import OptimizerConfig, create_optimizer
from genjax.steps.state import GanState
from genjax.steps.update import (
    apply_network,
    create_player,
    update_ema,
    update_player,
)
from genjax.types import Batch, Family, ImageSpec, Metrics, checked

LEAKY_SLOPE = 0.2
# "All weights were initialized from a zero-centered Normal distribution with standard deviation
# 0.02." The gains of batch norm are centred on 1 instead, as in the authors' code.
WEIGHTS = nn.initializers.normal(0.02)


def scale_init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Draw the initial scales of batch norm, normal around 1: [C], the given shape."""
    return 1 + 0.02 * jax.random.normal(key, shape, dtype)


@checked
class PlayerConfig(OptimizerConfig):
    """The network and the optimizer of one player."""

    features: Annotated[int, Field(gt=0)] = 64
    """Channels of the layer next to the image; they double with each halving of its size."""
    batch_norm: bool = True
    """Whether the network has batch norm; without it, its convolutions have a bias."""


@checked
class DcganConfig(PenaltyConfig, AugmentConfig):
    """The config of DCGAN."""

    latent_size: Annotated[int, Field(gt=0)] = 100
    """Size of the noise vector z."""
    loss: adversarial.AdversarialLossName = "non_saturating"
    """Pair of losses: G minimizes -log D(G(z)) (non_saturating) or log(1 - D(G(z))) (saturating),
    both play on squared distances (least_squares), D up to a margin (hinge), or D tells which of a
    real and a generated image is the real one (relativistic, to go with R1 and R2)."""
    conditional: bool = False
    """Whether both players see the class label: G beside z, D as planes beside the image."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the moving average of G that is sampled from; 0 for none."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type; parameters, statistics, losses and updates stay float32."""
    generator: PlayerConfig = PlayerConfig()
    """The generator."""
    discriminator: PlayerConfig = PlayerConfig()
    """The discriminator."""


class Generator(nn.Module):
    """The generator: z [B, Z], labels int32 [B] or None -> images [B, H, W, C] in [-1, 1]."""

    spec: ImageSpec
    features: int
    batch_norm: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(self, z: jax.Array, labels: jax.Array | None, train: bool) -> jax.Array:
        halvings, (height, width) = base_resolution(self.spec)
        widths = [self.features << i for i in reversed(range(halvings))]
        project = nn.Dense(
            height * width * widths[0],
            use_bias=False,
            kernel_init=WEIGHTS,
            dtype=self.dtype,
            name="project",
        )
        x = project(append_labels(z, labels, self.spec.classes))
        x = x.reshape(-1, height, width, widths[0])
        for i, features in enumerate((*widths[1:], self.spec.channels)):
            if self.batch_norm:
                x = BatchNorm(scale_init=scale_init, name=f"norm_{i}")(x, train)
            x = nn.relu(x)
            up = ConvTranspose(
                features,
                kernel_size=4,
                stride=2,
                padding=1,
                use_bias=not self.batch_norm,
                kernel_init=WEIGHTS,
                dtype=self.dtype,
                name=f"up_{i}",
            )
            x = end_of_block(up(x))
        return jnp.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
    """The discriminator: images [B, H, W, C] in [-1, 1], labels int32 [B] or None -> logits [B].

    As a critic it has no batch norm; its convolutions then have a bias.
    """

    spec: ImageSpec
    features: int
    batch_norm: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: jax.Array, labels: jax.Array | None, train: bool) -> jax.Array:
        halvings, _ = base_resolution(self.spec)
        x = append_labels(images, labels, self.spec.classes)
        for i in range(halvings):
            down = Conv(
                self.features << i,
                kernel_size=4,
                stride=2,
                padding=1,
                use_bias=not self.batch_norm,
                kernel_init=WEIGHTS,
                dtype=self.dtype,
                name=f"down_{i}",
            )
            x = down(x)
            if self.batch_norm and i > 0:
                x = BatchNorm(scale_init=scale_init, name=f"norm_{i}")(x, train)
            x = end_of_block(nn.leaky_relu(x, LEAKY_SLOPE))
        x = x.reshape(x.shape[0], -1)
        output = nn.Dense(1, use_bias=False, kernel_init=WEIGHTS, dtype=self.dtype, name="output")
        return output(x).astype(jnp.float32)[:, 0]


def networks(config: DcganConfig, spec: ImageSpec) -> tuple[Generator, Discriminator]:
    """Return the generator and the discriminator that `config` describes."""
    generator, discriminator, dtype = config.generator, config.discriminator, config.dtype
    return (
        Generator(spec, generator.features, generator.batch_norm, dtype),
        Discriminator(spec, discriminator.features, discriminator.batch_norm, dtype),
    )


def init(config: DcganConfig, key: jax.Array, spec: ImageSpec) -> GanState:
    """Return the state at step 0, whose weights depend on `key` alone.

    Raises:
        UsageError: The size cannot be halved to 4 to 7 pixels, or a conditional model gets data
            without classes.
    """
    check_conditional(config.conditional, spec)
    variables = init_networks(
        networks(config, spec), key, config.latent_size, spec, config.conditional
    )
    return from_variables(config, spec, variables)


def from_variables(config: DcganConfig, spec: ImageSpec, variables: dict) -> GanState:
    """Return the state at step 0 from each player's `{"params": ..., "batch_stats": ...}`."""
    generator = create_player(variables["generator"], create_optimizer(config.generator, 0))
    discriminator = create_player(
        variables["discriminator"], create_optimizer(config.discriminator, 0)
    )
    state = create_gan_state(generator, discriminator, spec, config.ema_decay > 0)
    return with_probability(config, state)


def discriminator_step(
    config: DcganConfig,
    state: GanState,
    real: jax.Array,
    fake: jax.Array,
    labels: jax.Array | None,
    key: jax.Array,
) -> tuple[GanState, Metrics]:
    """Take one step of D, whose batch norm sees real and generated images as separate batches.

    Args:
        config: The model.
        state: The state before the step.
        real: Real images, float32 [B, H, W, C] in [-1, 1].
        fake: Generated images of the same labels, float32 [B, H, W, C] in [-1, 1].
        labels: int32 [B] if conditional, else None.
        key: The PRNG key of DRAGAN's noise and of augmentations.

    Returns:
        The state with the new discriminator, and the metrics `d_loss` (nats), `d_grad_norm`, those
        of `game_metrics`, `gradient_penalties` and `real_sign`.
    """
    _, discriminator = networks(config, state.spec)
    std = standard_deviation(real)

    def loss_fn(params: Any, carried: Any, part: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
        real, fake, labels = part
        seen_real, seen_fake = (
            augment_images(config, state, jax.random.fold_in(key, i), images)
            for i, images in enumerate((real, fake))
        )
        real_logits, carried = apply_network(discriminator, params, carried, seen_real, labels)
        fake_logits, carried = apply_network(discriminator, params, carried, seen_fake, labels)
        losses = adversarial.ADVERSARIAL_LOSSES[config.loss]
        loss, metrics = game_metrics(losses, real_logits, fake_logits, real, fake)
        metrics |= real_sign(config, losses, real_logits, fake_logits)

        # Penalties need a D that treats each image on its own: with running statistics.
        def logits(images: jax.Array) -> jax.Array:
            running = state.discriminator.collections
            return apply_network(discriminator, params, running, images, labels, False)[0]

        penalty, found = gradient_penalties(
            config, state.step, logits, (seen_real, seen_fake), (key, std)
        )
        return loss + penalty, (carried, metrics | found)

    player, metrics = update_player(
        loss_fn,
        state.discriminator,
        (real, fake, labels),
        create_optimizer(config.discriminator, state.step),
        config,
        "d_grad_norm",
    )
    metrics = mask_penalties(config, state.step, metrics)
    return dataclasses.replace(state, discriminator=player), metrics


def generator_step(
    config: DcganConfig,
    state: GanState,
    z: jax.Array,
    labels: jax.Array | None,
    key: jax.Array | None = None,
    real: jax.Array | None = None,
) -> tuple[GanState, Metrics]:
    """Take one step of G against the state's discriminator, and update the moving average.

    Args:
        config: The model.
        state: The state before the step.
        z: Noise, [B, latent_size].
        labels: int32 [B] if conditional, else None.
        key: The PRNG key of augmentations; None without any.
        real: Real images, float32 [B, H, W, C] in [-1, 1], which a relativistic loss needs.

    Returns:
        The state with the new generator, and the metrics `g_loss` (nats) and `g_grad_norm`.
    """
    player, metrics = update_generator(
        networks(config, state.spec),
        adversarial.ADVERSARIAL_LOSSES[config.loss],
        state,
        (z, labels, real),
        create_optimizer(config.generator, state.step),
        config,
        augment=functools.partial(augment_images, config, state, key),
    )
    ema = update_ema(state.ema, player.variables, config.ema_decay, state.step)
    return dataclasses.replace(state, generator=player, ema=ema), metrics


def step(
    config: DcganConfig, state: GanState, batch: Batch, key: jax.Array
) -> tuple[GanState, Metrics]:
    """Take a step of D on uint8 images [B, H, W, C], then one of G.

    Both players get images from the same noise, so the compiler generates them once.
    """
    real = real_images(batch, state.spec)
    labels = jnp.asarray(batch.labels) if config.conditional else None
    z_key, penalty_key = jax.random.split(key)
    z = batch_noise(z_key, (real.shape[0], config.latent_size))
    generator, _ = networks(config, state.spec)
    player = state.generator
    fake, _ = apply_network(generator, player.params, player.collections, z, labels)
    state, d_metrics = discriminator_step(config, state, real, fake, labels, penalty_key)
    augment_key = jax.random.fold_in(z_key, 0)
    state, g_metrics = generator_step(config, state, z, labels, augment_key, real)
    state, p_metrics = adapt_probability(config, state, d_metrics, batch_size(real))
    metrics = {**d_metrics, **g_metrics, **p_metrics}
    return dataclasses.replace(state, step=state.step + 1), metrics


def decode(
    config: DcganConfig, state: GanState, latents: jax.Array, labels: jax.Array
) -> jax.Array:
    """Map latents [n, latent_size] to images, float32 [n, H, W, C] in [-1, 1].

    This uses the moving average of the generator if there is one, and running batch statistics.
    The labels, int32 [n], are used if the model is conditional.
    """
    seen = labels if config.conditional else None
    return gan.decode(networks(config, state.spec), state, latents, seen)


def sample(config: DcganConfig, state: GanState, key: jax.Array, labels: jax.Array) -> jax.Array:
    """Draw an image for each label, int32 [n]: float32 [n, H, W, C] in [-1, 1]; see `decode`."""
    latents = jax.random.normal(key, (labels.shape[0], config.latent_size))
    return decode(config, state, latents, labels)


FAMILY = Family(DcganConfig, init, step, sample, "Radford et al. 2016", decode=decode)
