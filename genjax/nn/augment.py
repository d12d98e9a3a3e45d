"""Differentiable augmentations of what a discriminator sees, drawn for each image on its own.

`ada` is the pipeline of Karras et al. 2020 (arXiv:2006.06676, appendix B): every transformation is
applied to an image with the probability p, and as long as p is not near 1 the generator can tell
the augmented distribution from an unaugmented one, so that nothing leaks into samples (section
2.1). `diff_augment` is DiffAugment (Zhao et al. 2020), which is always applied.

Images are float32 [B, H, W, C], C 1 or 3, about in [-1, 1].
"""

import itertools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from genjax.nn.batch import batch_noise
from genjax.nn.precision import exact
from genjax.nn.resample import upfirdn

AugmentName = Literal["none", "diff"]
OperationName = Literal["blit", "geometric", "color", "filter", "noise", "cutout"]

# The scaling filters of the wavelets sym6 and sym2 (Daubechies 1992, table 8.3). They are
# orthonormal: doubling the size by one and halving it by its transpose is the identity.
SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)

# Strengths, in the units of the paper's table: fractions of the size, octaves, or pixel values.
SHIFT_WHOLE, SHIFT, SCALE, STRETCH = 0.125, 0.125, 0.2, 0.2
BRIGHTNESS, CONTRAST, SATURATION = 0.2, 0.5, 1.0
NOISE, CUTOUT = 0.1, 0.5
# Fraction of the power of natural images in each frequency band, from the lowest.
BAND_POWER = np.array([10, 1, 1, 1]) / 13


@exact()
def ada(
    key: jax.Array, images: jax.Array, p: jax.Array, operations: tuple[OperationName, ...]
) -> jax.Array:
    """Transform each image by each operation with probability p.

    Args:
        key: The PRNG key of all draws.
        images: [B, H, W, C].
        p: The probability, []; at 0 the images come back bit for bit.
        operations: The groups of transformations, which are applied in the paper's order.

    Returns:
        [B, H, W, C].
    """
    n, height, width, channels = images.shape
    keys = (jax.random.fold_in(key, i) for i in itertools.count())

    def uniform(*shape: int) -> jax.Array:
        return batch_noise(next(keys), (n, *shape), jax.random.uniform)

    def normal(*shape: int) -> jax.Array:
        return batch_noise(next(keys), (n, *shape))

    def chosen(value: jax.Array, otherwise: float, p: jax.Array = p) -> jax.Array:
        """Return `value` for a random part p of the images and `otherwise` for the rest."""
        is_chosen = (uniform() < p).reshape(n, *[1] * (value.ndim - 1))
        return jnp.where(is_chosen, value, otherwise)

    inverse = jnp.tile(jnp.eye(3), (n, 1, 1))  # where each pixel comes from
    size = jnp.array([[width, height]])
    if "blit" in operations:
        moved = inverse @ _scaling(chosen(1 - 2 * jnp.floor(2 * uniform()), 1.0), jnp.ones(n))
        moved @= _rotation(chosen(jnp.floor(4 * uniform()), 0.0) * math.pi / 2)
        moved @= _shift(jnp.round(chosen((2 * uniform(2) - 1) * SHIFT_WHOLE, 0.0) * size))
        images = blit(images, moved)
    if "geometric" in operations:
        # With this probability each, at least one of two rotations happens with probability p.
        p_rotation = 1 - jnp.sqrt(jnp.clip(1 - p, 0, 1))
        scale = chosen(jnp.exp2(normal() * SCALE), 1.0)
        moved = inverse @ _scaling(1 / scale, 1 / scale)
        moved @= _rotation(chosen((2 * uniform() - 1) * math.pi, 0.0, p_rotation))
        stretch = chosen(jnp.exp2(normal() * STRETCH), 1.0)
        moved @= _scaling(1 / stretch, stretch)
        moved @= _rotation(chosen((2 * uniform() - 1) * math.pi, 0.0, p_rotation))
        moved @= _shift(chosen(normal(2) * SHIFT, 0.0) * size)
        is_moved = jnp.any(moved != inverse, axis=(1, 2)).reshape(n, 1, 1, 1)
        images = jnp.where(is_moved, warp(images, moved), images)
    if "color" in operations:
        matrix = _brightness(chosen(normal() * BRIGHTNESS, 0.0))
        matrix = _contrast(chosen(jnp.exp2(normal() * CONTRAST), 1.0)) @ matrix
        matrix = _luma_flip(chosen(jnp.floor(2 * uniform()), 0.0)) @ matrix
        if channels == 3:
            matrix = _hue(chosen((2 * uniform() - 1) * math.pi, 0.0)) @ matrix
            matrix = _saturation(chosen(jnp.exp2(normal() * SATURATION), 1.0)) @ matrix
        images = jnp.where(_is_changed(matrix), recolor(images, matrix), images)
    if "filter" in operations:
        gains = jnp.ones((n, len(BAND_POWER)))
        for band in range(len(BAND_POWER)):
            gain = chosen(jnp.exp2(normal()), 1.0)
            change = jnp.ones((n, len(BAND_POWER))).at[:, band].set(gain)
            power = jnp.sum(BAND_POWER[None] * change**2, axis=1, keepdims=True)
            gains *= change / jnp.sqrt(power)
        is_filtered = jnp.any(gains != 1, axis=1).reshape(n, 1, 1, 1)
        images = jnp.where(is_filtered, amplify(images, gains), images)
    if "noise" in operations:
        sigma = chosen(jnp.abs(normal()) * NOISE, 0.0)
        images += normal(*images.shape[1:]) * sigma.reshape(n, 1, 1, 1)
    if "cutout" in operations:
        images = cutout(images, uniform(2), chosen(jnp.full(n, CUTOUT), 0.0))
    return images


def mirror(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirror each image left-right with probability 1/2, [B, H, W, C] of any type."""
    is_mirrored = batch_noise(key, (images.shape[0], 1, 1, 1), jax.random.uniform) < 0.5
    return jnp.where(is_mirrored, images[:, :, ::-1], images)


def augmented(augment: AugmentName, key: jax.Array | None, images: jax.Array) -> jax.Array:
    """Apply DiffAugment to images [B, H, W, C]; return them unchanged with `none`."""
    if augment == "none":
        return images
    assert key is not None
    return diff_augment(key, images)


def diff_augment(key: jax.Array, images: jax.Array) -> jax.Array:
    """Change the colors, shift by up to an eighth of the size, and cut out a quarter (DiffAugment).

    Args:
        key: The PRNG key of all draws.
        images: [B, H, W, C].

    Returns:
        [B, H, W, C].
    """
    n, height, width, _ = images.shape
    keys = iter(jax.random.split(key, 5))

    def uniform(*shape: int) -> jax.Array:
        return batch_noise(next(keys), (n, *shape), jax.random.uniform)

    brightness, saturation, contrast = (uniform(1, 1, 1) for _ in range(3))
    images = images + brightness - 0.5
    gray = jnp.mean(images, axis=3, keepdims=True)
    images = gray + (images - gray) * 2 * saturation
    mean = jnp.mean(images, axis=(1, 2, 3), keepdims=True)
    images = mean + (images - mean) * (contrast + 0.5)
    most = jnp.array([[round(height / 8), round(width / 8)]])
    by = jnp.floor(uniform(2) * (2 * most + 1)) - most
    images = _shifted(images, by.astype(jnp.int32))
    return cutout(images, uniform(2), jnp.full(n, CUTOUT))


def _matrix(rows: list[list[jax.Array | float]], n: int) -> jax.Array:
    """Stack matrices [n, rows, columns] from entries [n] or numbers."""
    return jnp.stack(
        [jnp.stack([jnp.broadcast_to(x, (n,)) for x in row], axis=1) for row in rows], axis=1
    ).astype(jnp.float32)


def _scaling(x: jax.Array, y: jax.Array) -> jax.Array:
    return _matrix([[x, 0, 0], [0, y, 0], [0, 0, 1]], x.shape[0])


def _rotation(angle: jax.Array) -> jax.Array:
    c, s = jnp.cos(angle), jnp.sin(angle)
    return _matrix([[c, -s, 0], [s, c, 0], [0, 0, 1]], angle.shape[0])


def _shift(by: jax.Array) -> jax.Array:
    """Return the inverse of a shift by [n, 2], in x and y."""
    return _matrix([[1, 0, -by[:, 0]], [0, 1, -by[:, 1]], [0, 0, 1]], by.shape[0])


def blit(images: jax.Array, inverse: jax.Array) -> jax.Array:
    """Apply affine maps that take pixels to whole pixels, mirroring beyond the borders.

    Images are [B, H, W, C], before and after; `inverse` is [B, 3, 3], as `warp` takes it.
    """
    _, height, width, _ = images.shape
    rows, columns = jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2
    x, y = _places(inverse, rows, columns)
    column = jnp.round(_folded(x + (width - 1) / 2, width))
    row = jnp.round(_folded(y + (height - 1) / 2, height))
    return _gathered(images, row, column).reshape(images.shape)


def warp(images: jax.Array, inverse: jax.Array) -> jax.Array:
    """Apply affine maps of the plane to images, mirroring beyond their borders.

    The images are sampled linearly at twice the size, after a wavelet's filter and before its
    transpose, which keeps them sharp (Karras et al. 2020b, appendix B).

    Args:
        images: [B, H, W, C], at least 10 pixels on each side.
        inverse: The map from a pixel to where it comes from, [B, 3, 3], of (x, y, 1) in pixels from
            the centre.

    Returns:
        [B, H, W, C].
    """
    n, height, width, channels = images.shape
    taps = len(SYM6)
    half = taps // 2
    # The transpose reads `half - 1` samples beyond the borders; they need this many pixels.
    margin = half // 2
    around = (margin + half, margin + half)
    padded = jnp.pad(images, ((0, 0), around, around, (0, 0)), "reflect")
    filter_taps = np.array(SYM6)
    crop = (half - taps, half - 1 - taps) * 2
    fine = upfirdn(padded, filter_taps * math.sqrt(2), up=2, padding=crop)
    # The filter is not symmetric: its output is shifted by this delay.
    delay = float((taps - 1) / 2 - np.average(np.arange(taps), weights=filter_taps)) / 2
    rows, columns = (
        (jnp.arange(1 - half, 2 * size + half - 1) + 0.5) / 2 - size / 2 + delay
        for size in (height, width)
    )

    def sample_at(place: jax.Array, size: int) -> jax.Array:
        """Turn a place into an index: mirrored pixels fill the margin, further out it is folded."""
        place += (size - 1) / 2
        is_near = (place >= -margin) & (place <= size - 1 + margin)
        place = 2 * (margin + jnp.where(is_near, place, _folded(place, size)) - delay) + 0.5
        whole = jnp.round(place)  # undo rounding errors, so that whole places stay whole
        return jnp.where(jnp.abs(place - whole) < 1e-4, whole, place)

    x, y = _places(inverse, rows, columns)
    x, y = sample_at(x, width), sample_at(y, height)
    left, top = jnp.floor(x), jnp.floor(y)
    total = jnp.zeros((n, x.shape[1], channels))
    for dy in (0, 1):
        for dx in (0, 1):
            weight = jnp.abs(1 - dy - (y - top)) * jnp.abs(1 - dx - (x - left))
            total += _gathered(fine, top + dy, left + dx) * weight[..., None]
    sampled = total.reshape(n, len(rows), len(columns), channels)
    return upfirdn(sampled, filter_taps[::-1] / math.sqrt(2), down=2)


def _places(inverse: jax.Array, rows: jax.Array, columns: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return where the pixels of a grid come from, as x and y, each [B, rows * columns]."""
    y, x = jnp.meshgrid(rows, columns, indexing="ij")
    grid = jnp.stack([x.ravel(), y.ravel(), jnp.ones(x.size)])
    places = jnp.einsum("bij,jk->bik", inverse[:, :2], grid)
    return places[:, 0], places[:, 1]


def _gathered(images: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
    """Gather each image's pixels at whole places [B, N], clamped to its borders: [B, N, C]."""
    n, height, width, channels = images.shape
    row, column = jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)
    index = (row * width + column).astype(jnp.int32)
    return jnp.take_along_axis(images.reshape(n, -1, channels), index[..., None], axis=1)


def _folded(place: jax.Array, size: int) -> jax.Array:
    """Mirror places on an axis of `size` pixels at the middle of the first and the last pixel."""
    return (size - 1) - jnp.abs(jnp.mod(place, 2 * (size - 1)) - (size - 1))


# Maps of (red, green, blue, 1), [1, 4, 4]: the projection onto gray, the vector product with gray,
# the identity of the colors, and that of the 1.
_AXIS = np.array([1, 1, 1, 0]) / math.sqrt(3)
_GRAY = np.outer(_AXIS, _AXIS).astype(np.float32)[None]
_CROSS = np.zeros((1, 4, 4), np.float32)
_CROSS[0, :3, :3] = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
_ONE = np.diag([1, 1, 1, 0]).astype(np.float32)[None]
_CORNER = np.diag([0, 0, 0, 1]).astype(np.float32)[None]


def _brightness(by: jax.Array) -> jax.Array:
    return _matrix([[1, 0, 0, by], [0, 1, 0, by], [0, 0, 1, by], [0, 0, 0, 1]], by.shape[0])


def _contrast(factor: jax.Array) -> jax.Array:
    diagonal = [[factor if i == j else 0.0 for j in range(4)] for i in range(3)]
    return _matrix([*diagonal, [0, 0, 0, 1]], factor.shape[0])


def _luma_flip(flip: jax.Array) -> jax.Array:
    return jnp.asarray(_ONE + _CORNER) - 2 * flip.reshape(-1, 1, 1) * _GRAY


def _hue(angle: jax.Array) -> jax.Array:
    """Return the rotation by an angle about the axis of gray (Rodrigues' formula)."""
    c, s = (f(angle).reshape(-1, 1, 1) for f in (jnp.cos, jnp.sin))
    return c * _ONE + s * _CROSS + (1 - c) * _GRAY + _CORNER


def _saturation(factor: jax.Array) -> jax.Array:
    return jnp.asarray(_GRAY + _CORNER) + (_ONE - _GRAY) * factor.reshape(-1, 1, 1)


def _is_changed(matrix: jax.Array) -> jax.Array:
    is_changed = jnp.any(jnp.abs(matrix - _ONE - _CORNER) > 1e-6, axis=(1, 2))
    return is_changed.reshape(-1, 1, 1, 1)


def recolor(images: jax.Array, matrix: jax.Array) -> jax.Array:
    """Apply affine maps of (red, green, blue, 1), [B, 4, 4], to pixels; to gray, their mean."""
    if images.shape[3] == 3:
        moved = jnp.einsum("bij,bhwj->bhwi", matrix[:, :3, :3], images)
        return moved + matrix[:, None, None, :3, 3]
    mean = jnp.mean(matrix[:, :3], axis=1)
    scale, shift = jnp.sum(mean[:, :3], axis=1), mean[:, 3]
    return images * scale.reshape(-1, 1, 1, 1) + shift.reshape(-1, 1, 1, 1)


def _band_filters() -> np.ndarray:
    """Return four band-pass filters, [4, taps], lowest octave first, whose sum is the identity."""
    low = np.convolve(SYM2, SYM2[::-1]) / 2
    signs = (-1) ** np.arange(len(SYM2))
    high = np.convolve(SYM2 * signs, (SYM2 * signs)[::-1]) / 2
    filters = np.eye(len(BAND_POWER), 1)
    for band in range(1, len(BAND_POWER)):
        spread = np.zeros((len(filters), 2 * filters.shape[1] - 1))
        spread[:, ::2] = filters
        filters = np.stack([np.convolve(row, low) for row in spread])
        start = (filters.shape[1] - len(high)) // 2
        filters[band, start : start + len(high)] += high
    return filters


BAND_FILTERS = _band_filters()


def amplify(images: jax.Array, gains: jax.Array) -> jax.Array:
    """Scale four frequency bands of images by gains [B, 4], along rows and columns.

    Images are [B, H, W, C], before and after.
    """
    kernels = gains @ BAND_FILTERS.astype(np.float32)
    half = kernels.shape[1] // 2
    for axis, contraction in ((1, "boi,bihc->bohc"), (2, "boi,bhic->bhoc")):
        # Row o of the matrix is the kernel centred on o, mirrored at the borders.
        size = images.shape[axis]
        rows = np.repeat(np.arange(size), kernels.shape[1])
        columns = np.add.outer(np.arange(size), np.arange(-half, half + 1)).ravel()
        columns = (size - 1) - np.abs(columns % (2 * (size - 1)) - (size - 1))
        matrix = jnp.zeros((images.shape[0], size, size))
        matrix = matrix.at[:, rows, columns].add(jnp.tile(kernels, size))
        images = jnp.einsum(contraction, matrix, images)
    return images


def cutout(images: jax.Array, centre: jax.Array, size: jax.Array) -> jax.Array:
    """Set a rectangle of each image to 0.

    Args:
        images: [B, H, W, C].
        centre: The centre (y, x) as fractions of the height and width, [B, 2].
        size: The height and width as a fraction of the image's, [B].

    Returns:
        [B, H, W, C].
    """
    _, height, width, _ = images.shape
    y, x = ((jnp.arange(size) + 0.5) / size for size in (height, width))
    is_in_rows = jnp.abs(y[None] - centre[:, :1]) < size[:, None] / 2
    is_in_columns = jnp.abs(x[None] - centre[:, 1:]) < size[:, None] / 2
    is_in = is_in_rows[:, :, None] & is_in_columns[:, None]
    return jnp.where(is_in[..., None], 0, images)


def _shifted(images: jax.Array, by: jax.Array) -> jax.Array:
    """Shift images by whole pixels [B, 2]; zeros come in."""
    for axis, size in ((1, images.shape[1]), (2, images.shape[2])):
        place = jnp.arange(size)[None] - by[:, axis - 1 : axis]
        is_inside = (place >= 0) & (place < size)
        shape = [images.shape[0], 1, 1, 1]
        shape[axis] = size
        images = jnp.take_along_axis(images, jnp.clip(place, 0, size - 1).reshape(shape), axis=axis)
        images = jnp.where(is_inside.reshape(shape), images, 0)
    return images
