"""Figures of a latent space: reconstructions, paths between images, and what each latent does."""

import functools
from collections.abc import Callable
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.scipy.special import ndtri

from genjax.data.batches import read_batch
from genjax.data.sources import Source, open_source
from genjax.figures.grid import to_uint8
from genjax.figures.sample import in_calls, labels_in_turn, style_functions
from genjax.run.options import N, Run
from genjax.run.recipe import Recipe
from genjax.run.states import Checkpoint, load_state
from genjax.types import Batch, State, UsageError

PathKind = Literal["spherical", "linear", "style"]
# Images in one call.
CHUNK = 100
# Images whose posterior means say which latents are the most active.
ENOUGH = 100
# Images from which the means of classes are taken.
MANY = 2000


@functools.lru_cache(maxsize=8)
def encoder(recipe: Recipe) -> Callable[[State, Batch, jax.Array], jax.Array]:
    """The family's compiled `encode`.

    Raises:
        UsageError: It has none.
    """
    if recipe.functions.encode is None:
        raise UsageError(f"family {recipe.family!r} has no encoder; wanted a run of vae, glow")
    return jax.jit(functools.partial(recipe.functions.encode, recipe.model))


def in_chunks(batch: Batch) -> list[Batch]:
    """The batch in parts of `CHUNK` images."""
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
    """Latents [rows, columns, Z], labels [rows] to uint8 [rows, columns, H, W, C]."""
    rows, columns, size = latents.shape
    images = _decoder(recipe)(state, latents.reshape(-1, size), jnp.repeat(labels, columns))
    return to_uint8(images).reshape(rows, columns, *images.shape[1:])


def held_out(recipe: Recipe, n: int, seed: int) -> Batch:
    """`n` images of the test split, or without one of the training data.

    Of one seed the first are the same for any `n`.
    """
    source = open_source(recipe.data, recipe.data_options.for_test)
    if n < 1 or n > len(source):
        raise UsageError(f"n = {n}: should be from 1 to {len(source)}")
    return _first_of(source, n, seed)


def _first_of(source: Source, most: int, seed: int) -> Batch:
    """Images in the order of a seed, up to `most`."""
    return read_batch(source, np.random.default_rng(seed).permutation(len(source))[:most])


def reconstruct(
    run: Run, n: Annotated[int, N] = 32, seed: int = 0, checkpoint: Checkpoint = "best"
) -> tuple[np.ndarray, np.ndarray]:
    """Draw images of the test split, and what the model makes of each.

    The decoder is given the encoder's mean.

    Args:
        run: The run folder, of a family with an encoder.
        n: How many images of the test split (or, without one, of the training data).
        seed: Which images.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.

    Returns:
        The images and their reconstructions, uint8 [n, H, W, C] each.

    Raises:
        UsageError: No run there, no such good checkpoint, no encoder, or an impossible `n`.
    """
    recipe, state, _ = load_state(run, checkpoint)
    encode = encoder(recipe)
    batch = held_out(recipe, n, seed)
    latents = encode(state, batch, jax.random.key(seed))
    return np.asarray(batch.images), _decode(recipe, state, latents[:, None], batch.labels)[:, 0]


def linear(start: jax.Array, end: jax.Array, t: jax.Array) -> jax.Array:
    """The straight line: [..., Z], [..., Z] and times [T] to [..., T, Z]."""
    t = t.reshape(*[1] * (start.ndim - 1), -1, 1)
    return (1 - t) * start[..., None, :] + t * end[..., None, :]


def spherical(start: jax.Array, end: jax.Array, t: jax.Array) -> jax.Array:
    """The great circle, with a norm that goes evenly from one to the other (White 2016, section 2).

    Where Gaussian latents are many, they lie near a sphere that the straight line cuts through.

    Args:
        start: [..., Z].
        end: [..., Z].
        t: Times in [0, 1], [T].

    Returns:
        [..., T, Z]; for parallel vectors, the straight line.
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
    run: Run,
    n: Annotated[int, N] = 8,
    steps: int = 10,
    path: PathKind = "spherical",
    seed: int = 0,
    checkpoint: Checkpoint = "best",
) -> np.ndarray:
    """Draw images along paths in latent space.

    Between the encodings of images of the test split, where the family has an encoder, else
    between draws of the prior. A conditional model keeps the label of the path's first image.

    Args:
        run: The run folder.
        n: Paths, a row each.
        steps: Images on each path, both ends included.
        path: Along the sphere of the latents, or straight, or straight between styles.
        seed: Of the ends.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.

    Returns:
        uint8 [n, steps, H, W, C].

    Raises:
        UsageError: No run there, no such good checkpoint, or an impossible `n` or `steps`.
    """
    if n < 1:
        raise UsageError(f"n = {n}: should be at least 1")
    if steps < 2:
        raise UsageError(f"steps = {steps}: should be at least 2, the two ends")
    recipe, state, _ = load_state(run, checkpoint)
    needs_images = recipe.functions.encode is not None
    ends = held_out(recipe, 2 * n, seed) if needs_images else None
    return paths(recipe, state, ends, n, steps, path, jax.random.key(seed))


def paths(
    recipe: Recipe,
    state: State,
    images: Batch | None,
    n: int,
    steps: int,
    path: PathKind,
    key: jax.Array,
) -> np.ndarray:
    """What `interpolate` does, of a state; a family with an encoder takes its ends from images."""
    if recipe.functions.encode is None:
        ends = jax.random.normal(key, (2 * n, getattr(recipe.model, "latent_size", 0)))
        labels: np.ndarray | jax.Array = labels_in_turn(state, 2 * n)
    else:
        assert images is not None
        ends, labels = encoder(recipe)(state, images, key), images.labels
    t = jnp.linspace(0, 1, steps)
    if path == "style":
        return _style_paths(recipe, state, ends, labels, t)
    along = {"spherical": spherical, "linear": linear}[path]
    latents = along(ends[:n], ends[n:], t)
    return _decode(recipe, state, latents, labels[:n])


def _style_paths(
    recipe: Recipe,
    state: State,
    ends: jax.Array,
    labels: np.ndarray | jax.Array,
    t: jax.Array,
) -> np.ndarray:
    """Straight lines between the styles of latents, the first half of them to the second."""
    style, synthesize = style_functions(recipe)
    labels = jnp.tile(jnp.asarray(labels[: len(ends) // 2]), 2)
    start, end = jnp.split(style(state, ends, labels), 2)
    t = t.reshape(1, -1, 1, 1)
    styles = (1 - t) * start[:, None] + t * end[:, None]
    images = in_calls(
        lambda some: to_uint8(synthesize(state, some)), styles.reshape(-1, *start.shape[1:])
    )
    return images.reshape(*styles.shape[:2], *images.shape[1:])


def traverse(
    run: Run,
    n: Annotated[int, N] = 10,
    steps: int = 11,
    extent: float = 3.0,
    seed: int = 0,
    checkpoint: Checkpoint = "best",
) -> np.ndarray:
    """Draw a test image as its latents change one at a time, the most active first.

    Args:
        run: The run folder, of a family with an encoder.
        n: Latents, a row each.
        steps: Values of each.
        extent: From minus this to this, in standard deviations of the prior.
        seed: Which image of the test split.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.

    Returns:
        uint8 [n, steps, H, W, C], a row for each latent.

    Raises:
        UsageError: No run there, no such good checkpoint, no encoder, or impossible numbers.
    """
    recipe, state, _ = load_state(run, checkpoint)
    encode = encoder(recipe)
    if steps < 2:
        raise UsageError(f"steps = {steps}: should be at least 2")
    batch = held_out(recipe, ENOUGH, seed)
    means = encode(state, batch, jax.random.key(seed))
    size = means.shape[1]
    if not 1 <= n <= size:
        raise UsageError(f"n = {n}: should be from 1 to {size}, the latents that there are")
    order = jnp.argsort(-jnp.var(means, axis=0))[:n]
    values = jnp.linspace(-extent, extent, steps)
    change = jax.nn.one_hot(order, size)[:, None, :]
    latents = means[:1, None] * (1 - change) + values[None, :, None] * change
    return _decode(recipe, state, latents, np.repeat(batch.labels[:1], n))


def class_direction(
    latents: jax.Array, labels: np.ndarray, to: int, source: int | None = None
) -> jax.Array:
    """From the mean of one class to that of another (Kingma and Dhariwal 2018, section 6).

    Args:
        latents: [N, Z].
        labels: [N].
        to: The class it leads to.
        source: The class it leads from; None for all others.

    Returns:
        [Z].

    Raises:
        UsageError: No image of a class.
    """
    ends = labels == to, labels != to if source is None else labels == source
    for name, is_end in zip(("to", "from"), ends, strict=True):
        if not is_end.any():
            wanted = ", ".join(map(str, np.unique(labels)))
            value = to if name == "to" else source
            raise UsageError(f"{name} = {value}: no image of that class; there are {wanted}")
    return jnp.mean(latents[ends[0]], axis=0) - jnp.mean(latents[ends[1]], axis=0)


def manipulate(
    run: Run,
    to: int,
    source: Annotated[int | None, tyro.conf.arg(name="from")] = None,
    n: Annotated[int, N] = 8,
    steps: int = 9,
    extent: float = 1.5,
    seed: int = 0,
    checkpoint: Checkpoint = "best",
) -> np.ndarray:
    """Move test images in latent space towards a class: along the difference of the means.

    Args:
        run: The run folder, of a family with an encoder, trained on data with classes.
        to: The class to move to.
        source: The class to move from, which the images are of. None: the direction is away from
            all other classes, and the images are of any.
        n: Images, a row each.
        steps: Images in a row.
        extent: From minus this to this, in differences of the means.
        seed: Which images.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.

    Returns:
        uint8 [n, steps, H, W, C], a row for each image.

    Raises:
        UsageError: No run there, no such good checkpoint, no encoder, data without classes, no
            image of a class, or impossible numbers.
    """
    recipe, state, _ = load_state(run, checkpoint)
    encode = encoder(recipe)
    if not state.spec.classes:
        raise UsageError(f"{recipe.data} has no classes, so there is no direction to one")
    if steps < 2:
        raise UsageError(f"steps = {steps}: should be at least 2")
    batch = _first_of(open_source(recipe.data, recipe.data_options.for_test), MANY, seed)
    key = jax.random.key(seed)
    latents = jnp.concatenate([encode(state, some, key) for some in in_chunks(batch)])
    direction = class_direction(latents, np.asarray(batch.labels), to, source)
    is_shown = np.asarray(batch.labels == source) if source is not None else np.ones(len(latents))
    chosen = np.flatnonzero(is_shown)
    if not 1 <= n <= len(chosen):
        raise UsageError(f"n = {n}: should be from 1 to {len(chosen)}")
    along = jnp.linspace(-extent, extent, steps).reshape(1, -1, 1) * direction.reshape(1, 1, -1)
    return _decode(recipe, state, latents[chosen[:n], None] + along, batch.labels[chosen[:n]])


def manifold(run: Run, n: Annotated[int, N] = 20, checkpoint: Checkpoint = "best") -> np.ndarray:
    """Draw images over the plane of two latents (Kingma and Welling 2014, figure 4).

    At the quantiles of the prior, so that equal areas of the figure are equally likely.

    Args:
        run: The run folder, of a model with two latents.
        n: Values of each.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.

    Returns:
        uint8 [n, n, H, W, C]; the first latent rises to the right, the second upwards.

    Raises:
        UsageError: No run there, no such good checkpoint, or another number of latents.
    """
    if n < 2:
        raise UsageError(f"n = {n}: should be at least 2")
    recipe, state, _ = load_state(run, checkpoint)
    size = getattr(recipe.model, "latent_size", None)
    if size != 2:
        raise UsageError(f"{run} has latent_size = {size}; a manifold is drawn of 2")
    values = ndtri((jnp.arange(n) + 0.5) / n)
    latents = jnp.stack(jnp.meshgrid(values, values[::-1]), axis=-1)
    return _decode(recipe, state, latents, np.zeros(n, np.int32))
