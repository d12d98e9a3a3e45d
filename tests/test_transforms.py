import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from genjax import transforms as t

ONE = jnp.ones(())
# A distribution, its params, scipy's distribution function, and scipy's log density.
ELEMENTWISE = {
    "normal": (t.normal, (0.3, 1.7), stats.norm(0.3, 1.7)),
    "laplace": (t.laplace, (0.3, 1.7), stats.laplace(0.3, 1.7)),
    "logistic": (t.logistic, (0.3, 1.7), stats.logistic(0.3, 1.7)),
    "uniform": (t.uniform, (0.3, 1.7), stats.uniform(0.3, 1.7)),
    "log_normal": (t.log_normal, (0.3, 0.7), stats.lognorm(0.7, scale=np.exp(0.3))),
    "gamma": (t.gamma, (2.3, 1.7), stats.gamma(2.3, scale=1 / 1.7)),
    "beta": (t.beta, (2.3, 1.7), stats.beta(2.3, 1.7)),
}
N = 20_000


def _filled(params, shape):
    return tuple(jnp.full(shape, value) for value in params)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_samples_and_log_prob_are_those_of_the_distribution(name):
    distribution, params, expected = ELEMENTWISE[name]
    x = t.reparameterize(distribution)(_filled(params, (N,)), jax.random.key(0))
    assert stats.kstest(np.asarray(x), expected.cdf).pvalue > 1e-3
    found = t.log_prob(distribution, _filled(params, (100,)), x[:100])
    np.testing.assert_allclose(found, expected.logpdf(np.asarray(x[:100])), rtol=1e-4, atol=1e-5)


# d/dparams of E[x^2], in closed form.
SQUARE = {
    # E = mu^2 + sigma^2
    "normal": ((0.3, 1.7), (2 * 0.3, 2 * 1.7)),
    # mu^2 + 2 b^2
    "laplace": ((0.3, 1.7), (2 * 0.3, 4 * 1.7)),
    # mu^2 + pi^2 s^2 / 3
    "logistic": ((0.3, 1.7), (2 * 0.3, 2 * np.pi**2 / 3 * 1.7)),
    # a^2 + a w + w^2 / 3
    "uniform": ((0.3, 1.7), (2 * 0.3 + 1.7, 0.3 + 2 / 3 * 1.7)),
    # exp(2 mu + 2 sigma^2)
    "log_normal": (
        (0.3, 0.5),
        (2 * np.exp(0.6 + 0.5), 4 * 0.5 * np.exp(0.6 + 0.5)),
    ),
    # a (a + 1) / b^2
    "gamma": ((2.3, 1.7), ((2 * 2.3 + 1) / 1.7**2, -2 * 2.3 * 3.3 / 1.7**3)),
    # a (a + 1) / ((a + b) (a + b + 1))
    "beta": (
        (2.0, 3.0),
        (
            (5 * 5 * 6 - 6 * 11) / 900,
            -6 * 11 / 900,
        ),
    ),
}


@pytest.mark.parametrize("name", SQUARE)
def test_the_gradient_of_an_expectation_is_unbiased(name):
    """Within 4 standard errors of the closed form."""
    distribution = ELEMENTWISE[name][0]
    params, expected = SQUARE[name]
    params = tuple(map(jnp.float32, params))
    estimate = t.expectation(jnp.square, distribution)
    grads = jax.jit(jax.vmap(jax.grad(estimate), in_axes=(None, 0)))(
        params, jax.random.split(jax.random.key(1), N)
    )
    for grad, value in zip(grads, expected, strict=True):
        error = np.std(grad) / np.sqrt(N)
        assert error < 0.1 * max(1, abs(value))
        assert abs(np.mean(grad) - value) < 4 * error + 1e-6


def test_dirichlet():
    concentration = jnp.array([1.5, 2.0, 4.0])
    batch = jnp.tile(concentration, (N, 1))
    x = t.reparameterize(t.dirichlet)(batch, jax.random.key(0))
    chex.assert_shape(x, (N, 3))
    np.testing.assert_allclose(jnp.sum(x, axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(jnp.mean(x, axis=0), concentration / 7.5, atol=0.01)
    expected = [stats.dirichlet.logpdf(row / row.sum(), concentration) for row in np.float64(x[:5])]
    np.testing.assert_allclose(t.log_prob(t.dirichlet, batch[:5], x[:5]), expected, rtol=1e-4)
    # d/da_0 of E[x_0] = a_0 / A is (A - a_0) / A^2.
    estimate = t.expectation(lambda x: x[0], t.dirichlet)
    keys = jax.random.split(jax.random.key(1), N)
    grads = jax.jit(jax.vmap(jax.grad(estimate), in_axes=(None, 0)))(concentration, keys)
    error = np.std(grads[:, 0]) / np.sqrt(N)
    assert abs(np.mean(grads[:, 0]) - (7.5 - 1.5) / 7.5**2) < 4 * error


def test_gumbel_softmax_nears_the_categorical_distribution():
    logits = jnp.tile(jnp.log(jnp.array([0.2, 0.3, 0.5])), (N, 1))
    x = t.reparameterize(t.gumbel_softmax(0.01))(logits, jax.random.key(0))
    np.testing.assert_allclose(jnp.sum(x, axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(jnp.mean(x, axis=0), [0.2, 0.3, 0.5], atol=0.015)
    # Warm, its expectation has a gradient: by finite differences at the same noise.
    estimate = t.expectation(lambda x: x[..., 0] ** 2, t.gumbel_softmax(1.0), samples=64)
    run = functools.partial(estimate, key=jax.random.key(1))
    grad = jax.grad(run)(logits[0])
    for i in range(3):
        step = 1e-2 * jax.nn.one_hot(i, 3)
        slope = (run(logits[0] + step) - run(logits[0] - step)) / 2e-2
        np.testing.assert_allclose(grad[i], slope, atol=1e-3)
    with pytest.raises(ValueError, match="no log_prob"):
        t.log_prob(t.gumbel_softmax(1.0), logits, x)


def test_much_less_variance_than_the_score_function():
    params = (jnp.float32(0.3), jnp.float32(1.7))
    keys = jax.random.split(jax.random.key(0), N)

    def score(params, key):
        x = jax.lax.stop_gradient(t.reparameterize(t.normal)(params, key))
        return x**2 * t.log_prob(t.normal, params, x)

    pathwise = jax.vmap(jax.grad(t.expectation(jnp.square, t.normal)), in_axes=(None, 0))
    by_score = jax.vmap(jax.grad(score), in_axes=(None, 0))
    for ours, theirs in zip(pathwise(params, keys), by_score(params, keys), strict=True):
        error = np.std(theirs) / np.sqrt(N)
        assert abs(np.mean(ours) - np.mean(theirs)) < 5 * error
        assert np.var(ours) < 0.3 * np.var(theirs)


def test_samples_are_averaged_and_lower_the_variance():
    params = (jnp.float32(0.3), jnp.float32(1.7))
    keys = jax.random.split(jax.random.key(0), 4000)
    one, many = (
        jax.vmap(jax.grad(t.expectation(jnp.square, t.normal, samples)), in_axes=(None, 0))(
            params, keys
        )[1]
        for samples in (1, 16)
    )
    np.testing.assert_allclose(np.var(many), np.var(one) / 16, rtol=0.15)


def test_sticking_the_landing():
    """At the posterior itself the ELBO's gradient is 0 in every draw, not only in the mean."""
    mean, std = 1.2, 0.6

    def integrand(z, log_q):
        return jax.scipy.stats.norm.logpdf(z, mean, std) - log_q(z)

    keys = jax.random.split(jax.random.key(0), 2000)
    for params, is_posterior in (((mean, std), True), ((0.9, 0.8), False)):
        params = tuple(map(jnp.float32, params))
        stuck, plain = (
            jax.vmap(
                jax.grad(t.expectation_with_log_prob(integrand, t.normal, 1, stick)),
                in_axes=(None, 0),
            )(params, keys)
            for stick in (True, False)
        )
        for a, b in zip(stuck, plain, strict=True):
            error = np.hypot(np.std(a), np.std(b)) / np.sqrt(len(keys))
            assert abs(np.mean(a) - np.mean(b)) < 4 * error
        if is_posterior:
            assert np.max(np.abs(stuck)) < 1e-5
            assert max(np.std(b) for b in plain) > 0.5


def test_composes_with_jit_vmap_grad_and_scan():
    params = _filled((0.3, 1.7), (5,))
    sample = t.reparameterize(t.normal)
    keys = jax.random.split(jax.random.key(0), 3)
    apart = jnp.stack([sample(params, key) for key in keys])
    np.testing.assert_allclose(jax.jit(jax.vmap(sample, (None, 0)))(params, keys), apart, rtol=1e-6)
    _, scanned = jax.lax.scan(lambda carry, key: (carry, sample(params, key)), 0, keys)
    np.testing.assert_allclose(scanned, apart, rtol=1e-6)
    second = jax.grad(jax.grad(lambda s: jnp.sum(sample((ONE, s), keys[0]) ** 2)))(ONE)
    noise = t.normal.noise(keys[0], (ONE, ONE))
    np.testing.assert_allclose(second, 2 * noise**2, rtol=1e-5)


def test_noise_may_not_carry_gradients():
    leaky = t.normal._replace(noise=lambda key, params: params[0] * jax.random.normal(key))
    grad = jax.grad(lambda m: t.reparameterize(leaky)((m, ONE), jax.random.key(0)))(ONE)
    assert grad == 1
