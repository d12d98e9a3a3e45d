import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import transforms
from genjax.models import glow
from genjax.models.glow import GlowConfig
from genjax.types import Batch, ImageSpec, UsageError
from tests.states import drawn_flow

SPEC = ImageSpec(8, 8, 1, 10)
SMALL = GlowConfig(
    levels=2,
    steps_per_level=2,
    hidden_features=8,
    optimizer=glow.OptimizerConfig(learning_rate=1e-3, beta1=0.9),
)
KEY = jax.random.key(0)

CONFIGS = {
    "glow": SMALL,
    "reversible": dataclasses.replace(SMALL, reversible=True),
    "additive, shuffled": dataclasses.replace(SMALL, coupling="additive", permutation="shuffle"),
    "plain, conditional": dataclasses.replace(SMALL, permutation="plain", conditional=True),
    "RealNVP": dataclasses.replace(SMALL, permutation="reverse", checkerboard_steps=2),
    "variational": dataclasses.replace(SMALL, dequantization="variational"),
}


def _batch(n=6, spec=SPEC):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, *spec.shape), np.uint8)
    return Batch(images, rng.integers(0, max(1, spec.classes), n).astype(np.int32))


@functools.cache
def _state(config, spec=SPEC):
    """Return a state with parameters that are noise, none of them at a special value."""
    return glow.from_variables(config, spec, drawn_flow(config, spec, noise=0.05))


@functools.cache
def _begun(config):
    """The state as it begins, and the function of a step, compiled once for all tests."""
    state = jax.jit(glow.init, static_argnums=(0, 2))(config, KEY, SPEC)
    return state, jax.jit(functools.partial(glow.step, config))


def _variables(state, dtype="float32"):
    variables = glow.Variables(state.model.params, state.model.stats["constants"])
    return jax.tree.map(lambda leaf: leaf.astype(dtype), variables)


# The other layers are compared one by one in tests/nn/test_flow.py, and `reversible` differs from
# `glow` in its gradient alone.
FAST = ("glow", "RealNVP", "variational")


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        pytest.param(
            CONFIGS[name],
            dtype,
            id=f"{dtype}-{name}",
            marks=[] if name in FAST and dtype == "float64" else pytest.mark.slow,
        )
        for dtype in ("float64", "float32")
        for name in CONFIGS
    ],
)
def test_a_whole_glow_comes_back_and_its_log_det_is_the_oracles(config, dtype):
    spec = ImageSpec(4, 8, 1, 10)
    state = _state(config, spec)
    tolerance = {"float64": 1e-9, "float32": 1e-3}[dtype]
    with jax.enable_x64(dtype == "float64"):
        config = dataclasses.replace(config, dtype=dtype)
        x = jax.random.uniform(KEY, (2, *spec.shape), dtype) - 0.5
        labels = jnp.array([3, 3])
        variables = _variables(state, dtype)
        bijection = glow.flow(config, spec, variables, labels)
        one = glow.flow(config, spec, variables, labels[:1])

        @jax.jit
        def there_and_back(x):
            zs, log_det = bijection.forward(x)
            expected = transforms.log_det(lambda x: one.forward(x)[0])(x)
            return zs, log_det, expected, *bijection.inverse(zs)

        zs, log_det, expected, again, back = there_and_back(x)
        assert [z.shape[1:] for z in zs] == glow.latent_shapes(config, spec)
        np.testing.assert_allclose(log_det, expected, rtol=0, atol=tolerance)
        np.testing.assert_allclose(again, x, rtol=0, atol=tolerance)
        np.testing.assert_allclose(back, -log_det, rtol=0, atol=tolerance)
        if config.dequantization == "variational":
            noise_flow = glow.noise_flow(config, variables, x[:1])
            u, log_det = jax.jit(noise_flow.forward)(x[:1])
            assert jnp.all((u > 0) & (u < 1))
            oracle = transforms.log_det(lambda x: noise_flow.forward(x)[0])
            expected = jax.jit(oracle)(x[:1])
            np.testing.assert_allclose(log_det, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "dequantization", ["uniform", pytest.param("variational", marks=pytest.mark.slow)]
)
def test_the_probabilities_of_all_images_sum_to_the_density_inside_the_cube(dequantization):
    """The sum of P(x) is the fraction of samples in range, which checks each constant of it."""
    spec = ImageSpec(2, 2, 1)
    config = GlowConfig(
        levels=1, steps_per_level=2, hidden_features=4, bits=1, dequantization=dequantization
    )
    state = jax.jit(glow.init, static_argnums=(0, 2))(config, KEY, spec)
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: leaf + 0.08 * rng.normal(size=leaf.shape).astype(np.float32),
        state.model.params,
    )
    variables = glow.Variables(params, state.model.stats["constants"])
    # Samples about as wide as the range of images, and near its middle.
    prior = variables.params["level_0"]["prior"]["net"]
    prior["kernel"] *= 0.2
    prior["bias"] = prior["bias"].at[4:].set(-1.3)
    if dequantization == "variational":
        # Noise that reaches all of a gray level, or no number of samples finds its whole mass.
        variables.params["dequantization"]["actnorm"]["scale"] *= 1.5
    state = glow.from_variables(config, spec, variables)
    levels = np.indices((2, 2, 2, 2)).reshape(4, 16).T.reshape(16, 2, 2, 1)
    images = Batch((levels * 255).astype(np.uint8), np.zeros(16, np.int32))
    evaluate = jax.jit(functools.partial(glow.evaluate, config), static_argnums=3)
    found = evaluate(state, images, KEY, 5000)
    assert found.elbo is None
    total = float(jnp.sum(jnp.exp(-found.nll)))
    z = jax.random.normal(KEY, (100_000, 1, 1, 4))
    x, _ = jax.jit(glow.flow(config, spec, variables, None).inverse)((z,))
    inside = float(jnp.mean(jnp.all(jnp.abs(x) < 0.5, axis=(1, 2, 3))))
    assert 0.1 < inside < 0.95
    np.testing.assert_allclose(total, inside, rtol=0.03)


@pytest.mark.parametrize(
    "name",
    ["glow", *(pytest.param(name, marks=pytest.mark.slow) for name in ("variational", "RealNVP"))],
)
def test_the_first_step_fits_the_actnorms_and_later_ones_do_not(name):
    config, batch = CONFIGS[name], _batch(32)
    state, step = _begun(config)
    variables = _variables(state)
    fitted = jax.jit(functools.partial(glow.fit_actnorms, config, SPEC))(variables, batch, KEY)
    # The first actnorm is checked, because its input is known without any network.
    first = "checkerboard" if config.checkerboard_steps else "steps"
    actnorm = "actnorm_0" if config.checkerboard_steps else "actnorm"
    levels = glow.quantize(config, jnp.asarray(batch.images))
    if config.dequantization == "uniform":
        x = glow.scale(config, levels + jax.random.uniform(KEY, levels.shape))
        if not config.checkerboard_steps:
            x, _ = transforms.squeeze.forward(x)
        loc = fitted.params["level_0"][first][actnorm]["loc"][0]
        np.testing.assert_allclose(loc, -jnp.mean(x, (0, 1, 2)), atol=1e-5)
        gain = fitted.params["level_0"][first][actnorm]["scale"][0]
        np.testing.assert_allclose(gain * jnp.std(x, (0, 1, 2)), 1, rtol=1e-4)
    scales = fitted.params["level_1"]["steps"]["actnorm"]["scale"]
    assert not np.allclose(scales, 1)
    one, metrics = step(state, batch, KEY)
    assert bool(one.model.stats["is_fitted"])
    again, _ = step(one, batch, KEY)
    moved = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), one.model.params, again.model.params)
    assert max(jax.tree.leaves(moved)) < 3 * config.optimizer.learning_rate
    # A state with weights of its own keeps them.
    given = glow.from_variables(config, SPEC, variables)
    _, kept = step(given, batch, KEY)
    assert abs(float(kept["loss"]) - float(metrics["loss"])) > 0.01


@pytest.mark.slow
def test_reversible_has_the_gradients_of_plain_autodiff():
    """All gradients are compared at once, in float64."""
    everything = dataclasses.replace(
        SMALL, checkerboard_steps=1, conditional=True, dequantization="variational"
    )
    state, batch = _state(everything), _batch(3)
    everything = dataclasses.replace(everything, dtype="float64")
    with jax.enable_x64(True):
        variables = _variables(state, "float64")

        def gradient(config):
            def loss_fn(params):
                parts = variables._replace(params=params)
                terms = glow.log_prob_terms(config, SPEC, parts, batch, KEY)
                return jnp.mean(terms.nll(config, SPEC))

            return jax.jit(jax.grad(loss_fn))(variables.params)

        stored = gradient(everything)
        rebuilt = gradient(dataclasses.replace(everything, reversible=True))
        sizes = [float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(stored)]
        assert min(sizes) > 1e-6
        chex.assert_trees_all_close(stored, rebuilt, rtol=1e-9, atol=1e-9)


def test_the_program_does_not_grow_with_depth():
    def size(depth):
        config = dataclasses.replace(SMALL, steps_per_level=depth, reversible=True)
        state = jax.eval_shape(lambda: glow.init(config, KEY, SPEC))
        step = jax.jit(functools.partial(glow.step, config))
        return len(step.lower(state, _batch(), KEY).as_text().splitlines())

    assert size(4) == size(32)


@pytest.mark.parametrize("bits", [8, 5])
def test_reconstructions_are_exact(bits):
    config = dataclasses.replace(SMALL, bits=bits)
    state, batch = _state(config), _batch()
    latents = jax.jit(functools.partial(glow.encode, config))(state, batch, KEY)
    chex.assert_shape(latents, (6, 64))
    images = jax.jit(functools.partial(glow.decode, config))(state, latents, batch.labels)
    levels = np.round((np.asarray(images) + 1) / 2 * (2**bits - 1)).astype(int)
    np.testing.assert_array_equal(levels, batch.images // 2 ** (8 - bits))


@pytest.mark.parametrize("bits", [8, 5])
def test_gradients_pass_the_rounding_of_images(bits):
    config = dataclasses.replace(SMALL, bits=bits)
    x = jnp.linspace(-0.49, 0.49, 9)
    images = glow._to_images(config, x)
    levels = (np.asarray(images) + 1) / 2 * (2**bits - 1)
    np.testing.assert_allclose(levels, np.floor((x + 0.5) * 2**bits), atol=1e-4)
    slopes = jax.grad(lambda x: jnp.sum(glow._to_images(config, x)))(x)
    np.testing.assert_allclose(slopes, 2 ** (bits + 1) / (2**bits - 1), rtol=1e-6)


def test_temperature_is_the_spread_of_the_latents():
    state = _state(SMALL)
    sample = jax.jit(functools.partial(glow.sample, SMALL))
    five = jnp.zeros(5, jnp.int32)
    cold = sample(state, KEY, five, 0.0)
    np.testing.assert_array_equal(cold, np.broadcast_to(cold[:1], cold.shape))
    fifty = jnp.zeros(50, jnp.int32)
    spreads = [float(jnp.std(sample(state, KEY, fifty, t), axis=0).mean()) for t in (0.1, 0.2, 0.4)]
    assert spreads[0] < spreads[1] < spreads[2]
    np.testing.assert_array_equal(sample(state, KEY, five, 1.0), sample(state, KEY, five))


def test_labels_matter_to_a_conditional_model_only():
    for name, differs in (("glow", False), ("plain, conditional", True)):
        config = CONFIGS[name]
        state = _state(config)
        decode = jax.jit(functools.partial(glow.decode, config))
        z = 0.3 * jax.random.normal(KEY, (4, 64))
        images = [decode(state, z, jnp.full(4, label)) for label in (1, 2)]
        assert np.array_equal(*images) != differs


def test_health_is_that_of_the_matrices_and_of_the_round_trip():
    state, batch = _state(SMALL), _batch()
    health = jax.jit(functools.partial(glow.health, SMALL))
    found = health(state, batch)
    chex.assert_shape(found["round_trip_error"], (6,))
    chex.assert_shape(found["condition_number"], (4,))
    assert 0 < jnp.max(found["round_trip_error"]) < 1e-4
    variables = _variables(state)
    conv = jax.tree.map(
        lambda leaf: np.asarray(leaf[1]), variables.of("level_1").of("steps").of("conv1x1")
    )
    params, constants = conv
    lower = np.tril(params["lower"], -1) + np.eye(8)
    upper = np.triu(params["upper"], 1) + np.diag(constants["sign"] * np.exp(params["log_scale"]))
    weight = constants["permutation"] @ lower @ upper
    np.testing.assert_allclose(found["condition_number"][3], np.linalg.cond(weight), rtol=1e-3)
    # A nearly singular convolution.
    log_scale = variables.params["level_0"]["steps"]["conv1x1"]["log_scale"]
    variables.params["level_0"]["steps"]["conv1x1"]["log_scale"] = log_scale.at[0, 0].set(-25)
    broken = health(glow.from_variables(SMALL, SPEC, variables), batch)
    assert broken["condition_number"][0] > 1e6
    assert jnp.max(broken["round_trip_error"]) > 1e-3
    ablation = CONFIGS["additive, shuffled"]
    found = jax.jit(functools.partial(glow.health, ablation))(_state(ablation), batch)
    assert sorted(found) == ["overflow_fraction", "round_trip_error"]


def test_samples_that_overflow_are_images_all_the_same_and_are_told():
    variables = _variables(_state(SMALL))
    bias = variables.params["level_0"]["steps"]["coupling"]["net"]["output"]["bias"]
    variables.params["level_0"]["steps"]["coupling"]["net"]["output"]["bias"] = bias.at[:, :2].set(
        -70
    )
    state = glow.from_variables(SMALL, SPEC, variables)
    health = jax.jit(functools.partial(glow.health, SMALL))(state, _batch())
    assert health["overflow_fraction"] == 1
    images = jax.jit(functools.partial(glow.sample, SMALL))(state, KEY, jnp.arange(4))
    assert jnp.all((images >= -1) & (images <= 1))


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_the_average_of_weights_begins_at_the_fitted_ones(ema_decay):
    config = dataclasses.replace(SMALL, ema_decay=ema_decay)
    state, step = _begun(config)
    state, _ = step(state, _batch(32), KEY)
    if not ema_decay:
        assert state.ema is None
        return
    gap = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), state.ema, state.model.params)
    assert max(jax.tree.leaves(gap)) < 2 * config.optimizer.learning_rate


def test_impossible_sizes_and_labels_are_refused_by_name():
    with pytest.raises(UsageError, match=r"12x8.*levels = 3.*multiples of 8"):
        glow.init(dataclasses.replace(SMALL, levels=3), KEY, ImageSpec(12, 8, 1))
    with pytest.raises(UsageError, match="conditional"):
        glow.init(dataclasses.replace(SMALL, conditional=True), KEY, ImageSpec(8, 8, 1))


def test_the_papers_model_of_cifar10_has_its_size():
    """The reference implementation has 44.0 million parameters too, at L = 3, K = 32."""
    config = GlowConfig(levels=3, steps_per_level=32, hidden_features=512)
    state = jax.eval_shape(lambda: glow.init(config, KEY, ImageSpec(32, 32, 3)))
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.model.params))
    assert 43.9e6 < count < 44.3e6
