"""A report on a data set: its images, sizes, classes and broken files."""

import collections
import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import Positional

from genjax.data.batches import read_blocks
from genjax.data.sources import BrokenImage, DataOptions, FileSource, ManySizes, open_source
from genjax.figures.output import check_output, save_images
from genjax.run.options import Flat, Output

# Images in the grid.
GRID_IMAGES = 64
# The size to which images are resized for the grid if they have several sizes.
GRID_SIZE = 64


def inspect(
    data: Positional[str],
    options: Annotated[DataOptions, Flat] = DataOptions(),  # noqa: B008 - frozen
    output: Annotated[Path, Output] = Path("inspect.png"),
) -> str:
    """Read a whole data set, write a grid of its first images, and report.

    Args:
        data: digits, tfds:NAME, folder:PATH, or the path of a .zip.
        options: How the data are read; broken images are reported, whatever `on_broken` is.
        output: The .png file for the grid of the first images.

    Returns:
        Lines with the number of images, their sizes, channels, classes, and each broken file.

    Raises:
        UsageError: The data do not exist, or `output` cannot be written.
    """
    check_output(output)
    note = ""
    try:
        source = open_source(data, options)
    except ManySizes as error:
        source = open_source(data, dataclasses.replace(options, size=(GRID_SIZE,)))
        note = f"training needs one size: {error}"
    labels: collections.Counter[int] = collections.Counter()
    broken: list[str] = []
    shown: list[np.ndarray] = []
    for examples in read_blocks(source):
        for example in examples:
            if isinstance(example, BrokenImage):
                broken.append(str(example))
            else:
                labels[example[1]] += 1
                if len(shown) < GRID_IMAGES:
                    shown.append(example[0])
    height, width, channels = source.spec.shape
    lines = [
        f"data      {data}",
        f"images    {labels.total():,}, and {len(broken):,} broken",
        f"size      {height} x {width}, {channels} {'channel' if channels == 1 else 'channels'}",
    ]
    if isinstance(source, FileSource) and source.sizes:
        sizes = collections.Counter({f"{h} x {w}": n for (h, w), n in source.sizes.items()})
        lines.append(f"sizes     {_counts(sizes)}")
        lines.append(f"modes     {_counts(source.modes)}")
    if source.spec.classes:
        named = collections.Counter({str(source.class_names[k]): n for k, n in labels.items()})
        lines.append(f"classes   {source.spec.classes}: {_counts(named)}")
    else:
        lines.append("classes   none")
    lines += [f"broken    {line}" for line in broken]
    lines += [f"note      {note}"] if note else []
    if shown:
        save_images(np.stack(shown), output)
        lines.append(f"grid      {output}")
    return "\n".join(lines)


def _counts(counter: collections.Counter[str], most: int = 12) -> str:
    """List the most common entries with their counts."""
    text = ", ".join(f"{name} ({count:,})" for name, count in counter.most_common(most))
    return text + (f", and {len(counter) - most} more" if len(counter) > most else "")
