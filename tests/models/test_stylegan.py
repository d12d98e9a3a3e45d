import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.models import stylegan
from genjax.models.stylegan import PlayerConfig, StyleganConfig
from genjax.types import Batch, ImageSpec
from tests.states import drawn_state

SPEC = ImageSpec(16, 16, 1)
PLAYER = PlayerConfig(channel_base=64, channel_max=16)
CONFIG = StyleganConfig(
    latent_size=8,
    style_size=8,
    mapping_layers=2,
    fade_steps=4,
    stable_steps=6,
    generator=PLAYER,
    discriminator=PLAYER,
)
KEY = jax.random.key(0)
SAMPLE, STYLE = (jax.jit(f, static_argnums=0) for f in (stylegan.sample, stylegan.style))


def _init(config=CONFIG, spec=SPEC):
    return drawn_state(stylegan.init, config, spec)


def _batch(spec=SPEC):
    images = np.random.default_rng(0).integers(0, 256, (8, *spec.shape), np.uint8)
    return Batch(images, np.zeros(8, np.int32))


def test_stages_fade_in_and_stay():
    """A stage takes 6 steps, after 4 in which it fades in except at 4x4; the last one stays."""
    stages, fades = jax.vmap(lambda step: stylegan.stage_of(CONFIG, SPEC, step))(jnp.arange(40))
    np.testing.assert_array_equal(stages, [0] * 6 + [1] * 10 + [2] * 24)
    grown = [0.25, 0.5, 0.75, 1] + [1] * 6
    np.testing.assert_allclose(fades, [1] * 6 + grown * 2 + [1] * 14)


@pytest.mark.slow
def test_a_stage_trains_its_layers_alone():
    """Layers of later stages do not change at 4x4; the next stage takes over the state."""
    spec = ImageSpec(8, 8, 1)  # each stage is a program of its own to compile
    state, step = _init(spec=spec), jax.jit(functools.partial(stylegan.step, CONFIG))

    def changed(before, after):
        found = set()
        for name in ("generator", "discriminator"):
            one, two = (getattr(each, name).params for each in (before, after))
            for (path, old), new in zip(
                jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True
            ):
                layers = {str(part.key) for part in path}
                if not np.array_equal(old, new):
                    found |= layers
        return found

    first, metrics = step(state, _batch(spec), KEY)
    assert metrics["stage"] == 0
    assert {"conv1_0", "to_rgb_0", "from_rgb_0"} <= changed(state, first)
    assert not any(layer.endswith("_1") for layer in changed(state, first))
    at_one = dataclasses.replace(first, step=jnp.asarray(10))
    second, metrics = step(at_one, _batch(spec), KEY)
    assert metrics["stage"] == 1
    # The conv at 4x4 still trains, and the RGB layer of 4x4 is needed no more.
    assert {"conv1_0", "conv1_1", "to_rgb_1", "from_rgb_1"} <= changed(at_one, second)
    assert "to_rgb_0" not in changed(at_one, second)
    chex.assert_tree_all_finite(second)


def test_a_stage_begins_as_the_one_before():
    """While its new layers have hardly faded in, images and logits are the smaller stage's."""
    state = _init()
    generator, discriminator = stylegan.networks(CONFIG, SPEC)
    params = {"params": state.generator.params}
    ws = STYLE(CONFIG, state, jax.random.normal(KEY, (4, 8)), jnp.zeros(4, int))
    noise = stylegan.draw_noise(KEY, SPEC, 4)

    @functools.partial(jax.jit, static_argnums=0)
    def draw(stage, fade):
        return generator.apply(params, ws, noise, stage, fade, method="synthesize")

    small, large = draw(1, jnp.ones(())), draw(2, jnp.zeros(()))
    assert small.shape[1:3] == (8, 8)
    np.testing.assert_allclose(large, stylegan.upsample(small), atol=1e-6)

    @functools.partial(jax.jit, static_argnums=1)
    def discriminate(images, stage, fade):
        return discriminator.apply({"params": state.discriminator.params}, images, stage, fade)

    np.testing.assert_allclose(
        discriminate(large, 2, jnp.zeros(())), discriminate(small, 1, jnp.ones(())), atol=1e-5
    )


@pytest.mark.parametrize(("step", "size"), [(0, 4), (10, 8), (30, 16)])
def test_samples_are_of_the_stage(step, size):
    """Samples are enlarged from the size of the stage to that of the data."""
    state = dataclasses.replace(_init(), step=jnp.asarray(step))
    images = SAMPLE(CONFIG, state, KEY, jnp.zeros(3, int))
    chex.assert_shape(images, (3, 16, 16, 1))
    for blocks, is_flat in ((size, True), (size // 2, False)):
        parts = np.asarray(images).reshape(3, blocks, 16 // blocks, blocks, 16 // blocks)
        assert (np.ptp(parts, axis=(2, 4)).max() < 1e-6) == is_flat


def test_a_style_sets_scale_and_bias_of_its_layer():
    """Other styles in the last two layers leave all layers before them as they were."""
    state = dataclasses.replace(_init(), step=jnp.asarray(30))
    z = jax.random.normal(KEY, (2, 8))
    ws = STYLE(CONFIG, state, z, jnp.zeros(2, int))
    mixed = ws.at[0, -2:].set(ws[1, -2:])
    synthesize = jax.jit(functools.partial(stylegan.synthesize, CONFIG))
    images = synthesize(state, mixed)
    assert not np.array_equal(images[0], synthesize(state, ws)[0])
    half = STYLE(CONFIG, state, z, jnp.zeros(2, int), 0.5)
    mean = state.ema["batch_stats"]["mapping"]["mean"][None, None]
    np.testing.assert_allclose(half - mean, 0.5 * (ws - mean), atol=1e-6)
