import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from genjax.objectives import likelihood


def test_normal_kl_is_the_integral():
    for mean, log_var in ((0.3, -1.0), (-2.0, 0.7)):
        q = stats.norm(mean, math.exp(log_var / 2))
        integral, _ = integrate.quad(
            lambda x, q=q: q.pdf(x) * (q.logpdf(x) - stats.norm.logpdf(x)), -15, 15
        )
        kl = likelihood.normal_kl(jnp.array([mean]), jnp.array([log_var]))
        np.testing.assert_allclose(kl[0], integral, rtol=1e-5)


def test_normal_kl_near_the_prior_keeps_its_digits():
    """The KL is `v^2 / 4` for a small log variance v, where exp(v) - v - 1 is 0 in float32."""
    kl = likelihood.normal_kl(jnp.zeros(1), jnp.array([1e-3]))
    np.testing.assert_allclose(kl, [0.25e-6], rtol=1e-2)
    np.testing.assert_array_equal(likelihood.normal_kl(jnp.zeros(3), jnp.zeros(3)), 0)


def test_standard_normal():
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    expected = stats.norm.logpdf(x).sum(-1)
    np.testing.assert_allclose(likelihood.standard_normal_log_prob(x), expected, rtol=1e-5)


def test_bernoulli_is_exact_at_any_logit():
    images = jnp.array([1.0, 1, 0, 0, 1, 0.3]).reshape(6, 1, 1, 1)
    logits = jnp.array([1e4, -1e4, 1e4, -1e4, 20.0, 0.0]).reshape(6, 1, 1, 1)
    found = likelihood.bernoulli_log_likelihood(images, logits)
    np.testing.assert_allclose(found[:4], [0, -1e4, -1e4, 0])
    np.testing.assert_allclose(found[4], -2.0611537e-9, rtol=1e-5)
    grads = jax.grad(lambda a: jnp.sum(likelihood.bernoulli_log_likelihood(images, a)))(logits)
    np.testing.assert_allclose(grads.ravel(), [0, 1, -1, 0, 0, -0.2], atol=1e-7)


def test_bernoulli_sums_over_the_image_alone():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 3, 2, 2, 1)).astype(np.float32)
    images = rng.integers(0, 2, (1, 3, 2, 2, 1)).astype(np.float32)
    found = likelihood.bernoulli_log_likelihood(images, logits)
    chex.assert_shape(found, (4, 3))
    p = 1 / (1 + np.exp(-logits))
    expected = stats.bernoulli.logpmf(np.broadcast_to(images, p.shape), p).sum((2, 3, 4))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_normal_log_likelihood():
    rng = np.random.default_rng(0)
    images, mean = rng.normal(size=(2, 3, 4, 4, 1)).astype(np.float32)
    log_scale = jnp.full((1, 1, 1, 1), -0.7)
    expected = stats.norm.logpdf(images, mean, math.exp(-0.7)).sum((1, 2, 3))
    found = likelihood.normal_log_likelihood(images, mean, log_scale)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("mean", [-1.4, -0.99, 0.0, 0.37, 1.0])
@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 1.0])
def test_the_probabilities_of_all_levels_sum_to_one(mean, log_scale):
    levels = (jnp.arange(256) / 127.5 - 1).reshape(256, 1, 1, 1)
    log_probs = likelihood.discretized_logistic_log_likelihood(
        levels, jnp.full((256, 1, 1, 1), mean), jnp.full((1, 1, 1, 1), log_scale)
    )
    np.testing.assert_allclose(jnp.sum(jnp.exp(log_probs)), 1, rtol=1e-4)


def test_discretized_logistic_is_the_difference_of_the_distribution_function():
    levels, mean, scale = np.array([3, 100, 128, 200]), 0.1, 0.2
    images = (levels / 127.5 - 1).astype(np.float32).reshape(-1, 1, 1, 1)
    edges = [(levels + shift) / 127.5 - 1 for shift in (0.5, -0.5)]
    upper, lower = (stats.logistic.cdf(edge, mean, scale) for edge in edges)
    found = likelihood.discretized_logistic_log_likelihood(
        images, jnp.full(images.shape, mean), jnp.full((1, 1, 1, 1), math.log(scale))
    )
    np.testing.assert_allclose(found, np.log(upper - lower), rtol=1e-4)


def test_discretized_logistic_and_its_gradient_are_finite_far_away():
    images = jnp.array([-1.0, 0.0, 1.0]).reshape(3, 1, 1, 1)

    def total(mean, log_scale):
        return jnp.sum(
            likelihood.discretized_logistic_log_likelihood(
                images, mean.reshape(3, 1, 1, 1), log_scale.reshape(1, 1, 1, 1)
            )
        )

    for mean, log_scale in ((300.0, -7.0), (-300.0, -7.0), (0.0, 20.0), (0.0, -12.0)):
        args = jnp.full(3, mean), jnp.array(log_scale)
        value, grads = jax.value_and_grad(total, argnums=(0, 1))(*args)
        chex.assert_tree_all_finite((value, grads))


def test_elbo_and_beta():
    fit, kl = jnp.array([-80.0, -90]), jnp.array([20.0, 25])
    np.testing.assert_array_equal(likelihood.elbo(fit, kl), [-100, -115])
    np.testing.assert_array_equal(likelihood.elbo(fit, kl, 0.5), [-90, -102.5])


def test_free_bits_pay_from_the_minimum_on_and_have_no_gradient_below():
    kl = jnp.array([0.1, 0.5, 3.0])
    value, grad = jax.value_and_grad(likelihood.free_bits)(kl, 0.25)
    np.testing.assert_allclose(value, 0.25 + 0.5 + 3)
    np.testing.assert_array_equal(grad, [0, 1, 1])


def test_iwae_bound_is_the_log_of_the_mean_weight_at_any_size():
    log_weights = np.random.default_rng(0).normal(-90, 5, size=(7, 3)).astype(np.float32)
    expected = np.log(np.mean(np.exp(log_weights.astype(np.float64)), axis=0))
    np.testing.assert_allclose(likelihood.iwae_bound(log_weights), expected, rtol=1e-6)
    np.testing.assert_allclose(likelihood.iwae_bound(log_weights - 5e3), expected - 5e3, rtol=1e-6)
    np.testing.assert_array_equal(likelihood.iwae_bound(log_weights[:1]), log_weights[0])


def test_chunks_give_the_bound_of_all_samples():
    def log_weights(key):
        return 5 * jax.random.normal(key, (10, 3)) - 90

    key = jax.random.key(0)
    found = likelihood.iwae_bound_in_chunks(log_weights, key, 40, 10)
    together = jnp.concatenate([log_weights(k) for k in jax.random.split(key, 4)])
    np.testing.assert_allclose(found, likelihood.iwae_bound(together), rtol=1e-6)
    with pytest.raises(ValueError, match="samples = 45"):
        likelihood.iwae_bound_in_chunks(log_weights, key, 45, 10)


def test_the_bound_rises_with_samples_to_the_evidence():
    """If z ~ N(0, 1), x|z ~ N(z, 1) and q is the prior, log p(x) = log N(x; 0, 2) is known."""
    x = jnp.array([0.5, -2.0])

    def log_weights(key):
        z = jax.random.normal(key, (100, 2))
        return jax.scipy.stats.norm.logpdf(x[None], z)

    evidence = stats.norm.logpdf(x, 0, math.sqrt(2))
    weights = log_weights(jax.random.key(0))
    elbo = jnp.mean(weights, axis=0)
    few = likelihood.iwae_bound(weights)
    many = likelihood.iwae_bound_in_chunks(log_weights, jax.random.key(1), 200_000, 100)
    assert jnp.all(elbo < few)
    np.testing.assert_allclose(many, evidence, atol=0.02)


def test_bits_per_dim():
    # One bit a value: the uniform distribution over two levels.
    assert likelihood.bits_per_dim(784 * math.log(2), 784) == pytest.approx(1)


@pytest.mark.parametrize(("mean", "scale"), [(0.3, 0.01), (-5.0, 0.1), (0.0, 1.0), (0.9, 1e-3)])
def test_discretized_normal_probabilities_sum_to_one(mean, scale):
    levels = jnp.linspace(-1, 1, 256).reshape(256, 1, 1, 1)
    log_prob = likelihood.discretized_normal_log_likelihood(
        levels, jnp.full_like(levels, mean), jnp.full((1, 1, 1, 1), math.log(scale))
    )
    assert np.all(np.isfinite(log_prob))
    np.testing.assert_allclose(np.sum(np.exp(log_prob)), 1, rtol=1e-5)
    edges = np.append(-np.inf, np.append(np.arange(-254, 255, 2) / 255, np.inf))
    wanted = np.diff(stats.norm.cdf(edges, mean, scale))
    np.testing.assert_allclose(np.exp(log_prob), wanted, rtol=1e-3, atol=1e-7)  # 2**-24 over scale
