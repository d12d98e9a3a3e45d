"""What styles are good for: mixing them, finding that of an image, and how evenly they move it."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image, UnidentifiedImageError

from genjax.data.images import to_array
from genjax.figures.grid import to_uint8
from genjax.figures.latents import held_out
from genjax.figures.sample import (
    in_calls,
    is_conditional,
    labels_in_turn,
    sample_options,
    style_functions,
)
from genjax.metrics.features import FeatureNet
from genjax.nn.residual import downsample
from genjax.run.options import N, Run
from genjax.run.recipe import Recipe
from genjax.run.states import Checkpoint, load_state
from genjax.types import Batch, State, UsageError

Space = Literal["w", "w+"]
# Of projection (Karras et al. 2020, appendix D), where it can be kept: the styles from which their
# mean and spread are taken, the noise on w as a share of the spread, Adam's rate, and the shares of
# the steps over which the rate rises and falls and the noise goes.
MANY, NOISE, RATE, RISE, FALL, NOISY = 1000, 0.05, 0.1, 0.05, 0.25, 0.75
# Between two points of a path (Karras et al. 2019, section 4.1).
STEP = 1e-4


def draw_styles(
    recipe: Recipe, state: State, key: jax.Array, labels: np.ndarray, **options: Any
) -> jax.Array:
    """Styles of new noise, [n, L, W], of labels int32 [n]; options as of the family's `style`."""
    style, _ = style_functions(recipe)
    latents = jax.random.normal(key, (len(labels), getattr(recipe.model, "latent_size", 0)))
    return style(state, latents, labels, **options)


def mix(
    run: Run,
    rows: int = 3,
    columns: int = 6,
    seed: int = 0,
    truncation: float | None = None,
    cuts: tuple[int, int] | None = None,
    checkpoint: Checkpoint = "best",
) -> np.ndarray:
    """Draw images of two styles, coarse, middle and fine (Karras et al. 2019, figure 3).

    Each row has an image of its own, on the left, and each column another, on top. Where they meet
    is the row's image with some layers of the column's style: in the first `rows` rows the coarse
    ones, then the middle, then the fine ones.

    Args:
        run: The run folder, of a family with styles.
        rows: Rows for each of the three.
        columns: Images on top.
        seed: Of the styles.
        truncation: How far the styles are from their mean (psi). None: 1.
        cuts: The first layers that are middle and fine. None: thirds of the layers.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.

    Returns:
        uint8 [1 + 3 rows, 1 + columns, H, W, C]; the corner is black.

    Raises:
        UsageError: No run there, no such good checkpoint, no styles, or impossible numbers.
    """
    for name, value in (("rows", rows), ("columns", columns)):
        if value < 1:
            raise UsageError(f"{name} = {value}: should be at least 1")
    recipe, state, _ = load_state(run, checkpoint)
    _, synthesize = style_functions(recipe)
    options = sample_options(recipe, truncation=truncation)
    keys = jax.random.split(jax.random.key(seed))
    left, top = (
        draw_styles(recipe, state, key, labels_in_turn(state, n), **options)
        for key, n in zip(keys, (3 * rows, columns), strict=True)
    )
    count = left.shape[1]
    if cuts is None:
        cuts = (math.ceil(count / 3), math.ceil(2 * count / 3))
    if not 0 < cuts[0] < cuts[1] < count:
        raise UsageError(f"cuts = {cuts}: should rise, from 1 to {count - 1}, of {count} layers")
    band = jnp.digitize(jnp.arange(count), jnp.array(cuts))  # of each layer
    is_columns = band[None] == jnp.repeat(jnp.arange(3), rows)[:, None]
    mixed = jnp.where(is_columns[:, None, :, None], top[None], left[:, None])
    every = jnp.concatenate([top, left, mixed.reshape(-1, *left.shape[1:])])
    images = in_calls(lambda styles: to_uint8(synthesize(state, styles)), every)
    top_images, left_images, inside = np.split(images, [columns, columns + 3 * rows])
    figure = np.zeros((1 + 3 * rows, 1 + columns, *images.shape[1:]), np.uint8)
    figure[0, 1:], figure[1:, 0] = top_images, left_images
    figure[1:, 1:] = inside.reshape(3 * rows, columns, *images.shape[1:])
    return figure


def project(
    run: Run,
    n: Annotated[int, N] = 8,
    images: tuple[Path, ...] = (),
    space: Space = "w",
    steps: int = 500,
    seed: int = 0,
    checkpoint: Checkpoint = "best",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the styles whose images are nearest to given ones (Karras et al. 2020, appendix D).

    By Adam from the mean style, with noise on the styles that fades. Near is meant in the squared
    distance of pixels, at every size to which the image can be halved down to 8 pixels; the paper's
    is in the features of a VGG net.

    Args:
        run: The run folder, of a family with styles.
        n: How many images of the test split (or, without one, of the training data).
        images: Image files to take instead; they are brought to the model's size.
        space: One style for all layers (w), or each layer its own (w+), which comes nearer to
            images that the model would not draw.
        steps: Steps of the search.
        seed: Which images, and the noise of the search.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.

    Returns:
        The images and what their styles give, uint8 [n, H, W, C] each, and the styles, float32
        [n, L, W].

    Raises:
        UsageError: No run there, no such good checkpoint, no styles, a file that is no image, or
            impossible numbers.
    """
    if steps < 1:
        raise UsageError(f"steps = {steps}: should be at least 1")
    recipe, state, _ = load_state(run, checkpoint)
    _, synthesize = style_functions(recipe)
    batch = _read(recipe, state, images) if images else held_out(recipe, n, seed)
    key, noise_key = jax.random.split(jax.random.key(seed))
    labels = labels_in_turn(state, MANY)
    drawn = draw_styles(recipe, state, key, labels)
    layers, some = drawn.shape[1], drawn[:, 0]
    is_own = np.ones((len(batch.labels), MANY), bool)
    if is_conditional(recipe, state.spec) and not images:
        is_own = np.asarray(batch.labels)[:, None] == labels[None]
    start = is_own @ some / is_own.sum(axis=1, keepdims=True)
    centred = some - jnp.mean(some, axis=0, keepdims=True)
    spread = jnp.sqrt(jnp.mean(jnp.sum(centred**2, axis=1)))
    start = jnp.repeat(start[:, None], layers if space == "w+" else 1, axis=1)
    styles = _descend(recipe, state, batch.images, start, spread, layers, steps, noise_key)
    found = to_uint8(synthesize(state, styles))
    return np.asarray(batch.images), found, np.asarray(styles)


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
    """Styles [n, L, W] for images, from `start` [n, L or 1, W]."""
    assert recipe.functions.synthesize is not None
    synthesize = functools.partial(recipe.functions.synthesize, recipe.model)
    rise = max(1, round(RISE * steps))
    fall = max(1, round(FALL * steps))
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(RATE / rise, RATE, rise),
            optax.constant_schedule(RATE),
            optax.cosine_decay_schedule(RATE, fall),
        ],
        [rise, max(rise, steps - fall)],
    )
    optimizer = optax.adam(schedule)

    @jax.jit
    def run(state: State, images: jax.Array, start: jax.Array) -> jax.Array:
        target = images / 127.5 - 1

        def one(carried: Any, i: jax.Array) -> tuple[Any, None]:
            styles, opt_state = carried
            fading = jnp.maximum(0, 1 - i / (NOISY * steps)) ** 2
            noise = jax.random.normal(jax.random.fold_in(key, i), styles.shape)
            noise *= NOISE * fading * spread

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
    """Mean squared distances [B] of images [B, H, W, C], summed over the sizes of a pyramid."""
    total = jnp.zeros(len(x))
    while True:
        total += jnp.mean((x - y) ** 2, axis=(1, 2, 3))
        height, width = x.shape[1:3]
        if height % 2 or width % 2 or min(height, width) < 16:
            return total
        x, y = downsample(x), downsample(y)


def _read(recipe: Recipe, state: State, paths: tuple[Path, ...]) -> Batch:
    options = recipe.data_options
    found = []
    for path in paths:
        try:
            with Image.open(path) as image:
                found.append(
                    to_array(image, state.spec.shape, options.fit, Image.Resampling.LANCZOS)
                )
        except (OSError, ValueError, UnidentifiedImageError) as error:
            raise UsageError(f"image {path}: {error}") from error
    return Batch(np.stack(found), np.zeros(len(found), np.int32))


def perceptual_path_length(
    recipe: Recipe,
    state: State,
    net: FeatureNet,
    n: int,
    key: jax.Array,
    crop: Callable[[np.ndarray], np.ndarray] = lambda images: images,
) -> dict[str, float]:
    """How far images move in features as their style moves (Karras et al. 2019, equation 3).

    Between pairs of styles w, on the line, at a random point and one `STEP` further: the squared
    distance over the squared step. The paper's features are those of VGG16, so values of other nets
    compare only with one another. As in the authors' code the lowest and highest hundredths are
    left out.

    Args:
        recipe: Of the state.
        state: The state.
        net: The feature net; it is given images that are not rounded.
        n: Pairs.
        key: Of all draws.
        crop: What is done to images before.

    Returns:
        `perceptual_path_length`, the mean, and its standard error.
    """
    _, synthesize = style_functions(recipe)
    *keys, t_key = jax.random.split(key, 3)
    labels = labels_in_turn(state, n)
    ends = [draw_styles(recipe, state, key, labels) for key in keys]
    t = jax.random.uniform(t_key, (n, 1, 1))

    def features(t: jax.Array) -> np.ndarray:
        styles = ends[0] + t * (ends[1] - ends[0])
        images = in_calls(lambda some: np.asarray((synthesize(state, some) + 1) * 127.5), styles)
        found, _ = net(crop(images))
        return found.astype(np.float64)

    lengths = np.sum((features(t) - features(t + STEP)) ** 2, axis=1) / STEP**2
    low, high = np.quantile(lengths, [0.01, 0.99])
    kept = lengths[(lengths >= low) & (lengths <= high)]
    return {
        "perceptual_path_length": float(kept.mean()),
        "perceptual_path_length_error": float(kept.std() / len(kept) ** 0.5),
    }
