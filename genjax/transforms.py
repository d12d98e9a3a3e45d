"""Transforms: of parametrized distributions into differentiable samplers, and bijections.

A distribution is given as noise that does not depend on its parameters, and a map from parameters
and noise to the sample. `reparameterize` turns it into a sampler through which gradients reach the
parameters (Kingma and Welling 2014, section 2.4), and `expectation` turns that into an estimator
whose gradient is the pathwise, unbiased estimate of the expectation's gradient.

A bijection is a pair of pure functions, `forward` and `inverse`, that return the log-determinant of
their Jacobian beside their value. A density follows from it: `log p(x) = log p(y) + log_det`
(Rezende and Mohamed 2015, equation 5). Larger bijections are built from smaller ones by `chain`,
`invert`, `split` and `multi_scale`; deep chains run as one loop by `scanned`, or by `reversible`,
which trains in memory that does not grow with depth.

Everything composes with jit, grad, vmap and scan.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.scipy import stats
from jax.scipy.special import gammaln
from jax.typing import ArrayLike

from genjax.linear import linear_call

Params = Any
Noise = Any


class Distribution(NamedTuple):
    """A family of distributions, given by noise and a map.

    Attributes:
        noise: `(key, params) -> noise`; it may use the shapes of `params`, never their values.
        transform: `(params, noise) -> sample`, differentiable in `params`.
        log_prob: `(params, x) -> log density at x`, in nats; None where it is not known. It is
            elementwise for distributions of numbers, over the last axis for those of vectors.
    """

    noise: Callable[[jax.Array, Params], Noise]
    transform: Callable[[Params, Noise], jax.Array]
    log_prob: Callable[[Params, jax.Array], jax.Array] | None = None


Sampler = Callable[[Params, jax.Array], jax.Array]


def reparameterize(distribution: Distribution) -> Sampler:
    """Return a sampler that is differentiable in the distribution's parameters.

    Args:
        distribution: The distribution of x.

    Returns:
        `sample(params, key) -> x`, one draw for each entry of `params`. The noise is drawn outside
        of the gradient's path: `dx/dparams` is the derivative of the map at the drawn noise.
    """

    def sample(params: Params, key: jax.Array) -> jax.Array:
        noise = distribution.noise(key, lax.stop_gradient(params))
        return distribution.transform(params, lax.stop_gradient(noise))

    return sample


def expectation(
    f: Callable[[jax.Array], Any], distribution: Distribution, samples: int = 1
) -> Callable[[Params, jax.Array], Any]:
    """Return the pathwise Monte Carlo estimator of `E f(x)`.

    Args:
        f: Function from one draw x, [...], to an array or a pytree of arrays.
        distribution: The distribution of x.
        samples: Number of draws to average over.

    Returns:
        `estimate(params, key)`, of the shape of `f(x)`. It is unbiased, and so is its `jax.grad`
        with respect to `params` for a differentiable f (Kingma and Welling 2014, equation 5).
    """
    return expectation_with_log_prob(lambda x, _: f(x), distribution, samples, False)


def expectation_with_log_prob(
    f: Callable[[jax.Array, Callable[[jax.Array], jax.Array]], Any],
    distribution: Distribution,
    samples: int = 1,
    sticking_the_landing: bool = True,
) -> Callable[[Params, jax.Array], Any]:
    """Return the pathwise estimator of `E f(x, log q)`, where f uses the density, as in an ELBO.

    Args:
        f: Function of one draw x, [...], and of `log_q`, itself a function of x; for an ELBO
            `lambda z, log_q: log_joint(z) - log_q(z)`.
        distribution: The distribution q of x; it needs a `log_prob`.
        samples: Number of draws to average over.
        sticking_the_landing: Whether to leave out the score term, by differentiating `log q`
            through x only. The mean of that term is zero where f contains the density as
            `- log q`, as an ELBO does; without it the gradient's variance vanishes as q nears the
            posterior (Roeder et al. 2017).

    Returns:
        `estimate(params, key)`, a pytree like that of f.

    Raises:
        ValueError: `samples` is less than 1.
    """
    if samples < 1:
        raise ValueError(f"samples = {samples}: should be at least 1")
    sample = reparameterize(distribution)

    def estimate(params: Params, key: jax.Array) -> Any:
        seen = lax.stop_gradient(params) if sticking_the_landing else params

        log_q = functools.partial(log_prob, distribution, seen)
        values = jax.vmap(lambda key: f(sample(params, key), log_q))(jax.random.split(key, samples))
        return jax.tree.map(lambda value: jnp.mean(value, axis=0), values)

    return estimate


def log_prob(distribution: Distribution, params: Params, x: jax.Array) -> jax.Array:
    """Return the log density at x, in nats.

    It is elementwise, [...] to [...], for distributions of numbers, and over the last axis,
    [..., D] to [...], for those of vectors.

    Raises:
        ValueError: The distribution has no `log_prob`.
    """
    if distribution.log_prob is None:
        raise ValueError("this distribution has no log_prob")
    return distribution.log_prob(params, x)


def _wide(*values: Any) -> Any:
    """Return the type of all values together, or float32 if that is wider."""
    return jnp.promote_types(jnp.result_type(*values), jnp.float32)


def _like(params: Params) -> tuple[tuple[int, ...], Any]:
    """Return the shape that the params broadcast to, and the type of a draw."""
    leaves = jax.tree.leaves(params)
    return jnp.broadcast_shapes(*map(jnp.shape, leaves)), _wide(*leaves)


def location_scale(
    draw: Callable[[jax.Array, tuple[int, ...], Any], jax.Array],
    standard_log_prob: Callable[[jax.Array], jax.Array],
) -> Distribution:
    """Return the distribution of `location + scale * noise`.

    Its params are `(location, scale)`, two arrays that broadcast to [...], the scale positive. A
    draw has that shape, and their type or float32 if that is wider; `log_prob` broadcasts x too.

    Args:
        draw: `(key, shape, dtype) -> noise`, a draw from the standard distribution.
        standard_log_prob: The log density of the standard distribution, elementwise.
    """
    return Distribution(
        lambda key, params: draw(key, *_like(params)),
        lambda params, noise: params[0] + params[1] * noise,
        lambda params, x: standard_log_prob((x - params[0]) / params[1]) - jnp.log(params[1]),
    )


normal = location_scale(jax.random.normal, stats.norm.logpdf)
laplace = location_scale(jax.random.laplace, stats.laplace.logpdf)
logistic = location_scale(jax.random.logistic, stats.logistic.logpdf)
# The support is [location, location + scale).
uniform = location_scale(jax.random.uniform, stats.uniform.logpdf)


def mapped(
    distribution: Distribution,
    f: Callable[[jax.Array], jax.Array],
    inverse: Callable[[jax.Array], jax.Array] | None = None,
) -> Distribution:
    """Return the distribution of f(x); f maps an array [...] to one of its shape, elementwise.

    Args:
        distribution: The distribution of x.
        f: A differentiable function.
        inverse: The inverse of f; without it the result has no `log_prob`.
    """

    def density(params: Params, y: jax.Array) -> jax.Array:
        assert inverse is not None
        x = inverse(y)
        _, slope = jax.jvp(f, (x,), (jnp.ones_like(x),))
        return log_prob(distribution, params, x) - jnp.log(jnp.abs(slope))

    return Distribution(
        distribution.noise,
        lambda params, noise: f(distribution.transform(params, noise)),
        density if inverse and distribution.log_prob else None,
    )


log_normal = mapped(normal, jnp.exp, jnp.log)


def gumbel_softmax(temperature: float) -> Distribution:
    """Return a relaxed categorical distribution, params logits [..., K] (Jang et al. 2017, eq. 2).

    Its samples, [..., K], are on the simplex. As `temperature` nears 0 they near the one-hot
    samples of the categorical distribution, and the variance of their gradients grows. The gradient
    is unbiased for the relaxed variable.
    """
    return Distribution(
        lambda key, logits: jax.random.gumbel(key, *_like(logits)),
        lambda logits, noise: jax.nn.softmax((logits + noise) / temperature, axis=-1),
    )


# Implicit reparameterization (Figurnov et al. 2018): no simple map leads from noise to these
# samples, but jax's samplers are differentiable at fixed cumulative probability. The noise is the
# key itself.
gamma = Distribution(
    lambda key, params: key,
    lambda params, key: jax.random.gamma(key, params[0], *_like(params)) / params[1],
    lambda params, x: stats.gamma.logpdf(x * params[1], params[0]) + jnp.log(params[1]),
)
"""Params `(concentration, rate)` that broadcast to one shape, both positive."""

beta = Distribution(
    lambda key, params: key,
    lambda params, key: jax.random.beta(key, params[0], params[1], *_like(params)),
    lambda params, x: stats.beta.logpdf(x, params[0], params[1]),
)
"""Params `(a, b)` that broadcast to one shape, both positive."""


def _dirichlet_log_prob(concentration: jax.Array, x: jax.Array) -> jax.Array:
    if concentration.shape[-1:] != x.shape[-1:]:
        raise ValueError(f"dirichlet of {concentration.shape} at {x.shape}: wants one K")
    wide = _wide(concentration, x)
    concentration, x = concentration.astype(wide), x.astype(wide)
    terms = (concentration - 1) * jnp.log(x) - gammaln(concentration)
    return jnp.sum(terms, axis=-1) + gammaln(jnp.sum(concentration, axis=-1))


dirichlet = Distribution(
    lambda key, concentration: key,
    lambda concentration, key: jax.random.dirichlet(key, concentration, dtype=_wide(concentration)),
    _dirichlet_log_prob,
)
"""Params: the concentration [..., K], positive."""


class Bijection(NamedTuple):
    """A pair of pure functions that undo each other.

    Attributes:
        forward: `x -> (y, log_det)`. x and y are [B, ...] or pytrees of such arrays; `log_det`,
            [B], is `log |det dy/dx|` of each example, in float32 or wider.
        inverse: `y -> (x, log_det)`, where `log_det`, [B], is `log |det dx/dy|`.
    """

    forward: Callable[[Any], tuple[Any, jax.Array]]
    inverse: Callable[[Any], tuple[Any, jax.Array]]


# A function from parameters, or whatever else a bijection depends on, to the bijection.
Layer = Callable[[Any], Bijection]


def log_det(f: Callable[[Any], Any]) -> Callable[[Any], jax.Array]:
    """Return the function `log |det df/dx|`, by the whole Jacobian: a check of small bijections.

    The Jacobian is taken in reverse mode, which passes through functions with a `custom_vjp` too.
    Its cost is cubic in the size of an example.

    Args:
        f: `x -> y`, both [B, ...] or pytrees of such arrays; it treats each example on its own, and
            y has as many numbers as x.

    Returns:
        `x -> log_det`, [B].
    """

    def of_one(x: Any) -> jax.Array:
        flat, unravel = ravel_pytree(x)

        def flat_f(flat: jax.Array) -> jax.Array:
            y = f(jax.tree.map(lambda leaf: leaf[None], unravel(flat)))
            return ravel_pytree(y)[0]

        return jnp.linalg.slogdet(jax.jacrev(flat_f)(flat))[1]

    return jax.vmap(of_one)


def sum_of_each(values: jax.Array) -> jax.Array:
    """Sum [B, ...] over all axes but the first: [B], in float32 or wider."""
    flat = values.reshape(_batch_of(values), -1)
    return jnp.sum(flat, axis=1, dtype=_wide(values))


def _batch_of(values: jax.Array) -> int:
    if values.ndim == 0:
        raise ValueError("a bijection of a number: wants [B, ...], with the examples' axis first")
    return values.shape[0]


def _plus(total: jax.Array, log_det: jax.Array) -> jax.Array:
    """Add a bijection's log-determinant, [B], to those of the bijections before it."""
    if jnp.shape(log_det) != total.shape:
        raise ValueError(
            f"a bijection's log_det of shape {jnp.shape(log_det)}: should be [B], {total.shape}"
        )
    return total + log_det


def zero_log_det(x: Any) -> jax.Array:
    """Return zeros, [B]: the log-determinant of a bijection that only moves values."""
    leaf = jax.tree.leaves(x)[0]
    return jnp.zeros(_batch_of(leaf), _wide(leaf))


def invert(bijection: Bijection) -> Bijection:
    """Return the inverse of a bijection, which is a bijection too."""
    return Bijection(bijection.inverse, bijection.forward)


def chain(*bijections: Bijection) -> Bijection:
    """Return the composition of bijections, applied from left to right."""

    def run(functions: list[Callable], x: Any) -> tuple[Any, jax.Array]:
        total = zero_log_det(x)
        for function in functions:
            x, log_det = function(x)
            total = _plus(total, log_det)
        return x, total

    return Bijection(
        functools.partial(run, [each.forward for each in bijections]),
        functools.partial(run, [each.inverse for each in reversed(bijections)]),
    )


def elementwise(
    f: Callable[[jax.Array], jax.Array], inverse: Callable[[jax.Array], jax.Array]
) -> Bijection:
    """Return the bijection that applies f to each number: x [B, ...] -> y [B, ...], log-det [B].

    The log-determinant is the sum of `log |f'|`, from one forward-mode derivative.

    Args:
        f: A differentiable, strictly monotonic function of single numbers; what it closes over may
            differ by feature or example, in any shape that broadcasts to that of x.
        inverse: The inverse of f.
    """

    def run(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> tuple[Any, jax.Array]:
        y, slope = jax.jvp(function, (x,), (jnp.ones_like(x),))
        if y.shape != x.shape:
            raise ValueError(f"elementwise: the function turns {x.shape} into {y.shape}")
        return y, sum_of_each(jnp.log(jnp.abs(slope)))

    return Bijection(functools.partial(run, f), functools.partial(run, inverse))


def _sigmoid(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.nn.sigmoid(x), sum_of_each(jax.nn.log_sigmoid(x) + jax.nn.log_sigmoid(-x))


def _logit(y: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.log(y) - jnp.log1p(-y), -sum_of_each(jnp.log(y) + jnp.log1p(-y))


# Not by `elementwise`, whose slope y (1 - y) becomes 0 where y rounds to 1.
sigmoid = Bijection(_sigmoid, _logit)
"""Bijection from all numbers onto (0, 1); its log-determinant is finite at any finite x."""


def affine(shift: ArrayLike, log_scale: ArrayLike) -> Bijection:
    """Return the bijection `(x + shift) * exp(log_scale)` of x, [B, ...].

    Args:
        shift: An array that broadcasts to the shape of x: of one number for each value of x, or for
            each feature, [D] for x [B, D], or for all. A number for each example is [B, 1].
        log_scale: Likewise; the log-determinant is its sum over all values of an example.
    """

    def like(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _filled(shift, x), _filled(log_scale, x)

    def forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        t, s = like(x)
        return (x + t) * jnp.exp(s), sum_of_each(s)

    def inverse(y: jax.Array) -> tuple[jax.Array, jax.Array]:
        t, s = like(y)
        return y * jnp.exp(-s) - t, -sum_of_each(s)

    return Bijection(forward, inverse)


def _filled(param: ArrayLike, x: jax.Array) -> jax.Array:
    """Broadcast a parameter to the shape of x, which stays what it is."""
    try:
        return jnp.broadcast_to(param, x.shape)
    except ValueError as error:
        shape = jnp.shape(param)
        raise ValueError(f"affine of {x.shape} by {shape}: wants what broadcasts to x") from error


def from_module(module: nn.Module, *args: Any) -> Layer:
    """Return the layer of a linen module.

    Args:
        module: A module whose `__call__(x, *args)` is the forward function and whose method
            `inverse(y, *args)` is the inverse, each with a log-determinant as in `Bijection`.
        args: Further arguments of both functions, such as labels.

    Returns:
        `variables -> Bijection`.
    """
    apply: Any = module.apply
    return lambda variables: Bijection(
        lambda x: apply(variables, x, *args),
        lambda y: apply(variables, y, *args, method="inverse"),
    )


def _squeeze(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    if x.ndim != 4:
        raise ValueError(f"squeeze of {x.shape}: wants [B, H, W, C]")
    batch, height, width, channels = x.shape
    if height % 2 or width % 2:
        raise ValueError(f"squeeze of {height}x{width} pixels: both should be even")
    y = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 5, 2, 4)
    return y.reshape(batch, height // 2, width // 2, 4 * channels), zero_log_det(x)


def _unsqueeze(y: jax.Array) -> tuple[jax.Array, jax.Array]:
    if y.ndim != 4 or y.shape[3] % 4:
        raise ValueError(f"the inverse of squeeze of {y.shape}: wants [B, H, W, 4 C]")
    batch, height, width, channels = y.shape
    x = y.reshape(batch, height, width, channels // 4, 2, 2).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(batch, 2 * height, 2 * width, channels // 4), zero_log_det(y)


squeeze = Bijection(_squeeze, _unsqueeze)
"""Space to depth (Dinh et al. 2017, section 3.6): [B, H, W, C] to [B, H/2, W/2, 4C].

Channel c of pixel (dy, dx) of a 2x2 block becomes channel `4 c + 2 dy + dx`.
"""


def split(second: Layer | None = None) -> Bijection:
    """Return the bijection that splits the channels in halves (Dinh et al. 2017, section 3.6).

    Args:
        second: A bijection of the second half z that may depend on the first half h; None leaves z
            as it is. A learned prior of z given h is such a bijection, onto the standard normal.

    Returns:
        The bijection from [B, ..., C] to `(h, z)`; h is [B, ..., C - C // 2].
    """

    def of(h: jax.Array) -> Bijection:
        return second(h) if second else chain()

    def forward(x: jax.Array) -> tuple[Any, jax.Array]:
        if x.ndim < 2 or x.shape[-1] < 2:
            raise ValueError(f"split of {x.shape}: wants [B, ..., C] of 2 channels or more")
        kept = x.shape[-1] - x.shape[-1] // 2
        h, z = x[..., :kept], x[..., kept:]
        z, log_det = of(h).forward(z)
        return (h, z), log_det

    def inverse(y: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        h, z = y
        z, log_det = of(h).inverse(z)
        return jnp.concatenate([h, z], axis=-1), log_det

    return Bijection(forward, inverse)


def multi_scale(*levels: Bijection) -> Bijection:
    """Return the bijection in which values leave at each level (Dinh et al. 2017, section 3.6).

    Args:
        levels: Bijections; each but the last gives a pair `(h, z)`, of which h enters the next.

    Returns:
        The bijection from x to the tuple of all z; the last z is the last level's whole output.
    """
    *early, last = levels

    def forward(x: Any) -> tuple[Any, jax.Array]:
        total, zs = zero_log_det(x), []
        for level in early:
            (x, z), log_det = level.forward(x)
            total = _plus(total, log_det)
            zs.append(z)
        z, log_det = last.forward(x)
        return (*zs, z), _plus(total, log_det)

    def inverse(zs: tuple) -> tuple[Any, jax.Array]:
        x, total = last.inverse(zs[-1])
        for level, z in zip(reversed(early), reversed(zs[:-1]), strict=True):
            x, log_det = level.inverse((x, z))
            total = _plus(total, log_det)
        return x, total

    return Bijection(forward, inverse)


def _step(layers: dict[str, Layer], params: Mapping[str, Any]) -> Bijection:
    return chain(*(layer(params[name]) for name, layer in layers.items()))


def scanned(layers: dict[str, Layer], params: Mapping[str, Any]) -> Bijection:
    """Chain K equal steps in one loop, so that the time to compile it does not depend on K.

    Args:
        layers: The layers of one step by name, in order.
        params: A pytree for each name, whose leaves are stacked, [K, ...].
    """

    def run(is_inverse: bool, x: Any) -> tuple[Any, jax.Array]:
        def one(carry: tuple[Any, jax.Array], step_params: Any) -> tuple[Any, None]:
            x, total = carry
            step = _step(layers, step_params)
            y, log_det = step.inverse(x) if is_inverse else step.forward(x)
            return (y, _plus(total, log_det)), None

        return lax.scan(one, (x, zero_log_det(x)), params, reverse=is_inverse)[0]

    return Bijection(functools.partial(run, False), functools.partial(run, True))


def reversible(layers: dict[str, Layer], params: Mapping[str, Any]) -> Bijection:
    """Chain K equal steps as `scanned` does, with gradients whose memory does not grow with K.

    Only the output is kept for the backward pass, which recomputes each layer's input by inversion,
    one layer at a time (Gomez et al. 2017, algorithm 1). The gradients equal those of `scanned` up
    to the rounding of the inversion, and cost one more run of the chain.

    Forward mode (`jax.jvp`, `jax.hessian`) is that of `scanned`.

    Args:
        layers: The layers of one step by name, in order. Values that they close over get no
            gradient: jax raises an error if asked for it.
        params: A pytree for each name, whose leaves are stacked, [K, ...].
    """
    inverted = {name: _inverted(layers[name]) for name in reversed(layers)}
    # The inverse runs through the steps from the last to the first.
    backwards = jax.tree.map(lambda leaf: leaf[::-1], params)
    return Bijection(
        functools.partial(_reversible_run(layers), params),
        functools.partial(_reversible_run(inverted), backwards),
    )


def _inverted(layer: Layer) -> Layer:
    return lambda params: invert(layer(params))


def _reversible_run(layers: dict[str, Layer]) -> Callable[[Any, Any], tuple[Any, jax.Array]]:
    """Return `(params, x) -> (y, log_det)` with a backward pass that starts from y."""

    @jax.custom_jvp
    def run(params: Any, x: Any) -> tuple[Any, jax.Array]:
        return scanned(layers, params).forward(x)

    @run.defjvp
    def jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
        y, log_det = run(*primals)

        def tangent(saved: Any, tangents: Any) -> Any:
            return jax.jvp(lambda p, x: scanned(layers, p).forward(x), saved[:2], tangents)[1]

        return (y, log_det), linear_call(tangent, backward, (*primals, y), tangents)

    def backward(saved: Any, cotangents: Any) -> tuple[Any, Any]:
        params, _, y = saved
        y_bar, log_det_bar = cotangents  # log_det is a sum, so each of its terms has this gradient

        def one(carry: Any, step_params: Any) -> tuple[Any, Any]:
            y, y_bar = carry
            grads = {}
            for name in reversed(layers):
                layer = layers[name]
                # Layer by layer, not step by step: the compiler then computes once what a layer's
                # inverse and its forward function share, such as the network of a coupling.
                x, _ = layer(step_params[name]).inverse(y)
                _, vjp = jax.vjp(lambda p, x: layer(p).forward(x), step_params[name], x)  # noqa: B023
                grads[name], y_bar = vjp((y_bar, log_det_bar))
                y = x
            return (y, y_bar), grads

        (_, x_bar), grads = lax.scan(one, (y, y_bar), params, reverse=True)
        return grads, x_bar

    return run
