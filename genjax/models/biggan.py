"""BigGAN: Brock, Donahue and Simonyan 2019 (arXiv:1809.11096); as configurations SAGAN and SNGAN.

A residual, class-conditional GAN that is scaled up. A block of G doubles the size, one of D halves
it; 4x4 pixels of 16 times the features lie at the bottom. For 128x128 (appendix B, table 4):

    G: z, class -> 4x4x16ch -> 8x8x16ch -> 16x16x8ch -> 32x32x4ch -> 64x64x2ch, attention
       -> 128x128xch -> tanh
    D: 128x128x3 -> 64x64xch, attention -> 32x32x2ch -> 16x16x4ch -> 8x8x8ch -> 4x4x16ch
       -> sum over pixels h -> w h + embed(class) h

z is split: its first part makes the 4x4 pixels, a further part of each block, beside an embedding
of the class that all blocks share, sets the gains and biases of its batch norms (`hierarchical`).
Every weight of both players is divided by its largest singular value. D learns by the hinge loss,
`discriminator_steps` times for each step of G, which is kept near orthogonal. Samples come from a
moving average of G, with batch statistics that are taken anew of the noise that is sampled with:
truncated noise gives cleaner and less varied images (section 3.1).

BigGAN-deep (`deep`, appendix B.2) has two bottleneck blocks for each, and gives all of z to all.
"""

import dataclasses
from typing import Annotated, Any, Literal

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from pydantic import Field
from pydantic.dataclasses import dataclass

from genjax.nn.attention import SelfAttention
from genjax.nn.norm import BatchNorm, ConditionalBatchNorm
from genjax.nn.remat import end_of_block
from genjax.nn.replicas import mean_over_replicas, normal_for_batch
from genjax.nn.residual import downsample, upsample
from genjax.nn.resolution import base_resolution
from genjax.nn.spectral import Conv, Dense, Embed
from genjax.objectives import adversarial
from genjax.objectives.penalties import orthogonal_penalty
from genjax.steps.diagnostics import discriminator_metrics
from genjax.steps.optim import AdamConfig, adam
from genjax.steps.state import GanState, SpectralPlayer
from genjax.steps.update import (
    GradientConfig,
    apply_gradients,
    create_gan_state,
    create_player,
    global_norm,
    gradients,
    update_ema,
)
from genjax.types import CHECKED, Batch, Family, ImageSpec, MaskedMetric, Metrics, UsageError

# Channels after each block of G, in units of its features, by how often the size doubles: the
# paper's tables 4 to 9 for 64 to 512 pixels; up to 32, those of its code for CIFAR-10.
GENERATOR_WIDTHS = {
    1: (4,),
    2: (4, 4),
    3: (4, 4, 4),
    4: (16, 8, 4, 2),
    5: (16, 8, 4, 2, 1),
    6: (16, 8, 8, 4, 2, 1),
    7: (16, 8, 8, 4, 2, 1, 1),
}
# After each block of D; the last block keeps the size.
DISCRIMINATOR_WIDTHS = {
    1: (4, 4, 4, 4),
    2: (4, 4, 4, 4),
    3: (4, 4, 4, 4),
    4: (1, 2, 4, 8, 16),
    5: (1, 2, 4, 8, 16, 16),
    6: (1, 2, 4, 8, 8, 16, 16),
    7: (1, 1, 2, 4, 8, 8, 16, 16),
}
# Small images are halved so often at most, by the first blocks.
SMALL_UP_TO, SMALL_HALVINGS = 3, 2
# Of BigGAN-deep: blocks at each size, and by how much the bottleneck is narrower.
DEPTH, BOTTLENECK = 2, 4
# Standing statistics are the mean over so many batches of so many samples.
STANDING_BATCHES, STANDING_BATCH = 16, 64


@dataclass(frozen=True, config=CHECKED)
class PlayerConfig(AdamConfig):
    """One player: its network, and its Adam."""

    features: Annotated[int, Field(gt=0)] = 64
    """The paper's ch: channels of the widest image; those of smaller ones are multiples of it."""
    attention_resolutions: tuple[Annotated[int, Field(gt=0)], ...] = (64,)
    """Heights after whose block self-attention stands."""
    spectral_norm: bool = True
    """Whether each weight is divided by its largest singular value."""


@dataclass(frozen=True, config=CHECKED)
class BigganConfig(GradientConfig):
    """BigGAN."""

    latent_size: Annotated[int, Field(gt=0)] = 120
    """Size of the noise vector z; if hierarchical, a multiple of the blocks of G and one more."""
    hierarchical: bool = True
    """Whether each block of G sees a part of z (deep: all of z)."""
    conditional: bool = True
    """Whether both players see the class, where the data have classes."""
    shared_size: Annotated[int, Field(ge=0)] = 128
    """Size of the class embedding that all of G's norms share; 0: each norm has its own."""
    deep: bool = False
    """BigGAN-deep: two bottleneck blocks for each."""
    loss: adversarial.AdversarialLossName = "hinge"
    """The game."""
    discriminator_steps: Annotated[int, Field(gt=0)] = 2
    """Steps of D for one of G; a training step is one of D."""
    orthogonal_weight: Annotated[float, Field(ge=0)] = 1e-4
    """Weight of G's orthogonal regularization, off the diagonal; 0 for none."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    """Decay of the moving average of G that is sampled from; 0 for none."""
    ema_start: Annotated[int, Field(ge=0)] = 0
    """Steps of G before which the average is G itself (the paper: 20,000)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type; parameters, statistics, singular values, losses and updates stay float32."""
    generator: PlayerConfig = PlayerConfig(learning_rate=5e-5, beta1=0.0)
    """The generator."""
    discriminator: PlayerConfig = PlayerConfig(learning_rate=2e-4, beta1=0.0)
    """The discriminator."""


def is_conditional(config: BigganConfig, spec: ImageSpec) -> bool:
    """Whether the players see the class."""
    return config.conditional and spec.classes > 1


class GeneratorBlock(nn.Module):
    """[B, H, W, C], condition [B, K] -> [B, 2H, 2W, features] (appendix B, figure 15a)."""

    features: int
    spectral_norm: bool
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array, train: bool) -> jax.Array:
        def conv(x: jax.Array, size: int, name: str) -> jax.Array:
            layer = Conv(
                self.features, size, spectral_norm=self.spectral_norm, dtype=self.dtype, name=name
            )
            return layer(x, train)

        h = upsample(nn.relu(_norm(self, x, condition, train, "bn1")))
        h = conv(h, 3, "conv1")
        h = conv(nn.relu(_norm(self, h, condition, train, "bn2")), 3, "conv2")
        # Before the size is doubled it is the same, at a quarter of the cost.
        return end_of_block(h + upsample(conv(x, 1, "conv_sc")))


class DeepGeneratorBlock(nn.Module):
    """A bottleneck: [B, H, W, C] -> [B, H, W, features], or twice the size (figure 16a).

    Where channels are fewer after it, the shortcut drops the last of them.
    """

    features: int
    up: bool
    spectral_norm: bool
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array, train: bool) -> jax.Array:
        def conv(x: jax.Array, features: int, size: int, name: str) -> jax.Array:
            layer = Conv(
                features, size, spectral_norm=self.spectral_norm, dtype=self.dtype, name=name
            )
            return layer(x, train)

        narrow = x.shape[-1] // BOTTLENECK
        h = conv(nn.relu(_norm(self, x, condition, train, "bn1")), narrow, 1, "conv1")
        h = nn.relu(_norm(self, h, condition, train, "bn2"))
        x = x[..., : self.features]
        if self.up:
            h, x = upsample(h), upsample(x)
        h = conv(h, narrow, 3, "conv2")
        h = conv(nn.relu(_norm(self, h, condition, train, "bn3")), narrow, 3, "conv3")
        h = conv(nn.relu(_norm(self, h, condition, train, "bn4")), self.features, 1, "conv4")
        return end_of_block(h + x)


def _norm(
    block: GeneratorBlock | DeepGeneratorBlock,
    x: jax.Array,
    condition: jax.Array,
    train: bool,
    name: str,
) -> jax.Array:
    """Batch norm under a condition; the plain one where it is empty."""
    if condition.shape[-1] == 0:
        y: jax.Array = BatchNorm(name=name)(x, train)
        return y
    return ConditionalBatchNorm(block.spectral_norm, name=name)(x, condition, train)


class Generator(nn.Module):
    """z [B, Z], labels int32 [B] or None -> images [B, H, W, C], float32 in [-1, 1]."""

    config: BigganConfig
    spec: ImageSpec

    @nn.compact
    def __call__(self, z: jax.Array, labels: jax.Array | None, train: bool) -> jax.Array:
        config, player = self.config, self.config.generator
        halvings, (height, width) = base_resolution(self.spec)
        widths = [player.features * width for width in GENERATOR_WIDTHS[halvings]]
        layer: dict[str, Any] = {"spectral_norm": player.spectral_norm, "dtype": config.dtype}
        condition = jnp.zeros((len(z), 0))
        if labels is not None and config.shared_size:
            embed = Embed(self.spec.classes, config.shared_size, spectral_norm=False, name="shared")
            condition = embed(labels, train)
        elif labels is not None:
            condition = jax.nn.one_hot(labels, self.spec.classes)
        conditions = [condition] * halvings
        if config.hierarchical and config.deep:
            z = jnp.concatenate([condition, z], axis=1)
            conditions = [z] * halvings
        elif config.hierarchical:
            z, *parts = jnp.split(z, halvings + 1, axis=1)
            conditions = [jnp.concatenate([condition, part], axis=1) for part in parts]
        # The first block begins as wide as it ends.
        x = Dense(height * width * widths[0], **layer, name="linear")(z, train)
        x = x.reshape(-1, height, width, widths[0])
        for i, features in enumerate(widths):
            if config.deep:
                for j in range(DEPTH):
                    last = j == DEPTH - 1
                    inside = features if last else x.shape[-1]
                    block = DeepGeneratorBlock(inside, last, **layer, name=f"block_{i}_{j}")
                    x = block(x, conditions[i], train)
            else:
                x = GeneratorBlock(features, **layer, name=f"block_{i}")(x, conditions[i], train)
            if x.shape[1] in player.attention_resolutions:
                x = SelfAttention(**layer, name=f"attention_{i}")(x, train)
        x = nn.relu(BatchNorm(name="norm")(x, train))
        x = Conv(self.spec.channels, 3, **layer, name="output")(x, train)
        return jnp.tanh(x.astype(jnp.float32))


class DiscriminatorBlock(nn.Module):
    """[B, H, W, C] -> [B, H, W, features], or half the size (appendix B, figure 15b)."""

    features: int
    first: bool
    down: bool
    spectral_norm: bool
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def conv(x: jax.Array, size: int, name: str) -> jax.Array:
            layer = Conv(
                self.features, size, spectral_norm=self.spectral_norm, dtype=self.dtype, name=name
            )
            return layer(x, train)

        h = conv(x if self.first else nn.relu(x), 3, "conv1")
        h = conv(nn.relu(h), 3, "conv2")
        if self.down:
            h, x = downsample(h), downsample(x)
        if self.down or x.shape[-1] != self.features:
            x = conv(x, 1, "conv_sc")
        return end_of_block(h + x)


class DeepDiscriminatorBlock(nn.Module):
    """A bottleneck: [B, H, W, C] -> [B, H, W, features], or half the size (figure 16b)."""

    features: int
    down: bool
    spectral_norm: bool
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def conv(x: jax.Array, features: int, size: int, name: str) -> jax.Array:
            layer = Conv(
                features, size, spectral_norm=self.spectral_norm, dtype=self.dtype, name=name
            )
            return layer(x, train)

        narrow = self.features // BOTTLENECK
        h = conv(nn.relu(x), narrow, 1, "conv1")
        h = conv(nn.relu(h), narrow, 3, "conv2")
        h = nn.relu(conv(nn.relu(h), narrow, 3, "conv3"))
        if self.down:
            h, x = downsample(h), downsample(x)
        if x.shape[-1] != self.features:
            more = conv(x, self.features - x.shape[-1], 1, "conv_sc")
            x = jnp.concatenate([x, more], axis=-1)
        return end_of_block(conv(h, self.features, 1, "conv4") + x)


class Discriminator(nn.Module):
    """Images [B, H, W, C] in [-1, 1], labels int32 [B] or None -> logits [B], float32.

    The class counts by a projection (Miyato and Koyama 2018, equation 3).
    """

    config: BigganConfig
    spec: ImageSpec

    @nn.compact
    def __call__(self, images: jax.Array, labels: jax.Array | None, train: bool) -> jax.Array:
        config, player = self.config, self.config.discriminator
        halvings, _ = base_resolution(self.spec)
        layer: dict[str, Any] = {"spectral_norm": player.spectral_norm, "dtype": config.dtype}
        widths = [player.features * width for width in DISCRIMINATOR_WIDTHS[halvings]]
        downs = min(halvings, SMALL_HALVINGS) if halvings <= SMALL_UP_TO else halvings
        x = images
        if config.deep:
            x = Conv(widths[0], 3, **layer, name="input")(x, train)
            widths = widths[1:]
        for i, features in enumerate(widths):
            down = i < downs
            if config.deep:
                for j in range(DEPTH):
                    name = f"block_{i}_{j}"
                    x = DeepDiscriminatorBlock(features, down and j == 0, **layer, name=name)(
                        x, train
                    )
            else:
                block = DiscriminatorBlock(features, i == 0, down, **layer, name=f"block_{i}")
                x = block(x, train)
            if x.shape[1] in player.attention_resolutions:
                x = SelfAttention(**layer, name=f"attention_{i}")(x, train)
        h = jnp.sum(nn.relu(x).astype(jnp.float32), axis=(1, 2))
        layer["dtype"] = "float32"
        logits = Dense(1, **layer, name="linear")(h, train)[:, 0]
        if labels is not None:
            logits += jnp.sum(
                Embed(self.spec.classes, h.shape[-1], **layer, name="embed")(labels, train) * h,
                axis=1,
            )
        return logits


def networks(config: BigganConfig, spec: ImageSpec) -> tuple[Generator, Discriminator]:
    """The two networks that `config` describes."""
    return Generator(config, spec), Discriminator(config, spec)


def init(config: BigganConfig, key: jax.Array, spec: ImageSpec) -> GanState:
    """Initial weights, orthogonal, a function of `key` alone.

    Raises:
        UsageError: A size that cannot be halved to 4 to 7 pixels, or a z that cannot be split.
    """
    halvings, _ = base_resolution(spec)
    if halvings not in GENERATOR_WIDTHS:
        raise UsageError(f"images of {spec.height}x{spec.width}: should be up to 512 or so")
    parts = halvings + 1
    if config.hierarchical and not config.deep and config.latent_size % parts:
        raise UsageError(
            f"latent_size = {config.latent_size}: should be a multiple of {parts}, for the "
            f"{halvings} blocks of G and one more"
        )
    generator, discriminator = networks(config, spec)
    generator_key, discriminator_key = jax.random.split(key)
    labels = jnp.zeros(1, jnp.int32) if is_conditional(config, spec) else None
    z, images = jnp.zeros((1, config.latent_size)), jnp.zeros((1, *spec.shape))
    variables = {
        "generator": generator.init(generator_key, z, labels, train=False),
        "discriminator": discriminator.init(discriminator_key, images, labels, train=False),
    }
    return from_variables(config, spec, variables)


def from_variables(config: BigganConfig, spec: ImageSpec, variables: dict) -> GanState:
    """A state at step 0; each player's variables are its params, batch_stats and spectral."""

    def player(name: str, settings: PlayerConfig) -> SpectralPlayer:
        new = create_player(variables[name], adam(settings))
        spectral = variables[name].get("spectral", {})
        return SpectralPlayer(new.params, new.opt_state, new.stats, spectral)

    generator = player("generator", config.generator)
    discriminator = player("discriminator", config.discriminator)
    return create_gan_state(generator, discriminator, spec, config.ema_decay > 0)


def generate(
    config: BigganConfig, state: GanState, params: Any, collections: Any, z: Any, labels: Any
) -> tuple[jax.Array, Any]:
    """Images of a batch by G as it trains, and its `batch_stats` and `spectral` after it."""
    generator, _ = networks(config, state.spec)
    images, updated = generator.apply(
        {"params": params, **collections}, z, labels, train=True, mutable=list(collections)
    )
    return images, {**collections, **updated}


def discriminate(
    config: BigganConfig, state: GanState, params: Any, spectral: Any, images: Any, labels: Any
) -> tuple[jax.Array, Any]:
    """D's logits of a batch, and its `spectral` after it."""
    _, discriminator = networks(config, state.spec)
    logits, updated = discriminator.apply(
        {"params": params, "spectral": spectral}, images, labels, train=True, mutable=["spectral"]
    )
    return logits, updated.get("spectral", {})


def _collections(state: GanState) -> dict[str, Any]:
    player: Any = state.generator
    return {"batch_stats": player.stats, "spectral": player.spectral}


def singular_values(spectral: Any) -> list[jax.Array]:
    """The largest singular value of each layer's weight, which the layer divides by."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(spectral)
    return [leaf for path, leaf in leaves if path[-1].key == "sigma"]


def largest_singular_value(name: str, spectral: Any) -> Metrics:
    """The largest over all layers, under this name; empty without spectral normalization."""
    values = singular_values(spectral)
    return {name: jnp.max(jnp.stack(values))} if values else {}


def discriminator_step(
    config: BigganConfig,
    state: GanState,
    real: jax.Array,
    z: jax.Array,
    labels: jax.Array | None,
) -> tuple[GanState, Metrics]:
    """One step of D.

    Args:
        config: The model.
        state: Before the step.
        real: Real images, float32 [B, H, W, C] in [-1, 1].
        z: Noise of the generated ones, [B, latent_size].
        labels: int32 [B] of both if conditional, else None.

    Returns:
        The state with another discriminator, and metrics: `d_loss`, `d_grad_norm`, those of
        `discriminator_metrics`, `logit_gap` (the mean logit of real images minus that of generated
        ones: the hinge asks for 2), and `d_max_singular_value`, over the weights of all layers.
    """

    def loss_fn(params: Any, spectral: Any, part: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
        real, z, labels = part
        weights = state.generator.params
        fake, _ = generate(config, state, weights, _collections(state), z, labels)
        images = jnp.concatenate([real, fake])
        both = None if labels is None else jnp.concatenate([labels, labels])
        logits, updated = discriminate(config, state, params, spectral, images, both)
        real_logits, fake_logits = jnp.split(logits, 2)
        losses = adversarial.ADVERSARIAL_LOSSES[config.loss]
        loss = jnp.mean(losses.discriminator_loss(real_logits, fake_logits))
        metrics = {"d_loss": loss, **discriminator_metrics(real_logits, fake_logits, real, fake)}
        metrics["logit_gap"] = jnp.mean(real_logits) - jnp.mean(fake_logits)
        return loss, (updated, metrics)

    player: Any = state.discriminator
    batch = (real, z, labels)
    grads, spectral, metrics = gradients(loss_fn, player.params, player.spectral, batch, config)
    grads, metrics = mean_over_replicas((grads, metrics))
    player = apply_gradients(player, grads, adam(config.discriminator))
    player = dataclasses.replace(player, spectral=spectral)
    metrics["d_grad_norm"] = global_norm(grads)
    metrics |= largest_singular_value("d_max_singular_value", spectral)
    return dataclasses.replace(state, discriminator=player), metrics


def generator_step(
    config: BigganConfig, state: GanState, z: jax.Array, labels: jax.Array | None
) -> tuple[GanState, Metrics]:
    """One step of G against the state's discriminator, and of the moving average.

    Args:
        config: The model.
        state: Before the step.
        z: Noise, [B, latent_size].
        labels: int32 [B] if conditional, else None.

    Returns:
        The state with another generator, and metrics: `g_loss`, `g_grad_norm`, and
        `g_max_singular_value`, over the weights of all layers, which explodes when training
        collapses (section 4.1).
    """

    def loss_fn(params: Any, collections: Any, part: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
        z, labels = part
        fake, updated = generate(config, state, params, collections, z, labels)
        opponent: Any = state.discriminator
        logits, _ = discriminate(config, state, opponent.params, opponent.spectral, fake, labels)
        loss = jnp.mean(adversarial.ADVERSARIAL_LOSSES[config.loss].generator_loss(logits))
        return loss + orthogonal_loss(config, params), (updated, {"g_loss": loss})

    grads, collections, metrics = gradients(
        *(loss_fn, state.generator.params, _collections(state), (z, labels), config)
    )
    grads, metrics = mean_over_replicas((grads, metrics))
    player: Any = apply_gradients(state.generator, grads, adam(config.generator))
    spectral = collections["spectral"]
    player = dataclasses.replace(player, stats=collections["batch_stats"], spectral=spectral)
    g_steps = state.step // config.discriminator_steps
    decay = jnp.where(g_steps < config.ema_start, 0.0, config.ema_decay)
    ema = update_ema(state.ema, player.variables, decay, g_steps)
    metrics["g_grad_norm"] = global_norm(grads)
    metrics |= largest_singular_value("g_max_singular_value", spectral)
    return dataclasses.replace(state, generator=player, ema=ema), metrics


def orthogonal_loss(config: BigganConfig, params: Any) -> jax.Array:
    """G's orthogonal regularization: of every matrix and kernel but the shared embedding, []."""
    if not config.orthogonal_weight:
        return jnp.zeros(())
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    penalties = [orthogonal_penalty(leaf) for path, leaf in leaves if path[-1].key == "kernel"]
    return config.orthogonal_weight * sum(penalties, jnp.zeros(()))


def step(
    config: BigganConfig, state: GanState, batch: Batch, key: jax.Array
) -> tuple[GanState, Metrics]:
    """A step of D on a batch of uint8 images, and after every `discriminator_steps` one of G."""
    real = jnp.asarray(batch.images, jnp.float32) / 127.5 - 1
    chex.assert_shape(real, (None, *state.spec.shape))
    labels = jnp.asarray(batch.labels) if is_conditional(config, state.spec) else None
    z_key, g_key = jax.random.split(key)
    shape = (len(real), config.latent_size)
    state, metrics = discriminator_step(config, state, real, normal_for_batch(z_key, shape), labels)

    def update(state: GanState) -> tuple[GanState, Metrics]:
        return generator_step(config, state, normal_for_batch(g_key, shape), labels)

    def skip(state: GanState) -> tuple[GanState, Metrics]:
        names = [
            "g_loss",
            "g_grad_norm",
            *["g_max_singular_value"] * config.generator.spectral_norm,
        ]
        return state, {name: jnp.zeros(()) for name in names}

    is_due = (state.step + 1) % config.discriminator_steps == 0
    state, g_metrics = jax.lax.cond(is_due, update, skip, state)
    metrics |= {name: MaskedMetric(value, is_due) for name, value in g_metrics.items()}
    return dataclasses.replace(state, step=state.step + 1), metrics


def draw(config: BigganConfig, key: jax.Array, n: int, truncation: float | None) -> jax.Array:
    """Noise, [n, latent_size]: normal, values further from 0 than `truncation` drawn again."""
    shape = (n, config.latent_size)
    if truncation is None:
        return jax.random.normal(key, shape)
    return jax.random.truncated_normal(key, -truncation, truncation, shape)


def prepare(
    config: BigganConfig, state: GanState, key: jax.Array, truncation: float | None = None
) -> GanState:
    """The state with standing statistics: those of batches of noise, truncated as samples will be.

    Running statistics are of a G that has changed since, and of noise that was not truncated
    (appendix C).
    """
    variables = state.generator.variables if state.ema is None else state.ema
    generator, _ = networks(config, state.spec)
    momentum = BatchNorm.momentum
    collections = {"batch_stats": jax.tree.map(jnp.zeros_like, variables["batch_stats"])}
    collections["spectral"] = variables["spectral"]

    def one(sums: Any, key: jax.Array) -> tuple[Any, None]:
        z_key, label_key = jax.random.split(key)
        labels = None
        if is_conditional(config, state.spec):
            labels = jax.random.randint(label_key, (STANDING_BATCH,), 0, state.spec.classes)
        z = draw(config, z_key, STANDING_BATCH, truncation)
        _, updated = generator.apply(
            {"params": variables["params"], **collections},
            *(z, labels, True),
            mutable=list(collections),
        )
        # From statistics of 0 they become momentum times those of the batch.
        stats = updated["batch_stats"]
        return jax.tree.map(lambda a, b: a + b / momentum, sums, stats), None

    keys = jax.random.split(key, STANDING_BATCHES)
    sums, _ = jax.lax.scan(one, collections["batch_stats"], keys)
    stats = jax.tree.map(lambda x: x / STANDING_BATCHES, sums)
    if state.ema is None:
        player = dataclasses.replace(state.generator, stats=stats)
        return dataclasses.replace(state, generator=player)
    return dataclasses.replace(state, ema={**state.ema, "batch_stats": stats})


def decode(
    config: BigganConfig, state: GanState, latents: jax.Array, labels: jax.Array
) -> jax.Array:
    """Latents [n, latent_size] to images, float32 [n, H, W, C] in [-1, 1].

    By the generator, or its moving average, with the statistics that it has; the labels, int32 [n],
    count if conditional.
    """
    generator, _ = networks(config, state.spec)
    variables = state.generator.variables if state.ema is None else state.ema
    seen = labels if is_conditional(config, state.spec) else None
    images: Any = generator.apply(variables, latents, seen, train=False)
    return images


def sample(
    config: BigganConfig,
    state: GanState,
    key: jax.Array,
    labels: jax.Array,
    truncation: float | None = None,
) -> jax.Array:
    """Images.

    Args:
        config: The model.
        state: Of `prepare`, with the same truncation.
        key: Of the noise.
        labels: int32 [n], an image for each; their classes count if conditional.
        truncation: Noise further from 0 is drawn again; None for all of the normal distribution.

    Returns:
        float32 [n, H, W, C] in [-1, 1].
    """
    return decode(config, state, draw(config, key, len(labels), truncation), labels)


def health(config: BigganConfig, state: GanState, batch: Batch) -> dict[str, jax.Array]:
    """The largest singular value of each layer's weight, in each player.

    As training nears its collapse those of G, above all of its first layer, explode (section 4.1);
    spikes in those of D are no such sign (section 4.2).
    """
    del config, batch
    found = {}
    for name in ("generator", "discriminator"):
        values = singular_values(getattr(state, name).spectral)
        if values:
            found[f"{name}_singular_value"] = jnp.stack(values)
    return found


FAMILY = Family(
    BigganConfig,
    init,
    step,
    sample,
    "Brock et al. 2019",
    decode=decode,
    prepare=prepare,
    health=health,
)
