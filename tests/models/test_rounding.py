"""Tests of what the rounding of an accelerator does, emulated by `tests.rounding`.

Bounds are two to four times the largest value measured with the weights of three seeds, which are
in the README, *Precision*, and in experiments/BENCHMARKS.md. Where nothing may be rounded, numbers
stay.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import ImageSpec
from genjax.metrics.classifier import Classifier, initial_variables
from genjax.metrics.features import over_devices
from genjax.metrics.frechet import Moments, frechet_distance
from genjax.models import FAMILIES, glow
from genjax.run.sharding import as_array
from genjax.types import Batch
from tests.models.test_families import CONFIGS, SPEC, SPECS
from tests.rounding import DROPPED, as_on_accelerator

KINDS = ("tf32", "bf16")


def test_factors_are_rounded_as_bfloat16_rounds_them():
    """Products of one factor with the identity show it; the highest precision leaves it."""
    x = jax.random.normal(jax.random.key(0), (50, 50)) * 10.0 ** jnp.arange(-25, 25)[None]
    one = jnp.eye(50)
    rounded = as_on_accelerator(jnp.dot)
    wanted = x.astype(jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_array_equal(rounded(DROPPED["bf16"], x, one), wanted)
    np.testing.assert_array_equal(rounded(DROPPED["float32"], x, one), x)
    finer = rounded(DROPPED["tf32"], x, one)
    np.testing.assert_allclose(finer, x, rtol=2**-11, atol=0)
    assert np.any(finer != x)
    exact = as_on_accelerator(functools.partial(jnp.dot, precision="highest"))
    np.testing.assert_array_equal(exact(DROPPED["bf16"], x, one), x)


def _noisy_flow(steps, seed):
    """Return a level of Glow whose parameters are moved a little from those at the beginning."""
    spec = ImageSpec(16, 16, 3)
    config = glow.GlowConfig(levels=1, steps_per_level=steps, hidden_features=64)
    state = jax.jit(glow.init, static_argnums=(0, 2))(config, jax.random.key(seed), spec)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda x: x + 0.02 * rng.normal(size=x.shape).astype(np.float32), state.model.params
    )
    x = jax.random.uniform(jax.random.key(seed), (8, *spec.shape)) - 0.5
    return config, spec, params, state.model.stats["constants"], x


# A network that is rounded is a staircase. Two inputs that differ by the rounding of float32, r,
# are on other steps, of height h, for a share r / h of their numbers; the spread of the difference
# is the root of r h, larger than r, and it grows again in the next layer. So a flow of rounded
# networks comes back far worse than its float32 does, 1.5e-5, but no worse than a step is high.
ROUND_TRIP = {"tf32": 1e-3, "bf16": 3e-3}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_flow_of_32_steps_comes_back(seed):
    config, spec, params, constants, x = _noisy_flow(32, seed)

    def error(flow):
        bijection = flow(config, spec, glow.Variables(params, constants), None)

        def there_and_back(x):
            return jnp.max(jnp.abs(bijection.inverse(bijection.forward(x)[0])[0] - x))

        return jax.jit(as_on_accelerator(there_and_back))

    exact, rounded = error(glow.exact_flow), error(glow.flow)
    plain = exact(DROPPED["float32"], x)
    assert plain < 1e-4
    for kind in KINDS:
        assert exact(DROPPED[kind], x) == plain
        assert 3 * plain < rounded(DROPPED[kind], x) < ROUND_TRIP[kind]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_gradients_of_rebuilt_activations_are_nearer_than_rounding_takes_them(seed):
    """Compare `--reversible` with stored activations, and those with exact products."""
    config, spec, params, constants, x = _noisy_flow(16, seed)

    def gradient(config):
        def loss(params):
            variables = glow.Variables(params, constants)
            zs, log_det = glow.flow(config, spec, variables, None).forward(x)
            return sum(jnp.sum(z**2) for z in zs) - jnp.sum(log_det)

        return jax.jit(as_on_accelerator(jax.grad(loss)))

    stored, rebuilt = gradient(config), gradient(dataclasses.replace(config, reversible=True))
    exact = stored(DROPPED["float32"], params)
    for kind in KINDS:
        kept, again = stored(DROPPED[kind], params), rebuilt(DROPPED[kind], params)
        assert _distance(again, kept) < 0.5 * _distance(kept, exact)
        worst = max(map(_distance, *map(jax.tree.leaves, (again, kept))))
        assert worst < 5e-3


def _distance(found, wanted):
    """Return the norm of a difference of pytrees, relative to that of the second."""
    pairs = list(zip(*map(jax.tree.leaves, (found, wanted)), strict=True))
    difference = sum(float(np.sum((a - b) ** 2)) for a, b in pairs)
    return (difference / sum(float(np.sum(b**2)) for _, b in pairs)) ** 0.5


# Relative to gradients and metrics with exact products, after one step of each player.
GRADIENTS = {
    "gan": {"tf32": 0.06, "bf16": 0.1},
    "dcgan": {"tf32": 0.09, "bf16": 0.2},
    "wgan": {"tf32": 0.08, "bf16": 0.25},
    "wgan_gp": {"tf32": 0.03, "bf16": 0.08},
    "vae": {"tf32": 0.005, "bf16": 0.04},
    "glow": {"tf32": 0.0006, "bf16": 0.005},
    "biggan": {"tf32": 0.07, "bf16": 0.25},
    "stylegan": {"tf32": 0.02, "bf16": 0.12},
    "stylegan2": {"tf32": 0.015, "bf16": 0.06},
}
USUAL = {"tf32": 0.01, "bf16": 0.05}
METRICS = {  # in StyleGAN2 one image of 16 changes its sign, which is counted
    "biggan": {"tf32": 0.01, "bf16": 0.13},
    "stylegan2": {"tf32": 0.01, "bf16": 0.2},
}
LARGE = ("wgan_gp", "biggan", "stylegan", "stylegan2")


def _gradients(state):
    """Return the gradients of all players' last steps, from the moments of their optimizers."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    first, second = (
        [x for path, x in leaves if name in jax.tree_util.keystr(path)] for name in (".mu", ".nu")
    )
    return first or [np.sqrt(x) for x in second]


@pytest.mark.parametrize(
    "name",
    [
        "gan",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("vae", "dcgan", "wgan", "glow")),
        *(pytest.param(name, marks=pytest.mark.exhaustive) for name in LARGE),
    ],
)
def test_a_step_is_nearly_that_of_exact_products(name):
    family, spec, config = FAMILIES[name], SPECS.get(name, SPEC), CONFIGS[name]
    step = jax.jit(as_on_accelerator(functools.partial(family.step, config)))
    init = jax.jit(lambda key: family.init(config, key, spec))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        batch = Batch(
            rng.integers(0, 256, (16, *spec.shape), np.uint8),
            rng.integers(0, 10, 16).astype(np.int32),
        )
        # A step in which each player is due, and StyleGAN fades a layer in.
        steps = 2 if name == "stylegan" else getattr(config, "discriminator_steps", 1)
        due = getattr(config, "n_critic", steps) - 1
        state = dataclasses.replace(init(jax.random.key(seed)), step=jnp.int32(due))
        key, bounds = jax.random.key(seed + 10), METRICS.get(name, USUAL)
        exact, wanted = step(DROPPED["float32"], state, batch, key)
        for kind in KINDS:
            rounded, metrics = step(DROPPED[kind], state, batch, key)
            assert 0 < _distance(_gradients(rounded), _gradients(exact)) < GRADIENTS[name][kind]
            for metric, value in wanted.items():
                np.testing.assert_allclose(
                    as_array(metrics[metric]),
                    as_array(value),
                    rtol=bounds[kind],
                    atol=bounds[kind],
                    err_msg=metric,
                )


@pytest.mark.slow
def test_features_and_their_distances_do_not_depend_on_the_platform(monkeypatch):
    spec = ImageSpec(16, 16, 1, 10)
    network, variables = Classifier(spec.classes), initial_variables(spec, 0)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 200, *spec.shape), np.uint8)
    images[1] = images[1] // 2 + 60

    def distance(kind):
        def net_of(images):
            def apply(variables, images):
                return network.apply(variables, images / 127.5 - 1.0, train=False)

            jit = jax.jit
            with monkeypatch.context() as patch:
                run = lambda f: jit(functools.partial(as_on_accelerator(f), DROPPED[kind]))  # noqa: E731
                patch.setattr(jax, "jit", run)
                net = over_devices(apply, variables, 100)
            return net(images)[0]

        real, fake = map(net_of, images)
        return real, frechet_distance(Moments.of(real), Moments.of(fake))

    features, exact = distance("float32")
    for kind in KINDS:
        found, same = distance(kind)
        np.testing.assert_array_equal(found, features)
        assert same == exact
    # What it would be otherwise.
    monkeypatch.setattr("genjax.metrics.features.exact", lambda: lambda function: function)
    found, other = distance("bf16")
    assert np.max(np.abs(found - features)) > 1e-3 * np.max(features)
    assert 1e-4 < abs(other / exact - 1) < 0.1
