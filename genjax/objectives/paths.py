"""Paths from data to noise, and what a network may predict on them.

Data y and standard normal noise n are mixed, `x(s) = alpha(s) y + sigma(s) n`. A `Path` is a pair
of functions of s: where x is, and how fast it moves. A `Prediction` says what a network is to learn
of x, and how data and noise are estimated by it. They are functions of NumPy's arrays, in float64,
for samplers, as of jax's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Path(NamedTuple):
    """A path from data to noise.

    Attributes:
        position: `position(s) -> (alpha, sigma)`.
        velocity: `velocity(s) -> (alpha', sigma')`, their derivatives by s.
    """

    position: Callable[[Any], tuple[Any, Any]]
    velocity: Callable[[Any], tuple[Any, Any]]


def _math(s: Any) -> Any:
    """Return the functions of this kind of arrays, NumPy's or jax's."""
    return s.__array_namespace__()


# On a circle variances add up to 1, from data at angle 0 to noise at a right angle (Ho et al. 2020,
# equation 4, with the angle of Salimans and Ho 2022, appendix D).
circle = Path(
    lambda s: (_math(s).cos(s), _math(s).sin(s)), lambda s: (-_math(s).sin(s), _math(s).cos(s))
)
# Straight from noise at 0 to data at 1 (Liu et al. 2023, equation 1; Lipman et al. 2023, equations
# 20 to 23, with their sigma_min 0).
straight = Path(lambda s: (s, 1 - s), lambda s: (1 + 0 * s, -1 + 0 * s))
# Noise of standard deviation s on data that stay (Karras et al. 2022, section 2).
additive = Path(lambda s: (1 + 0 * s, s), lambda s: (0 * s, 1 + 0 * s))


def linear_betas(steps: int, first: float, last: float) -> np.ndarray:
    """Return the variance that each time step adds, float64 [T] (Ho et al. 2020, section 4)."""
    return np.linspace(first, last, steps)


def cosine_betas(steps: int) -> np.ndarray:
    """Return the variance that each time step adds, float64 [T].

    Source: Nichol and Dhariwal 2021, equation 17.
    """
    kept = np.cos(np.pi / 2 * (np.arange(steps + 1) / steps + 0.008) / 1.008) ** 2
    return np.minimum(1 - kept[1:] / kept[:-1], 0.999)


def angles_of(betas: np.ndarray) -> np.ndarray:
    """Return the angle on the circle after each time step, float64 [T], rising."""
    kept = np.cumprod(1 - betas)
    return np.arctan2(np.sqrt(1 - kept), np.sqrt(kept))


class Level(NamedTuple):
    """Noise levels, [...] each.

    Attributes:
        alpha: Factor of the data.
        sigma: Factor of the noise.
        alpha_rate: Derivative of `alpha` by s.
        sigma_rate: Derivative of `sigma`.
        time: The time that the network is told.
    """

    alpha: Any
    sigma: Any
    alpha_rate: Any
    sigma_rate: Any
    time: Any

    def over(self, x: jax.Array) -> "Level":
        """Return levels [B] or [] as arrays that broadcast to `x`, [B, ...]."""
        return Level(*(jnp.reshape(each, (-1,) + (1,) * (x.ndim - 1)) for each in self))

    def in_float32(self) -> "Level":
        """Return the levels as jax's arrays."""
        return Level(*(jnp.asarray(each, jnp.float32) for each in self))

    def __call__(self, index: jax.Array) -> "Level":
        """Return the levels at some indices."""
        return Level(*(each[index] for each in self))


def level(path: Path, s: Any, angles: np.ndarray | None = None) -> Level:
    """Return the noise levels at positions s on a path, NumPy's in float64 or jax's, [...].

    The network is told 1000 s as the time, or EDM's (additive) log(s) / 4 (Karras et al. 2022,
    table 1), or with the `angles` [T] of time steps the time step, between them by interpolation.
    """
    functions, time = _math(s), 1000 * s
    if path is additive:
        time = functions.log(functions.maximum(s, 1e-12 + 0 * s)) / 4
    elif angles is not None:
        time = functions.interp(s, angles, np.arange(len(angles)))
    return Level(*path.position(s), *path.velocity(s), time)


def mix(level: Level, data: jax.Array, noise: jax.Array) -> jax.Array:
    """Return noisy data x, [B, ...], at levels [B]."""
    level = level.over(data)
    return level.alpha * data + level.sigma * noise


class Prediction(NamedTuple):
    """What a network says of x.

    Attributes:
        target: `target(level, data, noise)`: what it should say of their mixture.
        weights: `weights(level) -> (a, b, c, d)`: the estimate of the data is `a x + b output`, and
            that of the noise `c x + d output`.
    """

    target: Callable[[Level, jax.Array, jax.Array], jax.Array]
    weights: Callable[[Level], tuple[Any, Any, Any, Any]]


def _of_velocity(level: Level) -> tuple[Any, Any, Any, Any]:
    turn = level.alpha * level.sigma_rate - level.alpha_rate * level.sigma
    return (
        *(level.sigma_rate / turn, -level.sigma / turn),
        *(-level.alpha_rate / turn, level.alpha / turn),
    )


# Ho et al. 2020, equation 14.
noise_prediction = Prediction(
    lambda level, data, noise: noise,
    lambda level: (1 / level.alpha, -level.sigma / level.alpha, 0.0, 1.0),
)
data_prediction = Prediction(
    lambda level, data, noise: data,
    lambda level: (0.0, 1.0, 1 / level.sigma, -level.alpha / level.sigma),
)
# On the circle the v of Salimans and Ho 2022, section 4.
velocity_prediction = Prediction(
    lambda level, data, noise: level.alpha_rate * data + level.sigma_rate * noise, _of_velocity
)


def preconditioned(spread: float) -> Prediction:
    """Return EDM's prediction, of variance 1 at every level (Karras et al. 2022, table 1).

    It is of the additive path, for data of standard deviation `spread`. With equal weights of
    its errors the loss is that of the paper's equation 8.
    """

    def weights(level: Level) -> tuple[Any, Any, Any, Any]:
        square = level.sigma**2 + spread**2
        size = jnp.sqrt(square)
        return (
            *(spread**2 / square, level.sigma * spread / size),
            *(level.sigma / square, -spread / size),
        )

    def target(level: Level, data: jax.Array, noise: jax.Array) -> jax.Array:
        # (y - c_skip x) / c_out, without its differences.
        size = jnp.sqrt(level.sigma**2 + spread**2)
        return (level.sigma / spread * data - spread * noise) / size

    return Prediction(target, weights)


def estimates(
    prediction: Prediction, level: Level, x: jax.Array, output: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the estimates of data and noise, [B, ...] each, by a network's output for x."""
    a, b, c, d = prediction.weights(level.over(x))
    return a * x + b * output, c * x + d * output


def squared_error(
    prediction: Prediction, level: Level, output: jax.Array, data: jax.Array, noise: jax.Array
) -> jax.Array:
    """Compute the mean squared error of what a network says of `mix(level, data, noise)`, [B]."""
    error = jnp.square(output - prediction.target(level.over(data), data, noise))
    return jnp.mean(error.reshape(len(error), -1), axis=1)


def min_snr_weight(prediction: Prediction, level: Level, largest: float) -> jax.Array:
    """Return the weight of a network's squared error under min-SNR, [B].

    The error of the data has the signal-to-noise ratio as its weight, and at most `largest` (Hang
    et al. 2023, section 3.4).
    """
    _, of_output, _, _ = prediction.weights(level)
    weight: jax.Array = jnp.minimum((level.alpha / level.sigma) ** 2, largest) * of_output**2
    return weight


def guided(with_class: jax.Array, without: jax.Array, scale: Any) -> jax.Array:
    """Return an output under classifier-free guidance (Ho and Salimans 2022, equation 6).

    `scale` is 1 + w of the paper.
    """
    return without + scale * (with_class - without)
