"""Tests of what differs on an accelerator: its default precision and its order of sums.

`pytest -m device` runs them with the tests of reference vectors, convolutions and types.
"""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import genjax
from genjax import ImageSpec, Recipe
from genjax.metrics.inception import inception, params_shapes
from genjax.models import gan, glow, stylegan2
from genjax.nn.augment import ada
from tests import runs

# On a CPU there is little that they could find.
pytestmark = [pytest.mark.device, pytest.mark.slow]

KEY = jax.random.key(0)
STYLE: dict[str, Any] = {"channel_base": 64, "channel_max": 8, "learning_rate": 2e-3}
ADA = stylegan2.Stylegan2Config(
    latent_size=16,
    style_size=16,
    ada_images=1000,
    augment="ada",
    augment_p=0.5,
    generator=stylegan2.PlayerConfig(architecture="skip", mapping_layers=2, **STYLE),
    discriminator=stylegan2.PlayerConfig(mapping_layers=2, **STYLE),
)


def _noisy(shapes, scale):
    """Return parameters moved a little from the given ones."""
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(1)
    return jax.tree.unflatten(
        tree,
        [x + scale * rng.normal(size=x.shape).astype(np.float32) for x in leaves],
    )


@pytest.mark.parametrize(
    ("flow", "bound"),
    # Networks whose products are rounded are staircases; see `glow.exact_flow`, and what emulation
    # measured in tests/models/test_rounding.py. `watch` would warn at 1e-3.
    [
        pytest.param(glow.exact_flow, 1e-4, id="exact"),
        pytest.param(glow.flow, 3e-3, id="rounded"),
    ],
)
def test_a_flow_of_32_steps_comes_back(flow, bound):
    spec = ImageSpec(16, 16, 3)
    config = glow.GlowConfig(levels=1, steps_per_level=32, hidden_features=64)
    state = jax.jit(glow.init, static_argnums=(0, 2))(config, KEY, spec)
    params = _noisy(jax.tree.map(np.asarray, state.model.params), 0.02)
    variables = glow.Variables(params, state.model.stats["constants"])
    bijection = flow(config, spec, variables, None)
    x = jax.random.uniform(KEY, (8, *spec.shape)) - 0.5
    zs, log_det = jax.jit(bijection.forward)(x)
    again, back = jax.jit(bijection.inverse)(zs)
    assert float(jnp.max(jnp.abs(again - x))) < bound
    np.testing.assert_allclose(back, -log_det, rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    ("precision", "bound"),
    # Emulated, rebuilt activations are as far off as 1.8e-3 for the worst parameter, while rounding
    # itself moves its gradient by 1.5e-2 (tests/models/test_rounding.py).
    [pytest.param("highest", 1e-4, id="exact"), pytest.param(None, 5e-3, id="rounded")],
)
def test_reversible_gradients_are_those_of_the_stored_activations(precision, bound):
    spec = ImageSpec(16, 16, 3)
    config = glow.GlowConfig(levels=1, steps_per_level=16, hidden_features=64)
    state = jax.jit(glow.init, static_argnums=(0, 2))(config, KEY, spec)
    params = _noisy(jax.tree.map(np.asarray, state.model.params), 0.02)
    x = jax.random.uniform(KEY, (8, *spec.shape)) - 0.5

    def gradient(config):
        def loss(params):
            variables = glow.Variables(params, state.model.stats["constants"])
            zs, log_det = glow.flow(config, spec, variables, None).forward(x)
            return sum(jnp.sum(z**2) for z in zs) - jnp.sum(log_det)

        return jax.jit(jax.grad(loss))(params)

    with jax.default_matmul_precision(precision):
        stored = gradient(config)
        rebuilt = gradient(dataclasses.replace(config, reversible=True))
    for one, other in zip(*map(jax.tree.leaves, (stored, rebuilt)), strict=True):
        assert np.linalg.norm(one - other) <= bound * np.linalg.norm(one) + 1e-6


def test_inceptions_features_do_not_depend_on_the_default_precision():
    """Compare features at two precisions; FID would otherwise be that of rounded products."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: (
            (rng.normal(size=x.shape) * np.sqrt(2 / max(1, np.prod(x.shape[:-1])))).astype(
                np.float32
            )
            if len(x.shape) > 1
            else np.zeros(x.shape, np.float32)
        ),
        params_shapes(),
    )
    images = rng.integers(0, 256, (4, 64, 64, 3), np.uint8)
    features = inception(params)(images)[0]
    with jax.default_matmul_precision("highest"):
        exact = inception(params)(images)[0]
    np.testing.assert_allclose(features, exact, rtol=0, atol=1e-5 * np.abs(exact).max())


def test_adas_gradient_by_finite_differences():
    images = jax.random.uniform(KEY, (4, 16, 16, 3)) * 2 - 1
    weight = jax.random.normal(jax.random.key(1), images.shape)

    @jax.jit
    def value(images):
        changed = ada(KEY, images, jnp.float32(0.8), ("blit", "geometric", "color"))
        return jnp.sum(changed * weight)

    gradient = jax.jit(jax.grad(value))(images)
    direction = jax.random.normal(jax.random.key(2), images.shape)
    difference = (value(images + 1e-2 * direction) - value(images - 1e-2 * direction)) / 2e-2
    np.testing.assert_allclose(jnp.vdot(gradient, direction), difference, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ["gan", "stylegan2"])
def test_a_deterministic_run_resumes_bit_for_bit(name, tmp_path):
    """Stop and resume; a GPU would otherwise add up the pixels of ADA's gradients in any order."""
    if name == "stylegan2" and jax.default_backend() == "cpu":
        pytest.skip("a CPU has no other operations")
    recipe = Recipe(
        family=name,
        model=ADA if name == "stylegan2" else gan.GanConfig(),
        steps=16,
        batch_size=16,
        log_interval=4,
        save_interval=8,
        deterministic=True,
    )
    genjax.train(recipe, tmp_path / "whole")
    genjax.train(dataclasses.replace(recipe, steps=8), tmp_path / "run")
    genjax.resume(tmp_path / "run", steps=16)
    state, records = runs.results(tmp_path / "whole")
    resumed, resumed_records = runs.results(tmp_path / "run")
    chex.assert_trees_all_equal(state, resumed)
    assert records == resumed_records
