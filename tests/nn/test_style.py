import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from genjax.nn.equalized import Conv, Dense, bias_act, leaky_relu, minibatch_std
from genjax.nn.resample import BINOMIAL
from genjax.nn.style import Mapping, adain, modulated_conv, normalize, truncate

KEY = jax.random.key(0)
MODULATED_CONV = jax.jit(modulated_conv, static_argnums=(3, 4, 5))


@pytest.fixture
def ops(shared):
    file = np.load(shared / "reference/a/stylegan2_ops_a.npz")
    return file, json.loads(str(file["meta"]))["calls"]


def _images(x):
    return x.transpose(0, 2, 3, 1)


def _close(found, expected, name):
    tolerance = 2e-6 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, err_msg=name)


def test_modulated_convolutions_are_the_references(ops):
    """Both forms of the reference, fused and not, are compared: sizes, noise, flipped kernels."""
    file, calls = ops
    x, styles = _images(file["in/mod_x"]), file["in/mod_s"]
    noises = {0: None, 1: file["in/mod_noise"][None, ..., None]}
    noises[2] = _images(file["in/mod_noise_up"])
    for name, call in calls["modulated_conv2d"].items():
        kernel = file[f"in/mod_w{call.get('k', 3)}"].transpose(2, 3, 1, 0)
        up, down = call.get("up", 1) == 2, call.get("down", 1) == 2
        # The reference correlates unless told otherwise; ours too, unless it is transposed.
        if call.get("flip_weight", True) == (up and kernel.shape[0] > 1):
            kernel = kernel[::-1, ::-1]
        found = MODULATED_CONV(x, kernel, styles, call.get("demodulate", True), up, down)
        noise = noises[call.get("noise", 0)]
        found = found if noise is None else found + noise
        for form in ("modconv", "modconv_unfused"):
            _close(found, _images(file[f"out/{form}/{name}"]), name)


def test_a_modulated_convolution_is_one_with_a_kernel_for_each_image():
    """Equations 1 and 3 are computed as they stand, one image after the other."""
    keys = jax.random.split(KEY, 3)
    x = jax.random.normal(keys[0], (3, 8, 8, 5))
    kernel = jax.random.normal(keys[1], (3, 3, 5, 4))
    styles = jax.random.normal(keys[2], (3, 5))
    found = MODULATED_CONV(x, kernel, styles)
    for image, style, result in zip(x, styles, found, strict=True):
        scaled = kernel * style[None, None, :, None]
        scaled /= jnp.sqrt(jnp.sum(scaled**2, axis=(0, 1, 2), keepdims=True) + 1e-8)
        expected = lax.conv_general_dilated(
            image[None], scaled, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        np.testing.assert_allclose(result, expected[0], atol=2e-5)


def test_bias_and_activation_are_the_references(ops):
    file, calls = ops
    x = _images(file["in/x"])
    functions = {
        "linear": None,
        "relu": jax.nn.relu,
        "lrelu": leaky_relu,
        "tanh": jnp.tanh,
        "sigmoid": jax.nn.sigmoid,
        "elu": jax.nn.elu,
        "selu": jax.nn.selu,
        "softplus": jax.nn.softplus,
        "swish": jax.nn.swish,
    }
    for name, call in calls["bias_act"].items():
        function = functions[call["act"]]
        if "alpha" in call:
            function = lambda x, slope=call["alpha"]: jax.nn.leaky_relu(x, slope)  # noqa: E731
        default = math.sqrt(2) if call["act"] in ("relu", "lrelu", "swish") else 1.0
        gain, bias_name = call.get("gain", default), call.get("b", "b")
        bias = None if bias_name is None else file[f"in/{bias_name}"]
        # Ours has its features last: a bias along the rows is one of images turned by a quarter.
        rows = call.get("dim") == 2
        turned = x.swapaxes(1, 3) if rows else x
        found = bias_act(jnp.asarray(turned), bias, function, gain, call.get("clamp"))
        found = found.swapaxes(1, 3) if rows else found
        _close(found, _images(file[f"out/bias_act/{name}"]), name)


def test_layers_keep_the_size_of_their_inputs():
    """Measure outputs of random weights: equalized constants keep their variance at any width."""
    x = jax.random.normal(KEY, (64, 8, 8, 48))
    blurred = np.sum(np.square(BINOMIAL)) ** 2  # what is left of white noise
    for layer, power in ((Conv(32, 3), 1), (Conv(32, 1), 1), (Conv(32, 3, down=True), blurred)):
        y, variables = jax.jit(layer.init_with_output)(KEY, x)
        inside = np.asarray(y)[:, 1:-1, 1:-1]  # beyond the border there are zeros
        assert np.mean(inside**2) == pytest.approx(power, rel=0.15)
        assert np.std(variables["params"]["kernel"]) == pytest.approx(1, rel=0.05)
    for rate in (1.0, 0.01):
        layer, flat = Dense(64, leaky_relu, bias=0.0, lr_multiplier=rate), x.reshape(64, -1)
        y, variables = jax.jit(layer.init_with_output)(KEY, flat)
        assert np.mean(np.asarray(y) ** 2) == pytest.approx(1, rel=0.1)
        assert np.std(variables["params"]["kernel"]) == pytest.approx(1 / rate, rel=0.05)


def test_parameters_are_left_as_they_are():
    """Parameters may be NumPy arrays, which could be changed in place."""
    x = np.ones((1, 4, 4, 2), np.float32)
    for layer, value in (
        (Conv(3, 3), x),
        (Dense(3, leaky_relu, bias=1.0, lr_multiplier=0.1), x[0, 0]),
    ):
        variables = jax.tree.map(np.array, layer.init(KEY, value))
        before = jax.tree.map(np.copy, variables)
        layer.apply(variables, value)
        jax.tree.map(np.testing.assert_array_equal, variables, before)


def test_minibatch_std_sees_how_much_a_group_varies():
    x = jax.random.normal(KEY, (8, 4, 4, 3))
    x = x.at[1::2].set(x[1])  # every second image is the same: the second of two groups
    found = minibatch_std(x, 4)
    np.testing.assert_array_equal(found[..., :3], x)
    assert np.all(found[1::2, ..., 3] < 1e-3)
    group = np.asarray(x[::2])
    expected = np.mean(np.sqrt(group.var(axis=0) + 1e-8))
    np.testing.assert_allclose(found[::2, ..., 3], expected, rtol=1e-5)
    # Six images cannot be divided into groups of four, so groups have three.
    np.testing.assert_allclose(minibatch_std(x[:6], 4), minibatch_std(x[:6], 3))


def test_the_mapping_normalizes_and_follows_its_mean():
    mapping = Mapping(16, 3, momentum=0.9)
    z = 100 * jax.random.normal(KEY, (512, 8))
    variables = mapping.init(KEY, z, None, False)
    w = mapping.apply(variables, z, None, False)
    np.testing.assert_allclose(w, mapping.apply(variables, z / 50, None, False), atol=1e-3)
    _, updated = mapping.apply(variables, z, None, True, mutable=["batch_stats"])
    mean = updated["batch_stats"]["mean"]
    np.testing.assert_allclose(mean, 0.1 * jnp.mean(w, axis=0), rtol=1e-4, atol=1e-6)
    ws = w[:, None].repeat(3, axis=1)
    np.testing.assert_allclose(truncate(ws, mean, 0.0), jnp.broadcast_to(mean, ws.shape))
    np.testing.assert_allclose(truncate(ws, mean, 1.0), ws, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(truncate(ws, mean, 0.5, 1)[:, 1:], ws[:, 1:])
    assert jnp.mean(normalize(z) ** 2) == pytest.approx(1, rel=1e-4)


def test_adain_sets_mean_and_deviation():
    x = 5 + 3 * jax.random.normal(KEY, (2, 16, 16, 4))
    scale, bias = jnp.full((2, 4), 0.5), jnp.full((2, 4), -2.0)
    found = adain(x, scale, bias)
    np.testing.assert_allclose(jnp.mean(found, axis=(1, 2)), -2, atol=1e-5)
    np.testing.assert_allclose(jnp.std(found, axis=(1, 2)), 0.5, rtol=1e-4)
