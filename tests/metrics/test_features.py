import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from genjax.metrics.features import for_each_channel, over_devices


def _net(images):
    """Return the brightness as the feature, and three classes of it as logits."""
    features = images.reshape(len(images), -1).mean(axis=1, keepdims=True)
    return features, features * np.array([[0.1, -0.2, 0.3]])


@pytest.mark.parametrize("count", [1, 8, 19, 50])
def test_any_number_of_images_over_eight_devices(count):
    rng = np.random.default_rng(0)
    images, weights = rng.integers(0, 256, (count, 4, 5, 1), np.uint8), rng.normal(size=(20, 3))

    def apply(weights, images):
        features = images.reshape(len(images), -1).astype(jnp.float32) @ weights
        return features, -features[:, :2]

    features, logits = over_devices(apply, jnp.asarray(weights, jnp.float32), chunk=2)(images)
    np.testing.assert_allclose(features, images.reshape(count, -1) @ weights, rtol=1e-4, atol=1e-2)
    np.testing.assert_array_equal(logits, -features[:, :2])


def test_channels_on_their_own_give_all_combinations_of_classes():
    images = np.random.default_rng(0).integers(0, 9, (5, 4, 4, 3), np.uint8)
    features, logits = for_each_channel(_net)(images)
    singles = [_net(images[..., c : c + 1]) for c in range(3)]
    np.testing.assert_array_equal(features, np.concatenate([f for f, _ in singles], axis=1))
    a, b, c = (softmax(each, axis=1) for _, each in singles)
    expected = np.einsum("ni,nj,nk->nijk", a, b, c).reshape(5, 27)
    np.testing.assert_allclose(softmax(logits, axis=1), expected, rtol=1e-9)
