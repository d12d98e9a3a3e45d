import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from genjax.objectives.penalties import (
    gradient_penalty,
    input_gradient_norm,
    interpolate,
    perturb,
    r1_penalty,
)

POINTS = jax.random.normal(jax.random.key(0), (6, 2, 3, 2))


def test_norm_is_over_all_axes_of_each_example():
    weight = jnp.arange(12.0).reshape(1, 2, 3, 2)

    def critic(x):
        return jnp.sum(weight * x * jnp.arange(1.0, 7).reshape(6, 1, 1, 1), axis=(1, 2, 3))

    expected = np.arange(1, 7) * np.linalg.norm(np.arange(12.0))
    np.testing.assert_allclose(input_gradient_norm(critic, POINTS), expected, rtol=1e-6)
    np.testing.assert_allclose(gradient_penalty(critic, POINTS), (expected - 1) ** 2, rtol=1e-6)


def test_penalty_is_zero_for_a_critic_of_slope_one():
    def critic(x):
        return x[:, 0, 0, 0]

    np.testing.assert_allclose(gradient_penalty(critic, POINTS), np.zeros(6), atol=1e-6)


def test_gradient_of_a_flat_critic_is_finite():
    grad = jax.grad(
        lambda a: jnp.sum(gradient_penalty(lambda x: a * jnp.sum(x, (1, 2, 3)), POINTS))
    )
    assert jnp.isfinite(grad(0.0))
    np.testing.assert_allclose(grad(1.0), 6 * 2 * (12**0.5 - 1) * 12**0.5, rtol=1e-5)


@pytest.mark.parametrize("penalty", [gradient_penalty, r1_penalty])
def test_parameter_gradient_by_finite_differences(penalty):
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(1), 3)
        points = jax.random.normal(keys[0], (4, 3))
        params = jax.random.normal(keys[1], (3, 5)), jax.random.normal(keys[2], (5,))

        @jax.jit
        def loss(params):
            first, second = params
            return jnp.mean(penalty(lambda x: jnp.tanh(x @ first) @ second, points))

        assert loss(params).dtype == jnp.float64
        check_grads(loss, (params,), order=1, modes=["rev"], eps=1e-6, rtol=1e-7, atol=1e-7)


def test_interpolate_takes_one_share_an_example():
    real, fake = jnp.ones((3, 2, 2, 1)), jnp.zeros((3, 2, 2, 1))
    points = interpolate(real, fake, jnp.array([0.0, 0.25, 1.0]))
    expected = np.broadcast_to(np.array([0, 0.25, 1]).reshape(3, 1, 1, 1), (3, 2, 2, 1))
    np.testing.assert_array_equal(points, expected)
    with pytest.raises(AssertionError):
        interpolate(real, fake[:2], jnp.ones(3))


def test_perturb_moves_by_up_to_half_a_standard_deviation():
    real = jnp.zeros((3, 2, 2, 1))
    points = perturb(real, jnp.array(4.0), jnp.full((3, 2, 2, 1), 0.5))
    np.testing.assert_array_equal(points, np.ones((3, 2, 2, 1)))
