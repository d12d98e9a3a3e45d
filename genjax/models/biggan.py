"""BigGAN: Brock, Donahue and Simonyan 2019 (arXiv:1809.11096); as configurations SAGAN and SNGAN.

A large residual, class-conditional GAN. Each block of G doubles the size and each block of D halves
it, from and to 4x4 pixels with 16 times the features. For 128x128 (appendix B, table 4):

    G: z, class -> 4x4x16ch -> 8x8x16ch -> 16x16x8ch -> 32x32x4ch -> 64x64x2ch, attention
       -> 128x128xch -> tanh
    D: 128x128x3 -> 64x64xch, attention -> 32x32x2ch -> 16x16x4ch -> 8x8x8ch -> 4x4x16ch
       -> sum over pixels h -> w h + embed(class) h

z is split (`hierarchical`): its first part makes the 4x4 pixels; each block gets a further part,
which together with a class embedding that all blocks share sets the gains and biases of its batch
norms. Every weight of both players is divided by its largest singular value. D minimizes the hinge
loss and takes `discriminator_steps` steps for each of G; G's weights are kept near orthogonal.
Samples come from a moving average of G, with batch statistics computed anew for the noise at hand:
truncated noise gives cleaner and less varied images (section 3.1).

BigGAN-deep (`deep`, appendix B.2) has two bottleneck blocks in the place of each block, and gives
all of z to every block.
"""

import dataclasses
import functools
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from pydantic import Field

from genjax.nn.attention import SelfAttention
from genjax.nn.batch import batch_noise, batch_size
from genjax.nn.labels import is_conditional
from genjax.nn.norm import BatchNorm, ConditionalBatchNorm
from genjax.nn.remat import end_of_block
from genjax.nn.residual import downsample, upsample
from genjax.nn.resolution import base_resolution
from genjax.nn.spectral import Conv, Dense, Embed
from genjax.objectives import adversarial
from genjax.objectives.penalties import orthogonal_penalty
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
from genjax.steps.state import GanState, SpectralPlayer
from genjax.steps.update import (
    apply_network,
    create_player,
    update_ema,
    update_player,
    when,
)
from genjax.types import Batch, Family, ImageSpec, Metrics, UsageError, checked

# Channels after each block of G, in units of its features, by the number of doublings of the size:
# for 64 to 512 pixels from the paper's tables 4 to 9; up to 32 from its code for CIFAR-10.
GENERATOR_WIDTHS = {
    1: (4,),
    2: (4, 4),
    3: (4, 4, 4),
    4: (16, 8, 4, 2),
    5: (16, 8, 4, 2, 1),
    6: (16, 8, 8, 4, 2, 1),
    7: (16, 8, 8, 4, 2, 1, 1),
}
# Channels after each block of D, in the same units; the last block keeps the size.
DISCRIMINATOR_WIDTHS = {
    1: (4, 4, 4, 4),
    2: (4, 4, 4, 4),
    3: (4, 4, 4, 4),
    4: (1, 2, 4, 8, 16),
    5: (1, 2, 4, 8, 16, 16),
    6: (1, 2, 4, 8, 8, 16, 16),
    7: (1, 1, 2, 4, 8, 8, 16, 16),
}
# D halves images with up to SMALL_UP_TO halvings only SMALL_HALVINGS times, in its first blocks.
SMALL_UP_TO, SMALL_HALVINGS = 3, 2
# BigGAN-deep: blocks at each size, and the factor by which the bottleneck is narrower.
DEPTH, BOTTLENECK = 2, 4
# Standing statistics are the mean over STANDING_BATCHES batches of STANDING_BATCH samples.
STANDING_BATCHES, STANDING_BATCH = 16, 64


@checked
class PlayerConfig(OptimizerConfig):
    """The network and the optimizer of one player."""

    features: Annotated[int, Field(gt=0)] = 64
    """The paper's ch: channels at the full size; those at smaller sizes are multiples of it."""
    attention_resolutions: tuple[Annotated[int, Field(gt=0)], ...] = (64,)
    """Heights in pixels; a block that gives images of one of them is followed by self-attention."""
    spectral_norm: bool = True
    """Whether each weight is divided by its largest singular value."""


@checked
class BigganConfig(PenaltyConfig, AugmentConfig):
    """The config of BigGAN."""

    latent_size: Annotated[int, Field(gt=0)] = 120
    """Size of the noise vector z; if hierarchical, a multiple of G's number of blocks plus 1."""
    hierarchical: bool = True
    """Whether each block of G sees a part of z (deep: all of z)."""
    conditional: bool = True
    """Whether both players see the class label, if the data have classes."""
    shared_size: Annotated[int, Field(ge=0)] = 128
    """Size of the class embedding that all of G's norms share; 0 gives each norm its own."""
    deep: bool = False
    """Whether two bottleneck blocks stand in the place of each block (BigGAN-deep)."""
    loss: adversarial.AdversarialLossName = "hinge"
    """Pair of losses: G minimizes -log D(G(z)) (non_saturating) or log(1 - D(G(z))) (saturating),
    both play on squared distances (least_squares), D up to a margin (hinge), or D tells which of a
    real and a generated image is the real one (relativistic, to go with R1 and R2)."""
    discriminator_steps: Annotated[int, Field(gt=0)] = 2
    """Steps of D for each step of G; a training step is one of D."""
    orthogonal_weight: Annotated[float, Field(ge=0)] = 1e-4
    """Weight of G's orthogonal regularization, of pairs of outputs only; 0 for none."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    """Decay of the moving average of G that is sampled from; 0 for none."""
    ema_start: Annotated[int, Field(ge=0)] = 0
    """Steps of G before which the average is G itself (the paper: 20,000)."""
    batch_norm_epsilon: Annotated[float, Field(gt=0)] = 1e-5
    """Number added to the variance in the norms of G's blocks."""
    spectral_epsilon: Annotated[float, Field(gt=0)] = 1e-6
    """Least norm of a vector in the power iteration that finds singular values."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type; parameters, statistics, singular values, losses and updates stay float32."""
    generator: PlayerConfig = PlayerConfig(learning_rate=5e-5, beta1=0.0)
    """The generator."""
    discriminator: PlayerConfig = PlayerConfig(learning_rate=2e-4, beta1=0.0)
    """The discriminator."""


def layer_settings(config: BigganConfig, player: PlayerConfig) -> dict[str, Any]:
    """Return the attributes that all layers of a player with spectral normalization share."""
    return {
        "spectral_norm": player.spectral_norm,
        "epsilon": config.spectral_epsilon,
        "dtype": config.dtype,
    }


class GeneratorBlock(nn.Module):
    """A block of G (figure 15a): [B, H, W, C], condition [B, K] -> [B, 2H, 2W, features]."""

    features: int
    layer: dict[str, Any]
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array, train: bool) -> jax.Array:
        def conv(x: jax.Array, size: int, name: str) -> jax.Array:
            return Conv(self.features, size, **self.layer, name=name)(x, train)

        h = upsample(nn.relu(_norm(self, x, condition, train, "bn1")))
        h = conv(h, 3, "conv1")
        h = conv(nn.relu(_norm(self, h, condition, train, "bn2")), 3, "conv2")
        # A 1x1 convolution commutes with the doubling, and costs a quarter before it.
        return end_of_block(h + upsample(conv(x, 1, "conv_sc")))


class DeepGeneratorBlock(nn.Module):
    """A bottleneck of G (figure 16a): [B, H, W, C] -> [B, H, W, features], or twice the size.

    Where it has fewer output than input channels, the shortcut drops the last of them.
    """

    features: int
    up: bool
    layer: dict[str, Any]
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array, train: bool) -> jax.Array:
        def conv(x: jax.Array, features: int, size: int, name: str) -> jax.Array:
            return Conv(features, size, **self.layer, name=name)(x, train)

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
    """Apply batch norm given a condition [B, K]; plain batch norm where K is 0."""
    if condition.shape[-1] == 0:
        y: jax.Array = BatchNorm(epsilon=block.epsilon, name=name)(x, train)
        return y
    spectral_norm, spectral_epsilon = block.layer["spectral_norm"], block.layer["epsilon"]
    norm = ConditionalBatchNorm(spectral_norm, block.epsilon, spectral_epsilon, name=name)
    return norm(x, condition, train)


class Generator(nn.Module):
    """The generator: z [B, Z], labels int32 [B] or None -> images [B, H, W, C] in [-1, 1]."""

    config: BigganConfig
    spec: ImageSpec

    @nn.compact
    def __call__(self, z: jax.Array, labels: jax.Array | None, train: bool) -> jax.Array:
        config, player = self.config, self.config.generator
        halvings, (height, width) = base_resolution(self.spec)
        widths = [player.features * width for width in GENERATOR_WIDTHS[halvings]]
        epsilon = config.batch_norm_epsilon
        layer = layer_settings(config, player)
        condition = jnp.zeros((z.shape[0], 0))
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
        # The first block has as many input as output channels.
        x = Dense(height * width * widths[0], **layer, name="linear")(z, train)
        x = x.reshape(-1, height, width, widths[0])
        for i, features in enumerate(widths):
            if config.deep:
                for j in range(DEPTH):
                    last = j == DEPTH - 1
                    inside = features if last else x.shape[-1]
                    name = f"block_{i}_{j}"
                    block = DeepGeneratorBlock(inside, last, layer, epsilon, name=name)
                    x = block(x, conditions[i], train)
            else:
                one = GeneratorBlock(features, layer, epsilon, name=f"block_{i}")
                x = one(x, conditions[i], train)
            if x.shape[1] in player.attention_resolutions:
                x = SelfAttention(**layer, name=f"attention_{i}")(x, train)
        x = nn.relu(BatchNorm(name="norm")(x, train))
        x = Conv(self.spec.channels, 3, **layer, name="output")(x, train)
        return jnp.tanh(x.astype(jnp.float32))


class DiscriminatorBlock(nn.Module):
    """A block of D (figure 15b): [B, H, W, C] -> [B, H, W, features], or half the size."""

    features: int
    first: bool
    down: bool
    layer: dict[str, Any]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def conv(x: jax.Array, size: int, name: str) -> jax.Array:
            return Conv(self.features, size, **self.layer, name=name)(x, train)

        h = conv(x if self.first else nn.relu(x), 3, "conv1")
        h = conv(nn.relu(h), 3, "conv2")
        if self.down:
            h, x = downsample(h), downsample(x)
        if self.down or x.shape[-1] != self.features:
            x = conv(x, 1, "conv_sc")
        return end_of_block(h + x)


class DeepDiscriminatorBlock(nn.Module):
    """A bottleneck of D (figure 16b): [B, H, W, C] -> [B, H, W, features], or half the size."""

    features: int
    down: bool
    layer: dict[str, Any]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def conv(x: jax.Array, features: int, size: int, name: str) -> jax.Array:
            return Conv(features, size, **self.layer, name=name)(x, train)

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
    """The discriminator: images [B, H, W, C] in [-1, 1], labels int32 [B] or None -> logits [B].

    The class enters by a projection (Miyato and Koyama 2018, equation 3).
    """

    config: BigganConfig
    spec: ImageSpec

    @nn.compact
    def __call__(self, images: jax.Array, labels: jax.Array | None, train: bool) -> jax.Array:
        config, player = self.config, self.config.discriminator
        halvings, _ = base_resolution(self.spec)
        layer = layer_settings(config, player)
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
                    x = DeepDiscriminatorBlock(features, down and j == 0, layer, name=name)(
                        x, train
                    )
            else:
                block = DiscriminatorBlock(features, i == 0, down, layer, name=f"block_{i}")
                x = block(x, train)
            if x.shape[1] in player.attention_resolutions:
                x = SelfAttention(**layer, name=f"attention_{i}")(x, train)
        h = jnp.sum(nn.relu(x).astype(jnp.float32), axis=(1, 2))
        layer = {**layer, "dtype": "float32"}
        logits = Dense(1, **layer, name="linear")(h, train)[:, 0]
        if labels is not None:
            logits += jnp.sum(
                Embed(self.spec.classes, h.shape[-1], **layer, name="embed")(labels, train) * h,
                axis=1,
            )
        return logits


def networks(config: BigganConfig, spec: ImageSpec) -> tuple[Generator, Discriminator]:
    """Return the generator and the discriminator that `config` describes."""
    return Generator(config, spec), Discriminator(config, spec)


def init(config: BigganConfig, key: jax.Array, spec: ImageSpec) -> GanState:
    """Return the state at step 0, whose orthogonal weights depend on `key` alone.

    Raises:
        UsageError: The size cannot be halved to 4 to 7 pixels, or z cannot be split evenly.
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
    variables = init_networks(
        networks(config, spec), key, config.latent_size, spec, is_conditional(config, spec)
    )
    return from_variables(config, spec, variables)


def from_variables(config: BigganConfig, spec: ImageSpec, variables: dict) -> GanState:
    """Return the state at step 0 from each player's params, batch_stats and spectral."""

    def player(name: str, settings: PlayerConfig) -> SpectralPlayer:
        new = create_player(variables[name], create_optimizer(settings, 0))
        spectral = variables[name].get("spectral", {})
        return SpectralPlayer(new.params, new.opt_state, new.stats, spectral)

    generator = player("generator", config.generator)
    discriminator = player("discriminator", config.discriminator)
    state = create_gan_state(generator, discriminator, spec, config.ema_decay > 0)
    return with_probability(config, state)


def singular_values(player: Any) -> list[jax.Array]:
    """List the largest singular value, [], of each layer's weight, by which the layer divides."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(player.spectral)
    return [leaf for path, leaf in leaves if path[-1].key == "sigma"]


def largest_singular_value(name: str, player: Any) -> Metrics:
    """Return the largest singular value of all layers as metric `name`, or {} if there is none."""
    values = singular_values(player)
    return {name: jnp.max(jnp.stack(values))} if values else {}


def discriminator_step(
    config: BigganConfig,
    state: GanState,
    real: jax.Array,
    z: jax.Array,
    labels: jax.Array | None,
    key: jax.Array | None = None,
) -> tuple[GanState, Metrics]:
    """Take one step of D.

    Args:
        config: The model.
        state: The state before the step.
        real: Real images, float32 [B, H, W, C] in [-1, 1].
        z: Noise for the generated images, [B, latent_size].
        labels: int32 [B] of both real and generated images if conditional, else None.
        key: The PRNG key of augmentations and of DRAGAN's noise; None without any.

    Returns:
        The state with the new discriminator, and the metrics `d_loss`, `d_grad_norm`, those of
        `game_metrics`, `gradient_penalties` and `real_sign`, `logit_gap` (the mean logit of
        real images minus that of generated ones: the hinge asks for 2), and `d_max_singular_value`,
        over the weights of all layers.
    """
    generator, discriminator = networks(config, state.spec)
    opponent, std = state.generator, standard_deviation(real)

    def loss_fn(params: Any, carried: Any, part: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
        real, z, labels = part
        fake, _ = apply_network(generator, opponent.params, opponent.collections, z, labels)
        keys = (None, None) if key is None else jax.random.split(key)
        seen = [
            augment_images(config, state, k, x) for k, x in zip(keys, (real, fake), strict=True)
        ]
        images = jnp.concatenate(seen)
        both = None if labels is None else jnp.concatenate([labels, labels])
        logits, carried_on = apply_network(discriminator, params, carried, images, both)
        real_logits, fake_logits = jnp.split(logits, 2)
        losses = adversarial.ADVERSARIAL_LOSSES[config.loss]
        loss, metrics = game_metrics(losses, real_logits, fake_logits, real, fake)
        metrics |= real_sign(config, losses, real_logits, fake_logits)
        metrics["logit_gap"] = jnp.mean(real_logits) - jnp.mean(fake_logits)
        penalty, found = gradient_penalties(
            config,
            state.step,
            lambda images: apply_network(discriminator, params, carried, images, labels)[0],
            (seen[0], seen[1]),
            (key, std),
        )
        return loss + penalty, (carried_on, metrics | found)

    batch = (real, z, labels)
    optimizer = create_optimizer(config.discriminator, state.step)
    player, metrics = update_player(
        loss_fn, state.discriminator, batch, optimizer, config, "d_grad_norm"
    )
    metrics = mask_penalties(config, state.step, metrics)
    metrics |= largest_singular_value("d_max_singular_value", player)
    return dataclasses.replace(state, discriminator=player), metrics


def generator_step(
    config: BigganConfig,
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
        The state with the new generator, and the metrics `g_loss`, `g_grad_norm`, and
        `g_max_singular_value`, over the weights of all layers, which explodes when training
        collapses (section 4.1).
    """
    player, metrics = update_generator(
        networks(config, state.spec),
        adversarial.ADVERSARIAL_LOSSES[config.loss],
        state,
        (z, labels, real),
        create_optimizer(config.generator, state.step),
        config,
        penalty=lambda params: orthogonal_loss(config, params),
        augment=functools.partial(augment_images, config, state, key),
    )
    g_steps = state.step // config.discriminator_steps
    decay = jnp.where(g_steps < config.ema_start, 0.0, config.ema_decay)
    ema = update_ema(state.ema, player.variables, decay, g_steps)
    metrics |= largest_singular_value("g_max_singular_value", player)
    return dataclasses.replace(state, generator=player, ema=ema), metrics


def orthogonal_loss(config: BigganConfig, params: Any) -> jax.Array:
    """Return G's weighted orthogonal regularization, [], over all weights but the embedding's."""
    if not config.orthogonal_weight:
        return jnp.zeros(())
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    penalties = [orthogonal_penalty(leaf) for path, leaf in leaves if path[-1].key == "kernel"]
    return config.orthogonal_weight * sum(penalties, jnp.zeros(()))


def step(
    config: BigganConfig, state: GanState, batch: Batch, key: jax.Array
) -> tuple[GanState, Metrics]:
    """Take a step of D on uint8 images [B, H, W, C], and at times one of G.

    G takes a step after every `discriminator_steps` of D.
    """
    real = real_images(batch, state.spec)
    labels = jnp.asarray(batch.labels) if is_conditional(config, state.spec) else None
    z_key, g_key = jax.random.split(key)
    shape = (real.shape[0], config.latent_size)
    d_augment_key, g_augment_key = (jax.random.fold_in(each, 0) for each in (z_key, g_key))
    state, metrics = discriminator_step(
        config, state, real, batch_noise(z_key, shape), labels, d_augment_key
    )

    def update(state: GanState) -> tuple[GanState, Metrics]:
        z = batch_noise(g_key, shape)
        return generator_step(config, state, z, labels, g_augment_key, real)

    is_due = (state.step + 1) % config.discriminator_steps == 0
    names = ["g_loss", "g_grad_norm", *["g_max_singular_value"] * config.generator.spectral_norm]
    state, g_metrics = when(is_due, update, state, names)
    state, p_metrics = adapt_probability(config, state, metrics, batch_size(real))
    metrics = {**metrics, **g_metrics, **p_metrics}
    return dataclasses.replace(state, step=state.step + 1), metrics


def draw(config: BigganConfig, key: jax.Array, n: int, truncation: float | None) -> jax.Array:
    """Draw normal noise [n, latent_size], redrawing values further from 0 than `truncation`."""
    shape = (n, config.latent_size)
    if truncation is None:
        return jax.random.normal(key, shape)
    return jax.random.truncated_normal(key, -truncation, truncation, shape)


def prepare(
    config: BigganConfig, state: GanState, key: jax.Array, truncation: float | None = None
) -> GanState:
    """Return the state with standing batch statistics, of noise truncated as the samples' will be.

    The running statistics do not fit: they come from earlier weights of G, and from noise that was
    not truncated (appendix C).
    """
    variables = state.sampling_variables
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
        # Running statistics that start at 0 become momentum times the batch's.
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
    """Map latents [n, latent_size] to images, float32 [n, H, W, C] in [-1, 1].

    This uses the moving average of the generator if there is one, and the state's batch statistics.
    The labels, int32 [n], are used if the model is conditional.
    """
    seen = labels if is_conditional(config, state.spec) else None
    return gan.decode(networks(config, state.spec), state, latents, seen)


def sample(
    config: BigganConfig,
    state: GanState,
    key: jax.Array,
    labels: jax.Array,
    truncation: float | None = None,
) -> jax.Array:
    """Draw images.

    Args:
        config: The model.
        state: The result of `prepare` with the same truncation.
        key: The PRNG key of the noise.
        labels: int32 [n], one for each image; their classes are used if conditional.
        truncation: Noise further from 0 than this is redrawn; None for no truncation.

    Returns:
        float32 [n, H, W, C] in [-1, 1].
    """
    return decode(config, state, draw(config, key, labels.shape[0], truncation), labels)


def health(config: BigganConfig, state: GanState, batch: Batch) -> dict[str, jax.Array]:
    """Return the largest singular value of each layer's weight, an array [layers] a player.

    As training nears its collapse those of G explode, above all that of its first layer (section
    4.1); spikes in those of D are no such sign (section 4.2).
    """
    del config, batch
    found = {}
    for name in ("generator", "discriminator"):
        player = getattr(state, name)
        values = singular_values(player) if player is not None else []
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
