"""Penalties on a critic's gradient with respect to its input, on path lengths and on weights.

`critic` is any callable from inputs [B, ...] to values [B] that treats each example on its own, so
that the gradient of the sum of its values contains each example's own gradient. One with several
values an example, such as a discriminator of patches, is made one by their mean or sum first:
`lambda x: critic(x).mean((1, 2))`. Squares are summed in float32, or wider where the inputs are.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from genjax.nn.precision import exact, widened

Critic = Callable[[jax.Array], jax.Array]


def _input_gradient(critic: Critic, points: jax.Array) -> jax.Array:
    """Return the critic's gradient at each of the points [B, ...]: [B, size of an example]."""

    def total(points: jax.Array) -> jax.Array:
        values = critic(points)
        chex.assert_shape(values, (points.shape[0],))
        return jnp.sum(values)

    return widened(jax.grad(total)(points)).reshape(points.shape[0], -1)


def input_gradient_norm(critic: Critic, points: jax.Array) -> jax.Array:
    """Compute the Euclidean norm of a critic's gradient with respect to each input.

    Args:
        critic: Function from inputs [B, ...] to values [B].
        points: The inputs, [B, ...].

    Returns:
        [B]. The gradient of this norm is 0, not NaN, where the norm is 0.
    """
    squared = jnp.sum(_input_gradient(critic, points) ** 2, axis=1)
    is_zero = squared == 0
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squared)))


def r1_penalty(critic: Critic, real: jax.Array) -> jax.Array:
    """Compute `|grad D(x)|^2 / 2`, R1 without its gamma (Mescheder et al. 2018, equation 9).

    Args:
        critic: The function D, from inputs [B, ...] to values [B].
        real: Real examples x, [B, ...].

    Returns:
        Penalty per example, [B].
    """
    return jnp.sum(_input_gradient(critic, real) ** 2, axis=1) / 2


def path_lengths(
    generator: Callable[[jax.Array], jax.Array], styles: jax.Array, noise: jax.Array
) -> jax.Array:
    """Compute `|J^T y|`, how far images move with their styles (Karras et al. 2020, equation 4).

    Args:
        generator: Function from styles [B, L, W] to images [B, H, W, C], with the Jacobian J.
        styles: The styles of the L layers, [B, L, W].
        noise: y times the root of the number of pixels: standard normal, [B, H, W, C].

    Returns:
        `sqrt(mean over L of the sum over W of squares)`, [B].
    """
    chex.assert_rank([styles, noise], [3, 4])
    height, width = noise.shape[1:3]

    def total(styles: jax.Array) -> jax.Array:
        images = generator(styles)
        chex.assert_equal_shape([images, noise])
        return jnp.sum(images * noise) / jnp.sqrt(height * width)

    grads = widened(jax.grad(total)(styles))
    return jnp.sqrt(jnp.mean(jnp.sum(grads**2, axis=2), axis=1))


def gradient_penalty(critic: Critic, points: jax.Array) -> jax.Array:
    """Compute `(|grad D(x)| - 1)^2`, WGAN-GP's penalty without its lambda.

    Source: Gulrajani et al. 2017, equation 3.

    Args:
        critic: The function D, from inputs [B, ...] to values [B].
        points: The inputs x, [B, ...]: from `interpolate` for WGAN-GP, from `perturb` for DRAGAN.

    Returns:
        Penalty per example, [B].
    """
    return (input_gradient_norm(critic, points) - 1) ** 2


def interpolate(real: jax.Array, fake: jax.Array, alpha: jax.Array) -> jax.Array:
    """Return points on the lines between real and generated examples (WGAN-GP, algorithm 1).

    Args:
        real: Real examples, [B, ...].
        fake: Generated examples, [B, ...].
        alpha: Weight of the real example, uniform on [0, 1], one number an example, [B].

    Returns:
        `alpha * real + (1 - alpha) * fake`, [B, ...].
    """
    chex.assert_equal_shape([real, fake])
    chex.assert_shape(alpha, (real.shape[0],))
    alpha = alpha.reshape(-1, *[1] * (real.ndim - 1))
    return alpha * real + (1 - alpha) * fake


def perturb(real: jax.Array, std: jax.Array, noise: jax.Array) -> jax.Array:
    """Return points around the real examples (DRAGAN: Kodali et al. 2017, section 2.3).

    Args:
        real: Real examples, [B, ...].
        std: Standard deviation of the data over all their values, [].
        noise: Noise, uniform on [0, 1], [B, ...].

    Returns:
        `real + std / 2 * noise`, [B, ...].
    """
    chex.assert_equal_shape([real, noise])
    chex.assert_rank(std, 0)
    return real + 0.5 * std * noise


@exact()
def orthogonal_penalty(kernel: jax.Array, diagonal: bool = False) -> jax.Array:
    """Compute how far a layer's outputs are from orthogonal (BigGAN: Brock et al. 2019, eq. 3).

    This is `|W W^T * (1 - I)|^2 / 2` for the matrix W of outputs by inputs: it counts pairs of
    outputs, and leaves their norms free. It is half of the equation's penalty, so that its gradient
    is that of the authors' code.

    Args:
        kernel: The layer's weight, [..., inputs, outputs]; all axes but the last are inputs.
        diagonal: Whether to hold the norms at 1 too, by `|W W^T - I|^2 / 2`: the usual orthogonal
            regularization, which limits a generator too much (section 3.1).

    Returns:
        [], float32 or of the kernel's type if that is wider.
    """
    if kernel.ndim < 2:
        raise ValueError(f"orthogonal_penalty of {kernel.shape}: wants [..., inputs, outputs]")
    matrix = widened(kernel).reshape(-1, kernel.shape[-1])
    products = matrix.T @ matrix
    ones = jnp.eye(len(products), dtype=products.dtype)
    off = products - ones if diagonal else products * (1 - ones)
    return jnp.sum(off**2) / 2
