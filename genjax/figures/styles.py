"""Styles: mixing them, finding that of an image, and perceptual path lengths."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax.figures.grid import to_uint8
from genjax.figures.latents import held_out
from genjax.figures.output import check_output, save_array
from genjax.figures.own import read_own, refuse_number
from genjax.figures.sample import (
    check_memory,
    cyclic_labels,
    is_conditional,
    map_in_chunks,
    read_styles,
    sample_options,
    style_functions,
)
from genjax.metrics.features import FeatureNet
from genjax.nn.precision import exact
from genjax.nn.residual import downsample
from genjax.run.options import AnyData, AnyPath, N, OwnImages, check_choice, check_seed
from genjax.run.recipe import Recipe
from genjax.run.trained import Checkpoint, Model, load
from genjax.types import State, UsageError

Space = Literal["w", "w+"]
# Projection, after Karras et al. 2020, appendix D: the number of styles whose mean and spread are
# estimated; the standard deviation of the noise on w, over that spread; Adam's learning rate; and
# the fractions of the steps in which the rate rises, in which it falls, and with noise.
PROJECTION_SAMPLES, NOISE_SCALE, LEARNING_RATE = 1000, 0.05, 0.1
WARMUP_FRACTION, DECAY_FRACTION, NOISE_FRACTION = 0.05, 0.25, 0.75
# The step on a path of length 1 (Karras et al. 2019, section 4.1).
EPSILON = 1e-4


def draw_styles(
    recipe: Recipe, state: State, key: jax.Array, labels: np.ndarray, **options: Any
) -> jax.Array:
    """Draw styles [n, L, W] for labels int32 [n]; `options` are those of the family's `style`."""
    style, _ = style_functions(recipe)
    latents = jax.random.normal(key, (len(labels), getattr(recipe.model, "latent_size", 0)))
    return style(state, latents, labels, **options)


def mix(
    run: Model,
    rows: int | None = None,
    columns: int | None = None,
    seed: int = 0,
    truncation: float | None = None,
    cuts: tuple[int, int] | None = None,
    styles: AnyPath = None,
    checkpoint: Checkpoint = "best",
) -> np.ndarray:
    """Draw images that mix two styles in different layers (Karras et al. 2019, figure 3).

    Each row has an image on its left, and each column one on its top. Where they meet is the row's
    image with some layers of the column's style: the coarse layers in the first `rows` rows, the
    middle layers in the next, and the fine layers in the last.

    Args:
        run: The run folder, of a family with styles.
        rows: Number of rows for each of the three. None: 3, or one for each of `styles`.
        columns: Number of images on top. None: 6, or one for each of `styles`.
        seed: Seed of the styles.
        truncation: The factor psi of the styles' distance from their mean. None: 1.
        cuts: The indices of the first middle and the first fine layer. None: thirds of the layers.
        styles: A .npy of styles, as `genjax project --styles` writes it, which are mixed with each
            other, the same in each of the three. None: they are drawn at random.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.

    Returns:
        uint8 [1 + 3 rows, 1 + columns, H, W, C]; the corner is black.

    Raises:
        UsageError: There is no run, no such good checkpoint, no styles, or a number is impossible.
    """
    check_seed(seed)
    for name, value in (("rows", rows), ("columns", columns)):
        if value is not None and value < 1:
            raise UsageError(f"{name} = {value}: should be at least 1")
    trained = load(run, checkpoint)
    recipe, state = trained.recipe, trained.state
    _, synthesize = style_functions(recipe)
    options = sample_options(recipe, truncation=truncation)
    if styles is None:
        rows, columns = rows or 3, columns or 6
        check_memory((3 * rows + 1) * (columns + 1), state.spec, f"{rows = }, {columns = }")
        keys = jax.random.split(jax.random.key(seed))
        left, top = (
            draw_styles(recipe, state, key, cyclic_labels(state, n), **options)
            for key, n in zip(keys, (3 * rows, columns), strict=True)
        )
    else:
        given = read_styles(styles, recipe, state)
        rows, columns = rows or len(given), columns or len(given)
        if max(rows, columns) > len(given) or options:
            raise UsageError(
                f"styles {styles}: {len(given)} styles, mixed as they are; wanted no truncation, "
                "and no more rows and columns"
            )
        left, top = jnp.tile(given[:rows], (3, 1, 1)), given[:columns]
    count = left.shape[1]
    if cuts is None:
        cuts = (math.ceil(count / 3), math.ceil(2 * count / 3))
    if not 0 < cuts[0] < cuts[1] < count:
        raise UsageError(f"cuts = {cuts}: should rise, from 1 to {count - 1}, of {count} layers")
    band = jnp.digitize(jnp.arange(count), jnp.array(cuts))  # 0, 1 or 2 for each layer
    is_columns = band[None] == jnp.repeat(jnp.arange(3), rows)[:, None]
    mixed = jnp.where(is_columns[:, None, :, None], top[None], left[:, None])
    every = jnp.concatenate([top, left, mixed.reshape(-1, *left.shape[1:])])
    images = map_in_chunks(lambda styles: to_uint8(synthesize(state, styles)), every)
    top_images, left_images, inside = np.split(images, [columns, columns + 3 * rows])
    figure = np.zeros((1 + 3 * rows, 1 + columns, *images.shape[1:]), np.uint8)
    figure[0, 1:], figure[1:, 0] = top_images, left_images
    figure[1:, 1:] = inside.reshape(3 * rows, columns, *images.shape[1:])
    return figure


def project(
    run: Model,
    n: Annotated[int | None, N] = None,
    images: OwnImages = (),
    space: Space = "w",
    steps: int = 500,
    seed: int = 0,
    checkpoint: Checkpoint = "best",
    data: AnyData = None,
    styles: AnyPath = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the styles whose images are nearest to given ones (Karras et al. 2020, appendix D).

    The search is by Adam from the mean style, with noise on the styles that fades. Its distance is
    the squared one of pixels, summed over the image and its halvings down to 8 pixels; the paper's
    is that of features of a VGG net.

    Args:
        run: The run folder, of a family with styles.
        n: Number of images, from the test split (or, without one, the training data). None: 8, or
            as many as there are.
        images: Your own images to take instead: files, folders, or .zip files; they are resized as
            the training data were.
        space: One style for all layers (w), or a style for each layer (w+), which gets nearer to
            images that the model would not draw.
        steps: Number of steps of the search.
        seed: Seed of the choice of images and of the noise of the search.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.
        data: The run's data at another place. None: where they were in training.
        styles: A .npy to write the styles to, float32 [n, layers, size].

    Returns:
        The images and the images of their styles, uint8 [n, H, W, C] each, and the styles, float32
        [n, L, W].

    Raises:
        UsageError: There is no run, no such good checkpoint, no styles, a file is no image, or a
            number is impossible.
    """
    check_seed(seed)
    check_choice("space", space, Space)
    if not 1 <= steps < 2**31:
        raise UsageError(f"steps = {steps}: should be from 1 to {2**31 - 1}")
    refuse_number(n, images)
    styles = None if styles is None else Path(styles)
    if styles is not None:
        if styles.suffix.lower() != ".npy":
            raise UsageError(f"styles {styles}: should end in .npy")
        check_output(styles)
    trained = load(run, checkpoint, data)
    recipe, state = trained.recipe, trained.state
    _, synthesize = style_functions(recipe)
    own = read_own(recipe, state.spec, images) if images else None
    batch = own or held_out(recipe, state.spec, n, 8, seed)
    key, noise_key = jax.random.split(jax.random.key(seed))
    labels = cyclic_labels(state, PROJECTION_SAMPLES)
    drawn = draw_styles(recipe, state, key, labels)
    layers, some = drawn.shape[1], drawn[:, 0]
    is_own = np.ones((len(batch.labels), PROJECTION_SAMPLES), bool)
    if is_conditional(recipe, state.spec) and not images:
        is_own = np.asarray(batch.labels)[:, None] == labels[None]
    with exact():
        start = is_own @ some / is_own.sum(axis=1, keepdims=True)
    centred = some - jnp.mean(some, axis=0, keepdims=True)
    spread = jnp.sqrt(jnp.mean(jnp.sum(centred**2, axis=1)))
    start = jnp.repeat(start[:, None], layers if space == "w+" else 1, axis=1)
    found = _descend(recipe, state, batch.images, start, spread, layers, steps, noise_key)
    if styles is not None:
        save_array(np.asarray(found), styles)
    return np.asarray(batch.images), to_uint8(synthesize(state, found)), np.asarray(found)


def _descend(
    recipe: Recipe,
    state: State,
    images: Any,
    start: jax.Array,
    spread: jax.Array,
    layers: int,
    steps: int,
    key: jax.Array,
) -> jax.Array:
    """Search for styles [n, L, W] of images [n, H, W, C], from `start` [n, L or 1, W]."""
    assert recipe.functions.synthesize is not None
    synthesize = functools.partial(recipe.functions.synthesize, recipe.model)
    rise = max(1, round(WARMUP_FRACTION * steps))
    fall = max(1, round(DECAY_FRACTION * steps))
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(LEARNING_RATE / rise, LEARNING_RATE, rise),
            optax.constant_schedule(LEARNING_RATE),
            optax.cosine_decay_schedule(LEARNING_RATE, fall),
        ],
        [rise, max(rise, steps - fall)],
    )
    optimizer = optax.adam(schedule)

    @jax.jit
    def run(state: State, images: jax.Array, start: jax.Array) -> jax.Array:
        target = images / 127.5 - 1

        def one(carried: Any, i: jax.Array) -> tuple[Any, None]:
            styles, opt_state = carried
            fading = jnp.maximum(0, 1 - i / (NOISE_FRACTION * steps)) ** 2
            noise = jax.random.normal(jax.random.fold_in(key, i), styles.shape)
            noise *= NOISE_SCALE * fading * spread

            def loss_fn(styles: jax.Array) -> jax.Array:
                full = jnp.broadcast_to(styles + noise, (len(styles), layers, styles.shape[2]))
                return jnp.sum(multiscale_distance(synthesize(state, full), target))

            grads = jax.grad(loss_fn)(styles)
            updates, opt_state = optimizer.update(grads, opt_state)
            return (optax.apply_updates(styles, updates), opt_state), None

        (styles, _), _ = jax.lax.scan(one, (start, optimizer.init(start)), jnp.arange(steps))
        return jnp.broadcast_to(styles, (len(styles), layers, styles.shape[2]))

    return run(state, jnp.asarray(images, jnp.float32), start)


def multiscale_distance(x: jax.Array, y: jax.Array) -> jax.Array:
    """Sum mean squared distances [B] of images [B, H, W, C] over halvings down to 8 pixels."""
    total = jnp.zeros(len(x))
    while True:
        total += jnp.mean((x - y) ** 2, axis=(1, 2, 3))
        height, width = x.shape[1:3]
        if height % 2 or width % 2 or min(height, width) < 16:
            return total
        x, y = downsample(x), downsample(y)


def perceptual_path_length(
    recipe: Recipe,
    state: State,
    net: FeatureNet,
    n: int,
    key: jax.Array,
    crop: Callable[[np.ndarray], np.ndarray] = lambda images: images,
) -> dict[str, float]:
    """Measure how far features move as the style moves (Karras et al. 2019, equation 3).

    For each pair of styles, two points are taken on the line between them: a random one, and one
    that is `EPSILON` further. The length is the squared distance of their images' features over
    `EPSILON` squared. The paper's features are those of VGG16, so values with another net compare
    only with each other. As in the authors' code, the lowest and highest hundredths are left out.

    Args:
        recipe: The recipe of the state.
        state: The state.
        net: The feature net; it gets float images [B, H, W, C] in [0, 255], not rounded.
        n: Number of pairs.
        key: Key of all draws.
        crop: Function that is applied to images [N, H, W, C] before the net.

    Returns:
        `perceptual_path_length`, the mean, and its standard error.
    """
    # Rounded products would differ by their rounding, whatever the step.
    recipe = recipe.exact()
    _, synthesize = style_functions(recipe)
    *keys, t_key = jax.random.split(key, 3)
    labels = cyclic_labels(state, n)
    ends = [draw_styles(recipe, state, key, labels) for key in keys]
    t = jax.random.uniform(t_key, (n, 1, 1))

    def features(t: jax.Array) -> np.ndarray:
        styles = ends[0] + t * (ends[1] - ends[0])
        # Features at once, because images of all pairs would not fit in memory.
        return map_in_chunks(
            lambda some: net(crop(np.asarray((synthesize(state, some) + 1) * 127.5)))[0], styles
        ).astype(np.float64)

    lengths = np.sum((features(t) - features(t + EPSILON)) ** 2, axis=1) / EPSILON**2
    low, high = np.quantile(lengths, [0.01, 0.99])
    kept = lengths[(lengths >= low) & (lengths <= high)]
    return {
        "perceptual_path_length": float(kept.mean()),
        "perceptual_path_length_error": float(kept.std() / len(kept) ** 0.5),
    }
