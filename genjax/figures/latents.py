"""Figures of a latent space: reconstructions, paths between images, and what each latent does."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.scipy.special import ndtri

from genjax.data.batches import read_some
from genjax.figures.grid import to_uint8
from genjax.figures.own import read_own, refuse_number
from genjax.figures.sample import (
    check_memory,
    cyclic_labels,
    is_conditional,
    map_in_chunks,
    prepared,
    read_styles,
    style_functions,
)
from genjax.models import FAMILIES
from genjax.run.options import (
    AnyData,
    AnyPath,
    N,
    OwnImages,
    check_choice,
    check_seed,
    class_number,
)
from genjax.run.recipe import Recipe
from genjax.run.states import open_split
from genjax.run.trained import Checkpoint, Model, Trained, load
from genjax.types import Batch, ImageSpec, State, UsageError

PathKind = Literal["spherical", "linear", "style"]
# Number of images in one call.
CHUNK = 100
# Number of paths if none is asked for.
PATHS = 8
# Number of images whose encodings decide which latents are the most active.
ACTIVITY_IMAGES = 100
# Number of images from which the mean latents of classes are computed.
CLASS_MEAN_IMAGES = 2000


def _check_row(steps: int, extent: float) -> None:
    """Raise a `UsageError` if a row of images cannot have these steps and this extent."""
    if steps < 2:
        raise UsageError(f"steps = {steps}: should be at least 2")
    if not math.isfinite(extent):
        raise UsageError(f"extent = {extent}: should be finite")


@functools.lru_cache(maxsize=8)
def encoder(recipe: Recipe) -> Callable[[State, Batch, jax.Array], jax.Array]:
    """Return the compiled `encode` of a family: (state, batch, key) to latents [B, Z].

    Raises:
        UsageError: The family has no encoder.
    """
    if recipe.functions.encode is None:
        having = [name for name, each in FAMILIES.items() if each.encode is not None]
        raise UsageError(
            f"family {recipe.family!r} has no encoder; wanted a run of {', '.join(having)}"
        )
    return jax.jit(functools.partial(recipe.functions.encode, recipe.model))


def split_into_chunks(batch: Batch) -> list[Batch]:
    """Split a batch into parts of at most `CHUNK` images."""
    starts = range(0, len(batch.images), CHUNK)
    return [Batch(*(array[start : start + CHUNK] for array in batch)) for start in starts]


@functools.lru_cache(maxsize=8)
def _decoder(recipe: Recipe) -> Callable[[State, jax.Array, jax.Array], jax.Array]:
    if recipe.functions.decode is None:
        raise UsageError(f"family {recipe.family!r} has no latent vectors")
    return jax.jit(functools.partial(recipe.functions.decode, recipe.model))


def _decode(
    recipe: Recipe, state: State, latents: jax.Array, labels: np.ndarray | jax.Array
) -> np.ndarray:
    """Decode latents [rows, columns, Z] with labels [rows] to uint8 [rows, columns, H, W, C]."""
    rows, columns, size = latents.shape
    state = prepared(recipe, state, jax.random.key(0))
    images = _decoder(recipe)(state, latents.reshape(-1, size), jnp.repeat(labels, columns))
    return to_uint8(images).reshape(rows, columns, *images.shape[1:])


def held_out(
    recipe: Recipe,
    spec: ImageSpec,
    n: int | None,
    default: int,
    seed: int,
    images_each: int = 1,
) -> Batch:
    """Read random images of the test split, or of the training data if there is none.

    With the same seed, the first images are the same for any `n`. Images that cannot be read are
    left out.

    Args:
        recipe: The recipe of the run.
        spec: The shape of its images.
        n: Number of things to draw. None: `default`, or as many as there are images for.
        default: That number.
        seed: Seed of the choice of images.
        images_each: Number of images that each thing is drawn from.

    Returns:
        `n * images_each` images.

    Raises:
        UsageError: `n` is below 1, or there are not as many images.
    """
    source = open_split(recipe, recipe.data_options.for_test, spec)
    found = len(source)
    if n is None or 1 <= n <= found // images_each:
        batch = read_some(source, images_each * (default if n is None else n), seed)
        found = len(batch.images)
    most = found // images_each
    if not most:
        split = f"{recipe.data_options.for_test.split} of {recipe.data}"
        raise UsageError(f"{split} has {found} image; wanted at least {images_each}")
    if n is not None and not 1 <= n <= most:
        each = f": {images_each} images each, of {found}" if images_each > 1 else ""
        raise UsageError(f"n = {n}: should be from 1 to {most}{each}")
    return Batch(*(array[: most * images_each] for array in batch))


def _own(trained: Trained, images: OwnImages) -> Batch | None:
    """Read the user's own images for an encoder, with their classes if it sees them."""
    if not images:
        return None
    conditional = is_conditional(trained.recipe, trained.spec)
    names = trained.class_names if conditional else None
    return read_own(trained.recipe, trained.spec, images, names)


def reconstruct(
    run: Model,
    n: Annotated[int | None, N] = None,
    seed: int = 0,
    checkpoint: Checkpoint = "best",
    data: AnyData = None,
    images: OwnImages = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Encode and decode images of the test split; the decoder gets the encoder's mean.

    Args:
        run: The run folder, of a family with an encoder.
        n: Number of images, from the test split (or, without one, the training data). None: 32, or
            as many as there are.
        seed: Seed of the choice of images.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.
        data: The run's data at another place. None: where they were in training.
        images: Your own images to take instead: files, folders, or .zip files; they are resized as
            the training data were. A conditional model needs a folder for each class.

    Returns:
        The images and their reconstructions, uint8 [n, H, W, C] each.

    Raises:
        UsageError: There is no run, no such good checkpoint, no encoder, or `n` is impossible.
    """
    check_seed(seed)
    refuse_number(n, images)
    trained = load(run, checkpoint, data)
    recipe, state = trained.recipe, trained.state
    encode = encoder(recipe)
    own = _own(trained, images)
    batch = own or held_out(recipe, state.spec, n, 32, seed)
    latents = encode(state, batch, jax.random.key(seed))
    return np.asarray(batch.images), _decode(recipe, state, latents[:, None], batch.labels)[:, 0]


def linear(start: jax.Array, end: jax.Array, t: jax.Array) -> jax.Array:
    """Interpolate on a straight line: [..., Z], [..., Z] and times [T] to [..., T, Z]."""
    t = t.reshape(*[1] * (start.ndim - 1), -1, 1)
    return (1 - t) * start[..., None, :] + t * end[..., None, :]


def spherical(start: jax.Array, end: jax.Array, t: jax.Array) -> jax.Array:
    """Interpolate on a great circle, and the norm linearly (White 2016, section 2).

    Gaussian latents of many dimensions lie near a sphere; a straight line would leave it.

    Args:
        start: Latents [..., Z].
        end: Latents [..., Z].
        t: Times in [0, 1], [T].

    Returns:
        Latents [..., T, Z]; for parallel vectors, on the straight line.
    """
    norms = [jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (start, end)]
    units = [x / jnp.maximum(norm, 1e-12) for x, norm in zip((start, end), norms, strict=True)]
    angle = jnp.arccos(jnp.clip(jnp.sum(units[0] * units[1], axis=-1), -1, 1))[..., None, None]
    sine = jnp.sin(angle)
    t = t.reshape(*[1] * (start.ndim - 1), -1, 1)
    is_straight = sine < 1e-6
    a, b = (
        jnp.where(is_straight, weight, jnp.sin(weight * angle) / jnp.where(is_straight, 1, sine))
        for weight in (1 - t, t)
    )
    direction = a * units[0][..., None, :] + b * units[1][..., None, :]
    return direction * ((1 - t) * norms[0][..., None, :] + t * norms[1][..., None, :])


def interpolate(
    run: Model,
    n: Annotated[int | None, N] = None,
    steps: int = 10,
    path: PathKind | None = None,
    seed: int = 0,
    styles: AnyPath = None,
    checkpoint: Checkpoint = "best",
    data: AnyData = None,
    images: OwnImages = (),
) -> np.ndarray:
    """Draw images along paths in latent space.

    The ends of a path are encodings of images of the test split or, in a family without an encoder,
    draws of the prior. A conditional model keeps the label of the path's first image.

    Args:
        run: The run folder.
        n: Number of paths, a row each. None: 8, or as many as there are images for, two each.
        steps: Number of images on each path, including both ends.
        path: A great circle of the latents, a straight line, or a straight line between styles.
            None: a great circle, or between `styles` a straight line.
        seed: Seed of the ends.
        styles: A .npy of styles, as `genjax project --styles` writes it; each path leads from one
            to the next. None: the ends are as above.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.
        data: The run's data at another place. None: where they were in training.
        images: Your own images, each path leading from one to the next: files, folders, or .zip
            files; they are resized as the training data were. A conditional model needs a folder
            for each class.

    Returns:
        uint8 [n, steps, H, W, C].

    Raises:
        UsageError: There is no run or no such good checkpoint, or `n` or `steps` is impossible.
    """
    check_seed(seed)
    check_choice("path", path, PathKind)
    if n is not None and n < 1:
        raise UsageError(f"n = {n}: should be at least 1")
    if steps < 2:
        raise UsageError(f"steps = {steps}: should be at least 2, the two ends")
    refuse_number(n, images)
    trained = load(run, checkpoint, data)
    recipe, state = trained.recipe, trained.state
    if styles is not None:
        if images:
            raise UsageError(f"styles {styles}: wanted these or images, not both")
        return _paths_between(recipe, state, styles, n, steps, path)
    ends, count = None, PATHS if n is None else n
    check_memory(count * steps, state.spec, f"n = {count}, steps = {steps}")
    path, key = path or "spherical", jax.random.key(seed)
    if images:
        encode = encoder(recipe)  # raises where there is none
        own = _own(trained, images)
        assert own is not None
        if len(own.images) == 1:
            raise UsageError("images: 1 image; wanted at least 2, the ends of a path")
        check_memory(len(own.images) * steps, state.spec, f"steps = {steps}")
        latents = encode(state, own, key)
        return _along(recipe, state, latents[:-1], latents[1:], own.labels[:-1], steps, path)
    if recipe.functions.encode is not None:
        ends = held_out(recipe, state.spec, n, PATHS, seed, images_each=2)
        count = len(ends.images) // 2
    return paths(recipe, state, ends, count, steps, path, key)


def _paths_between(
    recipe: Recipe,
    state: State,
    styles: str | Path,
    n: int | None,
    steps: int,
    path: PathKind | None,
) -> np.ndarray:
    """Draw images on straight lines from each style of a file to the next, all or the first n."""
    given = read_styles(styles, recipe, state)
    most = len(given) - 1
    if not most or not 1 <= (most if n is None else n) <= most or path not in (None, "style"):
        raise UsageError(
            f"styles {styles}: {len(given)} styles make {most} straight paths of path 'style', not "
            f"{'any' if n is None else n} of {path or 'style'!r}"
        )
    count = most if n is None else n
    check_memory(count * steps, state.spec, f"steps = {steps}")
    t = jnp.linspace(0, 1, steps)
    return _synthesize_between(recipe, state, given[:count], given[1 : count + 1], t)


def paths(
    recipe: Recipe,
    state: State,
    images: Batch | None,
    n: int,
    steps: int,
    path: PathKind,
    key: jax.Array,
) -> np.ndarray:
    """Draw images of a state along paths in latent space, uint8 [n, steps, H, W, C].

    Args:
        recipe: The recipe of the state.
        state: The state.
        images: Images [2 n, H, W, C] to encode as the ends, used in a family with an encoder.
        n: Number of paths.
        steps: Number of images on each path, including both ends.
        path: See `interpolate`.
        key: Key of all draws.
    """
    if recipe.functions.encode is None:
        ends = jax.random.normal(key, (2 * n, getattr(recipe.model, "latent_size", 0)))
        labels: np.ndarray | jax.Array = cyclic_labels(state, 2 * n)
    else:
        assert images is not None
        ends, labels = encoder(recipe)(state, images, key), images.labels
    return _along(recipe, state, ends[:n], ends[n:], labels[:n], steps, path)


def _along(
    recipe: Recipe,
    state: State,
    start: jax.Array,
    end: jax.Array,
    labels: np.ndarray | jax.Array,
    steps: int,
    path: PathKind,
) -> np.ndarray:
    """Draw images along paths between latents [n, Z], with labels [n]: uint8 [n, T, H, W, C]."""
    t = jnp.linspace(0, 1, steps)
    if path == "style":
        style, _ = style_functions(recipe)
        ends = style(state, jnp.concatenate([start, end]), jnp.tile(jnp.asarray(labels), 2))
        start, end = jnp.split(ends, 2)
        return _synthesize_between(recipe, state, start, end, t)
    along = {"spherical": spherical, "linear": linear}[path]
    return _decode(recipe, state, along(start, end, t), labels)


def _synthesize_between(
    recipe: Recipe, state: State, start: jax.Array, end: jax.Array, t: jax.Array
) -> np.ndarray:
    """Draw images on straight lines between styles [n, L, W], uint8 [n, T, H, W, C]."""
    _, synthesize = style_functions(recipe)
    t = t.reshape(1, -1, 1, 1)
    styles = (1 - t) * start[:, None] + t * end[:, None]
    images = map_in_chunks(
        lambda some: to_uint8(synthesize(state, some)), styles.reshape(-1, *start.shape[1:])
    )
    return images.reshape(*styles.shape[:2], *images.shape[1:])


def traverse(
    run: Model,
    n: Annotated[int | None, N] = None,
    steps: int = 11,
    extent: float = 3.0,
    seed: int = 0,
    checkpoint: Checkpoint = "best",
    data: AnyData = None,
) -> np.ndarray:
    """Draw a test image with one latent changed at a time, the most active latents first.

    Args:
        run: The run folder, of a family with an encoder.
        n: Number of latents, a row each. None: 10, or as many as there are.
        steps: Number of values of each latent.
        extent: The largest value, in standard deviations of the prior; the least is its negative.
        seed: Seed of the choice of the test image.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.
        data: The run's data at another place. None: where they were in training.

    Returns:
        uint8 [n, steps, H, W, C], a row for each latent.

    Raises:
        UsageError: There is no run, no such good checkpoint, no encoder, or a number is impossible.
    """
    check_seed(seed)
    _check_row(steps, extent)
    trained = load(run, checkpoint, data)
    recipe, state = trained.recipe, trained.state
    encode = encoder(recipe)
    batch = held_out(recipe, state.spec, None, ACTIVITY_IMAGES, seed)
    means = encode(state, batch, jax.random.key(seed))
    size = means.shape[1]
    n = min(10, size) if n is None else n
    if not 1 <= n <= size:
        raise UsageError(f"n = {n}: should be from 1 to {size}, the latents that there are")
    check_memory(n * steps, state.spec, f"steps = {steps}")
    order = jnp.argsort(-jnp.var(means, axis=0))[:n]
    values = jnp.linspace(-extent, extent, steps)
    change = jax.nn.one_hot(order, size)[:, None, :]
    latents = means[:1, None] * (1 - change) + values[None, :, None] * change
    return _decode(recipe, state, latents, np.repeat(batch.labels[:1], n))


def class_direction(
    latents: jax.Array, labels: np.ndarray, to: int, source: int | None = None
) -> jax.Array:
    """Compute the direction between the means of two classes (Kingma and Dhariwal 2018, section 6).

    Args:
        latents: Latents of images, [N, Z].
        labels: Their classes, [N].
        to: The class that the direction leads to.
        source: The class that it leads from; None for all other classes.

    Returns:
        The difference of the mean latents, [Z].

    Raises:
        UsageError: No image is of one of the classes.
    """
    ends = labels == to, labels != to if source is None else labels == source
    for (name, value), is_end in zip((("to", to), ("from", source)), ends, strict=True):
        if not is_end.any():
            wanted = ", ".join(map(str, np.unique(labels)))
            what = "that" if value is not None else "another"
            raise UsageError(f"{name} = {value}: no image of {what} class; there are {wanted}")
    return jnp.mean(latents[ends[0]], axis=0) - jnp.mean(latents[ends[1]], axis=0)


def manipulate(
    run: Model,
    to: str | int,
    source: Annotated[str | int | None, tyro.conf.arg(name="from")] = None,
    n: Annotated[int | None, N] = None,
    steps: int = 9,
    extent: float = 1.5,
    seed: int = 0,
    checkpoint: Checkpoint = "best",
    data: AnyData = None,
    images: OwnImages = (),
) -> np.ndarray:
    """Move test images in latent space towards a class.

    They move along the difference of the classes' mean latents.

    Args:
        run: The run folder, of a family with an encoder, trained on data with classes.
        to: The class to move to: its name, or its number if no class has that for a name.
        source: The class of the images, to move from, likewise. None: away from all other classes,
            and the images are of any class.
        n: Number of images, a row each. None: 8, or as many as there are.
        steps: Number of images in a row.
        extent: Images are moved from -extent to extent times the difference of the class means.
        seed: Seed of the choice of images.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.
        data: The run's data at another place. None: where they were in training.
        images: Your own images to move, whatever their class: files, folders, or .zip files; they
            are resized as the training data were. A conditional model needs a folder for each
            class.

    Returns:
        uint8 [n, steps, H, W, C], a row for each image.

    Raises:
        UsageError: There is no run, no such good checkpoint, no encoder, no classes or no image of
            a class, or a number is impossible.
    """
    check_seed(seed)
    _check_row(steps, extent)
    refuse_number(n, images)
    trained = load(run, checkpoint, data)
    recipe, state = trained.recipe, trained.state
    encode = encoder(recipe)
    if not state.spec.classes:
        raise UsageError(f"{recipe.data} has no classes, so there is no direction to one")
    names = trained.class_names
    end = class_number("to", to, names)
    start = None if source is None else class_number("from", source, names)
    own = _own(trained, images)
    batch = held_out(recipe, state.spec, None, CLASS_MEAN_IMAGES, seed)
    key = jax.random.key(seed)
    latents = jnp.concatenate([encode(state, some, key) for some in split_into_chunks(batch)])
    direction = class_direction(latents, np.asarray(batch.labels), end, start)
    if own is None:
        is_shown = np.asarray(batch.labels == start) if start is not None else np.ones(len(latents))
        chosen = np.flatnonzero(is_shown)
        n = min(8, len(chosen)) if n is None else n
        if not 1 <= n <= len(chosen):
            raise UsageError(f"n = {n}: should be from 1 to {len(chosen)}")
        moved, labels = latents[chosen[:n]], batch.labels[chosen[:n]]
    else:
        moved, labels = encode(state, own, key), own.labels
    check_memory(len(moved) * steps, state.spec, f"steps = {steps}")
    along = jnp.linspace(-extent, extent, steps).reshape(1, -1, 1) * direction.reshape(1, 1, -1)
    return _decode(recipe, state, moved[:, None] + along, labels)


def manifold(run: Model, n: Annotated[int, N] = 20, checkpoint: Checkpoint = "best") -> np.ndarray:
    """Draw images over the plane of two latents (Kingma and Welling 2014, figure 4).

    The latents are quantiles of the prior, so that equal areas of the figure are equally likely.

    Args:
        run: The run folder, of a model with two latents.
        n: Number of values of each latent.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.

    Returns:
        uint8 [n, n, H, W, C]; the first latent rises to the right, the second upwards.

    Raises:
        UsageError: There is no run or no such good checkpoint, or the model has other than two
            latents.
    """
    if n < 2:
        raise UsageError(f"n = {n}: should be at least 2")
    trained = load(run, checkpoint)
    recipe, state = trained.recipe, trained.state
    size = getattr(recipe.model, "latent_size", None)
    if size != 2:
        found = "no latent_size" if size is None else f"latent_size = {size}"
        raise UsageError(f"{trained.origin} has {found}; a manifold is drawn of 2, of a VAE's")
    check_memory(n * n, state.spec, f"n = {n}")
    values = ndtri((jnp.arange(n) + 0.5) / n)
    latents = jnp.stack(jnp.meshgrid(values, values[::-1]), axis=-1)
    return _decode(recipe, state, latents, np.zeros(n, np.int32))
