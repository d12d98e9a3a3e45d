"""The states of a run: the initial one, their shapes, and those in its checkpoints."""

import dataclasses
from pathlib import Path
from typing import Literal

import jax

from genjax.data.sources import DataOptions, MissingData, Source, absolute, open_source
from genjax.run.checkpoint import Checkpoints
from genjax.run.folder import RunFolder
from genjax.run.recipe import Recipe
from genjax.types import ImageSpec, State, UsageError

# A checkpoint of a run: the best by its quality metric, the latest, or that of a step.
Checkpoint = Literal["best", "latest"] | int


def initial_state(recipe: Recipe, spec: ImageSpec, key: jax.Array) -> State:
    """Compute the state that training of images [H, W, C] of `spec` begins with."""
    return jax.jit(recipe.functions.init, static_argnums=(0, 2))(recipe.model, key, spec)


def abstract_state(recipe: Recipe, spec: ImageSpec) -> State:
    """Return shapes and types of a state on this process's first device, to restore into.

    Raises:
        UsageError: No state can have these sizes.
    """
    try:
        shapes = jax.eval_shape(
            lambda: recipe.functions.init(recipe.model, jax.random.key(0), spec)
        )
    except UsageError:
        raise
    except (OverflowError, MemoryError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"no {recipe.family} can have these sizes: {reason:.200}") from error
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def load_state(
    run: str | Path, checkpoint: Checkpoint = "best", data: str | None = None
) -> tuple[Recipe, State, int]:
    """Load a run's recipe and the state of a checkpoint.

    Args:
        run: The run folder.
        checkpoint: `best` by the run's quality metric, `latest`, or a step.
        data: The data that the recipe names, at another place. None: where they were.

    Returns:
        The recipe, the state, and the step of the state.

    Raises:
        UsageError: There is no run in the folder, or no such good checkpoint.
    """
    folder = RunFolder(run)
    config = folder.read_config()
    recipe = config.recipe
    if data is not None:
        recipe = dataclasses.replace(recipe, data=absolute(data))
    like = abstract_state(recipe, config.spec)
    checkpoints = Checkpoints(
        folder.checkpoints, config.id, recipe.keep, recipe.quality, writable=False
    )
    named = {"best": checkpoints.best, "latest": checkpoints.latest}
    step = named.get(checkpoint, checkpoint) if isinstance(checkpoint, str) else checkpoint
    if step not in checkpoints.steps:
        steps = ", ".join(map(str, checkpoints.steps))
        raise UsageError(
            f"{run} has no good checkpoint {checkpoint}: it has {steps}; best is "
            f"{checkpoints.best}, latest {checkpoints.latest}"
        )
    return recipe, checkpoints.restore(step, like), step


def open_split(recipe: Recipe, options: DataOptions, spec: ImageSpec | None = None) -> Source:
    """Open the data of a run that is trained.

    Args:
        recipe: The recipe of the run.
        options: How the data are read, which says what split.
        spec: The shape that the images should have. None: any.

    Raises:
        UsageError: The data are no longer there, or their images have another shape.
    """
    try:
        source = open_source(recipe.data, options)
    except MissingData as error:
        raise UsageError(f"{error}; if the data have moved, say where: --data DATA") from error
    if spec is not None and source.spec.shape != spec.shape:
        raise UsageError(
            f"{options.split} of {recipe.data}: images of {source.spec.shape}, and the run's have "
            f"{spec.shape}"
        )
    return source
