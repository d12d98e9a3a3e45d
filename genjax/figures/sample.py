"""Samples of a state or a run, and files for them."""

import functools
import inspect
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax.figures.grid import grid, to_gif, to_png, to_uint8
from genjax.models import FAMILIES
from genjax.run.checkpoint import write_atomically
from genjax.run.options import N, Run
from genjax.run.recipe import Recipe
from genjax.run.states import Checkpoint, load_state
from genjax.types import Family, ImageSpec, State, UsageError

log = logging.getLogger("genjax")

# Number of images in one call.
CHUNK = 64
# Images of a grid; and images in a row if each row is a class, with the most classes to do so.
GRID_IMAGES, ROW, MOST_ROWS = 64, 8, 20


# Options that change how samples are drawn: temperature, truncation, truncation_cutoff.
SampleOptions = dict[str, Any]


@functools.lru_cache(maxsize=8)
def _sampler(recipe: Recipe) -> Callable[..., jax.Array]:
    return jax.jit(functools.partial(recipe.functions.sample, recipe.model))


@functools.lru_cache(maxsize=8)
def _preparer(recipe: Recipe) -> Callable[..., State]:
    prepare = recipe.functions.prepare
    if prepare is None:
        return lambda state, key, **options: state
    return jax.jit(functools.partial(prepare, recipe.model))


def accepts(functions: Family, option: str) -> bool:
    """Return whether a family's `sample` has an option, such as `temperature`."""
    return option in inspect.signature(functions.sample).parameters


def sample_options(recipe: Recipe, **values: float | None) -> SampleOptions:
    """Check options for `sample_state`, and return those that are not None.

    Raises:
        UsageError: The family does not have an option, or its value is out of range.
    """
    options = {name: value for name, value in values.items() if value is not None}
    for name, value in options.items():
        if not accepts(recipe.functions, name):
            having = [family for family, functions in FAMILIES.items() if accepts(functions, name)]
            raise UsageError(
                f"family {recipe.family!r} has no {name}; wanted a run of {', '.join(having)}"
            )
        # Styles with truncation 0 are the mean style; noise with truncation 0 has no values left.
        is_open = name == "truncation" and recipe.functions.style is None
        if not value >= 0 or (value == 0 and is_open):
            raise UsageError(
                f"{name} = {value}: should be {'more than' if is_open else 'at least'} 0"
            )
    if "truncation_cutoff" in options and "truncation" not in options:
        raise UsageError("truncation_cutoff is of truncation: wanted both")
    return options


def is_conditional(recipe: Recipe, spec: ImageSpec) -> bool:
    """Return whether the class of samples can be chosen."""
    return bool(getattr(recipe.model, "conditional", False)) and spec.classes > 1


def grid_labels(recipe: Recipe, spec: ImageSpec) -> tuple[np.ndarray | int, int | None]:
    """Return labels for a grid of samples, as `sample_state` takes them, and its columns.

    If there are few classes and they can be chosen, each is a row. Otherwise the labels are the
    usual number of images, and the columns are None.
    """
    classes = classes_with_images(spec)
    if is_conditional(recipe, spec) and len(classes) <= MOST_ROWS:
        return np.repeat(classes, ROW), ROW
    return GRID_IMAGES, None


def classes_with_images(spec: ImageSpec) -> np.ndarray:
    """Return the classes of which the data have images, int32 [K]; those of class 0 without any."""
    found = np.setdiff1d(np.arange(max(1, spec.classes), dtype=np.int32), spec.empty_classes)
    return found.astype(np.int32)


def cyclic_labels(state: State, n: int) -> np.ndarray:
    """Return the classes that have images, repeated in their order, int32 [n]."""
    return np.resize(classes_with_images(state.spec), n)


def sample_state(
    recipe: Recipe,
    state: State,
    key: jax.Array,
    labels: np.ndarray | int,
    options: SampleOptions | None = None,
) -> np.ndarray:
    """Draw images from a state, uint8 [n, H, W, C].

    With the same key, the first images are the same for any n.

    Args:
        recipe: The recipe of the state.
        state: The state.
        key: Key of all draws.
        labels: The class of each image, int32 [n]; or n, for classes 0, 1, 2, ... repeated.
        options: Options from `sample_options`; None for samples as in training.
    """
    options = options or {}
    classes = cyclic_labels(state, labels) if isinstance(labels, int) else labels
    # The index of this key is that of no chunk below.
    state = _preparer(recipe)(state, jax.random.fold_in(key, 2**31 - 1), **options)
    sampler, chunks = _sampler(recipe), []
    for i, start in enumerate(range(0, len(classes), CHUNK)):
        # Every call has the same size, so that one compiled program is enough.
        some = np.resize(classes[start : start + CHUNK], CHUNK)
        chunks.append(to_uint8(sampler(state, jax.random.fold_in(key, i), some, **options)))
    return np.concatenate(chunks)[: len(classes)]


@functools.lru_cache(maxsize=8)
def style_functions(
    recipe: Recipe,
) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
    """Return the family's compiled `style` and `synthesize`.

    Raises:
        UsageError: The family has no styles.
    """
    functions = recipe.functions
    if functions.style is None or functions.synthesize is None:
        having = [name for name, each in FAMILIES.items() if each.style is not None]
        raise UsageError(
            f"family {recipe.family!r} has no styles; wanted a run of {', '.join(having)}"
        )
    style, synthesize = (
        jax.jit(functools.partial(function, recipe.model))
        for function in (functions.style, functions.synthesize)
    )
    return style, synthesize


def map_in_chunks(function: Callable[[jax.Array], np.ndarray], values: jax.Array) -> np.ndarray:
    """Apply a function of a batch to `CHUNK` values at a time, [N, ...] to [N, ...].

    The last call is filled up to the same size, so that the function is compiled once.
    """
    parts = []
    for start in range(0, len(values), CHUNK):
        some = values[start : start + CHUNK]
        filled = jnp.concatenate([some, jnp.repeat(some[:1], CHUNK - len(some), axis=0)])
        parts.append(function(filled)[: len(some)])
    return np.concatenate(parts)


def sample(
    run: Run,
    n: Annotated[int | None, N] = None,
    seed: int = 0,
    checkpoint: Checkpoint = "best",
    temperature: float | None = None,
    truncation: float | None = None,
    truncation_cutoff: int | None = None,
    label: int | None = None,
) -> np.ndarray:
    """Draw images from a trained run.

    Args:
        run: The run folder.
        n: Number of images. None: 64, or 8 of each class for a conditional model with up to 20
            classes.
        seed: Seed of the latents; with the same seed, the first images are the same for any n.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.
        temperature: glow: standard deviation of the latents; below 1 for cleaner, less varied
            images. None: 1.
        truncation: biggan: noise values further from 0 than this are drawn again; 0.5 for cleaner,
            less varied images. None: all are kept. stylegan, stylegan2: psi, the factor of the
            styles' distance from their mean; 0.7 for cleaner, less varied images. None: 1.
        truncation_cutoff: stylegan, stylegan2: number of layers that are truncated, from the
            coarsest. None: all.
        label: The class of all images, for conditional models. None: all classes.

    Returns:
        uint8 [n, H, W, C].

    Raises:
        UsageError: There is no run or no such good checkpoint, `n` is below 1, or the model does
            not have an option.
    """
    if n is not None and n < 1:
        raise UsageError(f"n = {n}: should be at least 1")
    recipe, state, step = load_state(run, checkpoint)
    options = sample_options(
        recipe,
        temperature=temperature,
        truncation=truncation,
        truncation_cutoff=truncation_cutoff,
    )
    labels = grid_labels(recipe, state.spec)[0] if n is None else n
    if label is not None:
        if not is_conditional(recipe, state.spec):
            raise UsageError(
                f"label = {label}: the model is not conditional; --conditional trains one"
            )
        if not 0 <= label < state.spec.classes:
            raise UsageError(f"label = {label}: should be from 0 to {state.spec.classes - 1}")
        if label in state.spec.empty_classes:
            log.warning("the training data have no image of class %d", label)
        labels = np.full(n or GRID_IMAGES, label, np.int32)
    log.info("samples of step %d of %s", step, run)
    return sample_state(recipe, state, jax.random.key(seed), labels, options)


def save_images(images: np.ndarray, output: Path) -> None:
    """Save images as a grid in a .png, as a .gif in which a grid moves, or as an array in a .npy.

    Args:
        images: uint8 [n, H, W, C]; or [rows, columns, H, W, C], of which a .gif shows one column
            after the other, and a .npy has [rows * columns, H, W, C].
        output: The file.

    Raises:
        UsageError: The file has another ending, or its folder does not exist.
    """
    check_output(output, video=images.ndim == 5)
    if output.suffix == ".png":
        write_atomically(output, to_png(grid(images)))
    elif output.suffix == ".gif":
        write_atomically(output, to_gif([grid(column) for column in images.swapaxes(0, 1)]))
    else:
        save_array(images.reshape(-1, *images.shape[-3:]), output)


def save_array(array: np.ndarray, output: Path) -> None:
    """Save an array in a .npy."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_atomically(output, buffer.getvalue())


def check_output(output: Path, video: bool = False) -> None:
    """Raise a `UsageError` if `save_images` cannot write there; `video` allows a .gif."""
    wanted = {".png": "a grid", ".npy": "the array"} | ({".gif": "a video"} if video else {})
    if output.suffix not in wanted:
        endings = " or ".join(f"{ending} ({what})" for ending, what in wanted.items())
        raise UsageError(f"output {output}: should end in {endings}")
    if not output.parent.is_dir():
        raise UsageError(f"output {output}: no folder {output.parent}")
