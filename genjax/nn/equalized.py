"""Layers with an equalized learning rate (Karras et al. 2018, section 4.1).

A weight is initialized from a standard normal distribution and scaled where it is used, by the
constant of He et al. 2015 for its number of inputs. An optimizer that divides by the size of
gradients, such as Adam, then changes all weights equally fast.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.nn import resample
from genjax.nn.batch import gather_over_replicas, own_rows
from genjax.nn.conv import conv, conv_transpose

Activation = Callable[[jax.Array], jax.Array]


def leaky_relu(x: jax.Array) -> jax.Array:
    """Apply the leaky ReLU of slope 0.2 to an array [...]."""
    return nn.leaky_relu(x, 0.2)


def bias_act(
    x: jax.Array,
    bias: jax.Array | None,
    activation: Activation | None = leaky_relu,
    gain: float | None = None,
    clamp: float | None = None,
) -> jax.Array:
    """Compute `gain * activation(x + bias)`, clamped to `[-clamp, clamp]`.

    Args:
        x: [B, ..., C].
        bias: [C], or None.
        activation: The activation; None for the identity.
        gain: None for 1 without an activation and sqrt(2) with one, which makes up for the part
            that a (leaky) ReLU cuts off.
        clamp: Largest absolute value of the result; None for no bound.

    Returns:
        An array of the shape and type of `x`.
    """
    if bias is not None:
        x = x + bias.astype(x.dtype).reshape(*[1] * (x.ndim - 1), -1)
    if activation is not None:
        x = activation(x)
    gain = gain if gain is not None else 1.0 if activation is None else math.sqrt(2)
    x = x * jnp.asarray(gain, x.dtype)
    return x if clamp is None else jnp.clip(x, -clamp, clamp)


class Dense(nn.Module):
    """A dense layer: [B, I] -> [B, features].

    Attributes:
        features: Features of the output.
        activation: Activation after the bias; None for the identity.
        bias: Initial value of the bias.
        lr_multiplier: Learning rate relative to other layers, such as 0.01 in a mapping network.
        dtype: Compute type.
    """

    features: int
    activation: Activation | None = None
    bias: float = 0.0
    lr_multiplier: float = 1.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1 / self.lr_multiplier), shape)
        initializer = nn.initializers.constant(self.bias / self.lr_multiplier)
        bias = self.param("bias", initializer, (self.features,)) * self.lr_multiplier
        scale = self.lr_multiplier / math.sqrt(x.shape[-1])
        y = x.astype(self.dtype) @ (kernel * scale).astype(self.dtype)
        return bias_act(y, bias, self.activation)


class Conv(nn.Module):
    """A convolution: [B, H, W, I] -> [B, H', W', features], twice or half the size if it resamples.

    Attributes:
        features: Features of the output.
        kernel_size: Height and width of the kernel, odd.
        up: Whether to double the size.
        down: Whether to halve the size.
        activation: Activation after the bias; None for the identity.
        gain: Gain of the output, as in `bias_act`.
        use_bias: Whether it has a bias.
        clamp: Bound of the output, as in `bias_act`.
        dtype: Compute type.
    """

    features: int
    kernel_size: int
    up: bool = False
    down: bool = False
    activation: Activation | None = leaky_relu
    gain: float | None = None
    use_bias: bool = True
    clamp: float | None = None
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape)
        # Not in place: parameters may be NumPy arrays, which that would change.
        kernel = kernel / math.sqrt(math.prod(shape[:3]))
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x = resampling_conv(x.astype(self.dtype), kernel.astype(self.dtype), self.up, self.down)
        return bias_act(x, bias, self.activation, self.gain, self.clamp)


def resampling_conv(
    x: jax.Array, kernel: jax.Array, up: bool = False, down: bool = False
) -> jax.Array:
    """Convolve and keep the size, double it and then blur, or blur and then halve it.

    A 1x1 kernel is applied at the smaller of the two sizes.

    Args:
        x: [B, H, W, I].
        kernel: [K, K, I, O], K odd. To double the size, a transposed convolution
            (`y[2 i + k] += x[i] kernel[k]`) goes before the blur.
        up: Whether to double the size.
        down: Whether to halve the size.

    Returns:
        [B, H', W', O].
    """
    size = len(kernel)
    taps = len(resample.BINOMIAL)
    if up:
        if size == 1:
            return resample.upsample(conv(x, kernel))
        before, after = (taps + 2 - size) // 2, (taps + 1 - size) // 2
        x = conv_transpose(x, kernel, stride=2)
        return resample.upfirdn(x, resample.BINOMIAL, padding=(before, after) * 2, gain=4)
    if down:
        if size == 1:
            return conv(resample.downsample(x), kernel)
        before, after = (taps - 2 + size) // 2, (taps - 3 + size) // 2
        x = resample.upfirdn(x, resample.BINOMIAL, padding=(before, after) * 2)
        return conv(x, kernel, stride=2)
    return conv(x, kernel, padding=size // 2)


def minibatch_std(x: jax.Array, group_size: int) -> jax.Array:
    """Append a feature that says how much images of a batch differ (Karras et al. 2018, section 3).

    It is the standard deviation over a group of images, averaged over all features and pixels, and
    the same at every pixel. Image i belongs to group `i mod (B / group_size)`.

    Args:
        x: [B, H, W, C].
        group_size: Most images in a group; the largest number up to it that divides B is taken.

    Returns:
        [B, H, W, C + 1].
    """
    everything = gather_over_replicas(x)
    batch, height, width, channels = everything.shape
    group_size = max(n for n in range(1, min(group_size, batch) + 1) if batch % n == 0)
    groups = everything.astype(jnp.float32).reshape(group_size, -1, height, width, channels)
    std = jnp.sqrt(jnp.var(groups, axis=0) + 1e-8)
    std = own_rows(jnp.tile(jnp.mean(std, axis=(1, 2, 3)), group_size)).reshape(-1, 1, 1, 1)
    return jnp.concatenate([x, jnp.broadcast_to(std, (*x.shape[:3], 1)).astype(x.dtype)], axis=-1)
