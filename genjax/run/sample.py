"""Samples from a state, and from a run."""

import functools
import inspect
import io
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from genjax.run.checkpoint import Checkpoints, write_atomically
from genjax.run.folder import RunFolder
from genjax.run.grid import grid, to_png, to_uint8
from genjax.run.recipe import Recipe
from genjax.types import ImageSpec, State, UsageError

log = logging.getLogger("genjax")

# Which checkpoint of a run: by quality, the last, or that of a step.
Checkpoint = Literal["best", "latest"] | int
# Images in one call; the first images of a seed are the same however many are asked for.
CHUNK = 64


@functools.lru_cache(maxsize=8)
def _sampler(recipe: Recipe) -> Callable[..., jax.Array]:
    return jax.jit(functools.partial(recipe.functions.sample, recipe.model), static_argnums=2)


def check_temperature(recipe: Recipe, temperature: float | None) -> None:
    """Raise a `UsageError` for a temperature that the model does not have, or below 0."""
    if temperature is None:
        return
    if "temperature" not in inspect.signature(recipe.functions.sample).parameters:
        raise UsageError(f"family {recipe.family!r} has no temperature; wanted a run of glow")
    if not temperature >= 0:
        raise UsageError(f"temperature = {temperature}: should be at least 0")


def sample_state(
    recipe: Recipe, state: State, key: jax.Array, n: int, temperature: float | None = None
) -> np.ndarray:
    """Images from a state, uint8 [n, H, W, C]; None for the temperature that it was trained for."""
    options = {} if temperature is None else {"temperature": temperature}
    sampler = _sampler(recipe)
    chunks = [
        to_uint8(sampler(state, jax.random.fold_in(key, i), CHUNK, **options))
        for i in range(math.ceil(n / CHUNK))
    ]
    return np.concatenate(chunks)[:n]


def initial_state(recipe: Recipe, spec: ImageSpec, key: jax.Array) -> State:
    """The state that training begins with."""
    return jax.jit(recipe.functions.init, static_argnums=(0, 2))(recipe.model, key, spec)


def abstract_state(recipe: Recipe, spec: ImageSpec) -> State:
    """Shapes and types of a state on the first device, to restore into."""
    shapes = jax.eval_shape(lambda: recipe.functions.init(recipe.model, jax.random.key(0), spec))
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def load_state(run: str | Path, checkpoint: Checkpoint = "best") -> tuple[Recipe, State, int]:
    """A run's recipe, a state of it, and that state's step.

    Args:
        run: The run folder.
        checkpoint: `best` by the run's quality metric, `latest`, or a step.

    Raises:
        UsageError: No run there, or no such good checkpoint.
    """
    folder = RunFolder(Path(run))
    recipe, spec, _ = folder.read_config()
    checkpoints = Checkpoints(folder.checkpoints, recipe.keep, recipe.quality, writable=False)
    named = {"best": checkpoints.best, "latest": checkpoints.latest}
    step = checkpoint if isinstance(checkpoint, int) else named[checkpoint]
    if step not in checkpoints.steps:
        steps = ", ".join(map(str, checkpoints.steps))
        raise UsageError(f"{run} has no good checkpoint {checkpoint}: it has {steps}")
    return recipe, checkpoints.restore(step, abstract_state(recipe, spec)), step


def sample(
    run: str | Path,
    n: int = 64,
    seed: int = 0,
    checkpoint: Checkpoint = "best",
    temperature: float | None = None,
) -> np.ndarray:
    """Images from a trained run.

    Args:
        run: The run folder.
        n: How many.
        seed: Of the latents; the first images of a seed do not depend on `n`.
        checkpoint: `best` by the run's quality metric, `latest`, or a step.
        temperature: Standard deviation of a flow's latents; below 1 for fewer, cleaner kinds of
            images. None: 1.

    Returns:
        uint8 [n, H, W, C].

    Raises:
        UsageError: No run there, no such good checkpoint, an `n` below 1, or a temperature that the
            model does not have.
    """
    if n < 1:
        raise UsageError(f"n = {n}: should be at least 1")
    recipe, state, step = load_state(run, checkpoint)
    check_temperature(recipe, temperature)
    log.info("samples of step %d of %s", step, run)
    return sample_state(recipe, state, jax.random.key(seed), n, temperature)


def save_images(images: np.ndarray, output: Path, columns: int | None = None) -> None:
    """Images to a file: a grid in a .png, or the array itself, uint8 [n, H, W, C], in a .npy.

    Args:
        images: uint8 [n, H, W, C].
        output: The file.
        columns: Of the grid; None for one as square as it goes.

    Raises:
        UsageError: Another ending, or no such folder.
    """
    check_output(output)
    if output.suffix == ".png":
        data = to_png(grid(images, columns))
    else:
        buffer = io.BytesIO()
        np.save(buffer, images)
        data = buffer.getvalue()
    write_atomically(output, data)


def check_output(output: Path) -> None:
    """Raise a `UsageError` for a path that `save_images` would not take."""
    if output.suffix not in (".png", ".npy"):
        raise UsageError(f"output {output}: should end in .png (a grid) or .npy (the array)")
    if not output.parent.is_dir():
        raise UsageError(f"output {output}: no folder {output.parent}")
