"""Penalties: on a critic's gradient with respect to its input, and on weights.

`critic` is any callable from inputs [B, ...] to values [B] that treats each example on its own, so
that the gradient of its sum is each example's own gradient.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

Critic = Callable[[jax.Array], jax.Array]


def _input_gradient(critic: Critic, points: jax.Array) -> jax.Array:
    """[B, ...] to each example's gradient, [B, size of an example]."""

    def total(points: jax.Array) -> jax.Array:
        values = critic(points)
        chex.assert_shape(values, (len(points),))
        return jnp.sum(values)

    return jax.grad(total)(points).reshape(len(points), -1)


def input_gradient_norm(critic: Critic, points: jax.Array) -> jax.Array:
    """The norm of each example's input gradient, over all axes of the example.

    Args:
        critic: Inputs [B, ...] to values [B].
        points: Where, [B, ...].

    Returns:
        float32 [B]. Its own gradient is 0, not NaN, where the norm is 0.
    """
    squared = jnp.sum(_input_gradient(critic, points) ** 2, axis=1)
    is_zero = squared == 0
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squared)))


def r1_penalty(critic: Critic, real: jax.Array) -> jax.Array:
    """`|grad D(x)|^2 / 2` on real examples: R1 (Mescheder et al. 2018, equation 9), without gamma.

    Args:
        critic: Inputs [B, ...] to values [B].
        real: [B, ...].

    Returns:
        Penalty per example, [B].
    """
    return jnp.sum(_input_gradient(critic, real) ** 2, axis=1) / 2


def path_lengths(
    generator: Callable[[jax.Array], jax.Array], styles: jax.Array, noise: jax.Array
) -> jax.Array:
    """How far an image moves with its styles: `|J^T y|` (Karras et al. 2020, equation 4).

    Args:
        generator: Styles [B, L, W] to images [B, H, W, C].
        styles: Of the L layers, [B, L, W].
        noise: y, standard normal, [B, H, W, C]; it is scaled by the root of the pixels.

    Returns:
        The root of the sum over W of squares, of which the mean is taken over the layers, [B].
    """
    height, width = noise.shape[1:3]

    def total(styles: jax.Array) -> jax.Array:
        return jnp.sum(generator(styles) * noise) / jnp.sqrt(height * width)

    grads = jax.grad(total)(styles)
    return jnp.sqrt(jnp.mean(jnp.sum(grads**2, axis=2), axis=1))


def gradient_penalty(critic: Critic, points: jax.Array) -> jax.Array:
    """`(|grad D(x)| - 1)^2`: WGAN-GP (Gulrajani et al. 2017, equation 3), without its lambda.

    Args:
        critic: Inputs [B, ...] to values [B].
        points: Where: from `interpolate` for WGAN-GP, from `perturb` for DRAGAN; [B, ...].

    Returns:
        Penalty per example, [B].
    """
    return (input_gradient_norm(critic, points) - 1) ** 2


def interpolate(real: jax.Array, fake: jax.Array, alpha: jax.Array) -> jax.Array:
    """Points on the lines between real and generated examples (WGAN-GP, algorithm 1).

    Args:
        real: [B, ...].
        fake: [B, ...].
        alpha: Share of the real one, uniform on [0, 1], one number an example, [B].

    Returns:
        `alpha * real + (1 - alpha) * fake`, [B, ...].
    """
    chex.assert_equal_shape([real, fake])
    chex.assert_shape(alpha, (len(real),))
    alpha = alpha.reshape(-1, *[1] * (real.ndim - 1))
    return alpha * real + (1 - alpha) * fake


def perturb(real: jax.Array, std: jax.Array, noise: jax.Array) -> jax.Array:
    """Points around the real examples (DRAGAN: Kodali et al. 2017, section 2.3).

    Args:
        real: [B, ...].
        std: Standard deviation of the data over all their values, [].
        noise: Uniform on [0, 1], [B, ...].

    Returns:
        `real + std / 2 * noise`, [B, ...].
    """
    chex.assert_equal_shape([real, noise])
    return real + 0.5 * std * noise


def orthogonal_penalty(kernel: jax.Array, diagonal: bool = False) -> jax.Array:
    """How far the outputs of a layer are from orthogonal (BigGAN: Brock et al. 2019, equation 3).

    `|W W^T * (1 - I)|^2 / 2`, W the outputs by inputs: of pairs of outputs alone; their norms are
    free. Half of the equation's, so that its gradient is that of the authors' code.

    Args:
        kernel: [..., inputs, outputs].
        diagonal: Also hold the norms at 1: `|W W^T - I|^2 / 2`, the usual regularization, which
            limits a generator too much (section 3.1).

    Returns:
        float32 [].
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    products = matrix.T @ matrix
    ones = jnp.eye(len(products))
    off = products - ones if diagonal else products * (1 - ones)
    return jnp.sum(off**2) / 2
