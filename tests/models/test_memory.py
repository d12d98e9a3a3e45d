"""What `accumulate` and `remat` change, which is memory, and what they do not."""

import functools

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.data.batches import batch_indices
from genjax.models import FAMILIES, vae
from genjax.nn.replicas import in_parts
from genjax.types import Batch, ImageSpec
from tests import stepping

SPEC = ImageSpec(8, 8, 1, 10)


# Nats, of which the latents cost more or less: in the batch other ones than in its parts.
FREE_BITS = 0.0108
BATCH = 64
VAE = functools.partial(
    vae.VaeConfig, hidden_sizes=(8,), latent_size=8, binarization="none", free_bits=FREE_BITS
)


def _images_of_any_brightness() -> Batch:
    images, labels = stepping.random_images(SPEC, BATCH)
    brightness = np.random.default_rng(1).uniform(size=(BATCH, 1, 1, 1))
    return Batch((images * brightness).astype(np.uint8), labels)


def _vae_step(parts, parallel="jit", devices=1):
    state = stepping.initial_state(FAMILIES["vae"], VAE(), SPEC)
    config = VAE(accumulate=parts)
    data = _images_of_any_brightness()
    return stepping.take_steps(FAMILIES["vae"], config, state, data, BATCH, 1, parallel, devices)


@functools.cache
def _vae_step_of_the_whole():
    return _vae_step(1)


@pytest.mark.xdist_group("free_bits")
def test_the_whole_batch_says_which_bits_are_free():
    state = stepping.initial_state(FAMILIES["vae"], VAE(), SPEC)
    images = _images_of_any_brightness().images[batch_indices(0, 0, BATCH, BATCH)]
    mean, log_var = vae.encoded(VAE(), SPEC, state.model.params, images / np.float32(255), None)
    kl = 0.5 * (mean**2 + jnp.exp(log_var) - 1 - log_var)
    paid = np.maximum(jnp.mean(kl, axis=0), FREE_BITS)
    assert 2 < np.sum(paid > FREE_BITS) < 7
    for parts in (2, 8):
        of_parts = np.maximum(jnp.mean(in_parts(kl, parts), axis=1), FREE_BITS)
        assert np.any((of_parts > FREE_BITS) != (paid > FREE_BITS))
        # A minimum part by part would be another loss.
        assert np.sum(np.mean(of_parts, axis=0)) > 1.01 * np.sum(paid)
    _, metrics = _vae_step_of_the_whole()
    fit = metrics["elbo"] + metrics["kl"]
    np.testing.assert_allclose(metrics["loss"] + fit, np.sum(paid), rtol=1e-3)


@pytest.mark.xdist_group("free_bits")
@pytest.mark.parametrize(
    ("parts", "parallel", "devices"),
    [(8, "jit", 1), (2, "jit", 8), (1, "pmap", 8), (8, "pmap", 8)],
)
def test_free_bits_of_parts_are_those_of_the_batch(parts, parallel, devices):
    """In the whole state: after one step Adam's first moment is a tenth of the gradient."""
    one, one_metrics = _vae_step_of_the_whole()
    other, metrics = _vae_step(parts, parallel, devices)
    for name in ("active_units", "active_share"):  # they compare images
        del metrics[name]
    one_metrics = {name: one_metrics[name] for name in metrics}
    # float32: sums over the batch are taken in another order.
    chex.assert_trees_all_close(one_metrics, metrics, rtol=2e-6, atol=1e-6)
    chex.assert_trees_all_close(one.model.opt_state, other.model.opt_state, rtol=1e-5, atol=1e-7)
    # Adam's first step is of 1e-3 whatever the gradient, but for those near its epsilon of 1e-8.
    chex.assert_trees_all_close(one.model.params, other.model.params, rtol=0, atol=1e-6)
