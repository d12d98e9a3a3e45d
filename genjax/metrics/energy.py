"""Distances of pixels, which need no network: the energy distance, and how near copies are."""

import jax
import jax.numpy as jnp

from genjax.nn.precision import exact, widened
from genjax.types import UsageError


@exact()
def energy_distance(x: jax.Array, y: jax.Array) -> jax.Array:
    """Estimate the energy distance between two samples (Szekely and Rizzo 2013, equation 6.1).

    The estimate of `2 E|X - Y| - E|X - X'| - E|Y - Y'|` is unbiased: its mean is 0 if both are
    drawn from the same distribution, so that it may fall a little below 0, and larger otherwise. It
    responds to poor images and to missing modes. The distance of two images is Euclidean, which is
    not how the eye compares them.

    Args:
        x: One sample, [N, ...]; of a single example there are no pairs, whose mean counts as 0.
        y: The other sample, [M, ...]; likewise.

    Returns:
        [], float32 or of the samples' type if that is wider, in the unit of a distance between two
        examples; it has gradients, also where examples coincide.

    Raises:
        UsageError: The examples of the samples have not one shape.
    """
    if not (x.shape and y.shape) or x.shape[1:] != y.shape[1:]:
        raise UsageError(f"energy_distance of {x.shape} and {y.shape}: wants [N, ...] and [M, ...]")
    x, y = (widened(a.reshape(len(a), -1)) for a in (x, y))
    n, m = len(x), len(y)
    # Without the diagonal: a point's distance to itself is 0 only up to rounding.
    within_x = jnp.sum(_distances(x, x), where=~jnp.eye(n, dtype=bool)) / max(1, n * (n - 1))
    within_y = jnp.sum(_distances(y, y), where=~jnp.eye(m, dtype=bool)) / max(1, m * (m - 1))
    return 2 * jnp.mean(_distances(x, y)) - within_x - within_y


@exact()
def nearest_ratio(samples: jax.Array, images: jax.Array) -> jax.Array:
    """Compute how far samples are from the nearest image, as a fraction of how far images are.

    This is the mean distance from a sample to the nearest image, divided by that from an image to
    the nearest other one. It is far below 1 where samples are copies of images.

    Args:
        samples: [N, ...].
        images: [M, ...], M at least 2.

    Returns:
        [], float32 or of the samples' type if that is wider; infinite if all images have a copy.

    Raises:
        UsageError: The examples have not one shape, or there is but one image.
    """
    if not (samples.shape and len(images) > 1) or samples.shape[1:] != images.shape[1:]:
        raise UsageError(
            f"nearest_ratio of {samples.shape} and {images.shape}: wants [N, ...] and [M, ...], "
            "M at least 2"
        )
    x, y = (widened(a.reshape(len(a), -1)) for a in (samples, images))
    own = jnp.where(jnp.eye(len(y), dtype=bool), jnp.inf, _distances(y, y))
    return jnp.mean(jnp.min(_distances(x, y), axis=1)) / jnp.mean(jnp.min(own, axis=1))


def _distances(x: jax.Array, y: jax.Array) -> jax.Array:
    """Compute the Euclidean distances of all pairs, [N, M]."""
    # Centred on y's mean, because |x|^2 + |y|^2 - 2xy loses digits to a common offset.
    centre = jnp.mean(y, axis=0, keepdims=True)
    x, y = x - centre, y - centre
    products = x @ y.T
    x_squared, y_squared = jnp.sum(x**2, axis=1), jnp.sum(y**2, axis=1)
    squared = x_squared[:, None] + y_squared[None, :] - 2 * products
    # The root has no gradient at 0.
    is_zero = squared <= 0
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squared)))
