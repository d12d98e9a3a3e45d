import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.models import wgan
from genjax.nn import augment
from genjax.types import Batch, ImageSpec, UsageError
from tests.states import drawn_state

SPEC = ImageSpec(16, 16, 1, 3)


def _config(kind=wgan.WganGpConfig, **fields):
    config = kind(latent_size=8, **{"network": "mlp", "n_critic": 2, **fields})
    sizes = {"features": 4, "hidden_sizes": (16,)}
    return dataclasses.replace(
        config,
        generator=dataclasses.replace(config.generator, **sizes),
        critic=dataclasses.replace(config.critic, **sizes),
    )


def _batch(count=8):
    images = np.random.default_rng(0).integers(0, 256, (count, *SPEC.shape), np.uint8)
    return Batch(images, (np.arange(count) % 3).astype(np.int32))


def _init(config, spec=SPEC):
    return drawn_state(wgan.init, config, spec)


STEP = jax.jit(wgan.step, static_argnums=0)


@pytest.mark.parametrize("kind", [wgan.WganConfig, wgan.WganGpConfig])
def test_the_generator_has_its_turn_after_every_n_critic_steps(kind):
    config = _config(kind, n_critic=3)
    state = _init(config)
    for i in range(1, 7):
        new, metrics = STEP(config, state, _batch(), jax.random.key(i))
        is_due = i % 3 == 0
        assert metrics["g_loss"].mask == metrics["g_grad_norm"].mask == is_due
        same = jax.tree.map(np.array_equal, state.generator, new.generator)
        assert all(jax.tree.leaves(same)) != is_due
        changed = jax.tree.map(
            lambda a, b: not np.array_equal(a, b),
            state.discriminator.opt_state,
            new.discriminator.opt_state,
        )
        assert any(jax.tree.leaves(changed))
        assert new.step == i
        state = new


def test_a_step_of_one_player_leaves_the_other_bit_identical():
    config = _config(network="dcgan")
    state = _init(config)
    real = jnp.ones((8, *SPEC.shape)) / 2
    critic_step = jax.jit(wgan.critic_step, static_argnums=0)
    after_critic, _ = critic_step(config, state, real, -real, None, jax.random.key(0))
    chex.assert_trees_all_equal(after_critic.generator, state.generator)
    generator_step = jax.jit(wgan.generator_step, static_argnums=0)
    after_generator, _ = generator_step(config, state, jnp.ones((8, 8)), None)
    chex.assert_trees_all_equal(after_generator.discriminator, state.discriminator)


def test_clipping_bounds_every_weight_of_the_critic():
    config = _config(wgan.WganConfig)
    state, _ = STEP(config, _init(config), _batch(), jax.random.key(0))
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(state.discriminator.params))
    assert largest == np.float32(0.01)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(state.generator.params)) > 0.01


def test_the_loss_is_the_distance_and_the_penalty():
    config = _config()
    _, metrics = STEP(config, _init(config), _batch(), jax.random.key(0))
    expected = -metrics["wasserstein_estimate"] + 10 * metrics["gradient_penalty"]
    np.testing.assert_allclose(metrics["d_loss"], expected, rtol=1e-5)
    assert metrics["input_grad_norm"] > 0


@pytest.mark.parametrize("kind", [wgan.WganConfig, wgan.WganGpConfig])
def test_a_trained_critic_measures_the_distance_of_a_shift(kind):
    """Between a batch and the same moved by t, the Wasserstein distance is |t|.

    A critic of slope s there has the loss of WGAN-GP -s |t| + lambda (s - 1)^2, so the best s is
    1 + |t| / (2 lambda): 1.25 for |t| = 5 and lambda = 10.
    """
    config = _config(kind)
    config = dataclasses.replace(
        config, critic=dataclasses.replace(config.critic, learning_rate=2e-3)
    )
    spec = ImageSpec(1, 2, 1)
    real = jax.random.normal(jax.random.key(1), (64, 1, 2, 1))
    fake = real + jnp.array([3.0, 4.0]).reshape(1, 1, 2, 1)

    @jax.jit
    def train(state):
        def one(state, key):
            return wgan.critic_step(config, state, real, fake, None, key)

        return jax.lax.scan(one, state, jax.random.split(jax.random.key(2), 1500))

    _, metrics = train(_init(config, spec))
    if kind is wgan.WganGpConfig:
        np.testing.assert_allclose(np.mean(metrics["wasserstein_estimate"][-100:]), 6.25, rtol=0.01)
        np.testing.assert_allclose(np.mean(metrics["input_grad_norm"][-100:]), 1.25, rtol=0.01)
    else:  # clipped weights give a multiple of the distance: this many layers, a small one
        assert 0 < np.mean(metrics["wasserstein_estimate"][-100:]) < 1


def test_the_critic_treats_each_image_alone():
    for network in ("mlp", "dcgan", "resnet"):
        config = _config(network=network)
        state = _init(config)
        _, critic = wgan.networks(config, SPEC)
        assert not state.discriminator.stats
        images = jax.random.normal(jax.random.key(1), (4, *SPEC.shape))
        value = jax.jit(
            lambda x, c=critic, s=state: c.apply(s.discriminator.variables, x, None, True)
        )
        together, apart = value(images), jnp.concatenate([value(x[None]) for x in images])
        np.testing.assert_allclose(together, apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "widths"), [(16, [64] * 2), (28, [64] * 2), (32, [64] * 3), (64, [64, 128, 256, 512])]
)
def test_resnets_are_the_papers(size, widths):
    spec = ImageSpec(size, size, 3)
    config = wgan.WganGpConfig(network="resnet")
    generator, critic = wgan.networks(config, spec)
    g, d = (
        jax.eval_shape(
            functools.partial(network.init, labels=None, train=True),
            jax.random.key(0),
            jnp.zeros((2, *shape)),
        )["params"]
        for network, shape in ((generator, (128,)), (critic, spec.shape))
    )
    assert [g[f"up_{i}"]["conv_1"]["kernel"].shape[3] for i in range(len(widths))] == widths[::-1]
    blocks = [d[f"block_{i}"]["conv_1"]["kernel"].shape[3] for i in range(4)]
    assert blocks == ([64] * 4 if size <= 32 else [128, 256, 512, 512])
    assert ("norm_1" in d["block_0"]) == (size > 32)
    assert "norm_0" not in d["block_0"] or size > 32


@pytest.mark.parametrize(
    "network", ["mlp", "dcgan", pytest.param("resnet", marks=pytest.mark.slow)]
)
def test_labels_and_the_moving_average_work_with_each_network(network):
    config = _config(network=network, conditional=True, ema_decay=0.9)
    state, metrics = STEP(config, _init(config), _batch(), jax.random.key(0))
    chex.assert_tree_all_finite((state, metrics))
    sample = jax.jit(wgan.sample, static_argnums=0)
    images = sample(config, state, jax.random.key(0), jnp.arange(4))
    chex.assert_shape(images, (4, *SPEC.shape))
    other = dataclasses.replace(state, ema=jax.tree.map(jnp.zeros_like, state.ema))
    assert not np.array_equal(images, sample(config, other, jax.random.key(0), jnp.arange(4)))
    with pytest.raises(UsageError, match="conditional"):
        wgan.init(config, jax.random.key(0), ImageSpec(16, 16, 1))


def test_defaults_are_the_papers():
    config = wgan.WganConfig()
    assert (config.n_critic, config.weight_clip) == (5, 0.01)
    assert config.critic.learning_rate == config.generator.learning_rate == 5e-5
    config = wgan.WganGpConfig()
    assert (config.n_critic, config.gradient_penalty_weight) == (5, 10.0)
    for player in (config.critic, config.generator):
        assert (player.learning_rate, player.beta1, player.beta2) == (1e-4, 0.0, 0.9)


@pytest.mark.parametrize("kind", [wgan.WganConfig, wgan.WganGpConfig])
def test_both_players_meet_at_augmented_images(kind, monkeypatch):
    """Where an augmentation takes all away, no distance is left, and G learns nothing."""
    monkeypatch.setattr(augment, "diff_augment", lambda key, images: 0 * images)
    config = _config(kind, n_critic=1, network="dcgan", augment="diff")
    _, metrics = STEP(config, _init(config), _batch(), jax.random.key(0))
    assert metrics["wasserstein_estimate"] == 0
    assert metrics["g_grad_norm"].value == 0
