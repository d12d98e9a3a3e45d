"""Conversion of one image from any format to uint8 [H, W, C]."""

from typing import Literal

import numpy as np
from PIL import Image, ImageOps

Fit = Literal["crop", "stretch", "pad"]


def to_8_bit(image: Image.Image) -> Image.Image:
    """Convert an image to mode L or RGB, upright.

    16-bit gray keeps its high byte; transparency is composited over white; palettes, CMYK and the
    other 8-bit modes are converted.

    Raises:
        ValueError: The image's mode has no fixed range (floating point, 32-bit).
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"32-bit pixels from {values.min()} to {values.max()}; wanted 16 bits")
        return Image.fromarray((values // 256).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range; save them as 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        gray = image.mode in ("1", "L", "LA")
        over_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba)
        return over_white.convert("L" if gray else "RGB")
    return image if image.mode in ("L", "RGB") else image.convert(converted_mode(image.mode))


def converted_mode(mode: str) -> str:
    """Return the mode, L or RGB, to which `to_8_bit` converts an image of a PIL mode."""
    return "L" if mode in ("1", "L", "LA", "La", "I") or mode.startswith("I;16") else "RGB"


def to_array(
    image: Image.Image, shape: tuple[int, int, int], fit: Fit, resample: Image.Resampling
) -> np.ndarray:
    """Convert an image to an array of `shape`.

    Args:
        image: An image of any mode and size.
        shape: (height, width, channels), channels 1 or 3.
        fit: What to do with another aspect ratio: `crop` scales to cover and cuts out the centre,
            `pad` scales to fit inside and adds black borders, `stretch` scales each axis on its
            own.
        resample: The filter of the scaling.

    Returns:
        uint8 [H, W, C] of `shape`.
    """
    height, width, channels = shape
    image = to_8_bit(image).convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        if fit == "crop":
            image = ImageOps.fit(image, (width, height), resample)
        elif fit == "pad":
            image = ImageOps.pad(image, (width, height), resample)
        else:
            image = image.resize((width, height), resample)
    return np.asarray(image).reshape(shape)
