import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.models import wgan
from genjax.types import Batch, ImageSpec

PLAYER = wgan.PlayerConfig(features=16, learning_rate=2e-4, beta1=0.0, beta2=0.99)
CONFIG = wgan.WganGpConfig(
    network="r3gan",
    latent_size=64,
    loss="relativistic",
    r1_gamma=0.1,
    r2_gamma=0.1,
    gradient_penalty_weight=0.0,
    n_critic=1,
    generator=PLAYER,
    critic=PLAYER,
)
SPEC = ImageSpec(8, 8, 3, 10)


def _sizes(variables):
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(
    ("size", "features", "counts"),
    [
        # Huang et al. 2024, table 2, the last row: 23.058M and 23.010M, on FFHQ of 256x256.
        (256, 96, (23_057_952, 23_009_568)),
        (32, 768, (20_732_160, 20_683_776)),
    ],
)
def test_the_papers_sizes_have_its_parameters(size, features, counts):
    spec = ImageSpec(size, size, 3)
    player = dataclasses.replace(PLAYER, features=features)
    config = dataclasses.replace(CONFIG, generator=player, critic=player)
    networks = wgan.networks(config, spec)
    inputs = jnp.zeros((1, 64)), jnp.zeros((1, *spec.shape))
    for network, x, count in zip(networks, inputs, counts, strict=True):
        init = functools.partial(network.init, labels=None, train=False)
        assert _sizes(jax.eval_shape(init, jax.random.key(0), x)) == count


@functools.cache
def _networks():
    generator, discriminator = wgan.networks(CONFIG, SPEC)
    z = jax.random.normal(jax.random.key(0), (64, 64))
    of_g = jax.jit(functools.partial(generator.init, train=True))(jax.random.key(1), z, None)
    images = jax.random.normal(jax.random.key(2), (64, *SPEC.shape))
    of_d = jax.jit(functools.partial(discriminator.init, train=True))(
        jax.random.key(3), images, None
    )
    return generator, of_g, z, discriminator, of_d, images


def test_blocks_begin_as_the_identity():
    """So the first images are resampled maps, and scaling what is inside of blocks changes none."""
    generator, of_g, z, discriminator, of_d, images = _networks()
    for network, variables, x in ((generator, of_g, z), (discriminator, of_d, images)):
        scaled = jax.tree_util.tree_map_with_path(
            lambda path, leaf: 3 * leaf if "blocks" in jax.tree_util.keystr(path) else leaf,
            variables,
        )
        apply = jax.jit(functools.partial(network.apply, train=True))
        np.testing.assert_array_equal(apply(variables, x, None), apply(scaled, x, None))
    params = of_g["params"]
    assert not np.any(params["blocks_0"]["project_1"]["kernel"])
    # Fixup: with 4 blocks of 3 layers, 4^(-1/4) of what a LeakyReLU asks for.
    expected = (2 / 1.04 / 16) ** 0.5 * 4**-0.25
    np.testing.assert_allclose(np.std(params["blocks_1"]["expand_0"]["kernel"]), expected, rtol=0.1)
    expected = (2 / 1.04 / (9 * 16)) ** 0.5 * 4**-0.25
    kernel = params["blocks_1"]["grouped_0"]["kernel"]
    chex.assert_shape(kernel, (3, 3, 16, 32))
    np.testing.assert_allclose(np.std(kernel), expected, rtol=0.1)


def test_variances_are_kept_through_the_networks():
    generator, of_g, z, discriminator, of_d, images = _networks()
    drawn = generator.apply(of_g, z, None, True)
    # The bilinear filter keeps the mean over pixels, and takes a part of the variance.
    assert 0.2 < np.std(drawn) < 1.5
    assert 0.1 < np.std(discriminator.apply(of_d, images, None, True)) < 1.5


@pytest.mark.parametrize("conditional", [pytest.param(False, marks=pytest.mark.slow), True])
def test_it_trains(conditional):
    config = dataclasses.replace(CONFIG, conditional=conditional)
    state = jax.jit(wgan.init, static_argnums=(0, 2))(config, jax.random.key(0), SPEC)
    rng = np.random.default_rng(0)
    labels = np.arange(16, dtype=np.int32) % 10
    batch = Batch(rng.integers(0, 256, (16, *SPEC.shape)).astype(np.uint8), labels)
    step = jax.jit(functools.partial(wgan.WGAN_GP.step, config))
    for i in range(3):
        state, metrics = step(state, batch, jax.random.key(i))
    chex.assert_tree_all_finite((state, metrics))
    assert {"r1_penalty", "r2_penalty", "d_real"} <= set(metrics)
    assert "gradient_penalty" not in metrics
    images = wgan.sample(config, state, jax.random.key(0), jnp.asarray(labels))
    chex.assert_shape(images, (16, *SPEC.shape))
    assert np.abs(images).max() <= 1
    other = wgan.sample(config, state, jax.random.key(0), jnp.asarray(labels[::-1]))
    assert np.array_equal(images, other) != conditional
