import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.models import dcgan
from genjax.nn import augment
from genjax.nn.resolution import base_resolution
from genjax.steps.state import GanState
from genjax.types import Batch, ImageSpec, UsageError
from tests.states import drawn_state

SPEC = ImageSpec(16, 16, 1, 3)
SMALL = dcgan.PlayerConfig(features=4)


def _config(**fields):
    return dcgan.DcganConfig(latent_size=8, generator=SMALL, discriminator=SMALL, **fields)


def _batch(count=8, spec=SPEC):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *spec.shape), np.uint8)
    return Batch(images, (np.arange(count) % 3).astype(np.int32))


STEP = jax.jit(dcgan.step, static_argnums=0)


def _init(config, spec):
    return jax.jit(dcgan.init, static_argnums=(0, 2))(config, jax.random.key(0), spec)


@functools.cache
def _stepped(config):
    state = _init(config, SPEC)
    return state, *STEP(config, state, _batch(), jax.random.key(1))


@pytest.mark.parametrize(
    ("size", "halvings", "base"),
    [(16, 2, 4), (28, 2, 7), (32, 3, 4), (64, 4, 4), (128, 5, 4)],
)
def test_sizes_of_the_papers_kind(size, halvings, base):
    spec = ImageSpec(size, size, 3)
    assert base_resolution(spec) == (halvings, (base, base))
    generator, discriminator = dcgan.networks(_config(), spec)
    z, images = jnp.zeros((2, 8)), jnp.zeros((2, *spec.shape))
    for network, x, output in (
        (generator, z, (2, *spec.shape)),
        (discriminator, images, (2,)),
    ):
        init = functools.partial(network.init, labels=None, train=False)
        variables = jax.eval_shape(init, jax.random.key(0), x)
        apply = functools.partial(network.apply, labels=None, train=False)
        assert jax.eval_shape(apply, variables, x).shape == output
        # Batch norm is on neither the output of G nor the input of D.
        norms = {name for name in variables["params"] if name.startswith("norm")}
        first = 0 if network is generator else 1
        assert norms == {f"norm_{i}" for i in range(first, halvings)}


@pytest.mark.parametrize("size", [(30, 30), (6, 10), (7, 7), (36, 36)])
def test_sizes_that_do_not_halve_are_refused(size):
    with pytest.raises(UsageError, match=f"{size[0]}x{size[1]}"):
        base_resolution(ImageSpec(*size, 1))


def test_initial_weights_are_the_papers():
    spec = ImageSpec(32, 32, 3)
    state = _init(dcgan.DcganConfig(), spec)
    for params in (state.generator.params, state.discriminator.params):
        for layer in params.values():
            assert "kernel" not in layer or abs(np.std(layer["kernel"]) - 0.02) < 2e-3
            if "scale" in layer:
                assert abs(np.mean(layer["scale"]) - 1) < 0.01
                np.testing.assert_array_equal(layer["bias"], 0)


def test_a_step_of_one_player_leaves_the_other_bit_identical():
    """Batch norm's statistics are included: G's step passes through D, and does not move them."""
    config = _config()
    state, _, _ = _stepped(config)
    real = jax.random.uniform(jax.random.key(0), (8, *SPEC.shape))
    d_step = jax.jit(dcgan.discriminator_step, static_argnums=0)
    after_d, _ = d_step(config, state, real, -real, None, jax.random.key(0))
    chex.assert_trees_all_equal(after_d.generator, state.generator)
    z = jax.random.normal(jax.random.key(0), (8, 8))
    after_g, _ = jax.jit(dcgan.generator_step, static_argnums=0)(config, state, z, None)
    chex.assert_trees_all_equal(after_g.discriminator, state.discriminator)
    for before, after in (
        (state.discriminator, after_d.discriminator),
        (state.generator, after_g.generator),
    ):
        for a, b in zip(
            jax.tree.leaves(before.variables), jax.tree.leaves(after.variables), strict=True
        ):
            assert not np.array_equal(a, b)


def test_real_and_fake_are_normalized_apart():
    """D's logits of the real images do not depend on the fakes, as they would in one batch."""
    config = _config()
    state, _, _ = _stepped(config)
    real = 0.5 * jax.random.normal(jax.random.key(2), (8, *SPEC.shape))
    step = jax.jit(
        lambda fake: dcgan.discriminator_step(config, state, real, fake, None, jax.random.key(0))[1]
    )
    one, other = step(real / 2), step(jnp.ones_like(real) * real[:1])
    assert one["d_real"] == other["d_real"]
    assert one["d_fake"] != other["d_fake"]


def test_the_moving_average_lags_and_is_what_is_sampled():
    config = _config(ema_decay=0.999)
    state, after, _ = _stepped(config)
    # The first update of the average gives its old value a weight of 1 / 10.
    expected = jax.tree.map(
        lambda old, new: 0.1 * old + 0.9 * new, state.ema, after.generator.variables
    )
    chex.assert_trees_all_close(after.ema, expected, rtol=1e-5, atol=1e-7)
    generator, _ = dcgan.networks(config, SPEC)
    z = jax.random.normal(jax.random.key(3), (4, 8))
    expected = jax.jit(lambda z: generator.apply(after.ema, z, None, train=False))(z)
    samples = jax.jit(dcgan.sample, static_argnums=0)(
        config, after, jax.random.key(3), jnp.arange(4)
    )
    np.testing.assert_allclose(samples, expected, rtol=1e-6, atol=1e-7)


def test_labels_reach_both_players():
    config = _config(conditional=True)
    state, _, metrics = _stepped(config)
    assert state.generator.params["project"]["kernel"].shape[0] == 8 + 3
    assert state.discriminator.params["down_0"]["kernel"].shape[2] == 1 + 3
    batch = _batch()
    _, other = STEP(config, state, batch._replace(labels=batch.labels[::-1]), jax.random.key(1))
    assert metrics["d_loss"] != other["d_loss"]
    with pytest.raises(UsageError, match="conditional"):
        dcgan.init(config, jax.random.key(0), ImageSpec(16, 16, 1))


def test_dragan_adds_its_penalty():
    _, _, plain = _stepped(_config())
    _, _, metrics = _stepped(_config(dragan_weight=10.0))
    assert metrics["dragan_penalty"] > 0
    np.testing.assert_allclose(metrics["d_loss"], plain["d_loss"], rtol=1e-5)
    assert metrics["d_grad_norm"] != plain["d_grad_norm"]


def test_least_squares_is_an_option():
    _, _, metrics = _stepped(_config(loss="least_squares"))
    # Initial logits are near 0, where D's loss is 1 and G's is 0.
    np.testing.assert_allclose(metrics["d_loss"], 1, atol=0.2)
    np.testing.assert_allclose(metrics["g_loss"], 0, atol=0.2)


def test_bfloat16_computes_close_to_float32_and_keeps_float32_state():
    _, after, metrics = _stepped(_config(dtype="bfloat16"))
    _, _, expected = _stepped(_config())
    np.testing.assert_allclose(metrics["d_loss"], expected["d_loss"], rtol=0.05)
    leaves = jax.tree.leaves((after.generator.variables, after.discriminator.variables))
    chex.assert_type(leaves, jnp.float32)


def test_both_players_meet_at_augmented_images(monkeypatch):
    """Where an augmentation takes all away, D cannot tell images apart and G learns nothing."""
    monkeypatch.setattr(augment, "diff_augment", lambda key, images: 0 * images)
    config = _config(augment="diff")
    state = drawn_state(dcgan.init, config, SPEC)
    _, metrics = STEP(config, state, _batch(), jax.random.key(0))
    assert metrics["d_real"] == metrics["d_fake"]
    assert metrics["g_grad_norm"] == 0


def test_only_a_probability_of_augmentations_is_part_of_the_state():
    for fields in ({"augment": "ada"}, {"augment": "fixed", "augment_p": 0.3}):
        state = _init(_config(**fields), SPEC)
        assert state.augment_p == np.float32(fields.get("augment_p", 0))
        assert state.real_sign == 0
    for name in ("none", "diff"):
        assert type(_init(_config(augment=name), SPEC)) is GanState


def test_both_players_see_images_augmented_with_the_probability():
    """Cutouts of everything, of every image, leave nothing to tell apart."""
    config = _config(augment="fixed", augment_p=1.0, augment_operations=("cutout",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augment, "CUTOUT", 4.0)
        state = drawn_state(dcgan.init, config, SPEC)
        _, metrics = STEP(config, state, _batch(), jax.random.key(0))
    assert metrics["d_real"] == metrics["d_fake"]
    assert metrics["g_grad_norm"] == 0
