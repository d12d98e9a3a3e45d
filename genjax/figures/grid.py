"""Grids of images, as PNG, JPEG or GIF."""

import io
import math

import jax
import numpy as np
from PIL import Image

# Width of a grid in pixels: small images are enlarged by a whole factor to come near it.
WIDTH = 800
# Pairs in a row.
MOST_PAIRS = 16
# Width in pixels and gray level of the lines between images.
GAP, GAP_GRAY = 1, 96


def grid(images: np.ndarray, columns: int | None = None) -> Image.Image:
    """Arrange images in rows, left to right.

    Args:
        images: uint8 [N, H, W, C] or, in rows already, [rows, columns, H, W, C]; C is 1 or 3.
        columns: Images in a row of [N, H, W, C]. None: the square root of N, rounded up.
    """
    if images.ndim == 5:
        columns, images = images.shape[1], images.reshape(-1, *images.shape[2:])
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    scale = max(1, WIDTH // (columns * (width + GAP)))
    canvas = np.full((rows, columns, height + GAP, width + GAP, channels), GAP_GRAY, np.uint8)
    canvas.reshape(-1, *canvas.shape[2:])[:count, :height, :width] = images
    canvas = canvas.swapaxes(1, 2).reshape(rows * (height + GAP), columns * (width + GAP), channels)
    canvas = canvas.repeat(scale, axis=0).repeat(scale, axis=1)
    return to_picture(canvas)


def to_picture(image: np.ndarray) -> Image.Image:
    """Convert an image, uint8 [H, W, C], C 1 or 3."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def in_pairs(images: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """Arrange images and copies in rows for a `grid`, with each copy below its image.

    Args:
        images: uint8 [N, H, W, C].
        copies: uint8 [N, H, W, C].

    Returns:
        uint8 [2 * rows, columns, H, W, C], a row of images and a row of copies in alternation, of
        up to 16 columns; the last two rows are filled up with black.
    """
    columns, shape = min(len(images), MOST_PAIRS), images.shape[1:]
    filler = np.zeros((-len(images) % columns, *shape), images.dtype)
    rows = [
        np.concatenate([part, filler]).reshape(-1, columns, *shape) for part in (images, copies)
    ]
    return np.stack(rows, axis=1).reshape(-1, columns, *shape)


def to_gif(frames: list[Image.Image], milliseconds: int = 80) -> bytes:
    """Encode the frames as a GIF that plays them forward and backward in an endless loop."""
    first, *rest = frames + frames[-2:0:-1]
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=milliseconds, loop=0)
    return buffer.getvalue()


def to_png(image: Image.Image) -> bytes:
    """Encode the image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def to_jpeg(image: Image.Image) -> bytes:
    """Encode the image as JPEG, with little loss."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def to_uint8(images: jax.Array | np.ndarray) -> np.ndarray:
    """Convert images in [-1, 1] to uint8, rounded to the nearest level."""
    return np.clip(np.round((np.asarray(images) + 1) * 127.5), 0, 255).astype(np.uint8)
