import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.nn.residual import ResidualBlock, downsample, upsample


def test_upsample_repeats_and_downsample_averages():
    x = jnp.arange(24.0).reshape(1, 2, 4, 3)
    np.testing.assert_array_equal(upsample(x), np.asarray(x).repeat(2, 1).repeat(2, 2))
    np.testing.assert_array_equal(downsample(upsample(x)), x)
    np.testing.assert_allclose(downsample(x)[0, 0, 0], np.asarray(x)[0, :2, :2].mean((0, 1)))


@pytest.mark.parametrize(
    ("resample", "features", "shape", "has_shortcut"),
    [
        ("up", 3, (2, 8, 8, 3), True),
        ("down", 5, (2, 2, 2, 5), True),
        ("none", 3, (2, 4, 4, 3), False),
        ("none", 5, (2, 4, 4, 5), True),
    ],
)
def test_shapes_and_shortcuts(resample, features, shape, has_shortcut):
    block = ResidualBlock(features, resample)
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    variables = jax.jit(block.init, static_argnames="train")(jax.random.key(1), x, train=True)
    assert jax.eval_shape(lambda x: block.apply(variables, x, train=True), x).shape == shape
    assert ("shortcut" in variables["params"]) == has_shortcut
