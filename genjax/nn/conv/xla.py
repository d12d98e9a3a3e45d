"""Convolution and its two transposes as XLA has them: fast on a GPU and a TPU."""

import jax
from jax import lax

from genjax.nn.conv.geometry import Geometry

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def conv(geometry: Geometry, x: jax.Array, w: jax.Array) -> jax.Array:
    """Convolve: x [B, H, W, I] with w [KH, KW, I, O] to y [B, H', W', O]."""
    return lax.conv_general_dilated(
        x,
        w,
        (geometry.stride, geometry.stride),
        [(geometry.padding, geometry.padding)] * 2,
        dimension_numbers=DIMENSIONS,
    )


def input_grad(geometry: Geometry, y: jax.Array, w: jax.Array) -> jax.Array:
    """Apply the transpose of `conv` in x: y [B, H', W', O] with w to x [B, H, W, I]."""
    x = jax.ShapeDtypeStruct((y.shape[0], *geometry.input_size, w.shape[2]), y.dtype)
    return jax.linear_transpose(lambda x: conv(geometry, x, w), x)(y)[0]


def kernel_grad(geometry: Geometry, x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the kernel's gradient [KH, KW, I, O] of inputs x and output gradients y.

    x is [B, H, W, I], y [B, H', W', O].
    """
    w = jax.ShapeDtypeStruct((*geometry.kernel_size, x.shape[3], y.shape[3]), y.dtype)
    return jax.linear_transpose(lambda w: conv(geometry, x, w), w)(y)[0]
