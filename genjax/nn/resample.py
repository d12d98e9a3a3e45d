"""Resampling with a finite impulse response filter: insert zeros, filter, keep every n-th sample.

StyleGAN2 blurs whenever it changes the size (Karras et al. 2020, appendix B; Zhang 2019), with the
binomial filter [1, 3, 3, 1].

The transpose of the operation is of the same kind, with the filter flipped and `up` and `down`
swapped, so that gradients of every order run on the same code (`linear`). It has two forms, of
which experiments/BENCHMARKS.md has the costs. As a convolution, with the same filter for each
channel, a TPU moves fewer bytes in bfloat16; as a sum of shifted slices a CPU is several times
faster. A GPU has the slices too, which XLA fuses into one pass, until both have been measured
there.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from genjax.linear import linear_call
from genjax.nn.precision import exact

# [1, 3, 3, 1], scaled to sum 1.
BINOMIAL = (0.125, 0.375, 0.375, 0.125)

Pair = int | tuple[int, int]


class Axis(NamedTuple):
    """The resampling of one axis.

    Attributes:
        size: Input samples.
        taps: Taps of the filter.
        up: Output samples for each input sample, with zeros in between.
        down: Samples for each one that is kept.
        before: Zeros before the first sample; negative cuts samples off.
        after: Zeros after the last sample; negative cuts samples off.
    """

    size: int
    taps: int
    up: int
    down: int
    before: int
    after: int

    @property
    def output(self) -> int:
        return (self.size * self.up + self.before + self.after - self.taps) // self.down + 1

    @property
    def transposed(self) -> "Axis":
        before = self.taps - 1 - self.before
        after = (self.size - 1) * self.up + self.taps - self.output * self.down - before
        return Axis(self.output, self.taps, self.down, self.up, before, after)

    @property
    def period(self) -> int:
        """Number of outputs after which the same taps meet samples again."""
        return self.up // math.gcd(self.up, self.down)

    @property
    def stride(self) -> int:
        """Number of inputs by which the filter moves in one period."""
        return self.down // math.gcd(self.up, self.down)

    def seen(self, phase: int) -> list[tuple[int, int]]:
        """List the (tap, input) pairs of a phase's first output, leaving out inserted zeros."""
        places = ((tap, phase * self.down + tap - self.before) for tap in range(self.taps))
        return [(tap, place // self.up) for tap, place in places if place % self.up == 0]


class Geometry(NamedTuple):
    """The resampling of rows and columns, and the filter's taps, flipped for correlation."""

    rows: Axis
    columns: Axis
    taps: tuple[tuple[float, ...], ...]

    @property
    def transposed(self) -> "Geometry":
        flipped = tuple(row[::-1] for row in self.taps[::-1])
        return Geometry(self.rows.transposed, self.columns.transposed, flipped)


Form = Callable[[Geometry, jax.Array], jax.Array]


def upfirdn(
    x: jax.Array,
    taps: Sequence[float] | np.ndarray,
    up: Pair = 1,
    down: Pair = 1,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    gain: float = 1.0,
    form: Form | None = None,
) -> jax.Array:
    """Insert `up - 1` zeros after each sample, convolve with a filter, keep every `down`-th sample.

    Args:
        x: [B, H, W, C].
        taps: The filter, [KH, KW], or [K] for both rows and columns.
        up: Upsampling factor; a pair is (rows, columns).
        down: Downsampling factor; a pair is (rows, columns).
        padding: Zeros before and after the rows, then before and after the columns, in samples
            after the insertion of zeros; negative numbers cut samples off.
        gain: Factor of the result; `up**2` keeps the brightness.
        form: `as_slices` or `as_convolution`. None: the faster one, by the platform.

    Returns:
        [B, H', W', C] of the type of `x`, with `H' = (H up + padding - KH) // down + 1`, and W'
        from W in the same way.

    Raises:
        ValueError: The output would be empty, or an argument has another shape.
    """
    matrix = np.asarray(taps, np.float64)
    if x.ndim != 4 or matrix.ndim not in (1, 2):
        raise ValueError(
            f"upfirdn of {x.shape} by {matrix.shape}: wants [B, H, W, C] and [K] or [KH, KW]"
        )
    ups, downs = _pair(up), _pair(down)
    if matrix.ndim == 2:
        return _upfirdn(x, matrix * gain, ups, downs, padding, form)
    x = _upfirdn(x, matrix[None] * gain, (1, ups[1]), (1, downs[1]), (0, 0, *padding[2:]), form)
    return _upfirdn(x, matrix[:, None], (ups[0], 1), (downs[0], 1), (*padding[:2], 0, 0), form)


def upsample(x: jax.Array, taps: Sequence[float] = BINOMIAL) -> jax.Array:
    """Double the size, each sample in the middle of its four: [B, H, W, C] -> [B, 2H, 2W, C]."""
    before, after = (len(taps) + 1) // 2, (len(taps) - 2) // 2
    return upfirdn(x, taps, up=2, padding=(before, after, before, after), gain=4)


def downsample(x: jax.Array, taps: Sequence[float] = BINOMIAL) -> jax.Array:
    """Halve the size: [B, H, W, C] -> [B, H/2, W/2, C]."""
    before, after = (len(taps) - 1) // 2, (len(taps) - 2) // 2
    return upfirdn(x, taps, down=2, padding=(before, after, before, after))


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _upfirdn(
    x: jax.Array,
    matrix: np.ndarray,
    up: tuple[int, int],
    down: tuple[int, int],
    padding: tuple[int, ...],
    form: Form | None,
) -> jax.Array:
    geometry = Geometry(
        Axis(x.shape[1], len(matrix), up[0], down[0], *padding[:2]),
        Axis(x.shape[2], len(matrix[0]), up[1], down[1], *padding[2:]),
        tuple(map(tuple, matrix[::-1, ::-1].tolist())),
    )
    if min(geometry.rows.output, geometry.columns.output) < 1:
        raise ValueError(f"upfirdn of {x.shape} by {matrix.shape}, {padding}: empty output")
    return _filter(geometry, form, x)


def _filter(geometry: Geometry, form: Form | None, x: jax.Array) -> jax.Array:
    y: jax.Array = linear_call(
        lambda _, x: _of_form(geometry, form, x),
        lambda _, y: _filter(geometry.transposed, form, y),
        (),
        x,
    )
    return y


def _of_form(geometry: Geometry, form: Form | None, x: jax.Array) -> jax.Array:
    if form is not None or x.dtype != jnp.bfloat16:
        return (form or as_slices)(geometry, x)
    return lax.platform_dependent(
        x,
        tpu=functools.partial(as_convolution, geometry),
        default=functools.partial(as_slices, geometry),
    )


def as_convolution(geometry: Geometry, x: jax.Array) -> jax.Array:
    """Resample x, [B, H, W, C], by XLA's convolution with the same filter for each channel."""
    rows, columns, taps = geometry
    kernel = jnp.asarray(taps, x.dtype)[:, :, None, None]
    with exact():
        return lax.conv_general_dilated(
            x,
            jnp.broadcast_to(kernel, (*kernel.shape[:2], 1, x.shape[3])),
            (rows.down, columns.down),
            [(axis.before, axis.after + axis.up - 1) for axis in (rows, columns)],
            lhs_dilation=(rows.up, columns.up),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[3],
        )


def as_slices(geometry: Geometry, x: jax.Array) -> jax.Array:
    """Resample x, [B, H, W, C]: each phase of the output is a sum of shifted slices.

    XLA fuses them into one pass.
    """
    rows, columns = geometry.rows, geometry.columns
    x, above = _padded(x, rows, 1)
    x, left = _padded(x, columns, 2)
    phases = [
        _interleave(
            [_phase(geometry, x, (i, j), (above, left)) for j in range(columns.period)],
            columns.output,
            axis=2,
        )
        for i in range(rows.period)
    ]
    return _interleave(phases, rows.output, axis=1)


def _padded(x: jax.Array, axis: Axis, dimension: int) -> tuple[jax.Array, int]:
    """Pad or cut `x` to the samples that outputs read; return it and the padding before it."""
    seen = [place for phase in range(axis.period) for _, place in axis.seen(phase)]
    low, high = min(seen), max(seen) + (-(-axis.output // axis.period) - 1) * axis.stride
    pads = [(0, 0, 0)] * x.ndim
    pads[dimension] = (-low, high + 1 - axis.size, 0)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), pads), -low


def _phase(
    geometry: Geometry, x: jax.Array, phase: tuple[int, int], before: tuple[int, int]
) -> jax.Array:
    """Compute every period-th output, beginning at `phase`; each tap multiplies a slice of `x`."""
    rows, columns, taps = geometry
    size = [-(-axis.output // axis.period) for axis in (rows, columns)]
    shape = (x.shape[0], *size, x.shape[3])
    y = jnp.zeros(shape, x.dtype)
    for i, top in rows.seen(phase[0]):
        for j, left in columns.seen(phase[1]):
            if taps[i][j]:
                start = (0, top + before[0], left + before[1], 0)
                stride = (1, rows.stride, columns.stride, 1)
                stop = [a + (n - 1) * s + 1 for a, n, s in zip(start, shape, stride, strict=True)]
                y += jax.lax.slice(x, start, stop, stride) * jnp.asarray(taps[i][j], x.dtype)
    return y


def _interleave(phases: list[jax.Array], size: int, axis: int) -> jax.Array:
    """Interleave the phases along an axis, up to `size`."""
    if len(phases) == 1:
        return phases[0]
    x = jnp.stack(phases, axis + 1)
    x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
    return jax.lax.slice_in_dim(x, 0, size, axis=axis)
