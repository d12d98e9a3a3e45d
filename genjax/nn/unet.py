"""The U-Net of diffusion models: Ho, Jain and Abbeel 2020 (arXiv:2006.11239), appendix B.

Residual blocks halve an image's size level by level and double it again. What each block gives on
the way down is seen by a block of the same size on the way up. A time, as sinusoids, is added in
every block. With 128, 256, 256 and 256 channels, for 32x32 pixels:

    down:   32x32x128, 16x16x256 with attention, 8x8x256, 4x4x256
    middle: 4x4x256 with attention
    up:     4x4x256, 8x8x256, 16x16x256 with attention, 32x32x128
"""

import functools
import math
from typing import Annotated, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, model_validator

from genjax import transforms
from genjax.nn.attention import AttentionBlock
from genjax.nn.batch import batch_noise
from genjax.nn.conv import Conv
from genjax.nn.norm import GroupNorm
from genjax.nn.remat import end_of_block
from genjax.nn.residual import upsample
from genjax.types import Config, ImageSpec, UsageError, checked

# The initial weights of Ho et al.'s code, where layers that end a branch begin at 1e-6 or less.
UNIFORM = nn.initializers.xavier_uniform()
ZEROS = nn.initializers.zeros

Positive = Annotated[int, Field(gt=0)]


@checked
class UNetConfig(Config):
    """The config of a U-Net."""

    features: tuple[Positive, ...] = (128, 256, 256, 256)
    """Channels of each level: of the full size, and each time that it is halved."""
    blocks: Positive = 2
    """Residual blocks of each level on the way down; on the way up there is one more."""
    attention_sizes: tuple[Positive, ...] = (16,)
    """Heights, in pixels, of the levels with self-attention after each block; the middle always has
    it."""
    head_size: Annotated[int, Field(ge=0)] = 0
    """Channels of a head of attention; 0 for one head of all."""
    groups: Positive = 32
    """Groups of channels that are normalized together; they divide all `features`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a block's features that training sets to 0, drawn anew at each step."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-6
    """Number added to the variances of group norm."""
    frequency_shift: float = 1.0
    """The lowest frequency of the sinusoids of time: with 1 it is 1/10000 (Ho et al. 2020), with 0
    one step above that (Vaswani et al. 2017)."""
    cosine_first: bool = False
    """Whether the cosines of time come before the sines."""
    symmetric_padding: bool = False
    """Whether zeros are added on all four sides before the size is halved, or below and at the
    right only."""
    patches: bool = False
    """Whether 2x2 pixels are one to the network, of four times the channels, which takes a quarter
    of the time."""

    def seen(self, spec: ImageSpec) -> ImageSpec:
        """Return the shape of images as the first level has them."""
        if not self.patches:
            return spec
        height, width = spec.height // 2, spec.width // 2
        return ImageSpec(height, width, 4 * spec.channels, spec.classes, spec.empty_classes)

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if not self.features:
            raise ValueError("features = (): should have the channels of at least one level")
        # Blocks on the way up normalize two of these together, of which groups are a divisor too.
        for features in self.features:
            if features % self.groups:
                raise ValueError(f"groups = {self.groups}: should divide features {features}")
        if self.head_size and self.features[-1] % self.head_size:
            raise ValueError(
                f"head_size = {self.head_size}: should divide the last of features, "
                f"{self.features[-1]}, which have attention"
            )
        frequencies = self.features[0] // 2
        if frequencies <= max(self.frequency_shift, 0):
            raise ValueError(
                f"frequency_shift = {self.frequency_shift}: should be less than half the first of "
                f"features, {self.features[0]}"
            )
        return self


def check_size(config: UNetConfig, spec: ImageSpec) -> None:
    """Raise a `UsageError` unless images have a size that the levels and their attention fit."""
    halvings = len(config.features) - 1 + config.patches
    if spec.height % 2**halvings or spec.width % 2**halvings:
        raise UsageError(
            f"images of {spec.height}x{spec.width}: with features of {len(config.features)} levels"
            f"{' and patches' * config.patches} height and width should be multiples of "
            f"{2**halvings} (--size, --border)"
        )
    heights = [config.seen(spec).height >> level for level in range(len(config.features))]
    unknown = [size for size in config.attention_sizes if size not in heights]
    if unknown:
        raise UsageError(
            f"attention_sizes = {config.attention_sizes}: no level of {spec.height}x{spec.width} "
            f"images has height {', '.join(map(str, unknown))}; wanted any of "
            f"{', '.join(map(str, heights))}"
        )
    for height, features in zip(heights, config.features, strict=True):
        if config.head_size and height in config.attention_sizes and features % config.head_size:
            raise UsageError(
                f"head_size = {config.head_size}: should divide features {features} of height "
                f"{height}, which have attention"
            )


def sinusoidal(time: jax.Array, features: int, shift: float, cosine_first: bool) -> jax.Array:
    """Return sines and cosines of times at many frequencies (Vaswani et al. 2017, section 3.5).

    The frequencies are `10000^(-k / (K - shift))`, K of them. Angles of many turns are kept exact:
    the leading digits of time and frequency, whose product float32 holds, and the rest are apart.

    Args:
        time: Times [B], such as 0, 1, ..., 999.
        features: Number of features; half of them is K. If it is odd the last feature is 0.
        shift: `frequency_shift`, less than K.
        cosine_first: Whether the cosines come first.

    Returns:
        float32 [B, features].
    """
    half = features // 2
    frequencies = np.exp(-math.log(10_000) * np.arange(half) / (half - shift))
    mantissas, exponents = np.frexp(frequencies)
    leading = np.ldexp(np.round(mantissas * 2**12), exponents - 12)
    time = time.astype(jnp.float32)[:, None]
    time_leading = jax.lax.reduce_precision(time, exponent_bits=8, mantissa_bits=11)

    def times(time: jax.Array, frequencies: np.ndarray) -> jax.Array:
        return time * jnp.asarray(frequencies, jnp.float32)[None]

    angle = times(time_leading, leading)
    rest = times(time_leading, frequencies - leading) + times(time - time_leading, frequencies)
    sin, cos, sin_rest, cos_rest = jnp.sin(angle), jnp.cos(angle), jnp.sin(rest), jnp.cos(rest)
    parts = [sin * cos_rest + cos * sin_rest, cos * cos_rest - sin * sin_rest]
    parts += [jnp.zeros_like(time)] * (features % 2)
    if cosine_first:
        parts[:2] = parts[1::-1]
    return jnp.concatenate(parts, axis=1)


class TimeBlock(nn.Module):
    """Two 3x3 convolutions, with a time between them, beside a shortcut.

    [B, H, W, C] and an embedding [B, K] -> [B, H, W, features]: norm, SiLU, conv, plus a linear map
    of the embedding, norm, SiLU, dropout, conv. The shortcut is a 1x1 convolution if the number of
    channels changes.
    """

    config: UNetConfig
    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array, train: bool) -> jax.Array:
        config = self.config
        norm = functools.partial(GroupNorm, config.groups, config.epsilon)
        conv = functools.partial(Conv, self.features, dtype=self.dtype)
        y = nn.silu(norm(name="norm_0")(x))
        y = conv(3, padding=1, kernel_init=UNIFORM, name="conv_0")(y)
        time = nn.Dense(self.features, kernel_init=UNIFORM, dtype=self.dtype, name="time")
        y += time(nn.silu(embedding))[:, None, None]
        y = nn.silu(norm(name="norm_1")(y))
        if train and config.dropout:
            y = self._dropout(y)
        y = conv(3, padding=1, kernel_init=ZEROS, name="conv_1")(y)
        if x.shape[-1] != self.features:
            x = conv(1, kernel_init=UNIFORM, name="shortcut")(x)
        return end_of_block(x + y)

    def _dropout(self, x: jax.Array) -> jax.Array:
        """Set features to 0 by chance, and scale the others so that the mean stays."""
        kept = 1 - self.config.dropout
        # Unlike flax's own, this does not depend on how the batch is spread.
        mask = batch_noise(
            self.make_rng("dropout"),
            x.shape,
            lambda key, shape: jax.random.bernoulli(key, kept, shape),
        )
        return jnp.where(mask, x / kept, jnp.zeros_like(x))


class UNet(nn.Module):
    """The network: images, times and perhaps classes -> images of `channels` channels.

    Attributes:
        config: Its sizes.
        channels: Channels of the output.
        classes: Number of classes that have an embedding; 0 for a network that ignores labels.
        dtype: Compute type; the embedding of time, norms and softmaxes are float32.
    """

    config: UNetConfig
    channels: int
    classes: int = 0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: jax.Array, time: jax.Array, labels: jax.Array | None, train: bool
    ) -> jax.Array:
        """Apply the network.

        Args:
            x: Images [B, H, W, C], of a size that passes `check_size`.
            time: Times [B].
            labels: int32 [B]; a negative label is no class, and None has none in all rows.
            train: Whether there is dropout, drawn with the key `dropout`.

        Returns:
            float32 [B, H, W, channels].
        """
        config = self.config
        embedding = _embed(config, self.classes, time, labels)
        conv = functools.partial(Conv, kernel_size=3, kernel_init=UNIFORM, dtype=self.dtype)

        def block(x: jax.Array, level: int, name: str) -> jax.Array:
            layer = TimeBlock(config, config.features[level], self.dtype, name=name)
            return layer(x, embedding, train)

        def attend(x: jax.Array, name: str) -> jax.Array:
            norm = (config.groups, config.epsilon)
            return AttentionBlock(config.head_size, *norm, self.dtype, name=name)(x)

        def stage(x: jax.Array, level: int, way: str, i: int) -> jax.Array:
            x = block(x, level, f"{way}_{level}_block_{i}")
            has_attention = x.shape[1] in config.attention_sizes
            return attend(x, f"{way}_{level}_attention_{i}") if has_attention else x

        def halve(x: jax.Array, level: int) -> jax.Array:
            if not config.symmetric_padding:
                x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
            padding, features = int(config.symmetric_padding), config.features[level]
            return conv(features, stride=2, padding=padding, name=f"down_{level}_conv")(x)

        levels = range(len(config.features))
        if config.patches:
            x, _ = transforms.squeeze.forward(x)
        x = conv(config.features[0], padding=1, name="conv_in")(x)
        skips = [x]
        for level in levels:
            for i in range(config.blocks):
                x = stage(x, level, "down", i)
                skips.append(x)
            if level < levels[-1]:
                x = halve(x, level)
                skips.append(x)
        x = block(x, levels[-1], "middle_block_0")
        x = block(attend(x, "middle_attention"), levels[-1], "middle_block_1")
        for level in reversed(levels):
            for i in range(config.blocks + 1):
                x = stage(jnp.concatenate([x, skips.pop()], axis=-1), level, "up", i)
            if level > 0:
                x = conv(config.features[level], padding=1, name=f"up_{level}_conv")(upsample(x))
        x = nn.silu(GroupNorm(config.groups, config.epsilon, name="norm_out")(x))
        features = self.channels * (4 if config.patches else 1)
        x = conv(features, padding=1, kernel_init=ZEROS, name="conv_out")(x)
        if config.patches:
            x, _ = transforms.squeeze.inverse(x)
        return x.astype(jnp.float32)


def _embed(
    config: UNetConfig, classes: int, time: jax.Array, labels: jax.Array | None
) -> jax.Array:
    """Embed times, and labels [B] or None, by layers of the calling module: float32 [B, 4 C]."""
    features = config.features[0]
    x = sinusoidal(time, features, config.frequency_shift, config.cosine_first)
    x = nn.Dense(4 * features, kernel_init=UNIFORM, name="time_0")(x)
    x = nn.Dense(4 * features, kernel_init=UNIFORM, name="time_1")(nn.silu(x))
    if classes:
        labels = jnp.full(x.shape[0], -1) if labels is None else labels
        initializer = nn.initializers.normal(1.0)
        table = nn.Embed(classes, 4 * features, embedding_init=initializer, name="class_embedding")
        x += jnp.where((labels >= 0)[:, None], table(jnp.maximum(labels, 0)), 0.0)
    return x
