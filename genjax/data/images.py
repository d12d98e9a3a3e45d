"""Conversion of one image from any format to uint8 [H, W, C]."""

from typing import Literal

import numpy as np
from PIL import Image, ImageOps

Fit = Literal["crop", "stretch", "pad"]


def to_8_bit(image: Image.Image, bit_depth: int = 16) -> Image.Image:
    """Convert an image to mode L or RGB, upright.

    16-bit gray keeps the highest 8 of the `bit_depth` bits of its values; transparency is
    composited over white; palettes, CMYK and the other 8-bit modes are converted.

    Raises:
        ValueError: The image's mode has no fixed range (floating point, 32-bit), or values need
            more bits than `bit_depth`.
    """
    image = ImageOps.exif_transpose(image)
    if is_16_bit(image):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"32-bit pixels from {values.min()} to {values.max()}; wanted 16 bits")
        if needed_bits(image) > bit_depth:
            raise ValueError(
                f"values up to {values.max()}, and those of {bit_depth} bits end at "
                f"{2**bit_depth - 1}: give --bit-depth {needed_bits(image)}"
            )
        return Image.fromarray((values >> (bit_depth - 8)).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range; save them as 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        gray = image.mode in ("1", "L", "LA")
        over_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba)
        return over_white.convert("L" if gray else "RGB")
    return image if image.mode in ("L", "RGB") else image.convert(converted_mode(image.mode))


def is_16_bit(image: Image.Image) -> bool:
    """Return whether an image is gray with 16 bits, which Pillow may hold in 32."""
    return image.mode.startswith("I;16") or image.mode == "I"


def needed_bits(image: Image.Image) -> int:
    """Return the fewest bits that hold the values of a gray image, at least 8."""
    return max(8, int(np.asarray(image).max()).bit_length())


def converted_mode(mode: str) -> str:
    """Return the mode, L or RGB, to which `to_8_bit` converts an image of a PIL mode."""
    return "L" if mode in ("1", "L", "LA", "La", "I") or mode.startswith("I;16") else "RGB"


def to_array(
    image: Image.Image,
    shape: tuple[int, int, int],
    fit: Fit,
    resample: Image.Resampling,
    bit_depth: int = 16,
) -> np.ndarray:
    """Convert an image to an array of `shape`.

    Args:
        image: An image of any mode and size.
        shape: (height, width, channels), channels 1 or 3.
        fit: What to do with another aspect ratio: `crop` scales to cover and cuts out the centre,
            `pad` scales to fit inside and adds black borders, `stretch` scales each axis on its
            own.
        resample: The filter of the scaling.
        bit_depth: Number of bits of 16-bit values; see `to_8_bit`.

    Returns:
        A uint8 array of `shape`.
    """
    height, width, channels = shape
    image = to_8_bit(image, bit_depth).convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        if fit == "crop":
            image = ImageOps.fit(image, (width, height), resample)
        elif fit == "pad":
            image = ImageOps.pad(image, (width, height), resample)
        else:
            image = image.resize((width, height), resample)
    return np.asarray(image).reshape(shape)
