import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.nn.batch import BATCH_AXIS, batch_noise, mean_over_replicas
from genjax.steps.diagnostics import (
    active_units,
    discriminator_metrics,
    diversity,
    spread,
    standard_deviation,
)
from genjax.steps.update import global_norm


def _images(count=16, seed=0):
    return jax.random.uniform(jax.random.key(seed), (count, 3, 4, 2), minval=-1)


def test_spread_is_the_root_mean_square_over_all_pairs():
    images = np.asarray(_images(), np.float64).reshape(16, -1)
    pairs = ((images[:, None] - images[None]) ** 2).sum(-1)
    np.testing.assert_allclose(spread(_images()), np.sqrt(pairs.mean()), rtol=1e-6)


def test_spread_of_equal_images_is_zero():
    assert spread(jnp.broadcast_to(_images(1), (8, 3, 4, 2))) < 1e-6


def test_discriminator_metrics_by_hand():
    real_logits, fake_logits = jnp.array([2.0, -1.0, 3.0, 1.0]), jnp.array([-2.0, -1.0, 4.0, 1.0])
    real = _images(4)
    metrics = discriminator_metrics(real_logits, fake_logits, real, real / 2)
    assert metrics["accuracy_real"] == 0.75
    assert metrics["accuracy_fake"] == 0.5
    np.testing.assert_allclose(metrics["d_real"], np.mean(1 / (1 + np.exp(-real_logits))), 1e-6)
    np.testing.assert_allclose(metrics["d_fake"], np.mean(1 / (1 + np.exp(-fake_logits))), 1e-6)
    np.testing.assert_allclose(metrics["diversity"], 0.5, rtol=1e-6)


def test_global_norm():
    tree = {"a": jnp.array([[3.0]]), "b": jnp.array([4.0, 12.0])}
    np.testing.assert_allclose(global_norm(tree), 13.0, rtol=1e-6)


@pytest.mark.parametrize("devices", [2, 8])
def test_replicas_see_the_global_batch(devices):
    images, key = _images(), jax.random.key(1)
    split = images.reshape(devices, -1, *images.shape[1:])

    def local(images):
        return (
            spread(images),
            standard_deviation(images),
            mean_over_replicas(jnp.mean(images)),
            batch_noise(key, (len(images), 5)),
            batch_noise(key, (len(images), 5), jax.random.uniform),
        )

    spreads, deviations, means, noise, uniform = jax.pmap(
        local, BATCH_AXIS, devices=jax.devices()[:devices]
    )(split)
    np.testing.assert_allclose(spreads, np.full(devices, spread(images)), rtol=1e-5)
    np.testing.assert_allclose(deviations, np.full(devices, jnp.std(images)), rtol=1e-5)
    np.testing.assert_allclose(means, np.full(devices, jnp.mean(images)), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(uniform.reshape(16, 5), jax.random.uniform(key, (16, 5)))
    # Two programs may round the inverse error function apart, as they are vectorized.
    normal = jax.random.normal(key, (16, 5))
    np.testing.assert_allclose(noise.reshape(16, 5), normal, rtol=1e-6, atol=1e-7)


def test_active_units_are_counted_over_the_batch():
    rng = np.random.default_rng(0)
    means = rng.normal(size=(500, 4)).astype(np.float32) * np.float32([1.0, 0.2, 0.05, 0.0]) + 3
    assert active_units(means) == 2  # standard deviations above 0.1


def test_the_diversity_of_data_without_variation_is_one():
    constant = jnp.broadcast_to(_images(1), (8, 3, 4, 2))
    assert diversity(constant, _images(8)) == diversity(constant, constant) == 1
    assert diversity(_images(8), constant) < 1e-6
    assert standard_deviation(jnp.full((7, 3, 3, 1), 0.1)) < 1e-3
