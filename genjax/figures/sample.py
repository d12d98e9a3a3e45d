"""Samples from a state, and from a run."""

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

# Images in one call; the first images of a seed are the same however many are asked for.
CHUNK = 64
# Of a grid: its images, or a row for each class, if there are no more than so many.
GRID_IMAGES, ROW, MOST_ROWS = 64, 8, 20


# How samples are drawn where that is not as in training, by name: temperature, truncation,
# truncation_cutoff.
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


def takes(functions: Family, option: str) -> bool:
    """Whether a family's samples can be drawn with `temperature`, or with `truncation`."""
    return option in inspect.signature(functions.sample).parameters


def sample_options(recipe: Recipe, **values: float | None) -> SampleOptions:
    """Those of the values that are not None.

    Raises:
        UsageError: The family has no such option, or it is out of range.
    """
    options = {name: value for name, value in values.items() if value is not None}
    for name, value in options.items():
        if not takes(recipe.functions, name):
            having = [family for family, functions in FAMILIES.items() if takes(functions, name)]
            raise UsageError(
                f"family {recipe.family!r} has no {name}; wanted a run of {', '.join(having)}"
            )
        # With styles 0 gives the mean; of noise nothing would be left to draw.
        is_open = name == "truncation" and recipe.functions.style is None
        if not value >= 0 or (value == 0 and is_open):
            raise UsageError(
                f"{name} = {value}: should be {'more than' if is_open else 'at least'} 0"
            )
    if "truncation_cutoff" in options and "truncation" not in options:
        raise UsageError("truncation_cutoff is of truncation: wanted both")
    return options


def is_conditional(recipe: Recipe, spec: ImageSpec) -> bool:
    """Whether samples are of a class that can be asked for."""
    return bool(getattr(recipe.model, "conditional", False)) and spec.classes > 1


def grid_labels(recipe: Recipe, spec: ImageSpec) -> tuple[np.ndarray | int, int | None]:
    """Labels for a grid of samples, as `sample_state` takes them, and the columns of the grid.

    A row a class where classes are few and can be asked for, else as many images as usual.
    """
    if is_conditional(recipe, spec) and spec.classes <= MOST_ROWS:
        return np.repeat(np.arange(spec.classes, dtype=np.int32), ROW), ROW
    return GRID_IMAGES, None


def labels_in_turn(state: State, n: int) -> np.ndarray:
    """0, 1, 2, ... over the classes, again and again, int32 [n]."""
    return np.arange(n, dtype=np.int32) % max(1, state.spec.classes)


def sample_state(
    recipe: Recipe,
    state: State,
    key: jax.Array,
    labels: np.ndarray | int,
    options: SampleOptions | None = None,
) -> np.ndarray:
    """Images from a state, uint8 [n, H, W, C].

    Args:
        recipe: Of the state.
        state: The state.
        key: Of all draws.
        labels: The class of each image, int32 [n]; or n, for classes 0, 1, 2, ... in turn.
        options: Of `sample_options`; None for samples as in training.
    """
    options = options or {}
    classes = labels_in_turn(state, labels) if isinstance(labels, int) else labels
    # No chunk has this number.
    state = _preparer(recipe)(state, jax.random.fold_in(key, 2**31 - 1), **options)
    sampler, chunks = _sampler(recipe), []
    for i, start in enumerate(range(0, len(classes), CHUNK)):
        # Every call is of the same size, so that one program does.
        some = np.resize(classes[start : start + CHUNK], CHUNK)
        chunks.append(to_uint8(sampler(state, jax.random.fold_in(key, i), some, **options)))
    return np.concatenate(chunks)[: len(classes)]


@functools.lru_cache(maxsize=8)
def style_functions(
    recipe: Recipe,
) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
    """The family's compiled `style` and `synthesize`.

    Raises:
        UsageError: It has no styles.
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


def in_calls(function: Callable[[jax.Array], np.ndarray], values: jax.Array) -> np.ndarray:
    """A function of a batch, `CHUNK` values at a time and always as many, so compiled once."""
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
        n: How many. None: 64, or of a conditional model with up to 20 classes 8 of each, class by
            class.
        seed: Of the latents; the first images of a seed are the same for any n.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.
        temperature: glow: standard deviation of the latents; below 1 for cleaner, less varied
            images. None: 1.
        truncation: biggan: values of the noise further from 0 are drawn again; 0.5 for cleaner,
            less varied images. None: they are kept. stylegan, stylegan2: psi, how far styles are
            from their mean; 0.7 for cleaner, less varied images. None: 1.
        truncation_cutoff: stylegan, stylegan2: how many layers that is of, from the coarsest.
            None: all.
        label: Conditional models: the class. None: all in turn.

    Returns:
        uint8 [n, H, W, C].

    Raises:
        UsageError: No run there, no such good checkpoint, an `n` below 1, or what the model does
            not have.
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
        labels = np.full(n or GRID_IMAGES, label, np.int32)
    log.info("samples of step %d of %s", step, run)
    return sample_state(recipe, state, jax.random.key(seed), labels, options)


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
        write_atomically(output, to_png(grid(images, columns)))
    else:
        save_array(images, output)


def save_array(array: np.ndarray, output: Path) -> None:
    """An array to a .npy."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_atomically(output, buffer.getvalue())


def save_paths(images: np.ndarray, output: Path) -> None:
    """Images along paths to a file, as `save_images`, or a .gif that shows all paths in motion.

    Args:
        images: uint8 [paths, steps, H, W, C].
        output: The file.

    Raises:
        UsageError: Another ending, or no such folder.
    """
    check_output(output, video=True)
    if output.suffix == ".gif":
        frames = [grid(images[:, step]) for step in range(images.shape[1])]
        write_atomically(output, to_gif(frames))
    else:
        save_images(images.reshape(-1, *images.shape[2:]), output, images.shape[1])


def check_output(output: Path, video: bool = False) -> None:
    """Raise a `UsageError` for a path that `save_images`, or `save_paths`, would not take."""
    wanted = {".png": "a grid", ".npy": "the array"} | ({".gif": "a video"} if video else {})
    if output.suffix not in wanted:
        endings = " or ".join(f"{ending} ({what})" for ending, what in wanted.items())
        raise UsageError(f"output {output}: should end in {endings}")
    if not output.parent.is_dir():
        raise UsageError(f"output {output}: no folder {output.parent}")
