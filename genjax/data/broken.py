"""What is wrong with a file, in one line and the user's words, whatever a library raised."""

from PIL import Image, UnidentifiedImageError

from genjax.console import printable
from genjax.types import UsageError

# How files of the frequent formats begin.
_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*", b"P6\n")
# What files with an image's name hold at times, by how they begin.
_BEGINNINGS = {
    b"version https://git-lfs": "a pointer of Git LFS in place of the image: git lfs pull",
    b"<!doctype html": "a web page in place of an image",
    b"<html": "a web page in place of an image",
    b"<svg": "an SVG drawing, which has no pixels",
    b"\0\5\x16\7": "a Mac's record of a file, not the image itself",
    b"PK\3\4": "a zip archive in place of an image",
    b"%PDF": "a PDF document in place of an image",
}


class BrokenImage(Exception):
    """An image that cannot be read.

    Attributes:
        name: Its name in the data.
        cause: Why it cannot be read.
    """

    def __init__(self, name: str, cause: str):
        self.name, self.cause = printable(name), cause
        super().__init__(f"{self.name}: {cause}")


def cause_of(error: Exception, data: bytes = b"") -> str:
    """Say why a file cannot be read.

    Args:
        error: Whatever a decoder, an archive or the system raised.
        data: What the file holds, if that could be read.
    """
    text = printable(" ".join(str(error).split()))[:200]
    if isinstance(error, UsageError):
        return text
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"too many pixels, perhaps a decompression bomb ({text})"
    if isinstance(error, UnidentifiedImageError):
        return _in_place_of_an_image(data)
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, FileNotFoundError):
        return "is no longer there, or a link to nothing"
    if isinstance(error, RuntimeError | NotImplementedError):
        if "encrypt" in text or "password" in text:
            return "encrypted: unpack the archive with its password first"
        if "compress" in text or "zip file version" in text:
            return (
                "packed by a method that is not read, such as Deflate64: unpack the archive, or "
                f"pack it anew as a plain .zip ({text})"
            )
    return f"damaged or cut short ({text or type(error).__name__})"


def _in_place_of_an_image(data: bytes) -> str:
    if not data.strip(b"\0"):
        return "holds only zeros" if data else "is empty"
    if data[4:8] == b"ftyp":
        brand = printable(data[8:12].decode("latin-1").upper().strip())
        return f"a {brand} file, which is not read, or damaged"
    if data.startswith(_IMAGES):
        return "damaged or cut short (at its beginning)"
    begin = data[:100].lstrip().lower()
    words = (words for start, words in _BEGINNINGS.items() if begin.startswith(start.lower()))
    return next(words, "not an image of a known format")


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its class if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
