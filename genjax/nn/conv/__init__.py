"""Convolution and transposed convolution, fast forward and backward on every platform.

Three functions share a geometry (sizes, stride, padding, and the precision of the products at the
call, which their derivatives keep); each is linear in both arguments:

    _conv(x, w) -> y            y[o] = sum_k x[stride * o + k - padding] w[k]
    _input_grad(y, w) -> x      its transpose in x: the transposed convolution
    _kernel_grad(x, y) -> w     its transpose in w

The derivative of each in one argument is itself, of the tangent, and its transposes are the other
two, so that gradients of any order use nothing else, in forward and in reverse mode (`linear`).

XLA's own transposes of a convolution (`xla`) are fast on GPU and TPU and are used there. They are
slow on a CPU, where each function has other forms (`cpu`).
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from genjax.linear import linear_call
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


def grouped_conv(
    x: jax.Array, kernel: jax.Array, groups: int, stride: int = 1, padding: int = 0
) -> jax.Array:
    """Convolve each of `groups` equal shares of the channels apart, like `conv2d` with groups.

    Args:
        x: Images [B, H, W, I].
        kernel: Kernel [KH, KW, I / groups, O]; its outputs are those of the groups in turn.
        groups: Number of groups; it divides I and O.
        stride: Stride of both axes.
        padding: Number of zeros added to each side of both axes.

    Returns:
        As `conv` does, [B, H', W', O].

    Raises:
        ValueError: The shapes do not fit, or the output would be empty.
    """
    inputs, outputs = x.shape[-1], kernel.shape[-1]
    if inputs % groups or outputs % groups:
        raise ValueError(
            f"{groups} groups of {inputs} inputs and {outputs} outputs: should divide both"
        )
    if groups == 1:
        return conv(x, kernel, stride, padding)
    shares = (array.reshape(*array.shape[:3], groups, -1) for array in (x, kernel))
    one = functools.partial(conv, stride=stride, padding=padding)
    y = jax.vmap(one, in_axes=(3, 3), out_axes=3)(*shares)
    return y.reshape(*y.shape[:3], outputs)


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
    """Convolution with a square kernel: [B, H, W, I] -> [B, H', W', features]; see `conv`.

    With `groups`, each of these equal shares of the channels is convolved apart.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: str = "float32"
    groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
        y = self.apply_kernel(x.astype(self.dtype), kernel)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
        return y

    def apply_kernel(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Convolve x, [B, H, W, I], with the kernel."""
        return grouped_conv(x, kernel, self.groups, self.stride, self.padding)


class ConvTranspose(Conv):
    """Transposed convolution: [B, H, W, I] -> [B, H', W', features]; see `conv_transpose`."""

    def apply_kernel(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Apply the transposed convolution of x, [B, H, W, I], by the kernel."""
        return conv_transpose(x, kernel, self.stride, self.padding)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _conv(geometry: Geometry, x: jax.Array, w: jax.Array) -> jax.Array:
    return _by_platform(geometry, cpu.conv, xla.conv, x, w)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _input_grad(geometry: Geometry, y: jax.Array, w: jax.Array) -> jax.Array:
    return _by_platform(geometry, cpu.input_grad, xla.input_grad, y, w)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
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


def _differentiate(
    function: Any,
    first_grad: Callable[..., jax.Array],
    second_grad: Callable[..., jax.Array],
) -> None:
    """Define the derivative of one of the three, `function(geometry, a, b)`.

    Args:
        function: The function.
        first_grad: `(geometry, y, b) -> a`, its transpose in a.
        second_grad: `(geometry, a, y) -> b`, its transpose in b.
    """

    def jvp(geometry: Geometry, primals: Any, tangents: Any) -> tuple[Any, Any]:
        (a, b), (a_dot, b_dot) = primals, tangents
        y = function(geometry, a, b)
        y_dot = jnp.zeros_like(y)
        if not isinstance(a_dot, SymbolicZero):
            y_dot = linear_call(
                lambda b, a: function(geometry, a, b),
                lambda b, y: first_grad(geometry, y, b),
                b,
                a_dot,
            )
        if not isinstance(b_dot, SymbolicZero):
            y_dot += linear_call(
                lambda a, b: function(geometry, a, b),
                lambda a, y: second_grad(geometry, a, y),
                a,
                b_dot,
            )
        return y, y_dot

    function.defjvp(jvp, symbolic_zeros=True)


_differentiate(_conv, _input_grad, _kernel_grad)
_differentiate(_input_grad, _conv, lambda geometry, y, x: _kernel_grad(geometry, x, y))
_differentiate(
    _kernel_grad,
    lambda geometry, w, y: _input_grad(geometry, y, w),
    _conv,
)
