"""The contract, over every family that is registered."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from genjax.data.batches import Resident
from genjax.models import FAMILIES, biggan, stylegan, stylegan2
from genjax.run.sharding import Parallel, Steps, as_array
from genjax.types import Batch, ImageSpec, UsageError

GOLDENS = Path(__file__).parents[1] / "goldens"
SPEC = ImageSpec(16, 16, 1, 10)
BATCH = 16

# The kernels that begin at 0 on purpose: the last of Glow's networks, so that it begins as the
# identity.
ZEROS = ("coupling/net/output/kernel", "prior/net/kernel")

# The paper's networks where a laptop can bear eight of them at once, else narrower ones. Without a
# first moment Adam makes a whole step of any gradient, be it rounding alone, as that of a bias
# which a batch norm takes away again: its epsilon is made larger than rounding.
BIGGAN_PLAYER = biggan.PlayerConfig(features=8, learning_rate=2e-4, beta1=0.0, epsilon=1e-3)
STYLEGAN_PLAYER: Any = {
    "channel_base": 128,
    "channel_max": 32,
    "learning_rate": 2e-4,
    "epsilon": 1e-3,
}
SIZES: Any = {"latent_size": 16, "style_size": 16}
# Every penalty and the augmentation have their turn within five steps; of StyleGAN also each stage.
CONFIGS = {name: family.config() for name, family in FAMILIES.items()} | {
    "biggan": biggan.BigganConfig(generator=BIGGAN_PLAYER, discriminator=BIGGAN_PLAYER),
    "stylegan": stylegan.StyleganConfig(
        **SIZES,
        mapping_layers=2,
        fade_steps=1,
        stable_steps=1,
        generator=stylegan.PlayerConfig(**STYLEGAN_PLAYER),
        discriminator=stylegan.PlayerConfig(**STYLEGAN_PLAYER),
    ),
    "stylegan2": stylegan2.Stylegan2Config(
        **SIZES,
        r1_every=2,
        path_length_every=2,
        augment="ada",
        augment_p=0.5,
        augment_operations=("blit", "cutout"),
        generator=stylegan2.PlayerConfig(architecture="skip", mapping_layers=2, **STYLEGAN_PLAYER),
        discriminator=stylegan2.PlayerConfig(mapping_layers=2, **STYLEGAN_PLAYER),
    ),
}

# Of the draws of steps that are compared. Where an activation lies within rounding of a kink, the
# gradient of a penalty jumps by 1e-3 with the order of a sum. With this seed no metric moves by
# more than 6e-6 of itself when every weight is disturbed by 3e-7 of itself; with others by 6e-3.
SEED = 1

# All that is compiled for a family is used again by its other tests: they run in one process.
every_family = pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, id=name, marks=pytest.mark.xdist_group(name))
        for name, family in FAMILIES.items()
    ],
)


# What takes long to compile is compared on images that need fewer layers.
SPECS = dict.fromkeys(("biggan", "stylegan", "stylegan2"), ImageSpec(8, 8, 1, 10))


def _batches(family) -> Resident:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, *_spec(family).shape), np.uint8)
    return Resident(images, rng.integers(0, 10, 50).astype(np.int32), BATCH, seed=0)


def _name(family):
    (name,) = (name for name, each in FAMILIES.items() if each is family)
    return name


def _config(family):
    return CONFIGS[_name(family)]


def _spec(family):
    return SPECS.get(_name(family), SPEC)


@functools.cache
def _compiled_init(family, spec):
    return jax.jit(lambda key: family.init(_config(family), key, spec))


def _init(family, seed=0, spec=None):
    return _compiled_init(family, spec or _spec(family))(jax.random.key(seed))


def _params(state):
    return {
        field.name: getattr(state, field.name).params
        for field in dataclasses.fields(state)
        if hasattr(getattr(state, field.name), "params")
    }


def _run(family, parallel, steps):
    batches = _batches(family)
    step = functools.partial(family.step, _config(family))
    state = _init(family)
    compiled = Steps(step, batches, BATCH, jax.random.key(SEED), parallel, state)
    state, metrics = compiled(compiled.put(state), batches.feed(0, steps))
    return compiled.get(state), metrics


@functools.cache
def _run_on_one_device(family, steps):
    return _step_by_step(family, _config(family), steps)


@functools.cache
def _compiled_step(family, config):
    return jax.jit(functools.partial(family.step, config))


def _step_by_step(family, config, steps):
    batches = _batches(family)
    step = _compiled_step(family, config)
    state, all_metrics = _init(family), []
    for indices in batches.feed(0, steps):
        key = jax.random.fold_in(jax.random.key(SEED), state.step)
        state, metrics = step(state, batches.select(batches.arrays, indices), key)
        all_metrics.append(metrics)
    stacked = jax.tree.map(lambda *values: np.stack(values), *all_metrics)
    return state, {name: as_array(values) for name, values in stacked.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_are_the_golden(name):
    """Names and shapes; after a change on purpose, write the new ones and review the diff."""
    family = FAMILIES[name]
    init = functools.partial(family.init, family.config(), spec=SPEC)
    leaves, _ = jax.tree_util.tree_flatten_with_path(
        _params(jax.eval_shape(init, jax.random.key(0)))
    )
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/"): list(leaf.shape)
        for path, leaf in leaves
    }
    assert found == json.loads((GOLDENS / f"{name}.json").read_text())


@every_family
def test_a_seed_changes_every_kernel(family):
    one, same, other = (_params(_init(family, seed)) for seed in (0, 0, 1))
    chex.assert_trees_all_equal(one, same)
    leaves, _ = jax.tree_util.tree_flatten_with_path(one)
    for (path, a), b in zip(leaves, jax.tree.leaves(other), strict=True):
        if path[-1].key == "kernel":
            begins_at_zero = jax.tree_util.keystr(path, simple=True, separator="/").endswith(ZEROS)
            assert np.any(a) != begins_at_zero, path
            assert np.array_equal(a, b) == begins_at_zero, path


@every_family
@pytest.mark.parametrize("parallel", get_args(Parallel))
def test_eight_devices_give_the_numbers_of_one(family, parallel):
    assert len(jax.devices()) == 8
    one, one_metrics = _run_on_one_device(family, 5)
    eight, eight_metrics = _run(family, parallel, 5)
    assert int(eight.step) == 5
    # float32: sums over the batch are taken in another order. Adam divides by the root of tiny
    # second moments, so parameters are held to a hundredth of the 5 steps of 2e-4. Through the 16
    # steps of a Glow that comes to 2.4e-5 of its gradient's norm, the same by jit and by pmap.
    chex.assert_trees_all_close(one_metrics, eight_metrics, rtol=5e-5, atol=1e-6)
    chex.assert_trees_all_close(_params(one), _params(eight), rtol=0, atol=1e-5)


# Their batch norm would see a part of the batch at a time, on purpose.
BATCH_NORM = ("dcgan", "wgan", "wgan_gp", "biggan")
# Metrics that compare the images of a batch with one another; likewise.
OF_PARTS = ("diversity", "active_units", "active_share")


@every_family
def test_less_memory_gives_the_same_numbers(family):
    parts = 1 if _name(family) in BATCH_NORM else 2
    config = dataclasses.replace(_config(family), accumulate=parts, remat="blocks")
    plain, plain_metrics = _run_on_one_device(family, 5)
    state, metrics = _step_by_step(family, config, 5)
    plain_metrics = {k: v for k, v in plain_metrics.items() if k not in OF_PARTS}
    metrics = {k: v for k, v in metrics.items() if k not in OF_PARTS}
    # As over devices; the VAE's Adam moves by 1e-3 where a gradient is rounding alone.
    chex.assert_trees_all_close(plain_metrics, metrics, rtol=5e-5, atol=1e-6)
    chex.assert_trees_all_close(_params(plain), _params(state), rtol=0, atol=5e-5)


@every_family
def test_bfloat16_gives_nearly_the_same_losses(family):
    """Of the first step, from the same parameters: the type has two to three digits."""
    config = dataclasses.replace(_config(family), dtype="bfloat16")
    _, plain_metrics = _run_on_one_device(family, 5)
    state, metrics = _step_by_step(family, config, 1)
    losses = [name for name in metrics if name.endswith("loss") and np.ma.count(metrics[name])]
    assert losses
    for name in losses:
        np.testing.assert_allclose(
            metrics[name][0], plain_metrics[name][0], rtol=0.02, atol=0.02, err_msg=name
        )
    # Only what networks compute with is narrow: what is learned is not.
    assert {leaf.dtype for leaf in jax.tree.leaves(_params(state))} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", ["gan", "glow"])
def test_a_batch_that_does_not_divide_into_parts_is_refused(name):
    family = FAMILIES[name]
    config = dataclasses.replace(_config(family), accumulate=3)
    with pytest.raises(UsageError, match="accumulate = 3: should divide the 16 images"):
        _step_by_step(family, config, 1)


# The others are held to their steps one by one above, to rounding.
@pytest.mark.parametrize("name", ["gan", "wgan_gp", "vae"])
def test_steps_are_the_same_however_they_are_grouped(name):
    family = FAMILIES[name]
    batches = _batches(family)
    step = functools.partial(family.step, _config(family))
    compiled = Steps(step, batches, BATCH, jax.random.key(SEED), "jit", _init(family))
    together, metrics = compiled(compiled.put(_init(family)), batches.feed(0, 4))
    apart, parts = compiled.put(_init(family)), []
    for first, count in ((0, 2), (2, 2)):  # two programs to compile
        apart, part = compiled(apart, batches.feed(first, count))
        parts.append(part)
    chex.assert_trees_all_equal(together, apart)
    joined = {name: np.ma.concatenate([part[name] for part in parts]) for name in metrics}
    chex.assert_trees_all_equal(metrics, joined)


@every_family
def test_step_is_finite_and_scalar_in_every_metric(family):
    images = jnp.zeros((BATCH, *_spec(family).shape), jnp.uint8)
    batch = Batch(images, jnp.zeros(BATCH, jnp.int32))
    state, metrics = _compiled_step(family, _config(family))(
        _init(family), batch, jax.random.key(0)
    )
    chex.assert_tree_all_finite((state, metrics))
    chex.assert_shape(jax.tree.leaves(metrics), ())
    assert int(state.step) == 1


@every_family
@pytest.mark.parametrize("spec", [SPEC, ImageSpec(12, 20, 3)], ids=str)
def test_samples(family, spec):
    state = _init(family, spec=spec)
    if family.prepare is not None:
        state = jax.jit(functools.partial(family.prepare, _config(family)))(
            state, jax.random.key(2)
        )
    sample = jax.jit(functools.partial(family.sample, _config(family), state))
    labels = jnp.arange(5)
    images = sample(jax.random.key(0), labels)
    chex.assert_shape(images, (5, *spec.shape))
    chex.assert_type(images, jnp.float32)
    assert jnp.all(jnp.abs(images) <= 1)
    assert not np.array_equal(images, sample(jax.random.key(1), labels))
    np.testing.assert_array_equal(images, sample(jax.random.key(0), labels))


@every_family
def test_an_unknown_field_is_refused_by_name(family):
    with pytest.raises(ValidationError, match="no_such_field"):
        family.config(no_such_field=1)
