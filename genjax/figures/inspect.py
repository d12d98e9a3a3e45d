"""A report on a data set: what a training would see of it, and what it would not."""

import collections
import dataclasses
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tyro.conf import Positional

from genjax.data.batches import read_blocks
from genjax.data.broken import BrokenImage
from genjax.data.digest import digest_of, fingerprint
from genjax.data.names import some
from genjax.data.source import DataOptions, Derived, ManySizes, Source
from genjax.data.sources import FileSource, list_counts, open_source
from genjax.figures.grid import GAP, grid
from genjax.figures.output import GRIDS, check_output, save_images
from genjax.run.checkpoint import write_atomically
from genjax.run.options import Flat, Output

# Images in the grid; with classes, rows of ROW images, of at most MOST_ROWS classes.
GRID_IMAGES, ROW, MOST_ROWS = 64, 8, 20
# The size to which images are resized for the grid if they have several sizes.
GRID_SIZE = 64
# Names of files in a line.
NAMES = 10


def inspect(
    data: Positional[str],
    options: Annotated[DataOptions, Flat] = DataOptions(),  # noqa: B008 - frozen
    output: Annotated[Path, Output] = Path("inspect.png"),
) -> str:
    """Read a whole data set, write a grid of its images by class, and report.

    Args:
        data: digits, tfds:NAME, folder:PATH, or the path of a .zip or .array_record.
        options: How the data are read; broken images are reported, whatever `on_broken` is.
        output: The file for the grid: a .png or .jpg; or a .npy, .zip or folder for its images.

    Returns:
        Lines with the number of images, their sizes, channels and values, the classes, what is
        left out, the causes of broken files, copies, and the size that a training could take.

    Raises:
        UsageError: The data do not exist, or `output` cannot be written.
    """
    check_output(output)
    try:
        source = open_source(data, options)
        is_one_size = True
    except ManySizes:
        source = open_source(data, dataclasses.replace(options, size=(GRID_SIZE,)))
        is_one_size = False
    seen = _read(source)
    height, width, channels = source.spec.shape
    size = f"{height} x {width}, " if is_one_size else ""
    lines = [
        ("data", f"{data}, digest {digest_of(source.contents(options.digest == 'full'))}"),
        ("images", f"{seen.labels.total():,}, and {len(seen.broken):,} broken"),
        ("size", f"{size}{channels} {'channel' if channels == 1 else 'channels'}"),
    ]
    inner = source
    while isinstance(inner, Derived):
        inner = inner.source
    if isinstance(inner, FileSource) and inner.sizes:
        sizes = collections.Counter({f"{h} x {w}": n for (h, w), n in inner.sizes.items()})
        lines += [("sizes", list_counts(sizes)), ("modes", list_counts(inner.modes))]
        lines += [("--size", _size_note(inner.sizes))] if not options.size else []
    if seen.labels:
        low, high = seen.values
        lines.append(("values", f"from {low} to {high}, on average {seen.mean:.1f}"))
    lines.append(("classes", _classes(source, seen.labels)))
    lines += [("note", note) for note in source.notes]
    lines += [("broken", line) for line in _by_cause(seen.broken)]
    lines += [("copies", line) for line in _copies(seen)]
    if seen.shown:
        _save_grid(source, seen.shown, output)
        lines.append(("grid", str(output)))
    return "\n".join(f"{name:9} {text}" for name, text in lines)


@dataclasses.dataclass
class _Seen:
    """What is known of a source after it was read.

    Attributes:
        labels: Number of readable images of each label.
        values: The least and the largest of all values.
        mean: The mean of all values.
        broken: The images that cannot be read.
        shown: Images for the grid, by label.
        copies: Names and labels of images with the same pixels.
    """

    labels: collections.Counter[int]
    values: tuple[int, int]
    mean: float
    broken: list[BrokenImage]
    shown: dict[int, list[np.ndarray]]
    copies: list[list[tuple[str, int]]]


def _read(source: Source) -> _Seen:
    seen = _Seen(collections.Counter(), (255, 0), 0.0, [], {}, [])
    alike = collections.defaultdict[str, list[int]](list)
    labels = np.zeros(len(source), int)
    total, most = 0.0, ROW if source.spec.classes else GRID_IMAGES
    for i, example in enumerate(itertools.chain.from_iterable(read_blocks(source))):
        if isinstance(example, BrokenImage):
            seen.broken.append(example)
            continue
        image, labels[i] = example
        seen.labels[example[1]] += 1
        seen.values = min(seen.values[0], int(image.min())), max(seen.values[1], int(image.max()))
        total += float(image.mean())
        alike[fingerprint([image.tobytes()])].append(i)
        shown = seen.shown.setdefault(example[1], [])
        if len(shown) < most:
            shown.append(image)
    seen.mean = total / max(1, seen.labels.total())
    seen.copies = [
        [(source.name(i), int(labels[i])) for i in same] for same in alike.values() if len(same) > 1
    ]
    return seen


def _classes(source: Source, labels: collections.Counter[int]) -> str:
    if not source.spec.classes:
        return "none"
    named = collections.Counter({str(source.class_names[k]): n for k, n in labels.items()})
    empty = [str(name) for k, name in enumerate(source.class_names) if not labels[k]]
    return f"{source.spec.classes}: {list_counts(named)}" + (
        f"; without an image: {some(empty, NAMES)}" if empty else ""
    )


def _size_note(sizes: collections.Counter[tuple[int, int]]) -> str:
    """Say which size fits: the largest power of two that nine in ten images have."""
    sides = np.repeat([min(size) for size in sizes], list(sizes.values()))
    side = 1 << (int(np.quantile(sides, 0.1, method="lower")).bit_length() - 1)
    needed = "give --size, as the images have several; " if len(sizes) > 1 else ""
    smaller = int((sides < side).sum())
    enlarged = f"; {smaller:,} smaller ones would be enlarged" if smaller else ""
    return f"{needed}{side} is the largest power of two that nine in ten have{enlarged}"


def _by_cause(broken: Iterable[BrokenImage]) -> list[str]:
    """Describe broken images, a line for each cause."""
    names = collections.defaultdict[str, list[str]](list)
    for each in broken:
        names[each.cause].append(each.name)
    return [f"{some(those, NAMES)}: {cause}" for cause, those in names.items()]


def _copies(seen: _Seen) -> list[str]:
    """Describe images with the same pixels: their number, and those in several classes."""
    if not seen.copies:
        return []
    extra = sum(len(same) - 1 for same in seen.copies)
    pairs = [" = ".join(name for name, _ in same[:3]) for same in seen.copies]
    lines = [f"{extra:,} images have the pixels of another: {some(pairs)}"]
    mixed = [
        text
        for text, same in zip(pairs, seen.copies, strict=True)
        if len({label for _, label in same}) > 1
    ]
    if mixed:
        lines.append(f"{len(mixed):,} of them in two classes: {some(mixed)}")
    return lines


def _save_grid(source: Source, shown: dict[int, list[np.ndarray]], output: Path) -> None:
    """Save a grid of images; with classes, a row for each with its name on the left."""
    rows = [images for _, images in sorted(shown.items())][:MOST_ROWS]
    encode = GRIDS.get(output.suffix.lower())
    if not source.spec.classes or encode is None:
        save_images(np.stack([image for row in rows for image in row]), output)
        return
    blank = np.zeros(source.spec.shape, np.uint8)
    filled = [[*row, *[blank] * (ROW - len(row))] for row in rows]
    picture = grid(np.concatenate([np.stack(row) for row in filled]), ROW).convert("RGB")
    names = [str(source.class_names[label])[:24] for label in sorted(shown)][:MOST_ROWS]
    font = ImageFont.load_default()
    margin = int(max(font.getlength(_drawable(name)) for name in names)) + 8
    canvas = Image.new("RGB", (picture.width + margin, picture.height))
    canvas.paste(picture, (margin, 0))
    draw = ImageDraw.Draw(canvas)
    row_height = picture.height / len(rows)
    for i, name in enumerate(names):
        middle = (i + 0.5) * row_height - GAP
        draw.text((4, middle), _drawable(name), fill="white", font=font, anchor="lm")
    write_atomically(output, encode(canvas))


def _drawable(name: str) -> str:
    """Replace letters that the small built-in font may lack."""
    return name.encode("latin-1", "replace").decode("latin-1")
