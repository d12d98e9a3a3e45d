"""States of a run: the one it begins with, what they look like, and those of its checkpoints."""

from pathlib import Path
from typing import Literal

import jax

from genjax.run.checkpoint import Checkpoints
from genjax.run.folder import RunFolder
from genjax.run.recipe import Recipe
from genjax.types import ImageSpec, State, UsageError

# Which checkpoint of a run: by quality, the last, or that of a step.
Checkpoint = Literal["best", "latest"] | int


def initial_state(recipe: Recipe, spec: ImageSpec, key: jax.Array) -> State:
    """The state that training begins with."""
    return jax.jit(recipe.functions.init, static_argnums=(0, 2))(recipe.model, key, spec)


def abstract_state(recipe: Recipe, spec: ImageSpec) -> State:
    """Shapes and types of a state on this process's first device, to restore into."""
    shapes = jax.eval_shape(lambda: recipe.functions.init(recipe.model, jax.random.key(0), spec))
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def load_state(run: str | Path, checkpoint: Checkpoint = "best") -> tuple[Recipe, State, int]:
    """A run's recipe, a state of it, and that state's step.

    Args:
        run: The run folder.
        checkpoint: `best` by the run's quality metric, `latest`, or a step.

    Raises:
        UsageError: No run there, or no such good checkpoint.
    """
    folder = RunFolder(run)
    recipe, spec, _ = folder.read_config()
    checkpoints = Checkpoints(folder.checkpoints, recipe.keep, recipe.quality, writable=False)
    named = {"best": checkpoints.best, "latest": checkpoints.latest}
    step = checkpoint if isinstance(checkpoint, int) else named[checkpoint]
    if step not in checkpoints.steps:
        steps = ", ".join(map(str, checkpoints.steps))
        raise UsageError(f"{run} has no good checkpoint {checkpoint}: it has {steps}")
    return recipe, checkpoints.restore(step, abstract_state(recipe, spec)), step
