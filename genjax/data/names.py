"""Names of files: which are images of the data, and when two of them mean the same file."""

import posixpath
import re
import unicodedata
from collections.abc import Sequence

from genjax.console import printable

# The formats that are read, as Pillow calls them, the frequent ones first, and their endings.
FORMATS = [
    *("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA", "DIB", "ICO"),
    *("PCX", "SGI", "QOI", "DDS", "PSD"),
]
IMAGE_SUFFIXES = frozenset(
    [
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".dib"),
        *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".j2c"),
        *(".jpc", ".jpf", ".jpx", ".tga", ".ico", ".pcx", ".sgi", ".qoi", ".dds", ".psd"),
    ]
)

# Files and folders that systems, file servers, editors and sync programs keep for themselves,
# besides those whose names begin with a dot: `.DS_Store`, `._x.png`, `.ipynb_checkpoints`, ...
_OF_THE_SYSTEM = re.compile(
    r"""\.(?!\.?$).*                       # hidden
    | __macosx | icon\r | network\ trash\ folder | temporary\ items          # macOS
    | \$recycle\.bin | recycler | recycled | system\ volume\ information     # Windows
    | found\.\d{3} | (eh)?thumbs(_vista)?\.db | desktop\.ini
    | lost\+found | lost\.dir                                                # Linux, Android
    | @eadir | [@#]recycle | [@#]snapshot | @tmp | @recently-snapshot        # file servers
    | ~snapshot | ~syncthing~.* | .*\.(tmp|temp|part|partial|crdownload|download|!sync|swp)
    | ~\$.* | .*~ | \#.*\#                                                   # editors
    | __pycache__ | cvs""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
SYSTEM = "system"


def left_out(name: str) -> str | None:
    """Decide whether a file is an image of the data, by its name in `canonical` form.

    Returns:
        None if it is one. Otherwise why it is left out: `SYSTEM` if a system or program keeps it
        for itself, or its ending, in small letters ("" without one).
    """
    if any(_OF_THE_SYSTEM.fullmatch(part) for part in name.split("/")):
        return SYSTEM
    ending = posixpath.splitext(name)[1].lower()
    return None if ending in IMAGE_SUFFIXES else ending


def canonical(name: str) -> str:
    r"""Write a name as one of its spellings: `./a\x.png`, `a//x.png` and `/a/x.png` are `a/x.png`.

    Letters with accents, which macOS writes as two characters, are one.
    """
    found = unicodedata.normalize("NFC", name.replace("\\", "/"))
    found = posixpath.normpath("/" + found).lstrip("/")
    return name if found == name else found  # of a million names, one copy each


def some(names: Sequence[str], most: int = 3) -> str:
    """List the first names, and the number of the others."""
    shown = ", ".join(map(printable, names[:most]))
    return shown + (f" and {len(names) - most:,} more" if len(names) > most else "")
