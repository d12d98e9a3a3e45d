"""Tests of the contract of a family, for every family in `FAMILIES`."""

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

from genjax.data.batches import Resident
from genjax.models import FAMILIES, biggan, diffusion, stylegan, stylegan2, wgan
from genjax.nn.unet import UNetConfig
from genjax.run.sharding import Parallel, Steps, as_array
from genjax.steps.optim import OptimizerConfig
from genjax.types import Batch, ImageSpec, UsageError
from tests.families import each_family
from tests.float64 import in_float64, to_float64
from tests.states import drawn_state

GOLDENS = Path(__file__).parents[1] / "goldens"
SPEC = ImageSpec(16, 16, 1, 10)
BATCH = 16

# Kernels that are 0 at first on purpose: the last ones of Glow's networks, so that it begins as the
# identity, and those of a U-Net's branches.
ZEROS = (
    *("coupling/net/output/kernel", "prior/net/kernel"),
    *("conv_1/kernel", "conv_out/kernel", "middle_attention/output/kernel"),
)

# The default networks, or narrower ones if eight copies would be too much for a laptop. Three steps
# include every player, penalty, augmentation and stage of growth.
BIGGAN_PLAYER = biggan.PlayerConfig(features=8, learning_rate=2e-4, beta1=0.0)
STYLEGAN_PLAYER: Any = {"channel_base": 128, "channel_max": 32, "learning_rate": 2e-4}
SIZES: Any = {"latent_size": 16, "style_size": 16}
CONFIGS = {name: family.config() for name, family in FAMILIES.items()} | {
    "wgan": wgan.WganConfig(n_critic=2),
    "wgan_gp": wgan.WganGpConfig(n_critic=2),
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
        r1_interval=2,
        path_length_interval=2,
        augment="ada",
        augment_p=0.5,
        augment_operations=("blit", "cutout"),
        generator=stylegan2.PlayerConfig(architecture="skip", mapping_layers=2, **STYLEGAN_PLAYER),
        discriminator=stylegan2.PlayerConfig(mapping_layers=2, **STYLEGAN_PLAYER),
    ),
    "diffusion": diffusion.DiffusionConfig(
        sampling_steps=3,
        ode_steps=3,
        network=UNetConfig(features=(4, 8), blocks=1, attention_sizes=(), groups=2, dropout=0.1),
        optimizer=OptimizerConfig(learning_rate=1e-3, beta1=0.9),
    ),
}
STEPS = 3

# Tests of a family run in one process, because they use the same compiled programs.
every_family = pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, id=name, marks=pytest.mark.xdist_group(name))
        for name, family in FAMILIES.items()
    ],
)


# Families whose steps compile in seconds.
SMALL = ("gan", "dcgan", "wgan", "wgan_gp", "vae")
# Of the others those whose steps compile in less than a minute.
LARGE = ("biggan", "glow", "diffusion")


# Smaller images for families that take long to compile, because they need fewer layers.
SPECS = dict.fromkeys(("biggan", "stylegan", "stylegan2", "diffusion"), ImageSpec(8, 8, 1, 10))


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


def _steps(family, config, like, parallel="jit", devices=None, wrap=lambda step: step):
    step = wrap(functools.partial(family.step, config))
    key = jax.random.key(1)
    return Steps(step, _batches(family), BATCH, key, parallel, like, devices)


def _in_float64(family, config, parallel, devices, seeds):
    """Return states and metrics after the steps, from the weights of each seed."""
    states = [_init(family, seed) for seed in seeds]
    with jax.enable_x64(True):
        states = [to_float64(state) for state in states]
        steps = _steps(family, config, states[0], parallel, jax.devices()[:devices], in_float64)
        found = [steps(steps.put(each), _batches(family).feed(0, STEPS)) for each in states]
        return [(steps.get(state), metrics) for state, metrics in found]


@functools.cache
def _on_one_device(family, seeds):
    return _in_float64(family, _config(family), "jit", 1, seeds)


@functools.cache
def _compiled_step(family, config):
    return jax.jit(functools.partial(family.step, config))


def _first_step(family, config):
    """Return the state and metrics after the first step, in float32, as users compute it."""
    batches = _batches(family)
    batch = batches.select(batches.arrays, batches.feed(0, 1)[0])
    return _compiled_step(family, config)(_init(family), batch, jax.random.key(1))


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_are_the_golden(name):
    """Compare names and shapes; after a change on purpose, delete the file and review a new one."""
    family = FAMILIES[name]
    init = functools.partial(family.init, family.config(), spec=SPEC)
    leaves, _ = jax.tree_util.tree_flatten_with_path(
        _params(jax.eval_shape(init, jax.random.key(0)))
    )
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/"): list(leaf.shape)
        for path, leaf in leaves
    }
    golden = GOLDENS / f"{name}.json"
    if not golden.exists():
        golden.write_text(json.dumps(found, indent=2) + "\n")
        pytest.fail(f"wrote {golden}: review it")
    assert found == json.loads(golden.read_text())


@each_family(*SMALL, slow=LARGE)
def test_a_seed_changes_every_kernel(name):
    family = FAMILIES[name]
    one, same, other = (_params(_init(family, seed)) for seed in (0, 0, 1))
    chex.assert_trees_all_equal(one, same)
    leaves, _ = jax.tree_util.tree_flatten_with_path(one)
    for (path, a), b in zip(leaves, jax.tree.leaves(other), strict=True):
        if path[-1].key == "kernel":
            begins_at_zero = jax.tree_util.keystr(path, simple=True, separator="/").endswith(ZEROS)
            assert np.any(a) != begins_at_zero, path
            assert np.array_equal(a, b) == begins_at_zero, path


# Not Glow, whose variables are drawn by `drawn_flow`.
@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in SMALL),
        *(
            pytest.param(name, marks=[pytest.mark.xdist_group(name), pytest.mark.exhaustive])
            for name in ("biggan", "stylegan", "stylegan2")
        ),
    ],
)
def test_drawn_states_are_like_initial_ones(name):
    family = FAMILIES[name]
    one, other = (_init(family, seed) for seed in (0, 1))
    drawn = drawn_state(family.init, _config(family), _spec(family))
    leaves = zip(*map(jax.tree.leaves, (one, other, drawn)), strict=True)
    for a, b, ours in leaves:
        if np.array_equal(a, b):
            np.testing.assert_array_equal(ours, a)
        elif name.startswith("stylegan"):
            assert 0.5 < np.std(ours) / np.std(a) < 2


# In float64 the order of sums changes the sixteenth digit: no activation that lies within rounding
# of a kink, and no Adam that makes a whole step of a gradient that is rounding alone, is an excuse,
# so this holds for any weights and draws. Measured: 3e-12 at most.
CLOSE: Any = {"rtol": 1e-9, "atol": 1e-9}
SEEDS = (0, 1, 2)


def _assert_same(found, wanted, by_parts=False):
    ignored = OF_PARTS if by_parts else ()
    for (state, metrics), (wanted_state, wanted_metrics) in zip(found, wanted, strict=True):
        assert int(state.step) == int(wanted_state.step) == STEPS
        metrics, wanted_metrics = (
            {name: values for name, values in each.items() if name not in ignored}
            for each in (metrics, wanted_metrics)
        )
        chex.assert_trees_all_close(metrics, wanted_metrics, **CLOSE)
        for leaf in jax.tree.leaves(metrics):  # each was due at least once
            assert np.ma.count(leaf)
        if by_parts:  # running statistics move on with each part
            state, wanted_state = _params(state), _params(wanted_state)
        chex.assert_trees_all_close(state, wanted_state, **CLOSE)


# Their batch norm would see a part of the batch at a time, on purpose.
WHOLE = ("dcgan", "wgan", "wgan_gp", "biggan")
# These metrics compare the images of a batch with one another, so they see a part at a time too.
OF_PARTS = ("diversity", "active_units", "active_fraction")


@each_family("gan", "dcgan", "wgan_gp", "vae", slow=("wgan", *LARGE))
def test_two_devices_with_less_memory_give_the_numbers_of_one(name):
    """Compare both in one program, as each takes long to compile."""
    family, parts = FAMILIES[name], 1 if name in WHOLE else 2
    config = dataclasses.replace(_config(family), gradient_accumulation_steps=parts, remat="blocks")
    two = _in_float64(family, config, "jit", 2, SEEDS)
    _assert_same(two, _on_one_device(family, SEEDS), by_parts=parts > 1)


@pytest.mark.parametrize("parallel", get_args(Parallel))
def test_pairs_and_penalties_are_those_of_the_whole_batch(parallel):
    family = FAMILIES["gan"]
    penalties: Any = {"r1_gamma": 1.0, "r2_gamma": 2.0, "dragan_weight": 3.0}
    config = dataclasses.replace(
        _config(family), loss="relativistic", penalty_interval=2, **penalties
    )
    parts = dataclasses.replace(config, gradient_accumulation_steps=2)
    found = _in_float64(family, parts, parallel, 2, SEEDS[:1])
    _assert_same(found, _in_float64(family, config, "jit", 1, SEEDS[:1]), by_parts=True)


@pytest.mark.parametrize("parallel", get_args(Parallel))
@each_family("gan", slow=("vae", "wgan_gp"))
def test_eight_devices_give_the_numbers_of_one(name, parallel):
    family = FAMILIES[name]
    assert len(jax.devices()) == 8
    eight = _in_float64(family, _config(family), parallel, 8, SEEDS)
    _assert_same(eight, _on_one_device(family, SEEDS))


@each_family("gan", "vae", slow=("dcgan",))
def test_bfloat16_gives_nearly_the_same_losses(name):
    """Losses are of the first step from the same parameters; bfloat16 has 2 to 3 digits."""
    family = FAMILIES[name]
    config = dataclasses.replace(_config(family), dtype="bfloat16")
    _, plain_metrics = _first_step(family, _config(family))
    state, metrics = _first_step(family, config)
    metrics, plain_metrics = (
        {name: as_array(values) for name, values in each.items()}
        for each in (metrics, plain_metrics)
    )
    losses = [name for name in metrics if name.endswith("loss") and np.ma.count(metrics[name])]
    assert losses
    for name in losses:
        np.testing.assert_allclose(
            metrics[name], plain_metrics[name], rtol=0.02, atol=0.02, err_msg=name
        )
    # Only what networks compute with is narrow: what is learned is not.
    assert {leaf.dtype for leaf in jax.tree.leaves(_params(state))} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", ["gan", "glow"])
def test_a_batch_that_does_not_divide_into_parts_is_refused(name):
    family = FAMILIES[name]
    config = dataclasses.replace(_config(family), gradient_accumulation_steps=3)
    with pytest.raises(
        UsageError, match="gradient_accumulation_steps = 3: should divide the 16 images"
    ):
        _first_step(family, config)


# The steps of the other families are compared one by one above, up to rounding.
@pytest.mark.parametrize(
    "name",
    ["gan", *(pytest.param(name, marks=pytest.mark.slow) for name in ("wgan_gp", "vae"))],
)
def test_steps_are_the_same_however_they_are_grouped(name):
    family = FAMILIES[name]
    batches = _batches(family)
    compiled = _steps(family, _config(family), _init(family))
    together, metrics = compiled(compiled.put(_init(family)), batches.feed(0, 4))
    apart, parts = compiled.put(_init(family)), []
    for first, count in ((0, 2), (2, 2)):  # two programs to compile
        apart, part = compiled(apart, batches.feed(first, count))
        parts.append(part)
    chex.assert_trees_all_equal(together, apart)
    joined = {name: np.ma.concatenate([part[name] for part in parts]) for name in metrics}
    chex.assert_trees_all_equal(metrics, joined)


@each_family(*SMALL, slow=LARGE)
def test_step_is_finite_and_scalar_in_every_metric(name):
    family = FAMILIES[name]
    images = jnp.zeros((BATCH, *_spec(family).shape), jnp.uint8)
    batch = Batch(images, jnp.zeros(BATCH, jnp.int32))
    state, metrics = _compiled_step(family, _config(family))(
        _init(family), batch, jax.random.key(0)
    )
    chex.assert_tree_all_finite((state, metrics))
    chex.assert_shape(jax.tree.leaves(metrics), ())
    assert int(state.step) == 1


@each_family(*SMALL, slow=LARGE)
def test_images_that_are_scaled_already_are_refused_when_traced(name):
    """Floats in [-1, 1] would be scaled once more: in a step, and by all that takes a batch."""
    family, config = FAMILIES[name], _config(FAMILIES[name])
    key, shape = jax.random.key(0), _spec(family).shape
    state = jax.eval_shape(_compiled_init(family, _spec(family)), key)
    labels = jnp.zeros(2, jnp.int32)
    floats, other = jnp.zeros((2, *shape)), jnp.zeros((2, *shape[:2], 7), jnp.uint8)

    def refuse(function, *rest):
        for images in (floats, other) if function else ():
            batch = Batch(images, labels)
            with pytest.raises(UsageError, match=rf"wanted uint8 \[B, {shape[0]}, {shape[1]}, "):
                jax.eval_shape(lambda state: function(config, state, batch, *rest), state)  # noqa: B023

    refuse(family.step, key)
    refuse(family.encode, key)
    refuse(family.evaluate, key, 1)
    refuse(family.health)


@each_family(*SMALL, slow=LARGE)
@pytest.mark.parametrize("spec", [SPEC, ImageSpec(12, 20, 3)], ids=str)
def test_samples(name, spec):
    family = FAMILIES[name]
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
    with pytest.raises(UsageError, match="no_such_field"):
        family.config(no_such_field=1)
