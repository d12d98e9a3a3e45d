"""The energy distance: a number for the quality of samples that needs no network."""

import jax
import jax.numpy as jnp


def energy_distance(x: jax.Array, y: jax.Array) -> jax.Array:
    """The energy distance between two samples (Szekely and Rizzo 2013, equation 6.1).

    `2 E|X - Y| - E|X - X'| - E|Y - Y'|`, estimated without bias from the pairs at hand: 0 in the
    mean when both are drawn alike, larger the less they are, so it may fall a little below 0. It
    sees both poor images and missing modes. Its metric is that of the raw values, which for pixels
    is not the eye's.

    Args:
        x: [N, ...], N > 1.
        y: [M, ...], M > 1.

    Returns:
        float32 [], in the unit of a distance between two examples.
    """
    x, y = (a.reshape(len(a), -1).astype(jnp.float32) for a in (x, y))
    n, m = len(x), len(y)
    # A point's distance to itself is 0, but for rounding.
    within_x = jnp.sum(_distances(x, x), where=~jnp.eye(n, dtype=bool)) / (n * (n - 1))
    within_y = jnp.sum(_distances(y, y), where=~jnp.eye(m, dtype=bool)) / (m * (m - 1))
    return 2 * jnp.mean(_distances(x, y)) - within_x - within_y


def _distances(x: jax.Array, y: jax.Array) -> jax.Array:
    """Euclidean distances, [N, M]."""
    # Centred on y's mean: |x|^2 + |y|^2 - 2xy loses the digits that a common offset takes.
    centre = jnp.mean(y, axis=0, keepdims=True)
    x, y = x - centre, y - centre
    products = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    x_squared, y_squared = jnp.sum(x**2, axis=1), jnp.sum(y**2, axis=1)
    squared = x_squared[:, None] + y_squared[None, :] - 2 * products
    return jnp.sqrt(jnp.maximum(squared, 0))
