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
from genjax.figures.sample import ROW, check_output, sample, save_images
from genjax.figures.styles import mix, project

Grid = tyro.conf.arg(aliases=["-o"], help="A .png for a grid, or a .npy for the array.")
Video = tyro.conf.arg(
    aliases=["-o"], help="A .png for a grid, a .gif for a video, or a .npy for the array."
)


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

    def save(call: Call, output: Annotated[Path, Video if video else Grid] = Path(name)) -> int:
        check_output(output, video)
        save_images(draw(call), output)
        print(output)
        return 0

    return Command(function, save)


def _draw_samples(call: Call) -> np.ndarray:
    images = call()
    is_in_rows = call.keywords["n"] is None  # each class is a row, if there are few
    return images.reshape(-1, ROW, *images.shape[1:]) if is_in_rows else images


COMMANDS = {
    "sample": figure(sample, "samples.png", _draw_samples),
    "reconstruct": figure(reconstruct, "reconstructions.png", lambda call: in_pairs(*call())),
    "interpolate": figure(interpolate, "interpolations.png", video=True),
    "traverse": figure(traverse, "traversals.png"),
    "manipulate": figure(manipulate, "manipulations.png"),
    "manifold": figure(manifold, "manifold.png"),
    "mix": figure(mix, "mixed.png"),
    "project": figure(project, "projections.png", lambda call: in_pairs(*call()[:2])),
    "inspect": Command(inspect),
}
