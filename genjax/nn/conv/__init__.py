"""Convolution and transposed convolution, fast forward and backward on every platform.

Three functions share a geometry (sizes, stride, padding, and the precision of the products at the
call, which their derivatives keep); each is linear in both arguments:

    _conv(x, w) -> y            y[o] = sum_k x[stride * o + k - padding] w[k]
    _input_grad(y, w) -> x      its transpose in x: the transposed convolution
    _kernel_grad(x, y) -> w     its transpose in w

The derivatives of each are the other two, so their `custom_vjp`s call only each other. Gradients of
any order in reverse mode (a gradient penalty needs the second) use nothing else. Forward mode
(`jax.jvp`, `jax.jacfwd`, `jax.hessian`) is not supported, as with every `custom_vjp`; the
Hessian in reverse mode is `jax.jacrev(jax.jacrev(f))`.

XLA's own transposes of a convolution (`xla`) are fast on GPU and TPU and are used there. They are
slow on a CPU, where each function has other forms (`cpu`).
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
from jax import lax

from genjax.nn.conv import cpu, xla
from genjax.nn.conv.geometry import Geometry
from genjax.nn.precision import current


def conv(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: int = 0) -> jax.Array:
    """Convolve (cross-correlate), like PyTorch's `conv2d`.

    Args:
        x: Images [B, H, W, I].
        kernel: Kernel [KH, KW, I, O].
        stride: Stride of both axes.
        padding: Number of zeros added to each side of both axes.

    Returns:
        [B, (H + 2 padding - KH) // stride + 1, (W + 2 padding - KW) // stride + 1, O].

    Raises:
        ValueError: The shapes do not fit, or the output would be empty.
    """
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[3] != kernel.shape[2]:
        raise ValueError(
            f"conv of {x.shape} with {kernel.shape}: wants [B, H, W, I], [KH, KW, I, O]"
        )
    geometry = Geometry(x.shape[1:3], kernel.shape[:2], stride, padding, current())
    if min(geometry.output_size) < 1:
        raise ValueError(f"conv of {x.shape} with {kernel.shape}, padding {padding}: empty output")
    return _conv(geometry, x, kernel)


def conv_transpose(
    x: jax.Array, kernel: jax.Array, stride: int = 1, padding: int = 0, output_padding: int = 0
) -> jax.Array:
    """Apply a transposed (fractionally strided) convolution, like PyTorch's `conv_transpose2d`.

    It computes `y[stride * i + k - padding] += x[i] kernel[k]`, the transpose of `conv` with the
    same stride and padding. (`lax.conv_transpose` flips the kernel and defines padding otherwise.)

    Args:
        x: Images [B, H, W, I].
        kernel: Kernel [KH, KW, I, O].
        stride: Stride of both axes.
        padding: Number of pixels cut from each side of both axes.
        output_padding: Number of pixels added to the end of both axes, less than the stride.

    Returns:
        [B, H', W', O], where H' = (H - 1) stride - 2 padding + KH + output_padding, and W' follows
        from W and KW in the same way.

    Raises:
        ValueError: The shapes or `output_padding` do not fit, or the output would be empty.
    """
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[3] != kernel.shape[2]:
        raise ValueError(
            f"conv_transpose of {x.shape} with {kernel.shape}: wants [B, H, W, I], [KH, KW, I, O]"
        )
    if not 0 <= output_padding < stride:
        raise ValueError(
            f"output_padding is {output_padding}; less than the stride of {stride} fits"
        )
    height, width = (
        (size - 1) * stride - 2 * padding + extent + output_padding
        for size, extent in zip(x.shape[1:3], kernel.shape[:2], strict=True)
    )
    if min(height, width) < 1:
        raise ValueError(
            f"conv_transpose of {x.shape} with {kernel.shape}, padding {padding}: empty output"
        )
    geometry = Geometry((height, width), kernel.shape[:2], stride, padding, current())
    return _input_grad(geometry, x, kernel.swapaxes(2, 3))


class Conv(nn.Module):
    """Convolution with a square kernel: [B, H, W, I] -> [B, H', W', features]; see `conv`."""

    features: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: str = "float32"
    function = staticmethod(conv)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
        y: jax.Array = self.function(x.astype(self.dtype), kernel, self.stride, self.padding)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
        return y


class ConvTranspose(Conv):
    """Transposed convolution: [B, H, W, I] -> [B, H', W', features]; see `conv_transpose`."""

    function = staticmethod(conv_transpose)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(geometry: Geometry, x: jax.Array, w: jax.Array) -> jax.Array:
    return _by_platform(geometry, cpu.conv, xla.conv, x, w)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _input_grad(geometry: Geometry, y: jax.Array, w: jax.Array) -> jax.Array:
    return _by_platform(geometry, cpu.input_grad, xla.input_grad, y, w)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _kernel_grad(geometry: Geometry, x: jax.Array, y: jax.Array) -> jax.Array:
    return _by_platform(geometry, cpu.kernel_grad, xla.kernel_grad, x, y)


def _by_platform(
    geometry: Geometry,
    on_cpu: Callable[..., jax.Array],
    otherwise: Callable[..., jax.Array],
    *args: jax.Array,
) -> jax.Array:
    with jax.default_matmul_precision(geometry.precision):
        return lax.platform_dependent(
            *args,
            cpu=functools.partial(on_cpu, geometry),
            default=functools.partial(otherwise, geometry),
        )


_conv.defvjp(
    lambda geometry, x, w: (_conv(geometry, x, w), (x, w)),
    lambda geometry, saved, y: (
        _input_grad(geometry, y, saved[1]),
        _kernel_grad(geometry, saved[0], y),
    ),
)
_input_grad.defvjp(
    lambda geometry, y, w: (_input_grad(geometry, y, w), (y, w)),
    lambda geometry, saved, x: (
        _conv(geometry, x, saved[1]),
        _kernel_grad(geometry, x, saved[0]),
    ),
)
_kernel_grad.defvjp(
    lambda geometry, x, y: (_kernel_grad(geometry, x, y), (x, y)),
    lambda geometry, saved, w: (
        _input_grad(geometry, saved[1], w),
        _conv(geometry, saved[0], w),
    ),
)
