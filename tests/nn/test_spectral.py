import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.nn.attention import SelfAttention
from genjax.nn.norm import ConditionalBatchNorm
from genjax.nn.spectral import Conv, Dense, Embed

KEY = jax.random.key(0)
LAYERS = {
    "dense": (Dense(7), jnp.ones((2, 5)), "kernel"),
    "conv": (Conv(6, 3), jnp.ones((2, 8, 8, 4)), "kernel"),
    "embed": (Embed(6, 9), jnp.arange(3), "embedding"),
}


def _converged(layer, variables, x, passes=200):
    @jax.jit
    def one(variables):
        _, updated = layer.apply(variables, x, train=True, mutable=["spectral"])
        return {**variables, **updated}

    for _ in range(passes):
        variables = one(variables)
    return variables


@pytest.mark.parametrize("name", LAYERS)
def test_sigma_becomes_the_largest_singular_value(name):
    layer, x, weight = LAYERS[name]
    variables = layer.init(KEY, x, train=False)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), variables["params"]
    )
    after = _converged(layer, {**variables, "params": params}, x)
    matrix = np.asarray(params[weight]).reshape(-1, params[weight].shape[-1])
    largest = np.linalg.svd(matrix, compute_uv=False)[0]
    assert after["spectral"]["sigma"] == pytest.approx(largest, rel=1e-4)
    # The layer is the plain one with its weight divided by the largest singular value.
    plain = layer.clone(spectral_norm=False)
    scaled = {**params, weight: params[weight] / largest}
    chex.assert_trees_all_close(
        layer.apply(after, x, train=False),
        plain.apply({"params": scaled}, x, train=False),
        rtol=1e-4,
    )


def test_norms_below_epsilon_count_as_epsilon():
    kernel, u = np.random.default_rng(0).normal(size=(5, 7)) * 1e-3, np.ones(7)
    layer = Dense(7, use_bias=False, epsilon=0.5)
    variables = {"params": {"kernel": kernel}, "spectral": {"u": u, "sigma": np.ones(())}}
    v = kernel @ u / 0.5  # both norms are smaller
    sigma = v @ kernel @ (v @ kernel / 0.5)
    y = layer.apply(variables, np.eye(5, dtype=np.float32), train=False)
    np.testing.assert_allclose(y, kernel / sigma, rtol=1e-4)


def test_evaluation_leaves_the_vectors_and_training_moves_them_once():
    layer, x, _ = LAYERS["dense"]
    variables = layer.init(KEY, x, train=False)
    y, same = layer.apply(variables, x, train=False, mutable=["spectral"])
    chex.assert_trees_all_equal(same["spectral"], variables["spectral"])
    again, moved = layer.apply(variables, x, train=True, mutable=["spectral"])
    np.testing.assert_array_equal(y, again)
    assert np.linalg.norm(moved["spectral"]["u"]) == pytest.approx(1, rel=1e-5)
    assert not np.allclose(moved["spectral"]["u"], variables["spectral"]["u"])


def test_gradients_go_through_the_singular_value():
    """A normalized layer does not change as its weight is scaled."""
    layer, x, _ = LAYERS["dense"]
    variables = _converged(layer, layer.init(KEY, x, train=False), x)

    def total(scale):
        params = jax.tree.map(lambda p: scale * p, variables["params"])
        return jnp.sum(layer.apply({**variables, "params": params}, x, train=False) ** 2)

    assert total(1.0) > 0.1
    assert abs(jax.grad(total)(1.0)) < 1e-4


def test_attention_begins_as_the_identity_and_then_sees_all_pixels():
    layer, x = SelfAttention(), jax.random.normal(KEY, (2, 8, 4, 16))
    variables = jax.jit(functools.partial(layer.init, train=False))(KEY, x)

    def corner(variables, x):
        y = layer.apply(variables, x, train=False)
        return jnp.sum(y[0, 0, 0] ** 2), y

    gradient = jax.jit(jax.grad(corner, argnums=1, has_aux=True))
    chex.assert_trees_all_equal(gradient(variables, x)[1], x)
    variables["params"]["gamma"] = jnp.ones(())
    reach = np.abs(gradient(variables, x)[0]).max(axis=-1)
    # At least the largest value of each 2x2 pixels has an effect, and no other image has.
    assert np.all(reach[0].reshape(4, 2, 2, 2).max(axis=(1, 3)) > 0)
    assert np.all(reach[1] == 0)


def test_conditional_batch_norm_scales_by_the_condition():
    layer = ConditionalBatchNorm(spectral_norm=False)
    x = 3 + 2 * jax.random.normal(KEY, (64, 4, 4, 5))
    condition = jnp.eye(2)[jnp.arange(64) % 2]
    variables = layer.init(KEY, x, condition, train=False)
    variables["params"]["gain"]["kernel"] = jnp.array([[0.0] * 5, [1.0] * 5])
    variables["params"]["bias"]["kernel"] = jnp.array([[0.5] * 5, [0.0] * 5])
    y, updated = layer.apply(variables, x, condition, True, mutable=["batch_stats"])
    plain = (x - x.mean((0, 1, 2), keepdims=True)) / x.std((0, 1, 2), keepdims=True)
    np.testing.assert_allclose(y[::2], plain[::2] + 0.5, atol=1e-4)
    np.testing.assert_allclose(y[1::2], 2 * plain[1::2], atol=1e-4)
    np.testing.assert_allclose(
        updated["batch_stats"]["norm"]["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-5
    )
