"""StyleGAN2: Karras et al. 2020 (arXiv:1912.04958), with adaptive augmentation (arXiv:2006.06676).

A mapping network turns noise z into a style w. The synthesis network begins with a constant, and
each of its layers scales its kernel by a linear map of w:

    z -> 8 x 512 -> w
    constant 4x4 -> conv ------------------------> to RGB ----.
                     '-> up, conv, conv at 8x8 --> to RGB -- + up ... up to the size of the image

Noise at every pixel, times a learned strength, draws random details, such as the places of hairs.
Two styles can be mixed: the coarse layers of one, the fine layers of another. The discriminator is
residual, and sees how much the images of a batch differ. Its penalty, R1, is computed every
`r1_interval` steps; the generator's penalty on path lengths, which makes equal steps in w move the
image equally far, every `path_length_interval` steps. Each is multiplied by its interval, so that
its mean weight over steps stays the same.

A discriminator that has few images learns them by heart. To prevent that, everything that it sees
is augmented, with a probability that follows how sure it is of real images; applied with such a
probability, augmentations do not leak into the samples.
"""

import dataclasses
from typing import Annotated, Any, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from pydantic import Field

from genjax.nn.batch import batch_noise, batch_size
from genjax.nn.equalized import Conv, Dense, bias_act, leaky_relu, minibatch_std
from genjax.nn.labels import check_conditional, is_conditional
from genjax.nn.remat import end_of_block
from genjax.nn.resample import downsample, upsample
from genjax.nn.resolution import base_resolution
from genjax.nn.style import (
    Mapping,
    broadcast,
    draw_layer_noise,
    draw_styles,
    modulated_conv,
    style_latents,
)
from genjax.objectives import adversarial
from genjax.objectives.penalties import path_lengths, r1_penalty
from genjax.steps.augment import AugmentConfig, adapt_probability, augment_images
from genjax.steps.diagnostics import discriminator_metrics
from genjax.steps.gan import create_gan_state, real_images
from genjax.steps.optim import OptimizerConfig, create_optimizer
from genjax.steps.state import GanState
from genjax.steps.update import (
    apply_gradients,
    batch_mean,
    create_player,
    fewer_parts,
    gradients,
    update_player,
    when,
)
from genjax.types import Batch, Family, ImageSpec, Metrics, checked

# The factor by which the batch that measures path lengths is smaller (Karras et al. 2020,
# appendix B).
PATH_LENGTH_SHRINK = 2
# Images decoded from given latents always get this noise, so that they differ by the latents only.
FIXED_NOISE_SEED = 0

Architecture = Literal["original", "skip", "residual"]


@checked
class PlayerConfig(OptimizerConfig):
    """The network and the optimizer of one player."""

    learning_rate: Annotated[float, Field(gt=0)] = 0.0025
    """Step size: the largest, if the schedule changes it."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the mean of gradients; RMSProp has no such mean."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the mean of squared gradients."""
    architecture: Architecture = "residual"
    """How blocks are joined (figure 7): not at all (original), by RGB images or by residuals."""
    channel_base: Annotated[int, Field(gt=0)] = 32768
    """A block at a size of 4 * 2^k pixels has this number divided by its size as features."""
    channel_max: Annotated[int, Field(gt=0)] = 512
    """Most features of a block."""
    mapping_layers: Annotated[int, Field(gt=0, le=64)] = 8
    """Layers of the mapping network; D has a mapping network only if conditional."""

    def features(self, level: int) -> int:
        """Return the features of the block at `level`, 0 at the smallest size."""
        return max(1, min(self.channel_base // (4 << level), self.channel_max))


@checked
class Stylegan2Config(AugmentConfig):
    """The config of StyleGAN2."""

    latent_size: Annotated[int, Field(gt=0)] = 512
    """Size of the noise vector z."""
    style_size: Annotated[int, Field(gt=0)] = 512
    """Size of a style w."""
    conditional: bool = False
    """Whether both players see the class label."""
    style_mixing_prob: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Probability that an image is generated with two styles in training."""
    r1_gamma: Annotated[float, Field(ge=0)] = 10.0
    """Weight of R1; 0 for none."""
    r1_interval: Annotated[int, Field(gt=0)] = 16
    """Steps from one computation of R1 to the next."""
    path_length_weight: Annotated[float, Field(ge=0)] = 2.0
    """Weight of the path length regularization; 0 for none."""
    path_length_interval: Annotated[int, Field(gt=0)] = 4
    """Steps from one path length regularization to the next."""
    path_length_decay: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Weight of the new mean in the running mean of path lengths."""
    minibatch_std_group_size: Annotated[int, Field(ge=0)] = 4
    """Images in each group whose standard deviation D sees; 0 for none."""
    ema_images: Annotated[int, Field(ge=0)] = 10_000
    """Half-life, in images, of the moving average of G that is sampled from; 0 for none."""
    ema_rampup: Annotated[float, Field(ge=0)] = 0.05
    """Upper bound of that half-life, as a fraction of the images seen so far; 0 for none."""
    mapping_lr_multiplier: Annotated[float, Field(gt=0)] = 0.01
    """Learning rate of the mapping networks relative to other layers."""
    style_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.995
    """Weight of the old mean in the running mean of styles, towards which they are truncated."""
    conv_clamp: Annotated[float, Field(ge=0)] = 256.0
    """Largest absolute value of an activation; 0 for no bound."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type of the convolutions; the rest is float32."""
    generator: PlayerConfig = PlayerConfig(architecture="skip")
    """The generator."""
    discriminator: PlayerConfig = PlayerConfig()
    """The discriminator."""


@flax.struct.dataclass
class Stylegan2State(GanState):
    """A `GanState` with what its regularizations track, each float32 [].

    Attributes:
        path_length: The running mean of path lengths.
        augment_p: The probability of augmentations.
        real_sign: The sum of `real_sign` over the steps since that probability was adapted.
    """

    path_length: Any = 0.0
    augment_p: Any = 0.0
    real_sign: Any = 0.0


def _clamp(config: Stylegan2Config, gain: float = 1.0) -> float | None:
    return config.conv_clamp * gain if config.conv_clamp else None


class SynthesisLayer(nn.Module):
    """A layer: [B, H, W, C], style [B, W], noise [B, H', W', 1] or None -> [B, H', W', F]."""

    config: Stylegan2Config
    features: int
    up: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, w: jax.Array, noise: jax.Array | None) -> jax.Array:
        dtype = self.config.dtype
        shape = (3, 3, x.shape[-1], self.features)
        styles = Dense(x.shape[-1], bias=1.0, name="affine")(w)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        strength = self.param("noise_strength", nn.initializers.zeros, ())
        x = modulated_conv(x.astype(dtype), kernel.astype(dtype), styles, up=self.up)
        if noise is not None:
            x += (noise * strength).astype(dtype)
        return bias_act(x, bias, clamp=_clamp(self.config))


class ToRGB(nn.Module):
    """The layer that gives an image: [B, H, W, C], style [B, W] -> float32 [B, H, W, channels]."""

    config: Stylegan2Config
    channels: int

    @nn.compact
    def __call__(self, x: jax.Array, w: jax.Array) -> jax.Array:
        dtype, features = self.config.dtype, x.shape[-1]
        styles = Dense(features, bias=1.0, name="affine")(w) / features**0.5
        shape = (1, 1, features, self.channels)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        y = modulated_conv(x.astype(dtype), kernel.astype(dtype), styles, demodulate=False)
        return bias_act(y, bias, None, clamp=_clamp(self.config)).astype(jnp.float32)


class SynthesisBlock(nn.Module):
    """The layers of one size: the first block begins with a constant, the others double the size.

    Features [B, H, W, C], the image so far or None, styles [B, 3, W] (the first block: [B, 2, W])
    and the noise of each convolution or None -> features and image at twice the size.
    """

    config: Stylegan2Config
    spec: ImageSpec
    level: int
    last: bool

    @nn.compact
    def __call__(
        self, x: jax.Array | None, image: jax.Array | None, ws: jax.Array, noise: list | None
    ) -> tuple[jax.Array, jax.Array | None]:
        config, player = self.config, self.config.generator
        features = player.features(self.level)
        noises = noise or [None, None]
        if x is None:
            _, (height, width) = base_resolution(self.spec)
            const = self.param("const", nn.initializers.normal(1.0), (height, width, features))
            x = jnp.broadcast_to(const, (ws.shape[0], *const.shape)).astype(config.dtype)
            x = SynthesisLayer(config, features, name="conv1")(x, ws[:, 0], noises[0])
        else:
            shortcut = x
            x = SynthesisLayer(config, features, up=True, name="conv0")(x, ws[:, 0], noises[0])
            x = SynthesisLayer(config, features, name="conv1")(x, ws[:, 1], noises[1])
            if player.architecture == "residual":
                gain = 0.5**0.5
                skip = Conv(
                    *(features, 1, True),
                    activation=None,
                    gain=gain,
                    use_bias=False,
                    dtype=config.dtype,
                    name="skip",
                )
                x = skip(shortcut) + x * jnp.asarray(gain, x.dtype)
        x = end_of_block(x)
        if image is not None:
            image = upsample(image)
        if player.architecture == "skip" or self.last:
            rgb = ToRGB(config, self.spec.channels, name="torgb")(x, ws[:, -1])
            image = rgb if image is None else image + rgb
        return x, image


class Synthesis(nn.Module):
    """The synthesis network: styles [B, L, W], noise as `draw_noise` gives it, or None -> images.

    The images are float32 [B, H, W, C], about in [-1, 1].
    """

    config: Stylegan2Config
    spec: ImageSpec

    @nn.compact
    def __call__(self, ws: jax.Array, noise: list[jax.Array] | None) -> jax.Array:
        halvings, _ = base_resolution(self.spec)
        x = image = None
        for level in range(halvings + 1):
            # The style of a block's layer to RGB is also that of the next block's first layer.
            first, convolutions = max(0, 2 * level - 1), 2 if level else 1
            styles = ws[:, first : first + convolutions + 1]
            noises = noise[first : first + convolutions] if noise is not None else None
            last = level == halvings
            block = SynthesisBlock(self.config, self.spec, level, last, name=f"block_{level}")
            x, image = block(x, image, styles, noises)
        assert image is not None
        return image


class Generator(nn.Module):
    """The generator: z [B, Z], labels int32 [B] or None -> images, float32 [B, H, W, C].

    The noise is [B, H', W', 1] for each convolution, from the smallest size up, or None.
    """

    config: Stylegan2Config
    spec: ImageSpec

    def setup(self) -> None:
        config = self.config
        self.mapping = Mapping(
            config.style_size,
            config.generator.mapping_layers,
            self.spec.classes,
            momentum=config.style_momentum,
            lr_multiplier=config.mapping_lr_multiplier,
        )
        self.synthesis = Synthesis(config, self.spec)

    def __call__(
        self, z: jax.Array, labels: jax.Array | None, noise: list[jax.Array] | None
    ) -> jax.Array:
        w = self.mapping(z, labels, False)
        return self.synthesis(broadcast(w, self.spec), noise)

    def style(self, z: jax.Array, labels: jax.Array | None, train: bool) -> jax.Array:
        """Map noise [B, Z] to styles [B, W]."""
        return self.mapping(z, labels, train)

    def synthesize(self, ws: jax.Array, noise: list[jax.Array] | None) -> jax.Array:
        """Map styles [B, L, W] to images; see `Synthesis`."""
        return self.synthesis(ws, noise)


class DiscriminatorBlock(nn.Module):
    """A block of D: features [B, H, W, C] or None, the image at this size -> half of both sizes."""

    config: Stylegan2Config
    level: int

    @nn.compact
    def __call__(self, x: jax.Array | None, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        config, player = self.config, self.config.discriminator
        inside, outside = player.features(self.level), player.features(self.level - 1)
        if x is None or player.architecture == "skip":
            rgb = from_rgb(config, inside)(image)
            x = rgb if x is None else x + rgb
            if player.architecture == "skip":
                image = downsample(image)
        clamp, dtype = _clamp(config), config.dtype
        h = Conv(inside, 3, clamp=clamp, dtype=dtype, name="conv0")(x)
        if player.architecture != "residual":
            h = Conv(outside, 3, down=True, clamp=clamp, dtype=dtype, name="conv1")(h)
            return end_of_block(h), image
        # Both branches have the variance of the input; this gain gives it to their sum too.
        gain = 0.5**0.5
        skip = Conv(
            *(outside, 1, False, True, None, gain),
            use_bias=False,
            dtype=dtype,
            name="skip",
        )
        clamp = _clamp(config, gain)
        conv1 = Conv(
            outside, 3, down=True, gain=2**0.5 * gain, clamp=clamp, dtype=dtype, name="conv1"
        )
        return end_of_block(conv1(h) + skip(x)), image


def from_rgb(config: Stylegan2Config, features: int) -> Conv:
    """Return the layer that reads an image."""
    return Conv(features, 1, clamp=_clamp(config), dtype=config.dtype, name="fromrgb")


class Discriminator(nn.Module):
    """The discriminator: images [B, H, W, C] in [-1, 1], labels int32 [B] or None -> logits [B]."""

    config: Stylegan2Config
    spec: ImageSpec

    @nn.compact
    def __call__(self, images: jax.Array, labels: jax.Array | None) -> jax.Array:
        config, player = self.config, self.config.discriminator
        halvings, _ = base_resolution(self.spec)
        x, image = None, images
        for level in range(halvings, 0, -1):
            x, image = DiscriminatorBlock(config, level, name=f"block_{level}")(x, image)
        assert x is not None
        features = player.features(0)
        if player.architecture == "skip":
            x += from_rgb(config, features)(image)
        x = x.astype(jnp.float32)
        if config.minibatch_std_group_size:
            x = minibatch_std(x, config.minibatch_std_group_size)
        x = Conv(features, 3, clamp=_clamp(config), name="conv")(x)
        x = Dense(features, leaky_relu, name="fc")(x.reshape(x.shape[0], -1))
        if labels is None:
            return Dense(1, name="out")(x)[:, 0]
        # A projection onto the mapped class (Miyato and Koyama 2018, equation 3).
        mapping = Mapping(
            *(features, player.mapping_layers, self.spec.classes),
            track=False,
            lr_multiplier=config.mapping_lr_multiplier,
            name="mapping",
        )
        styles = mapping(None, labels, False)
        return jnp.sum(Dense(features, name="out")(x) * styles, axis=1) / features**0.5


def networks(config: Stylegan2Config, spec: ImageSpec) -> tuple[Generator, Discriminator]:
    """Return the generator and the discriminator that `config` describes."""
    return Generator(config, spec), Discriminator(config, spec)


def convolutions(spec: ImageSpec) -> list[tuple[int, str]]:
    """List the level and name of each convolution that takes noise, in order."""
    halvings, _ = base_resolution(spec)
    blocks = [(level, name) for level in range(halvings + 1) for name in ("conv0", "conv1")]
    return blocks[1:]  # the first block begins with a constant


def draw_noise(key: jax.Array, spec: ImageSpec, n: int) -> list[jax.Array]:
    """Draw noise for each convolution and `n` images, [n, H, W, 1], from the smallest size up."""
    return draw_layer_noise(key, spec, n, [level for level, _ in convolutions(spec)])


def init(config: Stylegan2Config, key: jax.Array, spec: ImageSpec) -> Stylegan2State:
    """Return the state at step 0, whose standard normal weights depend on `key` alone.

    Raises:
        UsageError: The size cannot be halved to 4 to 7 pixels, or a conditional model gets data
            without classes.
    """
    check_conditional(config.conditional, spec)
    generator, discriminator = networks(config, spec)
    generator_key, discriminator_key = jax.random.split(key)
    labels = jnp.zeros(1, jnp.int32) if is_conditional(config, spec) else None
    z, images = jnp.zeros((1, config.latent_size)), jnp.zeros((1, *spec.shape))
    variables = {
        "generator": generator.init(generator_key, z, labels, None),
        "discriminator": discriminator.init(discriminator_key, images, labels),
    }
    return from_variables(config, spec, variables)


def from_variables(config: Stylegan2Config, spec: ImageSpec, variables: dict) -> Stylegan2State:
    """Return the state at step 0 from each player's params and batch_stats."""
    gan_state = create_gan_state(
        create_player(variables["generator"], generator_optimizer(config, 0)),
        create_player(variables["discriminator"], discriminator_optimizer(config, 0)),
        spec,
        config.ema_images > 0,
    )
    fields = {field.name: getattr(gan_state, field.name) for field in dataclasses.fields(gan_state)}
    return Stylegan2State(
        **fields,
        path_length=jnp.zeros(()),
        augment_p=jnp.full((), config.augment_p),
        real_sign=jnp.zeros(()),
    )


def generator_optimizer(
    config: Stylegan2Config, step: jax.Array | int
) -> optax.GradientTransformation:
    """Return G's optimizer of a training step, adjusted for additional updates on path lengths."""
    interval = config.path_length_interval if config.path_length_weight else None
    return create_optimizer(_lazy(config.generator, interval), step)


def discriminator_optimizer(
    config: Stylegan2Config, step: jax.Array | int
) -> optax.GradientTransformation:
    """Return D's optimizer of a training step, adjusted for additional updates on R1."""
    interval = config.r1_interval if config.r1_gamma else None
    return create_optimizer(_lazy(config.discriminator, interval), step)


def _lazy(player: PlayerConfig, interval: int | None) -> PlayerConfig:
    """Adjust for one more update every `interval` steps (Karras et al. 2020, appendix B).

    The schedule counts training steps, so that it stays as it is.
    """
    if interval is None:
        return player
    share = interval / (interval + 1)
    return dataclasses.replace(
        player,
        learning_rate=player.learning_rate * share,
        beta1=player.beta1**share,
        beta2=player.beta2**share,
    )


def mixed_styles(
    config: Stylegan2Config,
    state: GanState,
    variables: Any,
    key: jax.Array,
    labels: jax.Array | None,
    n: int,
) -> tuple[jax.Array, Any]:
    """Draw styles [n, L, W], some of them mixed, and return G's new collections.

    With probability `style_mixing_prob` an image has, from a random layer on, the style of a second
    noise vector (Karras et al. 2019, section 3.1).
    """
    generator, _ = networks(config, state.spec)

    def style(z: jax.Array) -> tuple[jax.Array, Any]:
        return generator.apply(variables, z, labels, True, method="style", mutable=["batch_stats"])

    return draw_styles(style, key, (n, config.latent_size), state.spec, config.style_mixing_prob)


def synthesize_batch(
    config: Stylegan2Config, state: GanState, params: Any, ws: jax.Array, key: jax.Array
) -> jax.Array:
    """Map styles [B, L, W] to images, with new noise."""
    generator, _ = networks(config, state.spec)
    noise = draw_noise(key, state.spec, ws.shape[0])
    images: Any = generator.apply({"params": params}, ws, noise, method="synthesize")
    return images


def discriminate(
    config: Stylegan2Config,
    state: Stylegan2State,
    params: Any,
    images: jax.Array,
    labels: jax.Array | None,
    key: jax.Array,
) -> jax.Array:
    """Return D's logits [B] of images, which are augmented first."""
    _, discriminator = networks(config, state.spec)
    seen = augment_images(config, state, key, images)
    logits: Any = discriminator.apply({"params": params}, seen, labels)
    return logits


def generator_step(
    config: Stylegan2Config, state: Stylegan2State, key: jax.Array, labels: jax.Array | None, n: int
) -> tuple[Stylegan2State, Metrics]:
    """Take one step of G by the non-saturating loss, on `n` images.

    Args:
        config: The model.
        state: The state before the step.
        key: The PRNG key of all draws.
        labels: int32 [n] if conditional, else None.
        n: Number of images.

    Returns:
        The state with the new generator, and the metrics `g_loss` and `g_grad_norm`.
    """
    style_key, noise_key, augment_key = jax.random.split(key, 3)

    def loss_fn(params: Any, carried: Any, part: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
        rows, labels = part
        variables = {"params": params, **carried}
        ws, carried = mixed_styles(config, state, variables, style_key, labels, rows.shape[0])
        fake = synthesize_batch(config, state, params, ws, noise_key)
        logits = discriminate(config, state, state.discriminator.params, fake, labels, augment_key)
        loss = jnp.mean(adversarial.non_saturating_generator_loss(logits))
        return loss, (carried, {"g_loss": loss})

    batch = (jnp.arange(n), labels)
    optimizer = generator_optimizer(config, state.step)
    player, metrics = update_player(
        loss_fn, state.generator, batch, optimizer, config, "g_grad_norm"
    )
    return dataclasses.replace(state, generator=player), metrics


def path_length_step(
    config: Stylegan2Config, state: Stylegan2State, key: jax.Array, labels: jax.Array | None, n: int
) -> tuple[Stylegan2State, Metrics]:
    """Take one step of G towards equal path lengths, on `n` images with labels int32 [n] or None.

    Returns:
        The state with the new generator, and the metric `path_length`, [], the mean path length.
    """
    style_key, noise_key, direction_key = jax.random.split(key, 3)
    directions = batch_noise(direction_key, (n, *state.spec.shape))
    parts = fewer_parts(config, n)

    def lengths_of(params: Any, part: Any) -> jax.Array:
        directions, labels = part
        variables = {"params": params, **state.generator.collections}
        ws, _ = mixed_styles(config, state, variables, style_key, labels, directions.shape[0])
        return path_lengths(
            lambda ws: synthesize_batch(config, state, params, ws, noise_key), ws, directions
        )

    def mean_length(part: Any) -> jax.Array:
        return jnp.mean(lengths_of(state.generator.params, part))

    batch = (directions, labels)
    of_batch = batch_mean(mean_length, batch, parts)

    def loss_fn(params: Any, carried: None, part: Any) -> tuple[jax.Array, tuple[None, Metrics]]:
        lengths = lengths_of(params, part)
        mean = jax.lax.stop_gradient(of_batch(jnp.mean(lengths)))
        target = state.path_length + config.path_length_decay * (mean - state.path_length)
        loss = jnp.mean((lengths - target) ** 2)
        # The target moves with the batch's mean, and its share of the gradient is that of this.
        loss -= 2 * config.path_length_decay * (mean - target) * jnp.mean(lengths)
        weight = config.path_length_weight * config.path_length_interval
        return weight * loss, (None, {"path_length": mean, "target": target})

    params = state.generator.params
    grads, _, metrics = gradients(loss_fn, params, None, batch, parts)
    player = apply_gradients(state.generator, grads, generator_optimizer(config, state.step))
    target = metrics.pop("target")
    return dataclasses.replace(state, generator=player, path_length=target), metrics


def discriminator_step(
    config: Stylegan2Config,
    state: Stylegan2State,
    real: jax.Array,
    key: jax.Array,
    labels: jax.Array | None,
) -> tuple[Stylegan2State, Metrics]:
    """Take one step of D.

    Args:
        config: The model.
        state: The state before the step.
        real: Real images, float32 [B, H, W, C] in [-1, 1].
        key: The PRNG key of all draws.
        labels: int32 [B] of both real and generated images if conditional, else None.

    Returns:
        The state with the new discriminator, and the metrics `d_loss`, `d_grad_norm`, those of
        `discriminator_metrics`, and `real_sign`, the mean sign of the logits of real images: near 1
        when D knows them by heart (Karras et al. 2020b, equation 1).
    """
    style_key, noise_key, fake_key, real_key = jax.random.split(key, 4)
    ws, _ = mixed_styles(config, state, state.generator.variables, style_key, labels, real.shape[0])
    fake = synthesize_batch(config, state, state.generator.params, ws, noise_key)

    def loss_fn(params: Any, carried: Any, part: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
        real, fake, labels = part
        real_logits = discriminate(config, state, params, real, labels, real_key)
        fake_logits = discriminate(config, state, params, fake, labels, fake_key)
        loss = jnp.mean(adversarial.minimax_discriminator_loss(real_logits, fake_logits))
        metrics = {"d_loss": loss, **discriminator_metrics(real_logits, fake_logits, real, fake)}
        return loss, (carried, {**metrics, "real_sign": jnp.mean(jnp.sign(real_logits))})

    batch = (real, fake, labels)
    optimizer = discriminator_optimizer(config, state.step)
    player, metrics = update_player(
        loss_fn, state.discriminator, batch, optimizer, config, "d_grad_norm"
    )
    return dataclasses.replace(state, discriminator=player), metrics


def r1_step(
    config: Stylegan2Config,
    state: Stylegan2State,
    real: jax.Array,
    key: jax.Array,
    labels: jax.Array | None,
) -> tuple[Stylegan2State, Metrics]:
    """Take one step of D by R1 alone, on real images [B, H, W, C] in [-1, 1].

    Returns:
        The state with the new discriminator, and the metric `r1_penalty`, without its weight.
    """

    def loss_fn(params: Any, carried: None, part: Any) -> tuple[jax.Array, tuple[None, Metrics]]:
        real, labels = part
        penalty = r1_penalty(
            lambda images: discriminate(config, state, params, images, labels, key), real
        )
        mean = jnp.mean(penalty)
        return config.r1_gamma * config.r1_interval * mean, (None, {"r1_penalty": mean})

    player = state.discriminator
    grads, _, metrics = gradients(loss_fn, player.params, None, (real, labels), config)
    player = apply_gradients(player, grads, discriminator_optimizer(config, state.step))
    return dataclasses.replace(state, discriminator=player), metrics


def step(
    config: Stylegan2Config, state: Stylegan2State, batch: Batch, key: jax.Array
) -> tuple[Stylegan2State, Metrics]:
    """Take a step of each player on uint8 images [B, H, W, C], and of what is due besides.

    R1 and path lengths are due at their intervals.
    """
    real = real_images(batch, state.spec)
    labels = jnp.asarray(batch.labels) if is_conditional(config, state.spec) else None
    keys = jax.random.split(key, 4)
    n = real.shape[0]
    images = batch_size(real)
    state, metrics = generator_step(config, state, keys[0], labels, n)
    if config.path_length_weight:
        few = max(1, n // PATH_LENGTH_SHRINK)
        # Every second label, not the first half, which would depend on how the batch is spread.
        some = None if labels is None else labels[::PATH_LENGTH_SHRINK][:few]
        state, path_metrics = when(
            state.step % config.path_length_interval == 0,
            lambda state: path_length_step(config, state, keys[1], some, few),
            state,
            ["path_length"],
        )
        metrics |= path_metrics
    state, d_metrics = discriminator_step(config, state, real, keys[2], labels)
    metrics |= d_metrics
    if config.r1_gamma:
        state, r1_metrics = when(
            state.step % config.r1_interval == 0,
            lambda state: r1_step(config, state, real, keys[3], labels),
            state,
            ["r1_penalty"],
        )
        metrics |= r1_metrics
    state, augment_metrics = adapt_probability(config, state, d_metrics, images)
    metrics |= augment_metrics
    state = dataclasses.replace(state, ema=average(config, state, images))
    return dataclasses.replace(state, step=state.step + 1), metrics


def average(config: Stylegan2Config, state: Stylegan2State, images: int) -> Any:
    """Return the moving average of G after a step of `images` images; `batch_stats` are G's own."""
    if state.ema is None:
        return None
    half_life = jnp.asarray(config.ema_images, jnp.float32)
    if config.ema_rampup:
        half_life = jnp.minimum(half_life, (state.step + 1) * images * config.ema_rampup)
    decay = 0.5 ** (images / half_life)
    params = jax.tree.map(
        lambda old, new: new + decay * (old - new), state.ema["params"], state.generator.params
    )
    return {"params": params, "batch_stats": state.generator.stats}


def style(
    config: Stylegan2Config,
    state: GanState,
    latents: jax.Array,
    labels: jax.Array,
    truncation: float | None = None,
    truncation_cutoff: int | None = None,
) -> jax.Array:
    """Map latents [n, latent_size] to styles [n, L, style_size], as `truncate` moves them.

    The labels, int32 [n], are used if the model is conditional.
    """
    generator, _ = networks(config, state.spec)
    seen = labels if is_conditional(config, state.spec) else None
    return style_latents(
        generator, state.sampling_variables, latents, seen, truncation, truncation_cutoff
    )


def synthesize(config: Stylegan2Config, state: GanState, styles: jax.Array) -> jax.Array:
    """Map styles [n, L, W] to images, float32 [n, H, W, C] in [-1, 1], with fixed noise."""
    noise = draw_noise(jax.random.key(FIXED_NOISE_SEED), state.spec, 1)
    return _show(config, state, styles, noise)


def _show(
    config: Stylegan2Config, state: GanState, styles: jax.Array, noise: list[jax.Array]
) -> jax.Array:
    generator, _ = networks(config, state.spec)
    images: Any = generator.apply(state.sampling_variables, styles, noise, method="synthesize")
    return jnp.clip(images, -1, 1)


def decode(
    config: Stylegan2Config, state: GanState, latents: jax.Array, labels: jax.Array
) -> jax.Array:
    """Map latents [n, latent_size] to images, float32 [n, H, W, C] in [-1, 1], with fixed noise."""
    return synthesize(config, state, style(config, state, latents, labels))


def sample(
    config: Stylegan2Config,
    state: GanState,
    key: jax.Array,
    labels: jax.Array,
    truncation: float | None = None,
    truncation_cutoff: int | None = None,
) -> jax.Array:
    """Draw an image for each label, int32 [n]: float32 [n, H, W, C] in [-1, 1]; see `style`."""
    z_key, noise_key = jax.random.split(key)
    z = jax.random.normal(z_key, (labels.shape[0], config.latent_size))
    styles = style(config, state, z, labels, truncation, truncation_cutoff)
    return _show(config, state, styles, draw_noise(noise_key, state.spec, labels.shape[0]))


FAMILY = Family(
    Stylegan2Config,
    init,
    step,
    sample,
    "Karras et al. 2020",
    decode=decode,
    style=style,
    synthesize=synthesize,
)
