"""A few images, drawn in a terminal."""

import shutil
from collections.abc import Iterator
from typing import TextIO

import numpy as np
from PIL import Image
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

# Width of the drawing, and the most of an image, in characters.
WIDTH, MOST_WIDTH = 80, 38
# Characters from dark to bright, and one whose upper and lower half have a colour each.
SHADES, HALF = " .:-=+*#%@", "\u2580"


def draw(images: np.ndarray, file: TextIO, rows: int = 2) -> str:
    """Draw the first images, as many as fit in a number of rows of at most 80 characters.

    In a terminal with 256 colours or more a character has two pixels. Elsewhere, as in a file or
    where NO_COLOR is set, it is a shade of gray.

    Args:
        images: uint8 [N, H, W, C], C is 1 or 3.
        file: What the drawing will be written to.
        rows: Rows of images.
    """
    console = Console(file=file, width=WIDTH)
    is_coloured = console.color_system in ("256", "truecolor") and not console.no_color
    if not is_coloured or not console.encoding.startswith("utf"):
        return "\n".join(_in_shades(images, rows))
    with console.capture() as capture:
        for line in _in_colours(images, rows):
            console.print(line, no_wrap=True)
    return capture.get().removesuffix("\n")


def _rows(images: np.ndarray, rows: int, pixels: int) -> Iterator[np.ndarray]:
    """Scale images, uint8 [columns, H, W, 3] a row; a line of text has so many rows of pixels."""
    height, width = images.shape[1:3]
    line = min(WIDTH, shutil.get_terminal_size().columns)
    shown = min(width, MOST_WIDTH, line - 1)
    # A character is about twice as high as it is wide.
    size = (shown, pixels * max(1, round(height * shown / width / 2)))
    columns = line // (shown + 1)
    for start in range(0, min(len(images), rows * columns), columns):
        row = images[start : start + columns]
        pictures = [Image.fromarray(image.squeeze()).convert("RGB").resize(size) for image in row]
        yield np.stack([np.asarray(picture) for picture in pictures])


def _in_shades(images: np.ndarray, rows: int) -> Iterator[str]:
    for row in _rows(images, rows, pixels=1):
        gray = np.stack([np.asarray(Image.fromarray(image).convert("L"), int) for image in row])
        for line in (gray * len(SHADES) // 256).swapaxes(0, 1):
            yield " ".join("".join(SHADES[shade] for shade in image) for image in line)
        yield ""


def _in_colours(images: np.ndarray, rows: int) -> Iterator[Text]:
    for row in _rows(images, rows, pixels=2):
        for upper, lower in zip(*(row[:, half::2].swapaxes(0, 1) for half in (0, 1)), strict=True):
            line = Text()
            for halves in zip(upper, lower, strict=True):
                for colours in zip(*halves, strict=True):
                    line.append(HALF, Style.from_color(*(Color.from_rgb(*c) for c in colours)))
                line.append(" ")
            yield line
        yield Text()
