import dataclasses
import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.models import stylegan2
from genjax.models.stylegan2 import PlayerConfig, Stylegan2Config
from genjax.steps.augment import adapt
from genjax.types import Batch, ImageSpec, UsageError
from tests.states import drawn_state

SPEC = ImageSpec(8, 8, 1, 10)
PLAYER = PlayerConfig(channel_base=128, channel_max=16, mapping_layers=2)
SMALL = Stylegan2Config(latent_size=8, style_size=8, generator=PLAYER, discriminator=PLAYER)
# A config without the parts that make a step slow to compile.
PLAIN = dataclasses.replace(SMALL, r1_gamma=0.0, path_length_weight=0.0, style_mixing_prob=0.0)
KEY = jax.random.key(0)
DECODE = jax.jit(stylegan2.decode, static_argnums=0)


def _init(config=SMALL, spec=SPEC):
    return drawn_state(stylegan2.init, config, spec)


def _batch(spec=SPEC, n=8):
    images = np.random.default_rng(0).integers(0, 256, (n, *spec.shape), np.uint8)
    return Batch(images, np.arange(n, dtype=np.int32) % 10)


def _parameters(config, spec):
    state = jax.eval_shape(lambda: stylegan2.init(config, KEY, spec))
    return [
        sum(leaf.size for leaf in jax.tree.leaves(player.params))
        for player in (state.generator, state.discriminator)
    ]


@pytest.mark.parametrize(
    ("name", "size", "base", "classes"),
    [
        ("stylegan2_256_paper256", 256, 16384, 0),
        ("stylegan2_1024_paper1024", 1024, 32768, 0),
        ("stylegan2_256_c10", 256, 16384, 10),
    ],
)
def test_parameters_are_as_many_as_the_references(shared, name, size, base, classes):
    expected = json.loads((shared / "reference/param_counts.json").read_text())["counts"][name]
    player = PlayerConfig(channel_base=base)
    config = Stylegan2Config(
        conditional=classes > 0,
        generator=dataclasses.replace(player, architecture="skip"),
        discriminator=player,
    )
    found = _parameters(config, ImageSpec(size, size, 3, classes))
    assert found == [expected["G_params"], expected["D_params"]]


@pytest.mark.parametrize(
    "architecture",
    [
        "residual",
        *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("original", "skip")),
    ],
)
@pytest.mark.parametrize(
    "spec",
    [ImageSpec(8, 16, 3), pytest.param(ImageSpec(28, 28, 1), marks=pytest.mark.exhaustive)],
    ids=str,
)
def test_every_pair_of_networks_trains(architecture, spec):
    """A step of figure 7's pairs, for square and other images, is finite, moves both players."""
    player = dataclasses.replace(PLAYER, architecture=architecture)
    config = dataclasses.replace(PLAIN, generator=player, discriminator=player)
    state = _init(config, spec)
    step = jax.jit(functools.partial(stylegan2.step, config))
    new, metrics = step(state, _batch(spec, 4), KEY)
    chex.assert_tree_all_finite((new, metrics))
    for before, after in (
        (state.generator, new.generator),
        (state.discriminator, new.discriminator),
    ):
        for old, value in zip(
            jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True
        ):
            assert not np.array_equal(old, value)


def test_lazy_penalties_have_their_turns_and_their_adam():
    """Metrics say when a penalty was due; Adam's step size and decays follow appendix B."""
    config = dataclasses.replace(
        SMALL, r1_interval=3, path_length_interval=2, style_mixing_prob=0.0
    )
    state, step = _init(config), jax.jit(functools.partial(stylegan2.step, config))
    due = []
    for i in range(6):
        state, metrics = step(state, _batch(), jax.random.fold_in(KEY, i))
        due.append((bool(metrics["r1_penalty"].mask), bool(metrics["path_length"].mask)))
    assert due == [(i % 3 == 0, i % 2 == 0) for i in range(6)]
    # Adam takes as many steps as the training, and those of the penalties.
    counts = [player.opt_state[0].count for player in (state.generator, state.discriminator)]
    assert list(map(int, counts)) == [6 + 3, 6 + 2]
    lazy = stylegan2._lazy(PlayerConfig(learning_rate=0.002, beta1=0.1, beta2=0.99), 4)
    assert lazy.learning_rate == pytest.approx(0.002 * 4 / 5)
    assert (lazy.beta1, lazy.beta2) == pytest.approx((0.1 ** (4 / 5), 0.99 ** (4 / 5)))


def test_rate_and_momentum_of_the_mapping_are_options():
    """Weights that learn ten times faster are ten times smaller in the file, and give the same."""
    state, z = _init(), jax.random.normal(KEY, (3, 8))
    variables = state.generator.variables
    faster = dataclasses.replace(SMALL, mapping_lr_multiplier=0.1, style_momentum=0.25)

    def style(config, variables):
        generator, _ = stylegan2.networks(config, SPEC)
        call = functools.partial(generator.apply, method="style", mutable=["batch_stats"])
        w, updated = call(variables, z, None, True)
        return w, updated["batch_stats"]["mapping"]["mean"]

    mapping = jax.tree_util.tree_map_with_path(
        lambda path, x: x / 10 if path[0].key.startswith("fc") else x,
        variables["params"]["mapping"],
    )
    smaller = {**variables, "params": {**variables["params"], "mapping": mapping}}
    (w, mean), (found, of_found) = style(SMALL, variables), style(faster, smaller)
    np.testing.assert_allclose(found, w, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(of_found * (1 - 0.995), mean * 0.75, rtol=1e-3, atol=1e-7)


@pytest.mark.slow
def test_the_mean_path_length_follows_at_its_decay():
    config = dataclasses.replace(SMALL, path_length_decay=1.0)
    step = jax.jit(stylegan2.path_length_step, static_argnums=(0, 4))
    state, metrics = step(config, _init(config), KEY, None, 2)
    np.testing.assert_allclose(state.path_length, metrics["path_length"], rtol=1e-6)
    assert state.path_length > 0


@pytest.mark.slow
def test_path_length_regularization_makes_lengths_alike():
    """Steps on path lengths alone lower the lengths' standard deviation over their mean."""
    config = dataclasses.replace(SMALL, style_mixing_prob=0.0, path_length_weight=20.0)
    state = _init(config)

    @jax.jit
    def lengths(state):
        ws = stylegan2.style(config, state, jax.random.normal(KEY, (64, 8)), jnp.zeros(64, int))
        noise = jax.random.normal(jax.random.key(1), (64, *SPEC.shape))
        found = stylegan2.path_lengths(
            lambda ws: stylegan2.synthesize_batch(config, state, state.generator.params, ws, KEY),
            ws,
            noise,
        )
        return jnp.std(found) / jnp.mean(found), jnp.mean(found)

    @jax.jit
    def run(state):
        def one(state, i):
            return stylegan2.path_length_step(config, state, jax.random.fold_in(KEY, i), None, 16)

        return jax.lax.scan(one, state, jnp.arange(200))

    state = dataclasses.replace(state, ema=None)
    before, mean = lengths(state)
    state = dataclasses.replace(state, path_length=mean)
    state, _ = run(state)
    after, _ = lengths(state)
    assert after < 0.7 * before
    assert state.path_length == pytest.approx(mean, rel=0.5)


def test_styles_are_mixed_from_a_random_layer_on():
    config = dataclasses.replace(SMALL, style_mixing_prob=0.5)
    state = _init(config)
    variables = state.generator.variables
    draw = jax.jit(functools.partial(stylegan2.mixed_styles, config), static_argnums=4)
    ws, _ = draw(state, variables, KEY, None, 400)
    changes = np.any(np.asarray(ws[:, 1:] != ws[:, :-1]), axis=2)
    assert set(changes.sum(axis=1)) == {0, 1}
    assert changes.any(axis=1).mean() == pytest.approx(0.5, abs=0.08)
    where = changes[changes.any(axis=1)].argmax(axis=1)
    assert set(where) == set(range(ws.shape[1] - 1))


def test_the_probability_follows_how_sure_the_discriminator_is():
    """It changes every fourth step in proportion to the images since then, and not below 0."""
    config = dataclasses.replace(
        PLAIN, augment="ada", augment_p=0.2, ada_images=400, augment_operations=("cutout",)
    )
    step = jax.jit(functools.partial(stylegan2.step, config))
    state, ps = _init(config), []
    for i in range(8):
        state, metrics = step(state, _batch(), jax.random.fold_in(KEY, i))
        ps.append(float(metrics["augment_p"]))
    change = 8 * 4 / 400
    assert ps[:3] == pytest.approx([0.2] * 3)
    assert abs(ps[3] - 0.2) == pytest.approx(change)
    assert ps[4:7] == [ps[3]] * 3 and abs(ps[7] - ps[3]) == pytest.approx(change)
    assert adapt(jnp.array(0.01), jnp.array(0.1), 0.6, 32, 400) == 0


def test_a_probability_without_augmentation_is_refused():
    with pytest.raises(UsageError, match=r"augment_p = 0\.2: should be 0 with augment = none"):
        Stylegan2Config(augment_p=0.2)
    with pytest.raises(UsageError, match="augment = fixed: should have an augment_p"):
        Stylegan2Config(augment="fixed")


def test_the_average_has_the_half_life():
    """The half-life, in images, rises to its final value; the mean style is not averaged."""
    config = dataclasses.replace(SMALL, ema_images=80, ema_rampup=0.5)
    state = _init(config)
    moved = jax.tree.map(lambda x: x + 1, state.generator.params)
    state = dataclasses.replace(state, generator=dataclasses.replace(state.generator, params=moved))
    for step, half_life in ((0, 4), (9, 40), (1000, 80)):
        at = dataclasses.replace(state, step=jnp.asarray(step))
        ema = stylegan2.average(config, at, 8)
        left = jax.tree.map(lambda new, old: float(jnp.mean(new - old)), moved, ema["params"])
        np.testing.assert_allclose(jax.tree.leaves(left), 0.5 ** (8 / half_life), rtol=1e-4)
        chex.assert_trees_all_equal(ema["batch_stats"], state.generator.stats)


def test_truncation_brings_styles_nearer_to_their_mean():
    state = _init()
    z, labels = jax.random.normal(KEY, (5, 8)), jnp.zeros(5, int)
    style = jax.jit(functools.partial(stylegan2.style, SMALL), static_argnums=4)
    full = style(state, z, labels)
    mean = state.ema["batch_stats"]["mapping"]["mean"]
    half = style(state, z, labels, 0.5, 2)
    mean = mean[None, None]
    np.testing.assert_allclose(half[:, :2] - mean, 0.5 * (full[:, :2] - mean), atol=1e-6)
    np.testing.assert_array_equal(half[:, 2:], full[:, 2:])
    sample = jax.jit(functools.partial(stylegan2.sample, SMALL))
    images = sample(state, KEY, labels, 0.0)
    assert np.std(images, axis=0).max() < np.std(sample(state, KEY, labels))


def test_a_class_counts_if_conditional():
    config = dataclasses.replace(SMALL, conditional=True)
    state = _init(config)
    z = jnp.repeat(jax.random.normal(KEY, (1, 8)), 3, axis=0)
    images = DECODE(config, state, z, jnp.array([0, 0, 1]))
    np.testing.assert_allclose(images[0], images[1], atol=1e-5)
    assert np.abs(images[0] - images[2]).max() > 1e-3
    _, discriminator = stylegan2.networks(config, SPEC)
    logits = jax.jit(discriminator.apply)(
        {"params": state.discriminator.params}, images[:1].repeat(2, 0), jnp.array([0, 1])
    )
    assert logits[0] != logits[1]
    with pytest.raises(UsageError, match="conditional = True"):
        stylegan2.init(config, KEY, ImageSpec(16, 16, 1))


@pytest.mark.slow
def test_bfloat16_is_near_float32():
    state = _init()
    z, labels = jax.random.normal(KEY, (4, 8)), jnp.zeros(4, int)
    half = dataclasses.replace(PLAIN, dtype="bfloat16")
    found, expected = (DECODE(c, state, z, labels) for c in (half, SMALL))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=0.15)
    assert np.mean(np.abs(found - expected)) < 0.02
    _, metrics = jax.jit(functools.partial(stylegan2.step, half))(state, _batch(), KEY)
    chex.assert_tree_all_finite(metrics)
