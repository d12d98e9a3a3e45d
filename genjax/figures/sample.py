"""Samples of a state or a run."""

import dataclasses
import functools
import inspect
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from genjax.figures.grid import to_uint8
from genjax.models import FAMILIES
from genjax.run.options import AnyPath, N, check_seed, class_number
from genjax.run.recipe import Recipe
from genjax.run.trained import Checkpoint, Model, load
from genjax.samplers import Sampler, find_diffrax
from genjax.types import Batch, Family, ImageSpec, State, UsageError

log = logging.getLogger("genjax")

# Most images in one call.
CHUNK = 64
# Images of a grid; and images in a row if each row is a class, with the most classes to do so.
GRID_IMAGES, ROW, MOST_ROWS = 64, 8, 20
# Each chunk of samples has a key of its own, of fewer than 2^31.
MAX_SAMPLES = CHUNK * (2**31 - 1)


# Options that change how samples are drawn, by the names of `sample`'s arguments; and those that
# change its program, which are fields of the config too.
SampleOptions = dict[str, Any]
OF_PROGRAM = ("sampler", "sampling_steps", "guidance")


@functools.lru_cache(maxsize=8)
def _sampler(recipe: Recipe) -> Callable[..., jax.Array]:
    sample = functools.partial(recipe.functions.sample, recipe.model)
    return jax.jit(sample, static_argnames=_of_program(recipe.functions))


@functools.lru_cache(maxsize=8)
def _chunk_sampler(recipe: Recipe, devices: int) -> Callable[..., jax.Array]:
    """Return a sampler of one chunk on each of this process's first devices.

    It maps (state, keys [D], labels int32 [D, B], ...) to images [D, B, H, W, C].
    """
    if devices == 1:
        one = _sampler(recipe)
        return lambda state, keys, labels, **options: one(state, keys[0], labels[0], **options)[
            None
        ]
    mesh = _mesh(devices)
    whole, spread = PartitionSpec(), PartitionSpec("chunk")

    @functools.partial(jax.jit, static_argnames=_of_program(recipe.functions))
    def sampler(state: State, keys: jax.Array, labels: jax.Array, **options: Any) -> jax.Array:
        def of_one(state: State, keys: jax.Array, labels: jax.Array) -> jax.Array:
            return recipe.functions.sample(recipe.model, state, keys[0], labels[0], **options)[None]

        return jax.shard_map(
            of_one,
            mesh=mesh,
            in_specs=(whole, spread, spread),
            out_specs=spread,
            # No family's images are the same on all devices, which the check would have to prove.
            check_vma=False,
        )(state, keys, labels)

    return sampler


def _mesh(devices: int) -> Mesh:
    return Mesh(np.array(jax.local_devices()[:devices]), ("chunk",))


# Compiled, because a short call would spend most of its time here.
_fold_in = jax.jit(jax.vmap(jax.random.fold_in, (None, 0)))


@functools.lru_cache(maxsize=8)
def _preparer(recipe: Recipe) -> Callable[..., State]:
    assert recipe.functions.prepare is not None
    return jax.jit(functools.partial(recipe.functions.prepare, recipe.model))


def prepared(recipe: Recipe, state: State, key: jax.Array, **options: Any) -> State:
    """Return a state as all drawing needs it: see `Family.prepare`, whose options these are."""
    if recipe.functions.prepare is None:
        return state
    # The index of this key is that of no chunk of samples.
    return _preparer(recipe)(state, jax.random.fold_in(key, 2**31 - 1), **options)


def accepts(functions: Family, option: str) -> bool:
    """Return whether a family's `sample` has an option, such as `temperature`."""
    return option in inspect.signature(functions.sample).parameters


def _of_program(functions: Family) -> tuple[str, ...]:
    return tuple(name for name in OF_PROGRAM if accepts(functions, name))


def sample_options(recipe: Recipe, **values: Any) -> SampleOptions:
    """Check options for `sample_state`, and return those that are not None.

    Raises:
        UsageError: The family does not have an option, its value is out of range, or what it needs
            is not installed.
    """
    options = {name: value for name, value in values.items() if value is not None}
    for name, value in options.items():
        if not accepts(recipe.functions, name):
            having = [family for family, functions in FAMILIES.items() if accepts(functions, name)]
            raise UsageError(
                f"family {recipe.family!r} has no {name}; wanted a run of {', '.join(having)}"
            )
        if hasattr(recipe.model, name):
            # The config checks the value, and makes 5.0 steps 5.
            options[name] = getattr(dataclasses.replace(recipe.model, **{name: value}), name)
            continue
        # Styles with truncation 0 are the mean style; noise with truncation 0 has no values left.
        is_open = name == "truncation" and recipe.functions.style is None
        if not math.isfinite(value):
            raise UsageError(f"{name} = {value}: should be finite")
        if value < 0 or (value == 0 and is_open):
            raise UsageError(
                f"{name} = {value}: should be {'more than' if is_open else 'at least'} 0"
            )
    if options.get("sampler") == "dopri5":
        find_diffrax()
    if "truncation_cutoff" in options and "truncation" not in options:
        raise UsageError("truncation_cutoff is of truncation: wanted both")
    return options


def is_conditional(recipe: Recipe, spec: ImageSpec) -> bool:
    """Return whether the class of samples can be chosen."""
    return bool(getattr(recipe.model, "conditional", False)) and spec.classes > 1


def grid_labels(recipe: Recipe, spec: ImageSpec) -> tuple[np.ndarray | int, int | None]:
    """Return labels for a grid of samples, int32 [n] or n, and its columns.

    If there are few classes and they can be chosen, each is a row. Otherwise the labels are the
    usual number of images, and the columns are None.
    """
    classes = classes_with_images(spec)
    if is_conditional(recipe, spec) and len(classes) <= MOST_ROWS:
        return np.repeat(classes, ROW), ROW
    return GRID_IMAGES, None


def classes_with_images(spec: ImageSpec) -> np.ndarray:
    """Return the classes that have images, int32 [K]; [0] if the data have no classes."""
    found = np.setdiff1d(np.arange(max(1, spec.classes), dtype=np.int32), spec.empty_classes)
    return found.astype(np.int32)


def cyclic_labels(state: State, n: int, start: int = 0) -> np.ndarray:
    """Return the classes that have images, repeated in their order, from `start` on, int32 [n]."""
    classes = classes_with_images(state.spec)
    return classes[(np.arange(n) + start) % len(classes)]


def sample_state(
    recipe: Recipe,
    state: State,
    key: jax.Array,
    labels: np.ndarray | int,
    options: SampleOptions | None = None,
) -> np.ndarray:
    """Draw images from a state, uint8 [n, H, W, C].

    With the same key, the first images are the same for any n, up to rounding.

    Args:
        recipe: The recipe of the state.
        state: The state.
        key: Key of all draws.
        labels: The class of each image, int32 [n]; or n, for classes 0, 1, 2, ... repeated.
        options: Options from `sample_options`; None for samples as in training.
    """
    return np.concatenate(
        [batch.images for batch in sample_batches(recipe, state, key, labels, options)]
    )


def sample_batches(
    recipe: Recipe,
    state: State,
    key: jax.Array,
    labels: np.ndarray | int,
    options: SampleOptions | None = None,
    chunks: Sequence[int] | None = None,
    spread: bool = False,
) -> Iterator[Batch]:
    """Draw the images of `sample_state` a few at a time, each with its label.

    `chunks` are the indices of those chunks of `CHUNK` images that are wanted; None for all. With
    `spread`, each device of this process draws some of them.
    """
    options = options or {}
    state = prepared(recipe, state, key, **options)
    count = labels if isinstance(labels, int) else len(labels)
    chunks = range(math.ceil(count / CHUNK)) if chunks is None else chunks
    devices = max(1, min(jax.local_device_count(), len(chunks))) if spread else 1
    size = size_of_call(count)
    sampler = _chunk_sampler(recipe, devices)
    if devices > 1:
        state = jax.device_put(state, NamedSharding(_mesh(devices), PartitionSpec()))
    for first in range(0, len(chunks), devices):
        # Every call has the same size, so that one compiled program is enough.
        indices = np.resize(chunks[first : first + devices], devices)
        some = [_chunk_of_labels(state, labels, i * CHUNK, count) for i in indices]
        keys = _fold_in(key, indices)
        filled = np.stack([np.resize(each, size) for each in some])
        images = sampler(state, keys, filled, **options)
        for drawn, own in list(zip(images, some, strict=True))[: len(chunks) - first]:
            yield Batch(to_uint8(drawn)[: len(own)], own)


def size_of_call(count: int) -> int:
    """Return the size of each call for `count` images: a power of 2, so that few are compiled."""
    return min(CHUNK, 1 << (count - 1).bit_length())


def _chunk_of_labels(state: State, labels: np.ndarray | int, start: int, count: int) -> np.ndarray:
    if isinstance(labels, int):
        return cyclic_labels(state, min(CHUNK, count - start), start)
    return labels[start : start + CHUNK]


@functools.lru_cache(maxsize=8)
def style_functions(
    recipe: Recipe,
) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
    """Return compiled functions of a family with styles.

    The first maps (state, latents [n, Z], labels [n], ...) to styles [n, L, W], the second
    (state, styles) to images, float32 [n, H, W, C] in [-1, 1].

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
    parts, size = [], size_of_call(len(values))
    for start in range(0, len(values), CHUNK):
        some = values[start : start + CHUNK]
        filled = jnp.concatenate([some, jnp.repeat(some[:1], size - len(some), axis=0)])
        parts.append(function(filled)[: len(some)])
    return np.concatenate(parts)


class Samples(NamedTuple):
    """Samples of a run, which are drawn as they are read.

    Attributes:
        batches: Images and labels, a few at a time.
        size: Number of images.
        spec: Their shape.
        has_labels: Whether the labels are the images' classes.
    """

    batches: Iterator[Batch]
    size: int
    spec: ImageSpec
    has_labels: bool


def sample(
    run: Model,
    n: Annotated[int | None, N] = None,
    seed: int = 0,
    checkpoint: Checkpoint = "best",
    temperature: float | None = None,
    truncation: float | None = None,
    truncation_cutoff: int | None = None,
    sampler: Sampler | None = None,
    sampling_steps: int | None = None,
    guidance: float | None = None,
    label: str | int | None = None,
    styles: AnyPath = None,
) -> np.ndarray:
    """Draw images from a trained run.

    Args:
        run: The run folder.
        n: Number of images. None: 64, or 8 of each class for a conditional model with up to 20
            classes.
        seed: Seed of the latents; with the same seed the first images are, up to rounding, the same
            for any n.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.
        temperature: For flows, standard deviation of the latents; below 1 for cleaner, less varied
            images. None: 1.
        truncation: For families with styles, psi, the factor of the styles' distance from their
            mean; 0.7 for cleaner, less varied images. For others that have it, noise values further
            from 0 than this are drawn again; 0.5 for cleaner, less varied images. None: all kept.
        truncation_cutoff: For families with styles, number of layers that are truncated, from the
            coarsest. None: all.
        sampler: For diffusion, how noise becomes images. None: as the recipe says.
        sampling_steps: For diffusion, steps of the sampler; dopri5 chooses its own, the same for a
            whole batch, up to `ode_tolerance`. None: as the recipe says.
        guidance: For conditional diffusion, scale of classifier-free guidance; above 1 for images
            more typical of their class. None: as the recipe says.
        label: The class of all images, for conditional models: its name, or its number if no class
            has that for a name. None: all classes.
        styles: stylegan, stylegan2: a .npy of styles, as `genjax project --styles` writes it, to
            draw the images of. None: they are drawn at random.

    Returns:
        uint8 [n, H, W, C].

    Raises:
        UsageError: There is no run or no such good checkpoint, `n` is impossible, the model does
            not have an option, or `styles` are not of this model.
    """
    how: dict[str, Any] = dict(sampler=sampler, sampling_steps=sampling_steps, guidance=guidance)
    how |= dict(temperature=temperature, truncation=truncation, truncation_cutoff=truncation_cutoff)
    samples = open_samples(run, n, seed, checkpoint, label, styles, **how)
    check_memory(samples.size, samples.spec, f"n = {samples.size}")
    return np.concatenate([batch.images for batch in samples.batches])


def open_samples(
    run: Model,
    n: int | None,
    seed: int,
    checkpoint: Checkpoint,
    label: str | int | None,
    styles: AnyPath,
    **how: Any,
) -> Samples:
    """Check the arguments of `sample`, load the model, and begin to draw."""
    check_seed(seed)
    if n is not None and not 1 <= n <= MAX_SAMPLES:
        limit = "at least 1" if n < 1 else f"at most {MAX_SAMPLES}"
        raise UsageError(f"n = {n}: should be {limit}")
    trained = load(run, checkpoint)
    recipe, state = trained.recipe, trained.state
    options = sample_options(recipe, **how)
    if styles is not None:
        if n is not None or label is not None or options:
            raise UsageError(f"styles {styles}: drawn as they are; wanted no other options")
        values = read_styles(styles, recipe, state)
        _, synthesize = style_functions(recipe)
        parts = (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))
        images = (to_uint8(synthesize(state, part)) for part in parts)
        unlabelled = (Batch(some, np.zeros(len(some), np.int32)) for some in images)
        return Samples(unlabelled, len(values), state.spec, has_labels=False)
    has_labels = is_conditional(recipe, state.spec)
    labels = grid_labels(recipe, state.spec)[0] if n is None else n
    if label is not None:
        if not has_labels:
            raise UsageError(
                f"label = {label}: the model is not conditional; --conditional trains one"
            )
        number = class_number("label", label, trained.class_names)
        if number in state.spec.empty_classes:
            log.warning("the training data have no image of class %s", label)
        labels = np.broadcast_to(np.int32(number), n or GRID_IMAGES)
    log.info("samples of %s", trained)
    batches = sample_batches(recipe, state, jax.random.key(seed), labels, options)
    count = labels if isinstance(labels, int) else len(labels)
    return Samples(batches, count, state.spec, has_labels)


def read_styles(path: str | Path, recipe: Recipe, state: State) -> jax.Array:
    """Read styles of a model, float32 [n, L, W], from a .npy.

    Raises:
        UsageError: The family has no styles, or the file has none of this model.
    """
    style, _ = style_functions(recipe)
    latents = np.zeros((1, getattr(recipe.model, "latent_size", 0)), np.float32)
    shape = jax.eval_shape(style, state, latents, np.zeros(1, np.int32)).shape[1:]
    try:
        with Path(path).open("rb") as file:  # numpy leaves one open that begins like a zip archive
            values = np.load(file, allow_pickle=False)
    except Exception as error:  # of many classes: no file, a damaged one, one of terabytes
        raise UsageError(f"styles {path}: cannot be read: {error}") from error
    wanted = f"wanted finite numbers [n, {', '.join(map(str, shape))}]"
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        raise UsageError(f"styles {path}: not an array of numbers; {wanted}")
    if values.shape[1:] != shape or not len(values) or not np.isfinite(values).all():
        raise UsageError(f"styles {path}: {list(values.shape)}; {wanted}")
    return jnp.asarray(values, jnp.float32)


def check_memory(count: int, spec: ImageSpec, asked: str) -> None:
    """Raise a `UsageError` if this machine has no memory for so many images.

    Args:
        count: Number of images.
        spec: Their shape.
        asked: The numbers that the user gave, for the message.
    """
    size = count * math.prod(spec.shape)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > memory:
        raise UsageError(
            f"{asked}: {count:,} images take {size / 2**30:,.0f} GiB, and this machine has "
            f"{memory / 2**30:,.0f} GiB of memory"
        )
