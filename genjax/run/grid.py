"""Grids of images, as PNG."""

import io
import math

import jax
import numpy as np
from PIL import Image

# Small images are enlarged by a whole factor until the grid is about this wide.
WIDTH = 640
GAP, GAP_GRAY = 1, 96


def grid(images: np.ndarray, columns: int | None = None) -> Image.Image:
    """Images in rows, left to right.

    Args:
        images: uint8 [N, H, W, C], C 1 or 3.
        columns: None for a grid as square as it goes.
    """
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    scale = max(1, WIDTH // (columns * (width + GAP)))
    canvas = np.full((rows, columns, height + GAP, width + GAP, channels), GAP_GRAY, np.uint8)
    canvas.reshape(-1, *canvas.shape[2:])[:count, :height, :width] = images
    canvas = canvas.swapaxes(1, 2).reshape(rows * (height + GAP), columns * (width + GAP), channels)
    canvas = canvas.repeat(scale, axis=0).repeat(scale, axis=1)
    return Image.fromarray(canvas[..., 0] if channels == 1 else canvas)


def to_png(image: Image.Image) -> bytes:
    """The image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def to_uint8(images: jax.Array | np.ndarray) -> np.ndarray:
    """Images in [-1, 1] as uint8, rounded to the nearest level."""
    return np.clip(np.round((np.asarray(images) + 1) * 127.5), 0, 255).astype(np.uint8)
