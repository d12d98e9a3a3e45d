"""Tests that `gradient_accumulation_steps` and `remat` save memory and keep the results."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax.data.batches import batch_indices
from genjax.models import FAMILIES, dcgan, glow, vae
from genjax.nn.batch import in_parts
from genjax.nn.remat import end_of_block, remat
from genjax.steps.optim import OptimizerConfig
from genjax.types import ImageSpec
from tests import stepping
from tests.families import each_family
from tests.models.test_families import CONFIGS

SPEC = ImageSpec(8, 8, 1, 10)


# Nats that some latents cost more than and some less: other ones in the batch than in its parts.
FREE_BITS = 0.0108
BATCH = 64
VAE = functools.partial(
    vae.VaeConfig, hidden_sizes=(8,), latent_size=8, binarization="none", free_bits=FREE_BITS
)


def _vae_step(parts, parallel="jit", devices=1):
    state = stepping.initial_state(FAMILIES["vae"], VAE(), SPEC)
    config = VAE(gradient_accumulation_steps=parts)
    data = stepping.random_images(SPEC, BATCH)
    return stepping.take_steps(FAMILIES["vae"], config, state, data, BATCH, 1, parallel, devices)


@functools.cache
def _vae_step_of_the_whole():
    return _vae_step(1)


def test_the_whole_batch_says_which_bits_are_free():
    state = stepping.initial_state(FAMILIES["vae"], VAE(), SPEC)
    images = stepping.random_images(SPEC, BATCH).images[batch_indices(0, 0, BATCH, BATCH)]
    mean, log_var = vae.apply_encoder(
        VAE(), SPEC, state.model.params, images / np.float32(255), None
    )
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


@pytest.mark.parametrize(
    ("parts", "parallel", "devices"),
    [(8, "jit", 1), (2, "jit", 8), (1, "pmap", 8), (8, "pmap", 8)],
)
def test_free_bits_of_parts_are_those_of_the_batch(parts, parallel, devices):
    """The whole state agrees; after one step Adam's first moment is a tenth of the gradient."""
    one, one_metrics = _vae_step_of_the_whole()
    other, metrics = _vae_step(parts, parallel, devices)
    for name in ("active_units", "active_fraction"):  # they compare images
        del metrics[name]
    one_metrics = {name: one_metrics[name] for name in metrics}
    # float32: sums over the batch are taken in another order.
    chex.assert_trees_all_close(one_metrics, metrics, rtol=2e-6, atol=1e-6)
    chex.assert_trees_all_close(one.model.opt_state, other.model.opt_state, rtol=1e-5, atol=1e-7)
    # Adam's first step is of 1e-3 whatever the gradient, but for those near its epsilon of 1e-8.
    chex.assert_trees_all_close(one.model.params, other.model.params, rtol=0, atol=1e-6)


def _gradient(player, config):
    """Return the gradient of a player's first step, of which Adam's first moment is a fraction."""
    return jax.tree.map(
        lambda moment: moment / (1 - config.beta1),
        optax.tree_utils.tree_get(player.opt_state, "mu"),
    )


def _mean(gradients):
    return jax.tree.map(lambda *values: sum(values) / len(values), *gradients)


def _largest_difference(one, other):
    differences = jax.tree.map(
        lambda a, b: jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(a)), one, other
    )
    return max(jax.tree.leaves(differences))


# D begins to normalize at its second halving.
SMALL_SPEC = ImageSpec(16, 16, 1)
DCGAN_PLAYER = dcgan.PlayerConfig(features=4)
DCGAN = functools.partial(
    dcgan.DcganConfig, latent_size=8, generator=DCGAN_PLAYER, discriminator=DCGAN_PLAYER
)


@functools.cache
def _dcgan():
    """Return a state of the DCGAN, real and generated images, and noise; 16 of each."""
    rng = np.random.default_rng(0)
    state = stepping.initial_state(FAMILIES["dcgan"], DCGAN(), SMALL_SPEC)
    # Images differ in brightness, so that parts of a batch have other statistics than the whole.
    scale = rng.uniform(size=(2, 16, 1, 1, 1))
    real, fake = jnp.asarray(rng.uniform(-1, 1, (2, 16, 16, 16, 1)) * scale, jnp.float32)
    z = jnp.asarray(rng.normal(size=(16, 8)) * (1 + np.arange(16)[:, None] % 2), jnp.float32)
    return state, real, fake, z


def _logits(spec, params, stats, images):
    """Return D's logits in training, and its statistics after the pass."""
    network = dcgan.Discriminator(spec, 4)
    variables = {"params": params, "batch_stats": stats}
    logits, new = network.apply(variables, images, None, train=True, mutable=["batch_stats"])
    return logits, new["batch_stats"]


def _assert_a_part_at_a_time(by_hand, before, after, whole):
    """Assert that a step in two parts is that of one after the other, not of the whole batch."""
    stats, gradients = before.stats, []
    for part in (0, 1):
        gradient, stats = by_hand(before.params, stats, part)
        gradients.append(gradient)
    found = _gradient(after, DCGAN_PLAYER)
    chex.assert_trees_all_close(found, _mean(gradients), rtol=1e-4, atol=1e-7)
    chex.assert_trees_all_close(after.stats, stats, rtol=1e-5, atol=1e-7)
    assert _largest_difference(found, _gradient(whole, DCGAN_PLAYER)) > 0.02
    assert _largest_difference(after.stats, whole.stats) > 0.02


def test_the_discriminators_batch_norm_sees_a_part_at_a_time():
    state, real, fake, _ = _dcgan()
    step = jax.jit(dcgan.discriminator_step, static_argnums=0)
    after, whole = (
        step(DCGAN(gradient_accumulation_steps=parts), state, real, fake, None, jax.random.key(0))[
            0
        ].discriminator
        for parts in (2, 1)
    )

    @functools.partial(jax.jit, static_argnums=2)
    def by_hand(params, stats, part):
        def loss(params, stats):
            on_real, stats = _logits(SMALL_SPEC, params, stats, real[part::2])
            on_fake, stats = _logits(SMALL_SPEC, params, stats, fake[part::2])
            return -jnp.mean(
                jnp.log(jax.nn.sigmoid(on_real)) + jnp.log(jax.nn.sigmoid(-on_fake))
            ), stats

        return jax.grad(loss, has_aux=True)(params, stats)

    _assert_a_part_at_a_time(by_hand, state.discriminator, after, whole)


def test_the_generators_batch_norm_sees_a_part_at_a_time():
    state, _, _, z = _dcgan()
    step = jax.jit(dcgan.generator_step, static_argnums=0)
    after, whole = (
        step(DCGAN(gradient_accumulation_steps=parts), state, z, None)[0].generator
        for parts in (2, 1)
    )
    opponent = state.discriminator

    @functools.partial(jax.jit, static_argnums=2)
    def by_hand(params, stats, part):
        def loss(params):
            variables = {"params": params, "batch_stats": stats}
            images, new = dcgan.Generator(SMALL_SPEC, 4).apply(
                variables, z[part::2], None, train=True, mutable=["batch_stats"]
            )
            logits, _ = _logits(SMALL_SPEC, opponent.params, opponent.stats, images)
            return -jnp.mean(jnp.log(jax.nn.sigmoid(logits))), new["batch_stats"]

        return jax.grad(loss, has_aux=True)(params)

    _assert_a_part_at_a_time(by_hand, state.generator, after, whole)


def test_the_penalty_around_the_data_is_that_of_the_whole_batch():
    """DRAGAN's points lie within the deviation of all images, and D sees each point on its own."""
    state, real, fake, _ = _dcgan()
    # D's initial weights have slopes near 0, with which the penalty is 1 anywhere.
    steep = jax.tree.map(lambda x: 20 * x, state.discriminator.params)
    state = state.replace(discriminator=state.discriminator.replace(params=steep))
    step = jax.jit(dcgan.discriminator_step, static_argnums=0)
    penalties = [
        step(
            DCGAN(gradient_accumulation_steps=parts, dragan_weight=10.0),
            state,
            real,
            fake,
            None,
            jax.random.key(0),
        )
        for parts in (1, 2)
    ]
    one, two = (metrics["dragan_penalty"] for _, metrics in penalties)
    assert abs(one - 1) > 0.1
    np.testing.assert_allclose(one, two, rtol=1e-5)


@pytest.mark.parametrize(
    ("policy", "widths"), [("none", [3, 3, 4, 4, 5]), ("products", [3, 4, 5]), ("blocks", [4])]
)
def test_what_a_gradient_keeps_of_the_forward_pass(policy, widths):
    x = jnp.ones((7, 2))
    weights = [jnp.ones(shape) for shape in ((2, 3), (3, 4), (4, 5))]

    def loss(weights):
        h = jnp.sin(x @ weights[0])
        h = end_of_block(jnp.exp(jnp.cos(h @ weights[1])))
        return jnp.sum(jnp.sin(h @ weights[2]))

    _, backward = jax.vjp(remat(loss, policy), weights)
    kept = [leaf.shape for leaf in jax.tree.leaves(backward) if len(leaf) == 7]
    assert sorted(width for _, width in kept) == sorted([2, *widths])


# Free bits see the encoder twice. Glow has two levels of two steps, and an Adam that does not make
# a whole step of a gradient that is rounding alone, as some are while it is the identity.
REMAT_CONFIGS = CONFIGS | {
    "vae": VAE(),
    "glow": glow.GlowConfig(
        levels=2,
        steps_per_level=2,
        hidden_features=8,
        optimizer=OptimizerConfig(learning_rate=1e-3, beta1=0.9, epsilon=1.0),
    ),
}


def _differences(one, other):
    """Iterate over names of leaves and their largest differences, over the largest value."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(one)
    for (path, a), b in zip(leaves, jax.tree.leaves(other), strict=True):
        if np.size(a):
            a, b = (np.ma.filled(x, 0).astype(np.float64) for x in (a, b))
            yield jax.tree_util.keystr(path), np.max(np.abs(a - b)) / (np.max(np.abs(a)) + 1e-3)


@each_family("gan", "vae", slow=("dcgan",))
def test_a_gradient_that_keeps_only_products_is_the_same(name):
    """The whole state agrees after a step; Adam's first moment is a fraction of the gradient."""
    family, config = FAMILIES[name], REMAT_CONFIGS[name]
    state, data = stepping.initial_state(family, config, SPEC), stepping.random_images(SPEC, 8)
    one, other = (
        stepping.take_steps(family, dataclasses.replace(config, remat=remat), state, data, 8)
        for remat in ("none", "products")
    )
    # Most values are the same to the last bit; the others were summed in another order.
    too_far = {path: share for path, share in _differences(one, other) if share > 1e-5}
    assert not too_far
