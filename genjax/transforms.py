"""Transforms: of parametrized distributions into differentiable samplers.

A distribution is given as noise that does not depend on its parameters, and a map from parameters
and noise to the sample. `reparameterize` makes of it a sampler through which gradients reach the
parameters (Kingma and Welling 2014, section 2.4), and `expectation` makes of that an estimator
whose gradient is the pathwise, unbiased estimate of the expectation's gradient. All of it composes
with jit, grad, vmap and scan.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy import stats
from jax.scipy.special import gammaln

Params = Any
Noise = Any


class Distribution(NamedTuple):
    """A family of distributions, as what `reparameterize` takes.

    Attributes:
        noise: `(key, params) -> noise`; it may use the shapes of `params`, never their values.
        transform: `(params, noise) -> sample`, differentiable in `params`.
        log_prob: `(params, x) -> log density at x`, in nats; None where none is known. Elementwise
            for distributions of single numbers, over the last axis for those of vectors.
    """

    noise: Callable[[jax.Array, Params], Noise]
    transform: Callable[[Params, Noise], jax.Array]
    log_prob: Callable[[Params, jax.Array], jax.Array] | None = None


Sampler = Callable[[Params, jax.Array], jax.Array]


def reparameterize(distribution: Distribution) -> Sampler:
    """A sampler that is differentiable in the distribution's parameters.

    Args:
        distribution: As noise and a map.

    Returns:
        `sample(params, key) -> x`, one draw of the distribution of each entry of `params`. The
        noise is drawn outside of the gradient's path: `dx/dparams` is that of the map, at the
        noise that was drawn.
    """

    def sample(params: Params, key: jax.Array) -> jax.Array:
        noise = distribution.noise(key, lax.stop_gradient(params))
        return distribution.transform(params, lax.stop_gradient(noise))

    return sample


def expectation(
    f: Callable[[jax.Array], Any], distribution: Distribution, samples: int = 1
) -> Callable[[Params, jax.Array], Any]:
    """The pathwise Monte Carlo estimator of `E f(x)`.

    Args:
        f: Of one draw, to a value or a pytree of them.
        distribution: Of x.
        samples: Draws to average over.

    Returns:
        `estimate(params, key)`. It is unbiased, and so is its `jax.grad` with respect to `params`
        for a differentiable f (Kingma and Welling 2014, equation 5).
    """
    return expectation_with_log_prob(lambda x, _: f(x), distribution, samples, False)


def expectation_with_log_prob(
    f: Callable[[jax.Array, Callable[[jax.Array], jax.Array]], Any],
    distribution: Distribution,
    samples: int = 1,
    sticking_the_landing: bool = True,
) -> Callable[[Params, jax.Array], Any]:
    """The same where the integrand uses the density itself, as an ELBO does: `E f(x, log q)`.

    Args:
        f: Of one draw and of `log q`, a function of x; for an ELBO
            `lambda z, log_q: log_joint(z) - log_q(z)`.
        distribution: Of x; it needs a `log_prob`.
        samples: Draws to average over.
        sticking_the_landing: Leave out the score term: `log q` is differentiated through x only.
            Its mean is zero where f depends on the density as an ELBO does, by `- log q`; without
            it the gradient's variance vanishes as q nears the posterior (Roeder et al. 2017).

    Returns:
        `estimate(params, key)`.
    """
    sample = reparameterize(distribution)

    def estimate(params: Params, key: jax.Array) -> Any:
        seen = lax.stop_gradient(params) if sticking_the_landing else params

        log_q = functools.partial(log_prob, distribution, seen)
        values = jax.vmap(lambda key: f(sample(params, key), log_q))(jax.random.split(key, samples))
        return jax.tree.map(lambda value: jnp.mean(value, axis=0), values)

    return estimate


def log_prob(distribution: Distribution, params: Params, x: jax.Array) -> jax.Array:
    """The log density at x, in nats; see `Distribution.log_prob`.

    Raises:
        ValueError: It is not known.
    """
    if distribution.log_prob is None:
        raise ValueError("this distribution has no log_prob")
    return distribution.log_prob(params, x)


def _shape(params: Params) -> tuple[int, ...]:
    return jnp.broadcast_shapes(*(jnp.shape(leaf) for leaf in jax.tree.leaves(params)))


def location_scale(
    draw: Callable[[jax.Array, tuple[int, ...]], jax.Array],
    standard_log_prob: Callable[[jax.Array], jax.Array],
) -> Distribution:
    """`location + scale * noise`, with params `(location, scale)` of one shape, scale positive.

    Args:
        draw: `(key, shape) -> noise`, of the standard distribution.
        standard_log_prob: Its log density, elementwise.
    """
    return Distribution(
        lambda key, params: draw(key, _shape(params)),
        lambda params, noise: params[0] + params[1] * noise,
        lambda params, x: standard_log_prob((x - params[0]) / params[1]) - jnp.log(params[1]),
    )


normal = location_scale(jax.random.normal, stats.norm.logpdf)
laplace = location_scale(jax.random.laplace, stats.laplace.logpdf)
logistic = location_scale(jax.random.logistic, stats.logistic.logpdf)
# On [location, location + scale).
uniform = location_scale(jax.random.uniform, stats.uniform.logpdf)


def mapped(
    distribution: Distribution,
    f: Callable[[jax.Array], jax.Array],
    inverse: Callable[[jax.Array], jax.Array] | None = None,
) -> Distribution:
    """The distribution of `f(x)`, f elementwise and deterministic.

    Args:
        distribution: Of x.
        f: Differentiable.
        inverse: Of f; without it the result has no `log_prob`.
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
    """A relaxed categorical variable, with params logits [..., K] (Jang et al. 2017, equation 2).

    Its samples are on the simplex, [..., K]; they near one-hot vectors of the categorical
    distribution as `temperature` nears 0, and their gradients' variance grows. The gradient is
    unbiased for the relaxed variable.
    """
    return Distribution(
        lambda key, logits: jax.random.gumbel(key, logits.shape),
        lambda logits, noise: jax.nn.softmax((logits + noise) / temperature, axis=-1),
    )


# Implicit reparameterization (Figurnov et al. 2018): no simple map leads from noise to these, but
# jax's samplers carry the derivative of the sample at fixed cumulative probability. The noise is
# the key itself.
gamma = Distribution(
    lambda key, params: key,
    lambda params, key: jax.random.gamma(key, params[0], _shape(params)) / params[1],
    lambda params, x: stats.gamma.logpdf(x * params[1], params[0]) + jnp.log(params[1]),
)
"""Params `(concentration, rate)` of one shape, both positive."""

beta = Distribution(
    lambda key, params: key,
    lambda params, key: jax.random.beta(key, params[0], params[1], _shape(params)),
    lambda params, x: stats.beta.logpdf(x, params[0], params[1]),
)
"""Params `(a, b)` of one shape, both positive."""

dirichlet = Distribution(
    lambda key, concentration: key,
    lambda concentration, key: jax.random.dirichlet(key, concentration),
    lambda concentration, x: (
        jnp.sum((concentration - 1) * jnp.log(x) - gammaln(concentration), axis=-1)
        + gammaln(jnp.sum(concentration, axis=-1))
    ),
)
"""Params: the concentration [..., K], positive."""
