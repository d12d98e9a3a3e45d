"""WGAN (Arjovsky et al. 2017, arXiv:1701.07875) and WGAN-GP (Gulrajani et al. 2017, 1704.00028).

A critic f of Lipschitz constant 1 measures the distance between the samples and the data,

    W(P, G) = max_f E_x f(x) - E_z f(G(z))                              (WGAN, equation 2)

and G minimizes it. WGAN keeps f Lipschitz by clipping its weights after each of its steps,
WGAN-GP by a penalty on the gradient of f between real and generated images (equation 3).
The critic takes `n_critic` steps, each on a batch of its own, for one of G. It has no batch norm,
which would make its value for one image depend on the others. With so many steps f stays near its
optimum, so that its loss, unlike that of other GANs, follows the quality of the samples: its
negative is the metric `wasserstein_estimate`.
"""

import dataclasses
import functools
import math
from typing import Annotated, Any, Literal

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from pydantic import Field

from genjax.models import dcgan, r3gan
from genjax.nn.augment import AugmentName, augmented
from genjax.nn.batch import batch_noise
from genjax.nn.conv import Conv
from genjax.nn.labels import append_labels, check_conditional
from genjax.nn.mlp import hidden_layers
from genjax.nn.norm import BatchNorm
from genjax.nn.residual import ResidualBlock
from genjax.nn.resolution import base_resolution
from genjax.objectives.adversarial import (
    ADVERSARIAL_LOSSES,
    AdversarialLoss,
    AdversarialLossName,
    wasserstein_critic_loss,
    wasserstein_generator_loss,
)
from genjax.objectives.penalties import input_gradient_norm, interpolate
from genjax.steps import gan
from genjax.steps.diagnostics import diversity, standard_deviation
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
    when,
)
from genjax.types import Batch, Family, ImageSpec, Metrics, checked

LEAKY_SLOPE = 0.2
# Up to this size the ResNets have one width throughout, as in the paper's table for CIFAR-10; above
# it the width doubles as the size halves, as in its code for 64x64.
ONE_WIDTH_UP_TO = 32


@checked
class PlayerConfig(OptimizerConfig):
    """The network and the optimizer of one player."""

    features: Annotated[int, Field(gt=0)] = 64
    """Channels of the layer next to the image (dcgan, resnet, r3gan)."""
    hidden_sizes: tuple[Annotated[int, Field(gt=0)], ...] = (512, 512, 512)
    """Units of each hidden layer (mlp)."""


CRITIC_LOSSES = {
    "wasserstein": AdversarialLoss(wasserstein_critic_loss, wasserstein_generator_loss),
    **ADVERSARIAL_LOSSES,
}

# The players of the two papers.
WGAN_PLAYER = PlayerConfig(rule="rmsprop", learning_rate=5e-5, beta1=0.0, beta2=0.99)
WGAN_GP_PLAYER = PlayerConfig(learning_rate=1e-4, beta1=0.0, beta2=0.9)


@checked
class WganBaseConfig(PenaltyConfig):
    """The fields that WGAN and WGAN-GP share."""

    loss: Literal["wasserstein", AdversarialLossName] = "wasserstein"
    """Pair of losses: the papers', or another one on the same networks, as `dcgan` has them."""
    network: Literal["mlp", "dcgan", "resnet", "r3gan"] = "dcgan"
    """Architecture of both players; the critic's has no batch norm. The residual networks are those
    of WGAN-GP (resnet) and of R3GAN, which is for loss = relativistic with R1 and R2."""
    latent_size: Annotated[int, Field(gt=0)] = 128
    """Size of the noise vector z."""
    n_critic: Annotated[int, Field(gt=0)] = 5
    """Steps of the critic for each of the generator; a training step is one of the critic."""
    augment: AugmentName = "none"
    """Augmentation of what the critic sees, for few images: none, or DiffAugment (Zhao et al.
    2020). No adaptive one: the sign of a critic's value, which is defined up to a constant, does
    not tell whether it overfits."""
    conditional: bool = False
    """Whether both players see the class label: G beside z, the critic as planes beside images."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the moving average of G that is sampled from; 0 for none."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type; parameters, statistics, losses and updates stay float32."""


@checked
class WganConfig(WganBaseConfig):
    """The config of WGAN: weight clipping, and by default RMSProp."""

    weight_clip: Annotated[float, Field(gt=0)] = 0.01
    """Largest absolute value of a weight of the critic."""
    generator: PlayerConfig = WGAN_PLAYER
    """The generator."""
    critic: PlayerConfig = WGAN_PLAYER
    """The critic."""


@checked
class WganGpConfig(WganBaseConfig):
    """The config of WGAN-GP: gradient penalty, and by default Adam."""

    gradient_penalty_weight: Annotated[float, Field(ge=0)] = 10.0
    """Weight of the gradient penalty (the paper's lambda); 0 for none."""
    generator: PlayerConfig = WGAN_GP_PLAYER
    """The generator."""
    critic: PlayerConfig = WGAN_GP_PLAYER
    """The critic."""


def leaky_relu(x: jax.Array) -> jax.Array:
    """Apply the activation of the MLPs to an array [...]."""
    return nn.leaky_relu(x, LEAKY_SLOPE)


class MlpGenerator(nn.Module):
    """The MLP generator: z [B, Z], labels int32 [B] or None -> images [B, H, W, C] in [-1, 1]."""

    spec: ImageSpec
    hidden_sizes: tuple[int, ...]
    dtype: str = "float32"

    @nn.compact
    def __call__(self, z: jax.Array, labels: jax.Array | None, train: bool) -> jax.Array:
        del train  # an MLP does the same in training and afterwards
        x = append_labels(z, labels, self.spec.classes)
        x = hidden_layers(x, self.hidden_sizes, leaky_relu, self.dtype)
        x = nn.Dense(math.prod(self.spec.shape), dtype=self.dtype, name="output")(x)
        return jnp.tanh(x.astype(jnp.float32)).reshape(-1, *self.spec.shape)


class MlpCritic(nn.Module):
    """The MLP critic: images [B, H, W, C] in [-1, 1], labels int32 [B] or None -> values [B]."""

    spec: ImageSpec
    hidden_sizes: tuple[int, ...]
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: jax.Array, labels: jax.Array | None, train: bool) -> jax.Array:
        del train
        x = append_labels(images, labels, self.spec.classes)
        x = x.reshape(x.shape[0], -1)
        x = hidden_layers(x, self.hidden_sizes, leaky_relu, self.dtype)
        return nn.Dense(1, dtype=self.dtype, name="output")(x).astype(jnp.float32)[:, 0]


class ResNetGenerator(nn.Module):
    """The ResNet generator (appendix F).

    z [B, Z], labels int32 [B] or None -> images [B, H, W, C] in [-1, 1].
    """

    spec: ImageSpec
    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, z: jax.Array, labels: jax.Array | None, train: bool) -> jax.Array:
        _, (height, width) = base_resolution(self.spec)
        widths = _resnet_widths(self.spec, self.features)[::-1]
        project = nn.Dense(height * width * widths[0], dtype=self.dtype, name="project")
        x = project(append_labels(z, labels, self.spec.classes))
        x = x.reshape(-1, height, width, widths[0])
        for i, features in enumerate(widths):
            block = ResidualBlock(
                features, resample="up", norm="batch", dtype=self.dtype, name=f"up_{i}"
            )
            x = block(x, train)
        x = nn.relu(BatchNorm(name="norm")(x, train))
        x = Conv(self.spec.channels, 3, padding=1, dtype=self.dtype, name="output")(x)
        return jnp.tanh(x.astype(jnp.float32))


class ResNetCritic(nn.Module):
    """The ResNet critic (appendix F).

    Images [B, H, W, C] in [-1, 1], labels int32 [B] or None -> values [B].
    """

    spec: ImageSpec
    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: jax.Array, labels: jax.Array | None, train: bool) -> jax.Array:
        x = append_labels(images, labels, self.spec.classes).astype(self.dtype)
        if _is_small(self.spec):
            for i in range(4):
                block = ResidualBlock(
                    self.features,
                    resample="down" if i < 2 else "none",
                    first=i == 0,
                    dtype=self.dtype,
                    name=f"block_{i}",
                )
                x = block(x, train)
            x = jnp.mean(nn.relu(x), axis=(1, 2))
        else:
            widths = _resnet_widths(self.spec, self.features)
            x = Conv(widths[0], 3, padding=1, dtype=self.dtype, name="input")(x)
            for i, features in enumerate((*widths[1:], widths[-1])):
                block = ResidualBlock(
                    features, "down", norm="layer", dtype=self.dtype, name=f"block_{i}"
                )
                x = block(x, train)
            x = x.reshape(x.shape[0], -1)
        return nn.Dense(1, dtype=self.dtype, name="output")(x).astype(jnp.float32)[:, 0]


def _is_small(spec: ImageSpec) -> bool:
    return min(spec.height, spec.width) <= ONE_WIDTH_UP_TO


def _resnet_widths(spec: ImageSpec, features: int) -> list[int]:
    """Return the channels at each size, from the image's size down."""
    halvings, _ = base_resolution(spec)
    return [features if _is_small(spec) else features << i for i in range(halvings)]


def networks(config: WganConfig | WganGpConfig, spec: ImageSpec) -> tuple[nn.Module, nn.Module]:
    """Return the generator and the critic that `config` describes."""
    generator, critic, dtype = config.generator, config.critic, config.dtype
    if config.network == "mlp":
        return (
            MlpGenerator(spec, generator.hidden_sizes, dtype),
            MlpCritic(spec, critic.hidden_sizes, dtype),
        )
    if config.network == "r3gan":
        return (
            r3gan.Generator(spec, generator.features, dtype),
            r3gan.Discriminator(spec, critic.features, dtype),
        )
    if config.network == "dcgan":
        return (
            dcgan.Generator(spec, generator.features, dtype=dtype),
            dcgan.Discriminator(spec, critic.features, batch_norm=False, dtype=dtype),
        )
    return (
        ResNetGenerator(spec, generator.features, dtype),
        ResNetCritic(spec, critic.features, dtype),
    )


def init(config: WganConfig | WganGpConfig, key: jax.Array, spec: ImageSpec) -> GanState:
    """Return the state at step 0, whose weights depend on `key` alone.

    The critic is the state's `discriminator`.

    Raises:
        UsageError: The networks do not fit the size of the images, or a conditional model gets data
            without classes.
    """
    check_conditional(config.conditional, spec)
    variables = init_networks(
        networks(config, spec), key, config.latent_size, spec, config.conditional
    )
    return from_variables(config, spec, variables)


def from_variables(config: WganConfig | WganGpConfig, spec: ImageSpec, variables: dict) -> GanState:
    """Return the state at step 0 from each player's `{"params": ..., "batch_stats": ...}`."""
    generator = create_player(variables["generator"], create_optimizer(config.generator, 0))
    critic = create_player(variables["discriminator"], create_optimizer(config.critic, 0))
    return create_gan_state(generator, critic, spec, config.ema_decay > 0)


def critic_step(
    config: WganConfig | WganGpConfig,
    state: GanState,
    real: jax.Array,
    fake: jax.Array,
    labels: jax.Array | None,
    key: jax.Array,
) -> tuple[GanState, Metrics]:
    """Take one step of the critic.

    Args:
        config: The model.
        state: The state before the step.
        real: Real images, float32 [B, H, W, C] in [-1, 1].
        fake: Generated images of the same labels, float32 [B, H, W, C] in [-1, 1].
        labels: int32 [B] if conditional, else None.
        key: The PRNG key of augmentations, and of the points at which the gradient is penalized:
            between or around augmented images, if they are.

    Returns:
        The state with the new critic, and the metrics `d_loss`, `d_grad_norm`, `diversity`; with
        the papers' loss `wasserstein_estimate` (of the distance, `E f(x) - E f(G(z))`), with
        another those of `game_metrics`; those of `gradient_penalties`; and for WGAN-GP
        `gradient_penalty` (without its weight) and `input_grad_norm` (the mean norm of f's gradient
        with respect to its input; 1 when the penalty is 0).
    """
    _, critic = networks(config, state.spec)
    std = standard_deviation(real)

    def loss_fn(params: Any, carried: Any, part: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
        real, fake, labels = part

        def value(images: jax.Array) -> jax.Array:
            return apply_network(critic, params, carried, images, labels)[0]

        seen_real, seen_fake = (
            augmented(config.augment, jax.random.fold_in(key, i), images)
            for i, images in enumerate((real, fake))
        )
        values = (value(seen_real), value(seen_fake))
        if config.loss == "wasserstein":
            loss = jnp.mean(wasserstein_critic_loss(*values))
            metrics = {"wasserstein_estimate": -loss}
        else:
            loss, metrics = game_metrics(ADVERSARIAL_LOSSES[config.loss], *values, real, fake)
        penalty, found = gradient_penalties(
            config, state.step, value, (seen_real, seen_fake), (key, std)
        )
        if isinstance(config, WganGpConfig) and config.gradient_penalty_weight:
            alpha = batch_noise(key, (real.shape[0],), jax.random.uniform)
            slope = input_gradient_norm(value, interpolate(seen_real, seen_fake, alpha))
            found |= {
                "gradient_penalty": jnp.mean((slope - 1) ** 2),
                "input_grad_norm": jnp.mean(slope),
            }
            penalty += config.gradient_penalty_weight * found["gradient_penalty"]
        loss += penalty
        return loss, (carried, {"d_loss": loss, **metrics, **found})

    optimizer = create_optimizer(config.critic, state.step)
    player, metrics = update_player(
        loss_fn, state.discriminator, (real, fake, labels), optimizer, config, "d_grad_norm"
    )
    if isinstance(config, WganConfig):
        clipped = jax.tree.map(
            lambda w: jnp.clip(w, -config.weight_clip, config.weight_clip), player.params
        )
        player = dataclasses.replace(player, params=clipped)
    metrics = mask_penalties(config, state.step, metrics)
    metrics["diversity"] = diversity(real, fake)
    return dataclasses.replace(state, discriminator=player), metrics


def generator_step(
    config: WganConfig | WganGpConfig,
    state: GanState,
    z: jax.Array,
    labels: jax.Array | None,
    key: jax.Array | None = None,
    real: jax.Array | None = None,
) -> tuple[GanState, Metrics]:
    """Take one step of G against the state's critic, and update the moving average.

    Args:
        config: The model.
        state: The state before the step.
        z: Noise, [B, latent_size].
        labels: int32 [B] if conditional, else None.
        key: The PRNG key of augmentations; None without any.
        real: Real images, float32 [B, H, W, C] in [-1, 1], which a relativistic loss needs.

    Returns:
        The state with the new generator, and the metrics `g_loss` and `g_grad_norm`.
    """
    optimizer = create_optimizer(config.generator, state.step)
    player, metrics = update_generator(
        networks(config, state.spec),
        CRITIC_LOSSES[config.loss],
        state,
        (z, labels, real),
        optimizer,
        config,
        augment=functools.partial(augmented, config.augment, key),
    )
    # The moving average counts steps of the generator, not training steps.
    ema = update_ema(state.ema, player.variables, config.ema_decay, state.step // config.n_critic)
    return dataclasses.replace(state, generator=player, ema=ema), metrics


def update_players(
    config: WganConfig | WganGpConfig,
    state: GanState,
    real: jax.Array,
    labels: jax.Array | None,
    key: jax.Array,
) -> tuple[GanState, Metrics]:
    """Take a step of the critic, and after every `n_critic` of them one of G (algorithm 1).

    Args:
        config: The model.
        state: The state before the step.
        real: Real images, float32 [B, H, W, C] in [-1, 1].
        labels: int32 [B] if conditional, else None.
        key: The PRNG key of all draws.

    Returns:
        The state after the step, and the metrics of both players; those of G are `MaskedMetric`s.
    """
    chex.assert_shape(real, (None, *state.spec.shape))
    generator, _ = networks(config, state.spec)
    z_key, penalty_key, generator_key = jax.random.split(key, 3)
    shape = (real.shape[0], config.latent_size)
    z, player = batch_noise(z_key, shape), state.generator
    fake, _ = apply_network(generator, player.params, player.collections, z, labels)
    state, metrics = critic_step(config, state, real, fake, labels, penalty_key)

    def update(state: GanState) -> tuple[GanState, Metrics]:
        augment_key = jax.random.fold_in(generator_key, 0)
        z = batch_noise(generator_key, shape)
        return generator_step(config, state, z, labels, augment_key, real)

    is_due = (state.step + 1) % config.n_critic == 0
    state, g_metrics = when(is_due, update, state, ["g_loss", "g_grad_norm"])
    return dataclasses.replace(state, step=state.step + 1), {**metrics, **g_metrics}


def step(
    config: WganConfig | WganGpConfig, state: GanState, batch: Batch, key: jax.Array
) -> tuple[GanState, Metrics]:
    """Take one training step on uint8 images [B, H, W, C]; see `update_players`."""
    real = real_images(batch, state.spec)
    labels = jnp.asarray(batch.labels) if config.conditional else None
    return update_players(config, state, real, labels, key)


def decode(
    config: WganConfig | WganGpConfig, state: GanState, latents: jax.Array, labels: jax.Array
) -> jax.Array:
    """Map latents [n, latent_size] to images, float32 [n, H, W, C] in [-1, 1].

    This uses the moving average of the generator if there is one, and running batch statistics.
    The labels, int32 [n], are used if the model is conditional.
    """
    seen = labels if config.conditional else None
    return gan.decode(networks(config, state.spec), state, latents, seen)


def sample(
    config: WganConfig | WganGpConfig, state: GanState, key: jax.Array, labels: jax.Array
) -> jax.Array:
    """Draw an image for each label, int32 [n]: float32 [n, H, W, C] in [-1, 1]; see `decode`."""
    latents = jax.random.normal(key, (labels.shape[0], config.latent_size))
    return decode(config, state, latents, labels)


WGAN = Family(WganConfig, init, step, sample, "Arjovsky et al. 2017", decode=decode)
WGAN_GP = Family(WganGpConfig, init, step, sample, "Gulrajani et al. 2017", decode=decode)
