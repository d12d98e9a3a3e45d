"""What a recipe determines: the initial state, the shapes of all states, and the data to open."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np

from genjax.data.names import some
from genjax.data.source import DataOptions, MissingData, Source
from genjax.data.sources import STACKED, open_source
from genjax.run.recipe import UNKNOWN, Recipe
from genjax.types import ImageSpec, State, UsageError


def initial_state(recipe: Recipe, spec: ImageSpec, key: jax.Array) -> State:
    """Compute the state that training of images [H, W, C] of `spec` begins with."""
    return jax.jit(recipe.functions.init, static_argnums=(0, 2))(recipe.model, key, spec)


# What is asked of a state, beside being a pytree; see `Family`.
ATTRIBUTES = ("step", "spec", "weights", "with_weights", "for_sampling")


@functools.lru_cache(maxsize=8)
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
    if lacks := [name for name in ATTRIBUTES if not hasattr(shapes, name)]:
        raise UsageError(
            f"family {recipe.family!r}: its state, of type {type(shapes).__name__}, has no "
            f"{', '.join(lacks)}: wanted one of genjax.steps.state, or one that is like them"
        )
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def open_split(recipe: Recipe, options: DataOptions, spec: ImageSpec | None = None) -> Source:
    """Open the data of a run that is trained.

    Args:
        recipe: The recipe of the run.
        options: How the data are read, which says what split.
        spec: The shape that the images should have. None: any.

    Raises:
        UsageError: The data are no longer there, or their images have another shape.
    """
    if recipe.data == UNKNOWN:
        raise UsageError("what data the weights were trained on is not known: wanted --data DATA")
    try:
        source = open_source(recipe.data, options)
    except MissingData as error:
        raise UsageError(f"{error}; if the data have moved, say where: --data DATA") from error
    if spec is not None:
        _check_shape(source, spec, f"{options.split} of {recipe.data}")
    return source


def _check_shape(source: Source, spec: ImageSpec, where: str) -> None:
    if source.spec.shape != spec.shape:
        raise UsageError(f"{where}: images of {source.spec.shape}, and the run's have {spec.shape}")


def open_data(recipe: Recipe, spec: ImageSpec, data: str | None, split: str | None) -> Source:
    """Open images for a model: the run's, or any other, resized to what it was trained on.

    Args:
        recipe: The recipe of the run.
        spec: The shape of its images.
        data: Other data, as `open_source` takes them. None: the run's own.
        split: Their split. None: of the run's data the test split or, without one, the training
            data; of others `train`, which is all images of a folder that has no splits.

    Raises:
        UsageError: The data do not exist, or have no such split.
    """
    options = recipe.data_options
    if data is None:
        options = dataclasses.replace(options, split=split) if split else options.for_test
        return open_split(recipe, options, spec)
    border = options.border
    options = DataOptions(
        data_dir=options.data_dir,
        split=split or "train",
        size=spec.shape_within(border)[:2],
        fit=options.fit,
        border=border,
        channels=None if data.startswith(f"{STACKED}:") else 3 if spec.channels == 3 else 1,
    )
    source = open_source(data, options)
    _check_shape(source, spec, data)
    return source


def class_numbers(source: Source, where: str, names: Sequence[str]) -> np.ndarray:
    """Find each class of a source among the classes of a run by its name: numbers int32 [K].

    Raises:
        UsageError: The source has no classes, or one that is not among `names`.
    """
    numbers = {str(name): number for number, name in enumerate(names)}
    unknown = [str(name) for name in source.class_names if str(name) not in numbers]
    if unknown or not source.class_names:
        given = f"classes {some(unknown, 5)}" if unknown else "no classes"
        raise UsageError(
            f"{where} has {given}, and the model is conditional: wanted {some(list(numbers), 20)}"
        )
    return np.array([numbers[str(name)] for name in source.class_names], np.int32)
