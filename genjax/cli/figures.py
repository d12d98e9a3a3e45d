"""Commands that draw images from a trained run, or from a data set, into a file."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from genjax.cli.command import Call, Command, command
from genjax.figures.grid import in_pairs
from genjax.figures.inspect import inspect
from genjax.figures.latents import interpolate, manifold, manipulate, reconstruct, traverse
from genjax.figures.output import (
    check_output,
    save_array,
    save_images,
    save_single_images,
    takes_single_images,
)
from genjax.figures.sample import ROW, open_samples, sample
from genjax.figures.styles import mix, project
from genjax.types import UsageError

MOST_COLUMNS = 16
FILES = (
    "A .png or .jpg for a grid, a .npy for the array, or a folder or .zip for single images, with "
    "their classes in dataset.json"
)
Output = tyro.conf.arg(aliases=["-o"], help=f"{FILES}.")
Video = tyro.conf.arg(aliases=["-o"], help=f"{FILES}; or a .gif for a video.")
Styles = tyro.conf.arg(help="A .npy to write the styles to, float32 [n, layers, size].")
# Images uint8 [N, H, W, C], and the columns of their grid, or None for one as square as it goes; or
# images [rows, columns, H, W, C] and None.
Grid = tuple[np.ndarray, int | None]


def figure(function: Callable[..., Any], name: str, lay_out: Callable[[Call], Grid]) -> Command:
    """Make a command that saves the images that a function draws."""

    def save(call: Call, output: Annotated[Path, Output] = Path(name)) -> int:
        check_output(output)
        images, columns = lay_out(call)
        save_images(images, output, columns)
        print(output)
        return 0

    return command(function, save)


def _in_rows(call: Call) -> Grid:
    return call(), None


def _in_pairs(images: np.ndarray, copies: np.ndarray) -> Grid:
    columns = min(len(images), MOST_COLUMNS)
    return in_pairs(images, copies, columns), columns


def save_projections(
    call: Call,
    styles: Annotated[Path | None, Styles] = None,
    output: Annotated[Path, Output] = Path("projections.png"),
) -> int:
    """Save the images, each with the image of its style below it, and the styles."""
    if styles is not None and styles.suffix.lower() != ".npy":
        raise UsageError(f"styles {styles}: should end in .npy")
    check_output(output)
    images, found, values = call()
    if styles is not None:
        save_array(values, styles)
    grid, columns = _in_pairs(images, found)
    save_images(grid, output, columns)
    print(output)
    return 0


def save_interpolations(
    call: Call, output: Annotated[Path, Video] = Path("interpolations.png")
) -> int:
    """Save images along paths, [paths, steps, H, W, C]."""
    check_output(output, video=True)
    save_images(call(), output)
    print(output)
    return 0


def save_samples(call: Call, output: Annotated[Path, Output] = Path("samples.png")) -> int:
    """Save samples; single images are written as they are drawn."""
    check_output(output)
    if takes_single_images(output):
        samples = open_samples(**call.keywords)
        save_single_images(samples.batches, output, samples.has_labels)
    else:
        is_default = call.keywords["n"] is None and call.keywords["styles"] is None
        save_images(call(), output, ROW if is_default else None)
    print(output)
    return 0


COMMANDS = {
    "sample": command(sample, save_samples),
    "reconstruct": figure(reconstruct, "reconstructions.png", lambda call: _in_pairs(*call())),
    "interpolate": command(interpolate, save_interpolations),
    "traverse": figure(traverse, "traversals.png", _in_rows),
    "manipulate": figure(manipulate, "manipulations.png", _in_rows),
    "manifold": figure(manifold, "manifold.png", _in_rows),
    "mix": figure(mix, "mixed.png", _in_rows),
    "project": command(project, save_projections),
    "inspect": command(inspect),
}
