import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.nn.batch import BATCH_AXIS
from genjax.nn.norm import BatchNorm, GroupNorm

KEY = jax.random.key(0)


def _x(seed=0):
    return 3 + 2 * jax.random.normal(jax.random.key(seed), (16, 3, 4, 5))


def _apply(variables, x, train):
    return BatchNorm().apply(variables, x, train, mutable=["batch_stats"])


def _init():
    variables = BatchNorm().init(jax.random.key(0), _x(), train=True)
    params = {"scale": jnp.arange(1.0, 6.0), "bias": jnp.arange(5.0)}
    return {**variables, "params": params}


def test_training_normalizes_by_the_batch_and_moves_the_running_statistics():
    x, variables = np.asarray(_x(), np.float64), _init()
    y, updated = _apply(variables, _x(), train=True)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    expected = (x - mean) / np.sqrt(var + 1e-5) * np.arange(1, 6) + np.arange(5)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    stats = updated["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.1 * mean, rtol=1e-5)
    unbiased = x.reshape(-1, 5).var(0, ddof=1)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * unbiased, rtol=1e-5)


def test_evaluation_uses_the_running_statistics_and_leaves_them():
    variables = _init()
    stats = {"mean": jnp.full(5, 2.0), "var": jnp.full(5, 4.0)}
    y, updated = _apply({**variables, "batch_stats": stats}, _x(), train=False)
    expected = (_x() - 2) / np.sqrt(4 + 1e-5) * jnp.arange(1.0, 6).reshape(1, 1, 1, 5)
    np.testing.assert_allclose(
        y, expected + jnp.arange(5.0).reshape(1, 1, 1, 5), rtol=1e-5, atol=1e-6
    )
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], stats)


def test_initialization_leaves_fresh_statistics():
    stats = _init()["batch_stats"]
    np.testing.assert_array_equal(stats["mean"], np.zeros(5))
    np.testing.assert_array_equal(stats["var"], np.ones(5))


@pytest.mark.parametrize("devices", [2, 8])
def test_replicas_normalize_by_the_global_batch(devices):
    x, variables = _x(), _init()
    expected, expected_state = _apply(variables, x, True)
    split = x.reshape(devices, -1, *x.shape[1:])
    y, state = jax.pmap(
        lambda x: _apply(variables, x, True), BATCH_AXIS, devices=jax.devices()[:devices]
    )(split)
    np.testing.assert_allclose(y.reshape(x.shape), expected, rtol=1e-4, atol=1e-5)
    first = jax.tree.map(lambda leaf: leaf[0], state)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), first, dict(expected_state)
    )


def test_bfloat16_input_is_normalized_in_float32():
    x = (1000 + _x()).astype(jnp.bfloat16)
    y, _ = BatchNorm().apply(_init(), x, True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    expected, _ = _apply(_init(), x.astype(jnp.float32), True)
    np.testing.assert_allclose(y.astype(jnp.float32), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_groups_of_channels_of_an_image_are_normalized_in_float32(dtype):
    x = np.random.default_rng(0).normal(1000, 3 * np.arange(1, 7), (2, 3, 4, 6)).astype(dtype)
    scale, bias = jnp.arange(1.0, 7), jnp.arange(6.0)
    y = GroupNorm(3).apply({"params": {"scale": scale, "bias": bias}}, jnp.asarray(x))
    groups = x.astype(np.float64).reshape(2, 12, 3, 2)
    groups = groups - groups.mean((1, 3), keepdims=True)
    groups /= np.sqrt(np.square(groups).mean((1, 3), keepdims=True) + 1e-6)
    expected = groups.reshape(x.shape) * np.asarray(scale) + np.asarray(bias)
    assert y.dtype == x.dtype
    rtol = 1e-2 if dtype == "bfloat16" else 2e-4
    np.testing.assert_allclose(y.astype(jnp.float32), expected, rtol=rtol, atol=rtol)


def test_gradients_of_group_norm_are_those_of_flax():
    x, y = (jax.random.normal(key, (2, 3, 4, 6)) for key in jax.random.split(KEY))
    params = {"scale": jnp.arange(1.0, 7), "bias": jnp.arange(6.0)}

    def grads(norm):
        def loss_fn(params, x):
            return jnp.sum(y * jnp.sin(norm.apply({"params": params}, x)))

        return jax.jit(jax.grad(loss_fn, argnums=(0, 1)))(params, x)

    expected = grads(nn.GroupNorm(3, epsilon=1e-6))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        grads(GroupNorm(3)),
        expected,
    )
