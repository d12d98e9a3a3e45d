import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.nn.attention import AttentionBlock
from genjax.nn.batch import BATCH_AXIS
from genjax.nn.unet import UNet, UNetConfig, check_size, sinusoidal
from genjax.types import ImageSpec, UsageError

# Gray images of 12x4 pixels, of three classes.
SMALL = UNetConfig(features=(4, 8), blocks=1, attention_sizes=(6,), groups=2, head_size=4)
SHAPE, CLASSES = (4, 12, 4, 1), 3


def _network(dtype="float32", **changes):
    return UNet(dataclasses.replace(SMALL, **changes), 1, CLASSES, dtype)


def _shapes(network, shape):
    arrays = jnp.zeros(shape), jnp.zeros(shape[0])
    return jax.eval_shape(
        lambda key: network.init(key, *arrays, None, train=False)["params"], jax.random.key(0)
    )


@functools.cache
def _inputs():
    """Return images, times and labels, and parameters that are all drawn at random."""
    x = jax.random.normal(jax.random.key(0), SHAPE)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape, scale=0.3), jnp.float32),
        _shapes(_network(), SHAPE),
    )
    return {"params": params}, x, jnp.array([0.0, 0.5, 20, 999]), jnp.array([0, 1, 2, 2])


@functools.cache
def _apply(network, train=False):
    """Return `run(variables, x, time, labels, key)`, compiled."""
    return jax.jit(
        lambda variables, x, time, labels, key: network.apply(
            variables, x, time, labels, train=train, rngs={"dropout": key}
        )
    )


KEY = jax.random.key(3)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("cosine_first", [False, True])
@pytest.mark.parametrize("features", [8, 129])
def test_sinusoids_of_many_turns_are_exact(features, cosine_first, shift):
    time = np.float32([*range(1000), 0.37, 123.456, 999.9])
    found = jax.jit(sinusoidal, static_argnums=(1, 2, 3))(time, features, shift, cosine_first)
    half = features // 2
    angles = np.float64(time)[:, None] * 10_000.0 ** (-np.arange(half) / (half - shift))
    parts = [np.sin(angles), np.cos(angles)]
    expected = np.concatenate(parts[::-1] if cosine_first else parts, axis=1)
    np.testing.assert_allclose(found[:, : 2 * half], expected, rtol=0, atol=2e-7)
    assert found.shape == (1003, features)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found[:, 2 * half :], 0)


@pytest.mark.parametrize("head_size", [0, 2])
def test_attention_is_a_mean_of_values_by_weights(head_size):
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 4))
    block = AttentionBlock(head_size, groups=2)
    shapes = jax.eval_shape(block.init, jax.random.key(0), jnp.zeros(x.shape))["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)
    grouped = x.reshape(2, 6, 2, 2)
    grouped = grouped - grouped.mean((1, 3), keepdims=True)
    grouped /= np.sqrt(np.square(grouped).mean((1, 3), keepdims=True) + 1e-6)
    normed = grouped.reshape(2, 6, 4) * params["norm"]["scale"] + params["norm"]["bias"]
    q, k, v = (
        normed @ params[name]["kernel"] + params[name]["bias"] for name in ("query", "key", "value")
    )
    seen, size = np.zeros((2, 6, 4)), head_size or 4
    for image in range(2):
        for head in range(4 // size):
            own = np.s_[image, :, head * size : (head + 1) * size]
            weights = np.exp(q[own] @ k[own].T / np.sqrt(size))
            seen[own] = weights / weights.sum(1, keepdims=True) @ v[own]
    seen = seen @ params["output"]["kernel"] + params["output"]["bias"]
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    found = block.apply({"params": params}, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, x + seen.reshape(x.shape), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "shape", "classes", "count"),
    [
        # The published number of the model of CIFAR-10, and those of diffusers' networks.
        (UNetConfig(), (1, 32, 32, 3), 0, 35_746_307),
        *(
            (
                UNetConfig(features=(32, 64, 64), groups=8, attention_sizes=(14,)),
                (1, 28, 28, 1),
                classes,
                count,
            )
            for classes, count in ((0, 1_623_169), (10, 1_624_449))
        ),
    ],
)
def test_number_of_parameters(config, shape, classes, count):
    params = _shapes(UNet(config, shape[-1], classes), shape)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_attention_is_where_the_config_says():
    params = _shapes(_network(), SHAPE)
    found = {name for name in params if "attention" in name}
    assert found == {
        *("down_1_attention_0", "middle_attention", "up_1_attention_0", "up_1_attention_1")
    }
    assert params["up_0_block_1"].keys() == {
        *("norm_0", "conv_0", "time", "norm_1", "conv_1", "shortcut")
    }
    assert "shortcut" not in params["middle_block_0"]


def test_a_new_network_adds_nothing_and_its_other_layers_are_uniform():
    _, x, time, labels = _inputs()
    init = jax.jit(functools.partial(_network().init, train=False))
    variables = init(jax.random.key(1), x, time, labels)
    output = _apply(_network())(variables, x, time, labels, KEY)
    np.testing.assert_array_equal(output, np.zeros(SHAPE))
    for name, layer in variables["params"].items():
        if "block" in name:
            assert not layer["conv_1"]["kernel"].any()
            kernel = layer["conv_0"]["kernel"]
            bound = np.sqrt(6 / (9 * sum(kernel.shape[2:])))
            assert 0.9 * bound < np.abs(kernel).max() < bound
            np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.15)
        if "attention" in name:
            assert not layer["output"]["kernel"].any()
    assert not np.array_equal(
        variables["params"]["conv_in"]["kernel"],
        init(jax.random.key(2), x, time, labels)["params"]["conv_in"]["kernel"],
    )


def test_an_image_sees_its_own_time_and_class():
    variables, x, time, labels = _inputs()
    run = _apply(_network())
    found = run(variables, x, time, labels, KEY)
    assert found.shape == SHAPE
    np.testing.assert_allclose(
        found[::-1], run(variables, x[::-1], time[::-1], labels[::-1], KEY), rtol=1e-4, atol=1e-4
    )
    for changed in (
        run(variables, x, time.at[2].add(1), labels, KEY),
        run(variables, x, time, labels.at[2].set(0), KEY),
    ):
        is_same = np.isclose(changed, found, rtol=1e-4, atol=1e-4).all((1, 2, 3))
        np.testing.assert_array_equal(is_same, [True, True, False, True])


def test_a_negative_label_is_no_class():
    variables, x, time, labels = _inputs()
    without = _apply(_network())(variables, x, time, None, KEY)
    some = _apply(_network())(variables, x, time, jnp.array([-1, 1, -7, 2]), KEY)
    unconditional = {
        "params": {k: v for k, v in variables["params"].items() if k != "class_embedding"}
    }
    plain = _apply(UNet(SMALL, 1))(unconditional, x, time, labels, KEY)
    np.testing.assert_allclose(without, plain, rtol=1e-5, atol=1e-5)
    is_same = np.isclose(some, without, rtol=1e-5, atol=1e-5).all((1, 2, 3))
    np.testing.assert_array_equal(is_same, [True, False, True, False])


def test_bfloat16_is_close_and_gives_float32():
    variables, *inputs = _inputs()
    found = _apply(_network("bfloat16"))(variables, *inputs, KEY)
    expected = _apply(_network())(variables, *inputs, KEY)
    assert found.dtype == expected.dtype == jnp.float32
    assert 1e-4 < np.abs(found - expected).max() / np.abs(expected).max() < 0.05


def test_dropout_acts_in_training_alone():
    variables, *inputs = _inputs()
    other, network = jax.random.key(4), _network(dropout=0.5)
    plain = _apply(_network())(variables, *inputs, KEY)
    evaluated = _apply(network)(variables, *inputs, KEY)
    np.testing.assert_allclose(evaluated, plain, rtol=1e-5, atol=1e-5)
    trained = _apply(network, train=True)(variables, *inputs, KEY)
    assert np.abs(trained - plain).max() > 0.1
    again = _apply(network, train=True)(variables, *inputs, other)
    assert np.abs(trained - again).max() > 0.1


@pytest.mark.parametrize("devices", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_replicas_drop_what_one_device_does(devices):
    variables, *inputs = _inputs()
    run = _apply(_network(dropout=0.5), train=True)
    split = [leaf.reshape(devices, -1, *leaf.shape[1:]) for leaf in inputs]
    spread = jax.pmap(
        lambda *inputs: run(variables, *inputs, KEY),
        BATCH_AXIS,
        devices=jax.devices()[:devices],
    )(*split)
    expected = run(variables, *inputs, KEY)
    np.testing.assert_allclose(spread.reshape(SHAPE), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": ()}, "features = ()"),
        ({"features": (32, 48)}, "groups = 32: should divide features 48"),
        ({"head_size": 24}, "head_size = 24: should divide the last of features, 256"),
        ({"features": (2, 4), "groups": 1}, "frequency_shift = 1.0: should be less than half"),
        ({"dropout": 1.0}, "dropout = 1.0"),
        ({"blocks": 0}, "blocks = 0"),
        ({"epsilon": 0}, "epsilon = 0"),
    ],
)
def test_a_config_that_cannot_be_is_refused(fields, message):
    with pytest.raises(UsageError) as error:
        UNetConfig(**fields)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "spec", "message"),
    [
        (UNetConfig(), ImageSpec(28, 32, 1), "images of 28x32: .* should be multiples of 8"),
        (
            UNetConfig(attention_sizes=(16, 5)),
            ImageSpec(32, 64, 3),
            r"attention_sizes = \(16, 5\): no level .* height 5; wanted any of 32, 16, 8, 4",
        ),
        (
            UNetConfig(features=(96, 160), head_size=32, groups=16, attention_sizes=(16, 8)),
            ImageSpec(16, 16, 3),
            None,
        ),
        (
            UNetConfig(features=(96, 320), head_size=64, groups=16, attention_sizes=(16,)),
            ImageSpec(16, 16, 3),
            "head_size = 64: should divide features 96 of height 16",
        ),
    ],
)
def test_a_size_that_does_not_fit_is_refused(config, spec, message):
    if message is None:
        check_size(config, spec)
    else:
        with pytest.raises(UsageError, match=message):
            check_size(config, spec)
