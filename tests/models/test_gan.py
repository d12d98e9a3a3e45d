import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.models import gan
from genjax.types import Batch, ImageSpec, UsageError

SPEC = ImageSpec(8, 8, 1)
CONFIG = gan.GanConfig()


def _round(config=CONFIG):
    state = gan.init(config, jax.random.key(0), SPEC)
    real = jax.random.uniform(jax.random.key(1), (16, *SPEC.shape), minval=-1)
    z = jax.random.normal(jax.random.key(2), (16, config.latent_size))
    return state, real, z


def test_the_networks_are_those_of_the_exercise():
    """G is 64 -> 256 -> 784, tanh, and D 784 -> 128 -> 1, with LeakyReLU(0.01), here in NumPy."""
    spec = ImageSpec(28, 28, 1)
    state = gan.init(CONFIG, jax.random.key(0), spec)
    g, d = (
        jax.tree.map(lambda x: np.asarray(x, np.float64) + 0.01, player.params)
        for player in (state.generator, state.discriminator)
    )
    assert g["hidden_0"]["kernel"].shape == (64, 256)
    assert g["output"]["kernel"].shape == (256, 784)
    assert d["hidden_0"]["kernel"].shape == (784, 128)
    assert d["output"]["kernel"].shape == (128, 1)

    def dense(layer, x):
        return x @ layer["kernel"] + layer["bias"]

    def leaky(x):
        return np.where(x > 0, x, 0.01 * x)

    z = np.random.default_rng(0).normal(size=(3, 64))
    images = np.tanh(dense(g["output"], leaky(dense(g["hidden_0"], z)))).reshape(3, 28, 28, 1)
    logits = dense(d["output"], leaky(dense(d["hidden_0"], images.reshape(3, -1))))[:, 0]
    generator, discriminator = gan.networks(CONFIG, spec)
    as_float32 = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (g, d))
    ours = gan.apply(generator, as_float32[0], jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(ours, images, atol=1e-5)
    np.testing.assert_allclose(gan.apply(discriminator, as_float32[1], ours), logits, rtol=1e-4)


def test_a_step_of_one_player_leaves_the_other_bit_identical():
    state, real, z = _round()
    fake = gan.sample(CONFIG, state, jax.random.key(0), jnp.zeros(16, jnp.int32))
    after_d, _ = gan.discriminator_step(CONFIG, state, real, fake)
    chex.assert_trees_all_equal(after_d.generator, state.generator)
    after_g, _ = gan.generator_step(CONFIG, state, z)
    chex.assert_trees_all_equal(after_g.discriminator, state.discriminator)
    for before, after in (
        (state.discriminator, after_d.discriminator),
        (state.generator, after_g.generator),
    ):
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            assert not np.array_equal(a, b)


def test_the_generator_plays_against_the_updated_discriminator():
    state, real, z = _round()
    fake = gan.apply(gan.networks(CONFIG, SPEC)[0], state.generator.params, z)
    after_d, _ = gan.discriminator_step(CONFIG, state, real, fake)
    _, expected = gan.generator_step(CONFIG, after_d, z)
    _, against_old = gan.generator_step(CONFIG, state, z)
    _, metrics = gan.update_players(CONFIG, state, real, z)
    np.testing.assert_allclose(metrics["g_loss"], expected["g_loss"], rtol=1e-6)
    assert abs(float(metrics["g_loss"] - against_old["g_loss"])) > 1e-4


def test_saturating_loss_is_an_option():
    config = gan.GanConfig(loss="saturating")
    state, real, z = _round(config)
    _, metrics = gan.update_players(config, state, real, z)
    assert metrics["g_loss"] < 0


def test_pixels_reach_the_game_as_minus_one_to_one(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        gan, "update_players", lambda config, state, real, z, key: seen.update(real=real, z=z)
    )
    images = np.zeros((2, *SPEC.shape), np.uint8)
    images[0], images[1] = 0, 255
    state = gan.init(CONFIG, jax.random.key(0), SPEC)
    gan.step(CONFIG, state, Batch(images, np.zeros(2, np.int32)), jax.random.key(0))
    assert np.all(seen["real"][0] == -1)
    assert np.all(seen["real"][1] == 1)
    chex.assert_shape(seen["z"], (2, 64))


def test_bfloat16_computes_close_to_float32_and_keeps_float32_parameters():
    config = gan.GanConfig(dtype="bfloat16")
    state, real, z = _round(config)
    new_state, metrics = gan.update_players(config, state, real, z)
    _, expected = gan.update_players(CONFIG, state, real, z)
    chex.assert_trees_all_close(metrics["d_loss"], expected["d_loss"], rtol=0.02)
    assert {x.dtype for x in jax.tree.leaves(new_state.generator.params)} == {jnp.dtype("float32")}
    chex.assert_type(list(metrics.values()), jnp.float32)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"latent_size": 0}, "latent_size"),
        ({"loss": "wasserstein"}, "loss"),
        ({"dtype": "float16"}, "dtype"),
        ({"generator": {"learning_rate": -1.0}}, "learning_rate"),
        ({"generator": {"hidden": 1}}, "hidden"),
        ({"discriminator": {"beta1": 1.0}}, "beta1"),
        ({"discriminator": {"epsilon": float("nan")}}, "epsilon"),
    ],
)
def test_a_bad_config_is_refused_by_name(fields, name):
    with pytest.raises(UsageError, match=name):
        gan.GanConfig(**fields)


def test_images_of_another_shape_are_refused():
    state, real, z = _round()
    with pytest.raises(AssertionError):
        gan.update_players(CONFIG, state, real[:, :4], z)
    with pytest.raises(AssertionError):
        gan.update_players(CONFIG, state, real, z[:, :3])
