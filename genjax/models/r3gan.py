"""The networks of R3GAN: Huang, Gokaslan, Kuleshov and Tompkin 2024 (arXiv:2501.05441), section 4.

Residual networks in the manner of ConvNeXt, without any normalization. Every size has `BLOCKS`
inverted bottlenecks

    x + conv 1x1 (LeakyReLU(grouped conv 3x3 (LeakyReLU(conv 1x1 (x)))))

whose middle is `EXPANSION` times as wide and has groups of `GROUP` channels. They begin as the
identity, and the weights before shrink with the depth (Fixup: Zhang et al. 2019), which is what
replaces the normalization. Sizes change by the bilinear filter [1, 2, 1], and widths by a 1x1
convolution after it. At the smallest size G begins with learned maps, one a channel, that z weighs,
and D ends with such maps, one a channel, over which it sums. For 256x256 pixels and 96 features:

    G: z -> 4x4x768 -> 8x8x768 -> 16x16x768 -> 32x32x768 -> 64x64x384 -> 128x128x192 -> 256x256x96
       -> conv 1x1 -> image, without a tanh
    D: the mirror image, to 1 value, or to an embedding of the class

The game of the paper is the relativistic loss with R1 and R2.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.nn.conv import Conv
from genjax.nn.remat import end_of_block
from genjax.nn.resample import downsample, upsample
from genjax.nn.resolution import base_resolution
from genjax.types import ImageSpec

BLOCKS, EXPANSION, GROUP = 2, 2, 16
BILINEAR = (0.25, 0.5, 0.25)
LEAKY_SLOPE = 0.2
# The standard deviation that keeps the variance of what goes through a LeakyReLU.
GAIN = math.sqrt(2 / (1 + LEAKY_SLOPE**2))
# Size of the embedding of a class.
EMBEDDING = 64
# Up to this size the width is the same throughout, and above it doubles as the size halves, up to
# MOST times the features.
ONE_WIDTH_UP_TO, MOST = 32, 8


def widths(spec: ImageSpec, features: int) -> list[int]:
    """Return the channels at each size, from the image's size down to the smallest."""
    halvings, _ = base_resolution(spec)
    if min(spec.height, spec.width) <= ONE_WIDTH_UP_TO:
        return [features] * (halvings + 1)
    return [features * min(1 << i, MOST) for i in range(halvings + 1)]


def _normal(gain: float) -> nn.initializers.Initializer:
    """Draw weights whose outputs have `gain` squared times the variance of their inputs."""
    return nn.initializers.variance_scaling(gain**2, "fan_in", "normal")


class Blocks(nn.Module):
    """The bottlenecks of one size: [B, H, W, C] -> [B, H, W, C].

    Attributes:
        depth: Bottlenecks of the whole network.
        dtype: Compute type of the convolutions.
    """

    depth: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        expanded = EXPANSION * channels
        # With m = 3 layers in a block, L^(-1 / (2m - 2)) (Zhang et al. 2019, section 3).
        inside = _normal(GAIN * self.depth**-0.25)
        for i in range(BLOCKS):
            h = Conv(expanded, 1, kernel_init=inside, dtype=self.dtype, name=f"expand_{i}")(x)
            grouped = Conv(
                expanded,
                3,
                padding=1,
                groups=max(1, expanded // GROUP),
                kernel_init=inside,
                dtype=self.dtype,
                name=f"grouped_{i}",
            )
            h = grouped(nn.leaky_relu(h, LEAKY_SLOPE))
            project = Conv(
                channels,
                1,
                use_bias=False,
                kernel_init=nn.initializers.zeros,
                dtype=self.dtype,
                name=f"project_{i}",
            )
            x = end_of_block(x + project(nn.leaky_relu(h, LEAKY_SLOPE)))
        return x


def _to_width(x: jax.Array, features: int, dtype: str, name: str) -> jax.Array:
    """Change the width by a 1x1 convolution, a child of the calling module, if it differs."""
    if x.shape[-1] == features:
        return x
    kernel = _normal(1.0)
    y: jax.Array = Conv(features, 1, use_bias=False, kernel_init=kernel, dtype=dtype, name=name)(x)
    return y


def _maps(module: nn.Module, shape: Sequence[int], std: float) -> jax.Array:
    maps: jax.Array = module.param("maps", nn.initializers.normal(std), tuple(shape))
    return maps


class Generator(nn.Module):
    """The generator: z [B, Z], labels int32 [B] or None -> images [B, H, W, C] about [-1, 1]."""

    spec: ImageSpec
    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, z: jax.Array, labels: jax.Array | None, train: bool) -> jax.Array:
        del train  # no layer does otherwise in training
        _, base = base_resolution(self.spec)
        channels = widths(self.spec, self.features)[::-1]
        if labels is not None:
            embed = nn.Embed(self.spec.classes, EMBEDDING, name="embed")
            z = jnp.concatenate([z, embed(labels)], axis=1)
        weigh = nn.Dense(channels[0], use_bias=False, kernel_init=_normal(1.0), name="weigh")
        x = weigh(z)[:, None, None] * _maps(self, (1, *base, channels[0]), 1.0)
        x = x.astype(self.dtype)
        for i, features in enumerate(channels):
            if i:
                x = _to_width(upsample(x, BILINEAR), features, self.dtype, f"widen_{i}")
            x = Blocks(BLOCKS * len(channels), self.dtype, name=f"blocks_{i}")(x)
        output = Conv(
            self.spec.channels,
            1,
            use_bias=False,
            kernel_init=_normal(1.0),
            dtype=self.dtype,
            name="output",
        )
        return output(x).astype(jnp.float32)


class Discriminator(nn.Module):
    """The discriminator: images [B, H, W, C], labels int32 [B] or None -> logits [B].

    The class enters by the product of its embedding with D's (Miyato and Koyama 2018).
    """

    spec: ImageSpec
    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: jax.Array, labels: jax.Array | None, train: bool) -> jax.Array:
        del train
        channels = widths(self.spec, self.features)
        x = _to_width(images.astype(self.dtype), channels[0], self.dtype, "input")
        for i, features in enumerate(channels):
            if i:
                x = _to_width(downsample(x, BILINEAR), features, self.dtype, f"widen_{i}")
            x = Blocks(BLOCKS * len(channels), self.dtype, name=f"blocks_{i}")(x)
        _, *shape = x.shape
        maps = _maps(self, shape, 1 / math.sqrt(shape[0] * shape[1]))
        x = jnp.einsum("bhwc,hwc->bc", x.astype(jnp.float32), maps)
        outputs = 1 if labels is None else EMBEDDING
        kernel = _normal(1.0)
        x = nn.Dense(outputs, use_bias=False, kernel_init=kernel, name="output")(x)
        if labels is None:
            return x[:, 0]
        embedded = nn.Embed(self.spec.classes, EMBEDDING, name="embed")(labels)
        return jnp.sum(x * embedded, axis=1)
