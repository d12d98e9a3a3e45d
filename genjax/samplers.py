"""Samplers of diffusion models and flows: pure functions of a denoiser or a velocity.

A model is known by what it says of a noisy image `x = alpha y + sigma n`: an estimate of its data y
and of its noise n. Stochastic samplers (`denoise`) step from one noise level to the next by a
weighted sum of x, both estimates and fresh noise; ancestral sampling and DDIM differ in the weights
alone, which `ancestral` and `ddim` compute in float64. Or both estimates make a velocity dx/ds, and
`integrate` solves that differential equation, from noise to data or back, beside which
`with_divergence` keeps the log density.

Each is one `jax.lax.scan` over the steps; `integrate_adaptively` chooses its steps by their errors.
"""

import importlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from genjax.types import UsageError

Spacing = Literal["leading", "trailing"]
Variance = Literal["small", "large"]
Method = Literal["euler", "midpoint", "heun", "rk4"]
# What a model draws with: DDPM's ancestral sampling, DDIM, or a method for its velocity.
Sampler = Literal["ancestral", "ddim", "euler", "heun", "dopri5"]

# `velocity(x, s) -> dx/ds`, where x is a pytree and s is float32 [].
Velocity = Callable[[Any, jax.Array], Any]
# `estimate(x, index) -> (data, noise)` of x [B, ...] at the noise level of that index.
Estimator = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


class Weights(NamedTuple):
    """The weights of the steps of a stochastic sampler, each [N]: `denoise` adds up.

    Attributes:
        x: Weight of the noisy image.
        data: Weight of the estimate of the data.
        noise: Weight of the estimate of the noise.
        fresh: Standard deviation of fresh noise.
    """

    x: np.ndarray
    data: np.ndarray
    noise: np.ndarray
    fresh: np.ndarray


def time_steps(total: int, steps: int, spacing: Spacing) -> np.ndarray:
    """Choose some of the time steps 0 to `total - 1`, falling, int [steps].

    Source: Lin et al. 2024, table 2. Trailing steps begin at the last one, that of most noise.
    """
    if spacing == "leading":
        return np.arange(steps)[::-1] * (total // steps)
    return np.round(total - np.arange(steps) * total / steps).astype(int) - 1


def karras_levels(steps: int, smallest: float, largest: float, rho: float) -> np.ndarray:
    """Return falling noise levels and a last 0, [steps + 1] (Karras et al. 2022, equation 5)."""
    ends = largest ** (1 / rho), smallest ** (1 / rho)
    return np.append(np.linspace(*ends, steps) ** rho, 0.0)


def _between(alpha: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the factor and the variance of q(x_t | x_s), for each level s and the t before it."""
    factor = alpha[:-1] / alpha[1:]
    return factor, sigma[:-1] ** 2 - (factor * sigma[1:]) ** 2


def ancestral(alpha: np.ndarray, sigma: np.ndarray, variance: Variance = "small") -> Weights:
    """Return the weights of ancestral sampling (Ho et al. 2020, equation 7 and algorithm 2).

    It draws from q(x_s | x_t, y) at the estimate of y; for any alpha and sigma see Kingma et al.
    2021, appendix A.4.

    Args:
        alpha: Factors of the data at the levels, float64 [N + 1], from noise to data.
        sigma: Factors of the noise, [N + 1].
        variance: That of q(x_s | x_t, y), right where the data is one point (small), or of
            q(x_t | x_s), right where it is standard normal (large); section 3.2.
    """
    factor, added = _between(alpha, sigma)
    x = factor * (sigma[1:] / sigma[:-1]) ** 2
    data = alpha[1:] * added / sigma[:-1] ** 2
    fresh = np.sqrt(added) * (sigma[1:] / sigma[:-1] if variance == "small" else sigma[1:] > 0)
    return Weights(x, data, np.zeros_like(x), fresh)


def ddim(alpha: np.ndarray, sigma: np.ndarray, eta: float = 0.0) -> Weights:
    """Return the weights of DDIM (Song et al. 2021, equations 12 and 16).

    Args:
        alpha: Factors of the data at the levels, float64 [N + 1], from noise to data.
        sigma: Factors of the noise, [N + 1].
        eta: 0 for a deterministic sampler; 1 adds as much fresh noise as `ancestral`.
    """
    _, added = _between(alpha, sigma)
    fresh = eta * np.sqrt(added) * sigma[1:] / sigma[:-1]
    noise = np.sqrt(np.maximum(sigma[1:] ** 2 - fresh**2, 0))
    return Weights(np.zeros_like(noise), alpha[1:], noise, fresh)


def denoise(
    estimate: Estimator,
    x: jax.Array,
    weights: Weights,
    fresh: Callable[[jax.Array], jax.Array],
    clip: float | None = None,
) -> jax.Array:
    """Sample by the steps of a stochastic sampler.

    Args:
        estimate: `estimate(x, index) -> (data, noise)`, of the noise level before step `index`.
        x: Noise of the first level, [B, ...].
        weights: The weights of the N steps.
        fresh: `fresh(index)`: standard normal noise [B, ...] for a step.
        clip: The estimate of the data is clipped to [-clip, clip]; None for not at all.

    Returns:
        The images, [B, ...].
    """
    # DDIM without fresh noise draws none.
    is_fixed = isinstance(weights.fresh, np.ndarray) and not weights.fresh.any()

    def step(x: jax.Array, item: tuple[jax.Array, Weights]) -> tuple[jax.Array, None]:
        index, weight = item
        data, noise = estimate(x, index)
        if clip is not None:
            data = jnp.clip(data, -clip, clip)
        x = weight.x * x + weight.data * data + weight.noise * noise
        return (x if is_fixed else x + weight.fresh * fresh(index)), None

    steps = jax.tree.map(lambda values: jnp.asarray(values, x.dtype), weights)
    return lax.scan(step, x, (jnp.arange(len(weights.x)), steps))[0]


def integrate(
    velocity: Velocity, x: Any, times: Any, method: Method = "heun", to_end: bool = True
) -> Any:
    """Integrate `dx/ds = velocity(x, s)` along given times.

    Args:
        velocity: The velocity.
        x: The state at the first of the times, a pytree.
        times: Times s in order, rising or falling, [N + 1].
        method: `euler`; of the second order, with two velocities a step, `midpoint` or `heun`; or
            the classic one of Runge and Kutta, of the fourth, with four (`rk4`).
        to_end: heun: whether the velocity is asked for at the last time too, where a denoiser
            without noise has none; otherwise the last step is Euler's (Karras et al. 2022,
            algorithm 1).

    Returns:
        The state at the last time.
    """
    times = jnp.asarray(times)
    chex.assert_rank(times, 1)

    def moved(x: Any, size: jax.Array, slope: Any) -> Any:
        return jax.tree.map(lambda value, rate: value + size * rate, x, slope)

    def euler(x: Any, s: jax.Array, end: jax.Array) -> Any:
        return moved(x, end - s, velocity(x, s))

    def midpoint(x: Any, s: jax.Array, end: jax.Array) -> Any:
        middle = (s + end) / 2
        return moved(x, end - s, velocity(euler(x, s, middle), middle))

    def heun(x: Any, s: jax.Array, end: jax.Array) -> Any:
        first = velocity(x, s)
        second = velocity(moved(x, end - s, first), end)
        return moved(x, (end - s) / 2, jax.tree.map(jnp.add, first, second))

    def rk4(x: Any, s: jax.Array, end: jax.Array) -> Any:
        size, middle = end - s, (s + end) / 2
        first = velocity(x, s)
        second = velocity(moved(x, size / 2, first), middle)
        third = velocity(moved(x, size / 2, second), middle)
        last = velocity(moved(x, size, third), end)
        slope = jax.tree.map(
            lambda a, b, c, d: (a + 2 * (b + c) + d) / 6, first, second, third, last
        )
        return moved(x, size, slope)

    step = {"euler": euler, "midpoint": midpoint, "heun": heun, "rk4": rk4}[method]
    full = times if to_end or method != "heun" else times[:-1]
    x, _ = lax.scan(lambda x, ends: (step(x, *ends), None), x, (full[:-1], full[1:]))
    return x if full is times else euler(x, times[-2], times[-1])


def find_diffrax() -> Any:
    """Return the module diffrax.

    Raises:
        UsageError: It is not installed.
    """
    try:
        return importlib.import_module("diffrax")
    except ModuleNotFoundError as error:
        raise UsageError(
            "steps of Dormand and Prince's method need diffrax: pip install 'genjax-models[ode]'"
        ) from error


def integrate_adaptively(
    velocity: Velocity, x: Any, start: float, end: float, tolerance: float
) -> Any:
    """Integrate `dx/ds = velocity(x, s)` by steps whose errors stay below a tolerance.

    Source: Dormand and Prince 1980, of order 5, by diffrax. The whole state, of all rows, takes the
    same steps, by the root mean square of its errors.

    Args:
        velocity: The velocity.
        x: The state at the start, a pytree.
        start: The time s there.
        end: The time at the end, later or earlier.
        tolerance: Largest error of a step, relative and absolute.

    Returns:
        The state at the end; NaN if the steps become too many.

    Raises:
        UsageError: diffrax is not installed.
    """
    diffrax = find_diffrax()
    with jax.numpy_rank_promotion("allow"):  # within diffrax
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda s, x, _: velocity(x, s)),
            diffrax.Dopri5(),
            start,
            end,
            None,
            x,
            stepsize_controller=diffrax.PIDController(tolerance, tolerance, norm=_rms),
            throw=False,
        )
    ended = solution.result == diffrax.RESULTS.successful
    return jax.tree.map(lambda values: jnp.where(ended, values[-1], jnp.nan), solution.ys)


def _rms(x: Any) -> jax.Array:
    """Return the root mean square of all values, whose number an exported program does not know."""
    leaves = jax.tree.leaves(x)
    total = sum(jnp.sum(jnp.square(leaf)) for leaf in leaves)
    size = sum(jnp.sum(jnp.ones_like(leaf)) for leaf in leaves)
    return jnp.sqrt(total / size)


def exact_divergence(
    field: Callable[[jax.Array], jax.Array], x: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Compute a field [B, ...] and its divergence at each x, [B], by as many products as x is long.

    Rows of the batch must not depend on one another.
    """
    basis = jnp.eye(x[0].size, dtype=x.dtype).reshape(-1, 1, *x.shape[1:])
    value, product = jax.linearize(field, x)
    rows = lax.map(lambda unit: jnp.sum(_flat(unit * product(unit + 0 * x)), axis=1), basis)
    return value, jnp.sum(rows, axis=0)


def hutchinson(probe: jax.Array) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Return Hutchinson's unbiased estimator of divergences, with a probe of its own for each x.

    Source: Grathwohl et al. 2019, section 3.1.

    Args:
        probe: Noise of mean 0 and covariance I, [B, ...], such as Rademacher's signs.

    Returns:
        `divergence(field, x)`, like `exact_divergence`, by one vector-Jacobian product.
    """

    def divergence(
        field: Callable[[jax.Array], jax.Array], x: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        value, product = jax.vjp(field, x)
        return value, jnp.sum(_flat(product(probe)[0] * probe), axis=1)

    return divergence


def with_divergence(velocity: Velocity, divergence: Callable[..., Any]) -> Velocity:
    """Return the velocity of pairs (x, integral of the divergence), which starts at 0, [B].

    By the instantaneous change of variables (Chen et al. 2018, equation 8) a log density falls
    along a path by that integral, to whatever precision the two are integrated.
    """

    def both(pair: tuple[jax.Array, jax.Array], s: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, found = divergence(lambda x: velocity(x, s), pair[0])
        return value, found

    return both


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1)
