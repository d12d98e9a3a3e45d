import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.metrics.energy import energy_distance, nearest_ratio
from genjax.types import UsageError

DISTANCE = jax.jit(energy_distance)


def _distance_by_pairs(x, y):
    x, y = (np.asarray(a, np.float64).reshape(len(a), -1) for a in (x, y))

    def mean(a, b, skip_diagonal):
        distances = np.linalg.norm(a[:, None] - b[None], axis=-1)
        return distances.sum() / (len(a) * (len(b) - skip_diagonal))

    return 2 * mean(x, y, 0) - mean(x, x, 1) - mean(y, y, 1)


def _normal(seed, count, shift=0.0):
    return shift + jax.random.normal(jax.random.key(seed), (count, 3, 2))


def test_it_is_the_mean_over_pairs():
    for shift in (0.0, 3.0, 1000.0):
        x, y = _normal(0, 20, shift), _normal(1, 30, shift + 1)
        expected = _distance_by_pairs(x, y)
        np.testing.assert_allclose(DISTANCE(x, y), expected, rtol=1e-3, atol=1e-3)


def test_alike_is_about_zero_and_unlike_is_ordered():
    data = _normal(0, 500)
    alike = float(DISTANCE(_normal(1, 500), data))
    shifted = float(DISTANCE(_normal(1, 500, 0.5), data))
    collapsed = float(DISTANCE(jnp.broadcast_to(_normal(1, 1), (500, 3, 2)), data))
    assert abs(alike) < 0.02
    assert 0.1 < shifted < collapsed


def test_of_one_example_there_are_no_pairs():
    x = _normal(0, 20)
    flat = np.asarray(x, np.float64).reshape(20, -1)
    to_one = np.linalg.norm(flat - flat[:1], axis=1).mean()
    within = np.linalg.norm(flat[:, None] - flat[None], axis=-1).sum() / (20 * 19)
    np.testing.assert_allclose(DISTANCE(x, x[:1]), 2 * to_one - within, rtol=1e-4)
    assert DISTANCE(x[:1], x[:1]) == 0


def test_copies_are_nearer_than_images_are_to_one_another():
    images = jax.random.normal(jax.random.key(0), (200, 4, 4, 1))
    others = jax.random.normal(jax.random.key(1), (200, 4, 4, 1))
    np.testing.assert_allclose(nearest_ratio(others, images), 1, atol=0.05)
    assert nearest_ratio(images[:50] + 0.05 * others[:50], images) < 0.1
    x, y = (np.asarray(a, np.float64).reshape(200, -1) for a in (others, images))
    distances = np.linalg.norm(x[:, None] - y[None], axis=2)
    own = np.linalg.norm(y[:, None] - y[None], axis=2) + np.diag(np.full(200, np.inf))
    expected = distances.min(axis=1).mean() / own.min(axis=1).mean()
    np.testing.assert_allclose(nearest_ratio(others, images), expected, rtol=1e-5)
    assert nearest_ratio(others, jnp.zeros((2, 4, 4, 1))) == jnp.inf
    with pytest.raises(UsageError, match="M at least 2"):
        nearest_ratio(others, images[:1])
