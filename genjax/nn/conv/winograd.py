"""Convolution with fewer products, by Winograd's minimal filters (Lavin and Gray 2016, section 4).

Two neighbouring outputs of a filter of r taps take r + 1 products in place of 2 r:

    y = outputs (kernels w * inputs x),  x of r + 1, w of r and y of 2 numbers

with the constant matrices of `TRANSFORMS`. In two dimensions a block of 2x2 outputs takes (r + 1)^2
products in place of (2 r)^2, which is 9/16 or 4/9 of them. With channels, each product is a matrix
product over all blocks. At stride s a kernel of s * r taps is s^2 kernels of r taps at stride 1,
each of which sees the pixels of one phase; the phases become channels.

The matrices hold 0, 1, -1 and 1/2, so that rounding errors are about those of a plain sum. Blocks
are laid out for `group` images at a time, a divisor of the batch, so that they stay in the cache.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from genjax.nn.conv.geometry import Geometry
from genjax.nn.conv.groups import map_groups, sum_groups


class _Transform(NamedTuple):
    """The matrices that transform the inputs, the kernels and the products, by row."""

    inputs: Sequence[Sequence[float]]
    kernels: Sequence[Sequence[float]]
    outputs: Sequence[Sequence[float]]


TRANSFORMS = {
    2: _Transform(
        inputs=((1, -1, 0), (0, 1, 0), (0, 1, -1)),
        kernels=((1, 0), (1, 1), (0, 1)),
        outputs=((1, 1, 0), (0, 1, -1)),
    ),
    3: _Transform(
        inputs=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        kernels=((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
        outputs=((1, 1, 1, 0), (0, 1, -1, -1)),
    ),
}
# Factors or results of the products: [B, rows, columns, C], by row and column of the transform.
Blocks = list[list[jax.Array]]


def products(geometry: Geometry) -> float:
    """Return the number of products over that of the plain sum, with the last blocks filled up.

    The result is infinite if there is no transform for the kernel.
    """
    rows, columns = geometry.kernel_size
    taps = rows // geometry.stride
    if rows != columns or not geometry.fills_strides or taps not in TRANSFORMS:
        return math.inf
    filled = math.prod(2 * blocks / size for blocks, size in _sizes(geometry))
    return filled * ((taps + 1) / (2 * taps)) ** 2


def bytes_of_blocks(geometry: Geometry, channels: int, itemsize: int) -> int:
    """Return the bytes of the blocks of one image's inputs."""
    blocks = math.prod(blocks for blocks, _ in _sizes(geometry))
    return blocks * bytes_of_kernels(geometry, channels, 1, itemsize)


def bytes_of_kernels(geometry: Geometry, channels: int, features: int, itemsize: int) -> int:
    """Return the bytes of a kernel's matrices."""
    count = len(_transform(geometry).inputs) ** 2
    return count * geometry.stride**2 * channels * features * itemsize


def conv(geometry: Geometry, x: jax.Array, w: jax.Array, group: int) -> jax.Array:
    """Convolve: x [B, H, W, I] with w [KH, KW, I, O] to y [B, H', W', O]."""
    matrices = lax.optimization_barrier(_kernels(geometry, w))

    def one(x: jax.Array) -> jax.Array:
        return _from_blocks(geometry, _each(jnp.matmul, _inputs(geometry, x), matrices))

    return map_groups(one, group, x)


def input_grad(geometry: Geometry, y: jax.Array, w: jax.Array, group: int) -> jax.Array:
    """Apply the transpose of `conv` in x: y [B, H', W', O] with w to x [B, H, W, I]."""
    matrices = lax.optimization_barrier(_kernels(geometry, w))

    def one(y: jax.Array) -> jax.Array:
        blocks = _each(lambda y, matrix: y @ matrix.T, _to_blocks(geometry, y), matrices)
        return _to_inputs(geometry, blocks)

    return map_groups(one, group, y)


def kernel_grad(geometry: Geometry, x: jax.Array, y: jax.Array, group: int) -> jax.Array:
    """Apply the transpose of `conv` in w: x with y to w [KH, KW, I, O]."""

    def one(x: jax.Array, y: jax.Array) -> Blocks:
        factors = (_inputs(geometry, x), _to_blocks(geometry, y))
        flat = jax.tree.map(lambda blocks: blocks.reshape(-1, blocks.shape[-1]), factors)
        transposed, y_blocks = _each(jnp.transpose, flat[0]), flat[1]
        if geometry.stride > 1:
            # Blocks of several phases take less time if they are transposed in a step of their own,
            # which the barrier enforces; others take less without.
            transposed, y_blocks = lax.optimization_barrier((transposed, y_blocks))
        return _each(jnp.matmul, transposed, y_blocks)

    matrices = sum_groups(one, group, x, y)
    w = jax.ShapeDtypeStruct((*geometry.kernel_size, x.shape[3], y.shape[3]), y.dtype)
    (kernel,) = jax.linear_transpose(lambda w: _kernels(geometry, w), w)(matrices)
    return kernel


def _each(function: Callable[..., jax.Array], *blocks: Blocks) -> Blocks:
    return jax.tree.map(function, *blocks)


def _transform(geometry: Geometry) -> _Transform:
    return TRANSFORMS[geometry.kernel_size[0] // geometry.stride]


def _sizes(geometry: Geometry) -> list[tuple[int, int]]:
    """Return (blocks, outputs) along the height and along the width."""
    return [(-(-size // 2), size) for size in geometry.output_size]


def _paddings(geometry: Geometry) -> list[tuple[int, int]]:
    """Return the zeros before and after each axis of an input.

    They fill it to one block more than the outputs have; a block is 2 * stride pixels long.
    """
    sizes = zip(_sizes(geometry), geometry.input_size, strict=True)
    return [
        (geometry.padding, 2 * geometry.stride * (blocks + 1) - size - geometry.padding)
        for (blocks, _), size in sizes
    ]


def _combine(factors: Sequence[float], terms: Sequence[jax.Array]) -> jax.Array:
    """Return the sum of factors * terms, leaving out terms whose factor is 0."""
    parts = zip(factors, terms, strict=True)
    return functools.reduce(
        jnp.add, [term if factor == 1 else factor * term for factor, term in parts if factor]
    )


def _transposed(matrix: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    return list(zip(*matrix, strict=True))


def _inputs(geometry: Geometry, x: jax.Array) -> Blocks:
    """Transform images into blocks to multiply with kernels, with stride^2 times the channels."""
    matrix, phases = _transform(geometry).inputs, range(geometry.stride)
    x = jnp.pad(x, ((0, 0), *_paddings(geometry), (0, 0)))
    by_row = _input_phases(x, 1, matrix, geometry.stride)
    blocks = []
    for rows in by_row:
        by_column = [_input_phases(row, 2, matrix, geometry.stride) for row in rows]
        blocks.append(
            [
                jnp.concatenate([by_column[p][j][q] for p in phases for q in phases], axis=-1)
                for j in range(len(matrix))
            ]
        )
    return blocks


def _input_phases(
    x: jax.Array, axis: int, matrix: Sequence[Sequence[float]], stride: int
) -> list[list[jax.Array]]:
    """Apply the matrix along an axis of pixels; return sums by row of the matrix, then by phase."""
    count = x.shape[axis] // (2 * stride) - 1
    x = x.reshape(*x.shape[:axis], count + 1, 2 * stride, *x.shape[axis + 1 :])

    def tap(index: int, phase: int) -> jax.Array:
        later, place = divmod(stride * index + phase, 2 * stride)
        return lax.slice_in_dim(
            lax.index_in_dim(x, place, axis + 1, keepdims=False), later, later + count, axis=axis
        )

    return [
        [_combine(row, [tap(i, phase) for i in range(len(row))]) for phase in range(stride)]
        for row in matrix
    ]


def _to_inputs(geometry: Geometry, blocks: Blocks) -> jax.Array:
    """Apply the transpose of `_inputs`; phases stay channels to the end, which is faster."""
    stride, (top, left) = geometry.stride, (geometry.padding,) * 2
    matrix = _transposed(_transform(geometry).inputs)
    x = _overlapped([_overlapped(row, 2, matrix) for row in blocks], 1, matrix)
    batch, rows, columns, channels = x.shape
    x = x.reshape(batch, rows, columns, stride, stride, -1).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(batch, rows * stride, columns * stride, channels // stride**2)
    height, width = geometry.input_size
    return x[:, top : top + height, left : left + width]


def _overlapped(blocks: list[jax.Array], axis: int, matrix: Sequence[Sequence[float]]) -> jax.Array:
    """Add each block's contributions to its own two pixels and, with more taps, to the next two."""

    def placed(x: jax.Array, later: int) -> jax.Array:
        return jnp.pad(x, [(later, 1 - later) if i == axis else (0, 0) for i in range(x.ndim)])

    parts = [placed(_combine(row, blocks), index // 2) for index, row in enumerate(matrix)]
    return _interleaved([functools.reduce(jnp.add, parts[place::2]) for place in range(2)], axis)


def _interleaved(pixels: Sequence[jax.Array], axis: int) -> jax.Array:
    x = jnp.stack(pixels, axis + 1)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _kernels(geometry: Geometry, w: jax.Array) -> list[list[jax.Array]]:
    """Transform w [KH, KW, I, O] into matrices [stride^2 * I, O]."""
    stride, matrix = geometry.stride, _transform(geometry).kernels

    def along(w: jax.Array, axis: int) -> list[jax.Array]:
        w = w.reshape(*w.shape[:axis], -1, stride, *w.shape[axis + 1 :])
        taps = [lax.index_in_dim(w, i, axis, keepdims=False) for i in range(w.shape[axis])]
        return [_combine(row, taps) for row in matrix]

    features = w.shape[3]
    return [[part.reshape(-1, features) for part in along(row, 1)] for row in along(w, 0)]


def _from_blocks(geometry: Geometry, blocks: Blocks) -> jax.Array:
    """Transform the products into images of the output's size."""
    matrix = _transform(geometry).outputs

    def along(blocks: list[jax.Array], axis: int) -> jax.Array:
        return _interleaved([_combine(row, blocks) for row in matrix], axis)

    y = along([along(row, 2) for row in blocks], 1)
    rows, columns = geometry.output_size
    return y[:, :rows, :columns]


def _to_blocks(geometry: Geometry, y: jax.Array) -> Blocks:
    """Apply the transpose of `_from_blocks`."""
    matrix = _transposed(_transform(geometry).outputs)

    def along(y: jax.Array, axis: int) -> list[jax.Array]:
        y = y.reshape(*y.shape[:axis], -1, 2, *y.shape[axis + 1 :])
        pixels = [lax.index_in_dim(y, i, axis + 1, keepdims=False) for i in range(2)]
        return [_combine(row, pixels) for row in matrix]

    ends = [(0, 2 * blocks - size) for blocks, size in _sizes(geometry)]
    y = jnp.pad(y, ((0, 0), *ends, (0, 0)))
    return [along(row, 2) for row in along(y, 1)]
