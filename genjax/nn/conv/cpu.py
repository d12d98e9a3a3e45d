"""Convolution and its two transposes for a CPU, where XLA's own transposes are slow.

Each function has several forms: matrix products, a plain convolution, and for many channels
Winograd's filters. The shapes decide which is used, by measurements (experiments/BENCHMARKS.md).
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jax import export, lax

from genjax.nn.batch import is_split
from genjax.nn.conv import winograd, xla
from genjax.nn.conv.geometry import Geometry
from genjax.nn.conv.groups import sum_groups

# The thresholds below were measured on CPUs. Winograd's filters are faster if there are at least
# this many channels on both sides and this many operations in the plain convolution, and if their
# products are at most this fraction of the plain ones.
FEW_CHANNELS, MANY_OPERATIONS, SHARE = 32, 70_000_000, 0.75
# The least output size for an input gradient by one convolution. That form also computes a margin
# that is cut off, which costs too much at smaller sizes.
LARGE_OUTPUT = 8
# Kernel gradients lay out taps (the pixels that an output sees) for a few images at a time, so that
# they stay in a cache of the first of these sizes. With many channels this is done only if the taps
# of the whole batch take at least the second; otherwise there is a product for each row of taps.
CACHED_BYTES, MANY_BYTES = 5_000_000, 24_000_000


def conv(geometry: Geometry, x: jax.Array, w: jax.Array) -> jax.Array:
    """Convolve: x [B, H, W, I] with w [KH, KW, I, O] to y [B, H', W', O]."""
    channels, features = w.shape[2:]
    group = _winograd_group(geometry, x, channels, features)
    if group:
        return winograd.conv(geometry, x, w, group)
    if geometry.stride > 1:
        return xla.conv(geometry, x, w)
    if _patches_are_narrow(geometry, channels, features):
        return _conv_as_product(geometry, x, w)
    if _patches_are_narrow(geometry, features, channels):
        return _conv_as_sum(geometry, x, w)
    return xla.conv(geometry, x, w)


def _winograd_group(
    geometry: Geometry, x: jax.Array, channels: int, features: int, summed: bool = False
) -> int:
    """Return the number of images for Winograd's filters at a time; 0 if another form is faster.

    The number divides the batch, and the blocks of so many images fit the cache. If kernels are
    `summed` over the groups, the blocks may take as much memory as the kernels, because smaller
    groups would spend more time on the sum than they save. An exported program, whose batch has no
    size yet, takes another form.
    """
    batch, itemsize = x.shape[0], x.dtype.itemsize
    sizes = (*geometry.output_size, *geometry.kernel_size, channels, features)
    if (
        export.is_symbolic_dim(batch)
        or min(channels, features) < FEW_CHANNELS
        or 2 * batch * math.prod(sizes) < MANY_OPERATIONS
        or winograd.products(geometry) > SHARE
        or itemsize < 4
    ):
        return 0
    budget = CACHED_BYTES
    if summed:
        budget = max(budget, winograd.bytes_of_kernels(geometry, channels, features, itemsize))
    return _divisor(batch, budget // winograd.bytes_of_blocks(geometry, channels, itemsize))


def _bytes_of_taps(geometry: Geometry, x: jax.Array) -> int:
    """Return the bytes that `_all_taps` takes for one image."""
    return math.prod((*geometry.output_size, *geometry.kernel_size, x.shape[3])) * x.dtype.itemsize


def _images_at_a_time(geometry: Geometry, x: jax.Array) -> int:
    """Return how many images' taps fit the cache, a divisor of the batch; 0 for another form."""
    batch, _, _, channels = x.shape
    size = _bytes_of_taps(geometry, x)
    if channels >= FEW_CHANNELS and (is_split() or size * batch < MANY_BYTES):
        return 0
    return _divisor(batch, CACHED_BYTES // size)


def _divisor(batch: int, most: int) -> int:
    """Return the largest divisor of `batch` that is at most `most`, or 1.

    If devices share the batch, return all of it, because groups would be computed one after the
    other and not on all devices at once.
    """
    fitting = [n for n in range(1, batch + 1) if batch % n == 0 and n <= most]
    return batch if is_split() else max(fitting, default=1)


def _all_taps(geometry: Geometry, x: jax.Array) -> jax.Array:
    """Lay out the pixels that each output sees: [B, H, W, C] to [B * H' * W', KH * KW * C]."""
    around = (geometry.padding, geometry.padding)
    x = jnp.pad(x, ((0, 0), around, around, (0, 0)))
    (rows, columns), stride = geometry.output_size, geometry.stride
    taps = [
        _every(_every(x, stride, i, rows, axis=1), stride, j, columns, axis=2)
        for i, j in itertools.product(*map(range, geometry.kernel_size))
    ]
    return jnp.concatenate(taps, axis=3).reshape(-1, len(taps) * x.shape[3])


def _patches_are_narrow(geometry: Geometry, few: int, many: int) -> bool:
    """Return whether all taps of `few` channels take no more memory than `many` channels."""
    return math.prod(geometry.kernel_size) * few <= many


def _conv_as_product(geometry: Geometry, x: jax.Array, w: jax.Array) -> jax.Array:
    """Convolve few channels at stride 1, as one product with the pixels that each output sees."""
    patches = _patches(x, geometry.kernel_size, (geometry.padding, geometry.padding))
    y = patches.reshape(-1, patches.shape[3]) @ w.reshape(patches.shape[3], -1)
    return y.reshape(x.shape[0], *geometry.output_size, -1)


def _patches(x: jax.Array, kernel_size: tuple[int, ...], padding: tuple[int, int]) -> jax.Array:
    """Lay out what each output at stride 1 sees: [B, H, W, C] to [B, H', W', KH * KW * C]."""
    x = jnp.pad(x, ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)))
    height, width = (
        size - extent + 1 for size, extent in zip(x.shape[1:3], kernel_size, strict=True)
    )
    taps = itertools.product(*map(range, kernel_size))
    return jnp.concatenate([x[:, i : i + height, j : j + width] for i, j in taps], axis=3)


def _conv_as_sum(geometry: Geometry, x: jax.Array, w: jax.Array) -> jax.Array:
    """Convolve to few features at stride 1, as one product for all taps and a shifted sum."""
    channels, features = w.shape[2:]
    taps = x.reshape(-1, channels) @ w.transpose(2, 0, 1, 3).reshape(channels, -1)
    around = (geometry.padding, geometry.padding)
    taps = jnp.pad(taps.reshape(*x.shape[:3], -1), ((0, 0), around, around, (0, 0)))
    height, width = geometry.output_size
    total = jnp.zeros((x.shape[0], height, width, features), taps.dtype)
    for k, (i, j) in enumerate(itertools.product(*map(range, geometry.kernel_size))):
        total += taps[:, i : i + height, j : j + width, k * features : (k + 1) * features]
    return total


def _stride_one(
    x: jax.Array, w: jax.Array, low: tuple[int, int], output_size: tuple[int, ...]
) -> jax.Array:
    """Convolve at stride 1, with padding `low` before, and after as `output_size` needs it."""
    sizes = zip(low, output_size, w.shape[:2], x.shape[1:3], strict=True)
    pads = [(before, out + extent - 1 - size - before) for before, out, extent, size in sizes]
    return lax.conv_general_dilated(x, w, (1, 1), pads, dimension_numbers=xla.DIMENSIONS)


def input_grad(geometry: Geometry, y: jax.Array, w: jax.Array) -> jax.Array:
    """Apply the transpose of `conv` in x: y [B, H', W', O] with w to x [B, H, W, I]."""
    group = _winograd_group(geometry, y, w.shape[2], w.shape[3])
    if group:
        return winograd.input_grad(geometry, y, w, group)
    if geometry.stride == 1:
        return _input_grad_as_conv(geometry, y, w)
    is_large = min(geometry.output_size) >= LARGE_OUTPUT and geometry.fills_strides
    if is_large and w.shape[2] >= FEW_CHANNELS:
        return _input_grad_as_one_conv(geometry, y, w)
    return _input_grad_as_product(geometry, y, w)


def _input_grad_as_conv(geometry: Geometry, y: jax.Array, w: jax.Array) -> jax.Array:
    """Compute the input gradient at stride 1, as a convolution with the flipped kernel."""
    low = [extent - 1 - geometry.padding for extent in geometry.kernel_size]
    flipped = w[::-1, ::-1].swapaxes(2, 3)
    if low[0] == low[1] >= 0:
        return conv(Geometry(y.shape[1:3], geometry.kernel_size, 1, low[0]), y, flipped)
    return _stride_one(y, flipped, (low[0], low[1]), geometry.input_size)


def _input_grad_as_one_conv(geometry: Geometry, y: jax.Array, w: jax.Array) -> jax.Array:
    """Compute the input gradient's phases as channels of one convolution, and interleave them."""
    stride = geometry.stride
    channels, features = w.shape[2:]
    m, n = (extent // stride for extent in geometry.kernel_size)
    w = w.reshape(m, stride, n, stride, channels, features)[::-1, :, ::-1]
    w = w.transpose(0, 2, 5, 1, 3, 4).reshape(m, n, features, stride * stride * channels)
    rows, columns = (size + m - 1 for size, m in zip(geometry.output_size, (m, n), strict=True))
    blocks = _stride_one(y, w, (m - 1, n - 1), (rows, columns))
    return _interleave(
        geometry, blocks.reshape(y.shape[0], rows, columns, stride, stride, channels)
    )


def _interleave(geometry: Geometry, blocks: jax.Array) -> jax.Array:
    """Put blocks [B, rows, columns, stride, stride, C] together to x [B, H, W, C]."""
    batch, rows, columns, stride, _, channels = blocks.shape
    padding, (height, width) = geometry.padding, geometry.input_size
    x = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * stride, columns * stride, channels)
    more_rows = max(0, padding + height - x.shape[1])
    more_columns = max(0, padding + width - x.shape[2])
    x = jnp.pad(x, ((0, 0), (0, more_rows), (0, more_columns), (0, 0)))
    return x[:, padding : padding + height, padding : padding + width]


def _input_grad_as_product(geometry: Geometry, y: jax.Array, w: jax.Array) -> jax.Array:
    """Compute the input gradient as a product for patches of x, and a sum of the patches.

    Each pixel of `y` adds to a patch of x. With the kernel padded to m x n strides, a patch is
    m x n blocks of stride x stride pixels. So the sum is that of m * n arrays, each shifted by
    whole pixels of `y`, and only the sum has to be interleaved into an image.
    """
    stride = geometry.stride
    batch, rows, columns, features = y.shape
    channels = w.shape[2]
    m, n = (-(-extent // stride) for extent in geometry.kernel_size)
    w = jnp.pad(w, ((0, m * stride - w.shape[0]), (0, n * stride - w.shape[1]), (0, 0), (0, 0)))
    w = w.reshape(m, stride, n, stride, channels, features).transpose(0, 2, 5, 1, 3, 4)
    w = w.reshape(m, n, features, stride * stride * channels)
    shifted = [
        jnp.pad(
            jnp.einsum("bhwo,oc->bhwc", y, w[i, j]),
            ((0, 0), (i, m - 1 - i), (j, n - 1 - j), (0, 0)),
        )
        for i in range(m)
        for j in range(n)
    ]
    blocks = functools.reduce(jnp.add, shifted)
    rows, columns = rows + m - 1, columns + n - 1
    return _interleave(geometry, blocks.reshape(batch, rows, columns, stride, stride, channels))


def kernel_grad(geometry: Geometry, x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the kernel's gradient [KH, KW, I, O] of inputs x and output gradients y.

    x is [B, H, W, I], y [B, H', W', O]. There is one product for all taps, for as many images (or
    bands of them) at a time as the cache holds. With many channels and a small batch there is a
    product for each row of taps instead.
    """
    stride, padding = geometry.stride, geometry.padding
    kernel_rows, kernel_columns = geometry.kernel_size
    channels, features = x.shape[3], y.shape[3]
    low = (kernel_rows - 1 - padding, kernel_columns - 1 - padding)
    if stride == 1 and min(low) >= 0 and _patches_are_narrow(geometry, features, channels):
        # With few features, lay out the outputs that each pixel of x adds to; taps come in reverse.
        patches = _patches(y, geometry.kernel_size, low)
        w = x.reshape(-1, channels).T @ patches.reshape(-1, patches.shape[3])
        w = w.reshape(channels, kernel_rows, kernel_columns, features)
        return w[:, ::-1, ::-1].transpose(1, 2, 0, 3)
    geometry, x, y = _in_bands(geometry, x, y)
    group = _winograd_group(geometry, x, channels, features, summed=True)
    if group:
        return winograd.kernel_grad(geometry, x, y, group)
    group = _images_at_a_time(geometry, x)
    if group:
        return _kernel_grad_in_groups(geometry, x, y, group)
    around = (geometry.padding, geometry.padding)
    x = jnp.pad(x, ((0, 0), around, around, (0, 0)))
    # The pixels that each column of taps sees, over all rows of the image.
    columns = [_every(x, stride, j, geometry.output_size[1], axis=2) for j in range(kernel_columns)]
    beside = lax.optimization_barrier(jnp.concatenate(columns, axis=3))
    # XLA's product is nearly twice as fast with its first factor transposed in memory beforehand,
    # and the barrier keeps that transposition out of the product.
    features_first = lax.optimization_barrier(y.reshape(-1, features).T)
    rows = []
    for i in range(kernel_rows):
        row = _every(beside, stride, i, geometry.output_size[0], axis=1)
        rows.append(features_first @ row.reshape(-1, kernel_columns * channels))
    w = jnp.stack(rows).reshape(kernel_rows, features, kernel_columns, channels)
    return w.transpose(0, 2, 3, 1)


def _in_bands(
    geometry: Geometry, x: jax.Array, y: jax.Array
) -> tuple[Geometry, jax.Array, jax.Array]:
    """Cut images into bands of rows whose taps fit the cache.

    The bands become further images of the batch; the kernel gradient of both is the same.
    """
    rows = geometry.output_size[0]
    fitting = [
        n
        for n in range(1, rows + 1)
        if rows % n == 0 and n * CACHED_BYTES >= _bytes_of_taps(geometry, x)
    ]
    bands = min(fitting, default=rows)
    if is_split() or bands == 1:
        return geometry, x, y
    around = (geometry.padding, geometry.padding)
    x = jnp.pad(x, ((0, 0), around, around, (0, 0)))
    height = rows // bands
    seen = (height - 1) * geometry.stride + geometry.kernel_size[0]
    starts = range(0, rows, height)
    x = jnp.concatenate([x[:, i * geometry.stride : i * geometry.stride + seen] for i in starts])
    y = jnp.concatenate([y[:, i : i + height] for i in starts])
    return geometry._replace(input_size=x.shape[1:3], padding=0), x, y


def _kernel_grad_in_groups(geometry: Geometry, x: jax.Array, y: jax.Array, group: int) -> jax.Array:
    """Sum the products for all taps over groups of images."""
    features = y.shape[3]
    accumulated = jnp.promote_types(y.dtype, jnp.float32)

    def one(x: jax.Array, y: jax.Array) -> jax.Array:
        taps, y = _all_taps(geometry, x), y.reshape(-1, features)
        return jnp.matmul(y.T, taps, preferred_element_type=accumulated)

    w: jax.Array = sum_groups(one, group, x, y).astype(y.dtype)
    return w.reshape(features, *geometry.kernel_size, x.shape[3]).transpose(1, 2, 3, 0)


def _every(x: jax.Array, stride: int, first: int, count: int, axis: int) -> jax.Array:
    """Return `count` slices along an axis, `stride` apart, from `first` on."""
    return lax.slice_in_dim(x, first, first + stride * (count - 1) + 1, stride, axis)
