"""Residual blocks, and the resampling that they use."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.nn.conv import Conv
from genjax.nn.norm import BatchNorm
from genjax.nn.remat import end_of_block


def upsample(x: jax.Array) -> jax.Array:
    """Double the size by nearest neighbours: [B, H, W, C] -> [B, 2H, 2W, C]."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)


def downsample(x: jax.Array) -> jax.Array:
    """Halve the size by means over 2x2 pixels: [B, H, W, C] -> [B, H/2, W/2, C], H and W even."""
    batch, height, width, channels = x.shape
    return jnp.mean(x.reshape(batch, height // 2, 2, width // 2, 2, channels), axis=(2, 4))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (WGAN-GP: Gulrajani et al. 2017, appendix F).

    [B, H, W, C] -> [B, H', W', features]: norm, ReLU, [up], conv, norm, ReLU, conv, [down]. The
    shortcut is resampled too, with a 1x1 convolution where the shape changes.

    Attributes:
        features: Channels of the output.
        resample: `up` doubles the size, `down` halves it.
        norm: Batch norm in a generator, layer norm in a critic, which must not mix examples.
        first: Whether the input is an image, which is not to go through a norm or ReLU.
        dtype: Compute type of the convolutions.
    """

    features: int
    resample: Literal["up", "down", "none"] = "none"
    norm: Literal["batch", "layer", "none"] = "none"
    first: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        initializer = nn.initializers.he_normal()

        def activate(x: jax.Array, name: str) -> jax.Array:
            if self.norm == "batch":
                x = BatchNorm(name=name)(x, train)
            elif self.norm == "layer":
                x = nn.LayerNorm(reduction_axes=(1, 2, 3), dtype=self.dtype, name=name)(x)
            return nn.relu(x)

        def convolve(x: jax.Array, size: int, name: str) -> jax.Array:
            conv = Conv(
                self.features,
                size,
                padding=size // 2,
                kernel_init=initializer if size > 1 else nn.initializers.lecun_normal(),
                dtype=self.dtype,
                name=name,
            )
            return conv(x)

        shortcut = x
        if not self.first:
            x = activate(x, "norm_0")
        if self.resample == "up":
            x, shortcut = upsample(x), upsample(shortcut)
        x = convolve(x, 3, "conv_0")
        x = convolve(activate(x, "norm_1"), 3, "conv_1")
        if self.resample == "down":
            x, shortcut = downsample(x), downsample(shortcut)
        if shortcut.shape != x.shape or self.resample != "none":
            shortcut = convolve(shortcut, 1, "shortcut")
        return end_of_block(x + shortcut)
