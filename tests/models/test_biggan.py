import dataclasses
import functools
import json
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.models import biggan
from genjax.models.biggan import BigganConfig, PlayerConfig
from genjax.nn import augment
from genjax.steps.augment import ADAPT_INTERVAL
from genjax.types import Batch, ImageSpec, UsageError
from tests.states import drawn_state

KEY = jax.random.key(0)
SPEC = ImageSpec(8, 8, 1, 10)
PLAYER = PlayerConfig(features=8, attention_resolutions=(8,), learning_rate=1e-3, beta1=0.0)
SMALL = BigganConfig(latent_size=12, shared_size=8, generator=PLAYER, discriminator=PLAYER)


@functools.cache
def _state(config=SMALL, spec=SPEC):
    return drawn_state(biggan.init, config, spec)


def _batch(n=8, spec=SPEC):
    rng = np.random.default_rng(0)
    return Batch(rng.integers(0, 256, (n, *spec.shape), np.uint8), np.arange(n) % 10)


def _count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("size", "latents", "attention"),
    [
        (128, 120, 64),
        pytest.param(256, 140, 64, marks=pytest.mark.slow),
        (256, 140, 128),
        pytest.param(512, 128, 64, marks=pytest.mark.slow),
    ],
)
def test_the_papers_sizes_have_the_references_parameters(shared, size, latents, attention):
    """The numbers are those of the authors' PyTorch code, whose discriminator has no size 512."""
    counts = json.loads((shared / "reference/param_counts.json").read_text())["counts"]
    expected = counts[f"biggan_{size}_attn{attention}"]
    player = PlayerConfig(features=96, attention_resolutions=(attention,))
    config = BigganConfig(latent_size=latents, generator=player, discriminator=player)
    spec = ImageSpec(size, size, 3, 1000)
    state = jax.eval_shape(lambda key: biggan.init(config, key, spec), KEY)
    assert _count(state.generator.params) == expected["G_params"]
    if size < 512:
        assert _count(state.discriminator.params) == expected["D_params"]


def test_biggan_deep_has_the_papers_parameters():
    """G has 50.4M and D 34.6M at 128x128 with ch = 128 (Brock et al. 2019, appendix B)."""
    player = PlayerConfig(features=128)
    config = BigganConfig(latent_size=128, deep=True, generator=player, discriminator=player)
    spec = ImageSpec(128, 128, 3, 1000)
    state = jax.eval_shape(lambda key: biggan.init(config, key, spec), KEY)
    assert _count(state.generator.params) / 1e6 == pytest.approx(50.4, abs=0.2)
    assert _count(state.discriminator.params) / 1e6 == pytest.approx(34.6, abs=0.05)


@pytest.mark.parametrize(
    ("changes", "spec"),
    [
        pytest.param({}, ImageSpec(28, 28, 1, 10), marks=pytest.mark.slow),
        pytest.param({"deep": True}, ImageSpec(8, 16, 3, 4), marks=pytest.mark.exhaustive),
        pytest.param({"shared_size": 0}, SPEC, marks=pytest.mark.exhaustive),
        pytest.param(
            {"conditional": False, "hierarchical": False},
            ImageSpec(8, 16, 3),
            marks=pytest.mark.slow,
        ),
        pytest.param({"dtype": "bfloat16"}, SPEC, marks=pytest.mark.exhaustive),
    ],
    ids=str,
)
def test_every_kind_trains_and_draws(changes, spec):
    """The kinds include SAGAN and SNGAN, which leave parts out."""
    config = dataclasses.replace(SMALL, discriminator_steps=1, **changes)
    before = _state(config, spec)
    state, metrics = jax.jit(biggan.step, static_argnums=0)(config, before, _batch(4, spec), KEY)
    chex.assert_tree_all_finite((state, metrics))
    for player in ("generator", "discriminator"):
        moved = jax.tree.map(
            lambda a, b: bool(jnp.any(a != b)),
            getattr(before, player).params,
            getattr(state, player).params,
        )
        for path, has_moved in jax.tree_util.tree_flatten_with_path(moved)[0]:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            # Attention begins at gamma = 0, where only G's orthogonal penalty sees its kernels; the
            # hinge weighs real and generated images alike.
            may_stay = player == "discriminator" and (
                ("attention" in name and "kernel" in name) or name == "linear/bias"
            )
            assert has_moved or may_stay, f"{player}/{name}"
    images = jax.jit(biggan.sample, static_argnums=0)(config, state, KEY, jnp.arange(3))
    chex.assert_shape(images, (3, *spec.shape))
    chex.assert_type(images, jnp.float32)


def test_one_players_step_leaves_the_other_bit_identical():
    state, real = _state(), jnp.zeros((4, *SPEC.shape))
    z, labels = jax.random.normal(KEY, (4, 12)), jnp.arange(4)
    run = jax.jit(biggan.discriminator_step, static_argnums=0)
    after, metrics = run(SMALL, state, real, z, labels)
    chex.assert_trees_all_equal(after.generator, state.generator)
    assert metrics["d_max_singular_value"] > 0
    after, metrics = jax.jit(biggan.generator_step, static_argnums=0)(SMALL, state, z, labels)
    chex.assert_trees_all_equal(after.discriminator, state.discriminator)
    assert metrics["g_max_singular_value"] > 0
    # Passes in training update spectral vectors and statistics.
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), after.generator, state.generator)
    assert all(jax.tree.leaves(moved.stats))
    vectors = jax.tree_util.tree_flatten_with_path(moved.spectral)[0]
    assert all(has_moved for path, has_moved in vectors if path[-1].key == "u")


def test_the_generator_waits_for_its_turn():
    step = jax.jit(biggan.step, static_argnums=0)
    first, metrics = step(SMALL, _state(), _batch(), KEY)
    assert not metrics["g_loss"].mask
    chex.assert_trees_all_equal(first.generator, _state().generator)
    second, metrics = step(SMALL, first, _batch(), KEY)
    assert metrics["g_loss"].mask and metrics["g_max_singular_value"].value > 0
    assert not np.array_equal(
        second.generator.params["linear"]["kernel"], first.generator.params["linear"]["kernel"]
    )


def test_accumulated_gradients_are_those_of_the_whole_batch():
    """Nothing differs where there are no statistics of batch norm and no power iteration."""
    player = dataclasses.replace(PLAYER, spectral_norm=False)
    config = dataclasses.replace(SMALL, generator=player, discriminator=player)
    state, real = _state(config), jnp.asarray(_batch().images / 127.5 - 1, jnp.float32)
    z, labels = jnp.zeros((8, 12)), jnp.zeros(8, jnp.int32)  # all fakes are one
    run = jax.jit(biggan.discriminator_step, static_argnums=0)
    whole, one = run(config, state, real, z, labels)
    parts, four = run(
        dataclasses.replace(config, gradient_accumulation_steps=4), state, real, z, labels
    )
    names = [name for name in one if name != "diversity"]  # of a part, not of the batch
    chex.assert_trees_all_close({n: one[n] for n in names}, {n: four[n] for n in names}, rtol=1e-4)
    moments = [s.discriminator.opt_state[0].mu for s in (whole, parts)]
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(moments[0]))
    chex.assert_trees_all_close(*moments, rtol=0, atol=1e-5 * largest)
    with pytest.raises(
        UsageError, match="gradient_accumulation_steps = 3: should divide the 8 images"
    ):
        biggan.step(
            dataclasses.replace(config, gradient_accumulation_steps=3), state, _batch(), KEY
        )


def test_standing_statistics_are_those_of_truncated_noise():
    """Truncated samples then have at each layer the mean that batch norm expects."""
    state = _state()
    prepare = jax.jit(functools.partial(biggan.prepare, SMALL))
    wide, narrow = prepare(state, KEY), prepare(state, KEY, 0.1)
    chex.assert_trees_all_equal_structs(wide, state)
    chex.assert_trees_all_equal(wide.ema["params"], state.ema["params"])
    generator, _ = biggan.networks(SMALL, SPEC)
    z = biggan.draw(SMALL, jax.random.key(7), 1000, 0.1)
    labels = jax.random.randint(KEY, (1000,), 0, 10)
    _, updated = jax.jit(
        lambda variables: generator.apply(
            variables, z, labels, True, mutable=["batch_stats", "spectral"]
        )
    )(state.ema)
    fresh = jax.tree.map(
        lambda new, old: (new - 0.9 * old) / 0.1, updated["batch_stats"], state.ema["batch_stats"]
    )
    close, far = (
        sum(
            float(jnp.abs(a - b).mean())
            for a, b in zip(*map(jax.tree.leaves, (s.ema["batch_stats"], fresh)), strict=True)
        )
        for s in (narrow, wide)
    )
    assert close < 0.3 * far


def test_truncation_narrows_the_noise_and_the_samples():
    z = biggan.draw(SMALL, KEY, 1000, 0.5)
    assert 0.45 < jnp.abs(z).max() <= 0.5
    # The variance of a normal distribution that is cut at 0.5 is 0.0802.
    assert jnp.var(z) == pytest.approx(0.0802, rel=0.05)
    state = _state()

    @functools.partial(jax.jit, static_argnums=0)
    def spread(truncation):
        prepared = biggan.prepare(SMALL, state, KEY)
        labels = jnp.zeros(64, jnp.int32)
        images = biggan.sample(SMALL, prepared, KEY, labels, truncation)
        return jnp.std(images, axis=0).mean()

    assert spread(0.1) < 0.5 * spread(None)


def test_the_class_changes_the_image_and_the_judgement():
    state = _state()
    decode = jax.jit(biggan.decode, static_argnums=0)
    images = decode(SMALL, state, jnp.ones((2, 12)), jnp.array([0, 1]))
    assert not np.allclose(images[0], images[1], atol=1e-3)
    _, discriminator = biggan.networks(SMALL, SPEC)
    judge = jax.jit(functools.partial(discriminator.apply, train=False))
    logits = judge(state.discriminator.variables, jnp.ones((2, *SPEC.shape)), jnp.array([0, 1]))
    assert logits[0] != logits[1]


def test_the_average_follows_the_generator_until_it_starts():
    config = dataclasses.replace(SMALL, discriminator_steps=1, ema_decay=0.9, ema_start=2)
    step, state = jax.jit(biggan.step, static_argnums=0), _state(config)
    for step_index in range(4):
        state, _ = step(config, state, _batch(), KEY)
        same = np.array_equal(
            state.ema["params"]["linear"]["kernel"], state.generator.params["linear"]["kernel"]
        )
        assert same == (step_index < 2)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="latent_size = 13: should be a multiple of 3"):
        biggan.init(dataclasses.replace(SMALL, latent_size=13), KEY, ImageSpec(16, 16, 1, 10))
    with pytest.raises(UsageError, match="images of 20x18"):
        biggan.init(SMALL, KEY, ImageSpec(20, 18, 1))


def test_both_players_meet_at_augmented_images(monkeypatch):
    """Where an augmentation takes all away, D cannot tell images apart and G learns nothing."""
    monkeypatch.setattr(augment, "diff_augment", lambda key, images: 0 * images)
    config = dataclasses.replace(
        SMALL, discriminator_steps=1, orthogonal_weight=0.0, augment="diff"
    )
    state = _state(config)
    _, metrics = jax.jit(biggan.step, static_argnums=0)(config, state, _batch(4), KEY)
    assert metrics["logit_gap"] == 0
    assert metrics["g_grad_norm"].value == 0


@pytest.mark.slow
def test_an_adapted_augmentation_follows_the_discriminator():
    config = dataclasses.replace(
        SMALL, discriminator_steps=1, augment="ada", augment_p=0.5, ada_images=1000
    )
    config = dataclasses.replace(config, augment_operations=("cutout",))
    state = dataclasses.replace(_state(config), step=jnp.array(ADAPT_INTERVAL - 1))
    after, metrics = jax.jit(biggan.step, static_argnums=0)(config, state, _batch(), KEY)
    change = ADAPT_INTERVAL * 8 / 1000
    assert metrics["augment_p"] == after.augment_p
    assert abs(after.augment_p - 0.5) == pytest.approx(change, abs=1e-6)
    assert after.real_sign == 0 != metrics["real_sign"]
