"""Conversion of one image from any format to uint8 [H, W, C]."""

import contextlib
import io
import random
import re
from collections.abc import Callable
from typing import Literal, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps

from genjax.data.names import FORMATS
from genjax.types import UsageError

Fit = Literal["crop", "stretch", "pad"]
T = TypeVar("T")


# The end of a JPEG, and the markers that begin an image or a scan in what has no metadata.
_END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff[\xc0-\xc2\xda]")
# Bits that could follow in a scan, without a marker; of each two, one is wrong at every place.
_RANDOM = [[random.Random(seed).randrange(1, 255) for _ in range(1024)] for seed in (0, 1)]
_OTHER_BITS = [bytes(byte ^ flip for byte in row) for row in _RANDOM for flip in (0, 255)]

# How an image of an EXIF orientation is turned upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The orientations in which rows are stored as columns.
_LYING = (5, 6, 7, 8)


def decode(data: bytes, use: Callable[[Image.Image], T]) -> T:
    """Decode an image file and use it.

    As in viewers, metadata that cannot be read are left out, and a JPEG whose pixels are all there
    needs no end marker.

    Args:
        data: What the file holds.
        use: Function of the opened image, of which only the header is decoded.

    Returns:
        What `use` returns.

    Raises:
        Exception: The image cannot be decoded; the errors are of every class.
    """

    def attempt(data: bytes) -> T:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return use(image)

    try:
        return attempt(data)
    except Exception:
        bare = _without_metadata(data)
        if bare is None:
            raise
        with contextlib.suppress(Exception):
            return attempt(bare)
        with contextlib.suppress(Exception):
            return attempt(_with_an_end(bare))
        raise


def _without_metadata(data: bytes) -> bytes | None:
    """Drop the parts of a PNG or JPEG that its pixels and orientation do not need.

    The rest may be damaged, which is for the decoder to find. None for other formats.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        parts, at = [data[:8]], 8
        while at < len(data):
            size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
            # The names of chunks without which there are no pixels begin with a capital.
            if kind[:1].isupper() or kind in (b"tRNS", b"eXIf"):
                parts.append(data[at : at + 12 + size])
            at += 12 + size
        return b"".join(parts)
    if data.startswith(b"\xff\xd8\xff"):
        parts, at = [data[:2]], 2
        # Up to the scan or the end.
        while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] not in (b"", b"\xda", b"\xd9"):
            end = at + 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
            marker, content = data[at + 1], data[at + 4 : end]
            is_metadata = 0xE0 <= marker <= 0xEF or marker == 0xFE
            says_colours = marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12
            if not is_metadata or says_colours or content.startswith(b"Exif"):
                parts.append(data[at:end])
            at = end
        return b"".join([*parts, data[at:]])
    return None


def _with_an_end(data: bytes) -> bytes:
    """Add the end marker to a JPEG of which nothing else is missing.

    That is so if its scans hold every coefficient, and the bits that follow, which a decoder takes
    for the rest of a scan that is cut short, make no difference.

    Raises:
        ValueError: More is missing, or it is no JPEG.
    """
    if not data.startswith(b"\xff\xd8\xff") or _missing_coefficients(data):
        raise ValueError("more is missing than the end marker")
    data = data.rstrip(b"\xff")
    pixels = []
    for bits in _OTHER_BITS:
        with Image.open(io.BytesIO(data + bits + _END), formats=["JPEG"]) as image:
            pixels.append(image.tobytes())
    if len(set(pixels)) > 1:
        raise ValueError("the last scan is cut short")
    return data + _END


def _missing_coefficients(data: bytes) -> set[tuple[int, int]]:
    """Return which coefficients, (component, index), no scan of a JPEG gives to its last bit."""
    missing: set[tuple[int, int]] = set()
    for found in _MARKER.finditer(data):
        content = data[found.end() + 2 :]
        if found[0] in (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2"):
            components = content[6 : 6 + 3 * content[5] : 3]
            missing = {(each, index) for each in components for index in range(64)}
        elif found[0] == b"\xff\xda":
            components = content[1 : 1 + 2 * content[0] : 2]
            first, last, bits = content[1 + 2 * content[0] :][:3]
            if bits & 15 == 0:
                missing -= {(each, i) for each in components for i in range(first, last + 1)}
    return missing


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1 if there is none that can be read, as in viewers."""
    with contextlib.suppress(Exception):  # of every class, for junk in place of EXIF
        found = image.getexif().get(ExifTags.Base.Orientation)
        if isinstance(found, int):
            return found
    return 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the (height, width) of an opened image when it is upright."""
    width, height = image.size
    # Of a TIFF, Pillow gives the size when upright, and turns it itself.
    lies = image.format != "TIFF" and _orientation(image) in _LYING
    return (width, height) if lies else (height, width)


def _decode_smaller(image: Image.Image, height: int, width: int) -> None:
    """Let a JPEG be scaled while it is decoded, by 1/2, 1/4 or 1/8, as far as nobody can tell.

    The rest of the way, by 2 or more, is left to the filter. It does nothing to other formats.
    """
    if _orientation(image) in _LYING:
        height, width = width, height
    image.draft(None, (2 * width, 2 * height))


def to_8_bit(image: Image.Image, bit_depth: int = 16) -> Image.Image:
    """Convert an image to mode L or RGB, upright.

    16-bit gray keeps the highest 8 of the `bit_depth` bits of its values; transparency is
    composited over white; palettes, CMYK and the other 8-bit modes are converted.

    Raises:
        UsageError: The image's mode has no fixed range (floating point, 32-bit), or values need
            more bits than `bit_depth`.
    """
    image.load()
    turn = _TURNS.get(_orientation(image))
    image = image if turn is None else image.transpose(turn)
    if is_16_bit(image):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise UsageError(f"32-bit pixels from {values.min()} to {values.max()}; wanted 16 bits")
        if (bits := needed_bits(image)) > bit_depth:
            raise UsageError(
                f"values of {bits} bits, more than {bit_depth}: give --bit-depth {bits}"
            )
        return Image.fromarray((values >> (bit_depth - 8)).astype(np.uint8))
    if image.mode == "F":
        raise UsageError("floating-point pixels have no fixed range; save them as 8 or 16 bits")
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
        uint8 [H, W, C] of `shape`.
    """
    height, width, channels = shape
    _decode_smaller(image, height, width)
    image, mode = to_8_bit(image, bit_depth), "L" if channels == 1 else "RGB"
    image = image if image.mode == mode else image.convert(mode)  # which would copy it
    if image.size != (width, height):
        if fit == "crop":
            image = ImageOps.fit(image, (width, height), resample)
        elif fit == "pad":
            image = ImageOps.pad(image, (width, height), resample)
        else:
            image = image.resize((width, height), resample)
    return np.asarray(image).reshape(shape)
