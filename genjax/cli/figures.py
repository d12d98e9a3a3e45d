"""Commands that draw images from a trained run, or from a data set, into a file."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from genjax.cli.command import Call, Command
from genjax.figures.grid import in_pairs
from genjax.figures.inspect import inspect
from genjax.figures.latents import interpolate, manifold, manipulate, reconstruct, traverse
from genjax.figures.output import (
    check_output,
    save_images,
    save_single_images,
    takes_single_images,
)
from genjax.figures.sample import ROW, open_samples, sample
from genjax.figures.styles import mix, project

FILES = (
    "A .png or .jpg for a grid, a .npy for the array, or a folder or .zip for single images, with "
    "their classes in dataset.json"
)
Output = tyro.conf.arg(aliases=["-o"], help=f"{FILES}.")
Video = tyro.conf.arg(aliases=["-o"], help=f"{FILES}; or a .gif for a video.")


def figure(
    function: Callable[..., Any],
    name: str,
    draw: Callable[[Call], np.ndarray] = lambda call: call(),
    video: bool = False,
) -> Command:
    """Make a command that saves the images that a function draws.

    Args:
        function: The function.
        name: The file, unless an option says otherwise.
        draw: Function that makes the call, and returns images as `save_images` takes them.
        video: Whether the file may be a .gif.
    """

    def save(call: Call, output: Annotated[Path, Video if video else Output] = Path(name)) -> int:
        check_output(output, video)
        save_images(draw(call), output)
        print(output)
        return 0

    return Command(function, save)


def save_samples(call: Call, output: Annotated[Path, Output] = Path("samples.png")) -> int:
    """Save samples; single images are written as they are drawn."""
    check_output(output)
    if takes_single_images(output):
        samples = open_samples(**call.keywords)
        save_single_images(samples.batches, output, samples.has_labels)
    else:
        # Each class is a row, if there are few.
        is_in_rows = call.keywords["n"] is None and call.keywords["styles"] is None
        save_images(call(), output, ROW if is_in_rows else None)
    print(output)
    return 0


COMMANDS = {
    "sample": Command(sample, save_samples),
    "reconstruct": figure(reconstruct, "reconstructions.png", lambda call: in_pairs(*call())),
    "interpolate": figure(interpolate, "interpolations.png", video=True),
    "traverse": figure(traverse, "traversals.png"),
    "manipulate": figure(manipulate, "manipulations.png"),
    "manifold": figure(manifold, "manifold.png"),
    "mix": figure(mix, "mixed.png"),
    "project": figure(project, "projections.png", lambda call: in_pairs(*call()[:2])),
    "inspect": Command(inspect),
}
