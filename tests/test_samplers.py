"""Samplers, beside those of diffusers, the equations of EDM, and flows known in closed form."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import samplers
from genjax.objectives import paths
from genjax.types import UsageError
from tests.diffusion import PREDICTIONS, Schedule, Vectors


@pytest.fixture
def schedules(shared):
    return Vectors(shared / "reference/a/diffusion_a_schedule.npz")


@pytest.fixture
def flow(shared):
    return Vectors(shared / "reference/a/diffusion_a_flow.npz")


def _weights(kind, level, last):
    if kind.startswith("ddpm"):
        return samplers.ancestral(level.alpha, level.sigma, last.removeprefix("fixed_"))
    return samplers.ddim(level.alpha, level.sigma, float(last.removeprefix("eta")))


def _clip(vectors, name):
    return vectors.meta["clip_sample_range"] if name == "clip" else None


def test_time_steps_match_the_reference(schedules):
    for name in (name for name in schedules.names if name.startswith("timesteps/")):
        wanted = schedules.read(f"out/{name}")
        total = schedules.meta["schedules"]["linear"]["num_train_timesteps"]
        found = samplers.time_steps(total, len(wanted), name.split("/")[1])
        np.testing.assert_array_equal(found, wanted)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _one_step(prediction, clip, given, level, weights):
    return samplers.denoise(
        lambda x, i: paths.estimates(PREDICTIONS[prediction], level(i), x, given["model_output"]),
        *(given["x_t"], weights, lambda _: given["step_noise"], clip),
    )


def test_steps_match_the_reference(schedules):
    """Each step of ancestral sampling and of DDIM at its own noise level."""
    given = {name: schedules.given(name) for name in ("x_t", "model_output", "step_noise")}
    tried = 0
    for name in schedules.names:
        kind, schedule_name, *rest = name.split("/")
        if kind not in ("ddpm_step", "ddim_step") or rest[-1] in ("pred_x0", "mean"):
            continue
        *spacing, prediction, clip, last = rest
        schedule = Schedule(schedules, schedule_name)
        if spacing:
            times = schedules.read(f"out/timesteps/{spacing[0]}")
            at = schedules.read(f"in/ddim_step_t/{spacing[0]}")
            after = {t: s for t, s in zip(times, [*times[1:], -1], strict=True)}
        else:
            at = schedules.read(f"in/step_t/{schedule_name}")
            after = {t: t - 1 for t in at}
        for row, t in enumerate(at):
            ends = [schedule.angles[t], schedule.angles[after[t]] if after[t] >= 0 else 0.0]
            level = schedule.levels(np.array(ends))
            weights, clip_at = _weights(kind, level, last), _clip(schedules, clip)
            found = _one_step(prediction, clip_at, given, level.in_float32(), weights)
            schedules.check(name, found, row=row)
            tried += 1
    assert tried > 100


@pytest.mark.slow
def test_loops_match_the_reference(schedules):
    given, noises = schedules.given("loop_x"), schedules.given("loop_noise")
    tried = 0
    for name in schedules.names:
        kind, schedule_name, *rest = name.split("/")
        if kind not in ("ddpm_loop", "ddim_loop"):
            continue
        prediction, spacing, clip, last = rest
        schedule = Schedule(schedules, schedule_name)
        times = schedules.read(f"out/timesteps/{spacing}")
        level = schedule.levels(np.append(schedule.angles[times], 0.0))
        levels = level.in_float32()

        def estimate(x, index, levels=levels, schedule=schedule, prediction=prediction):
            output = schedule.model(x, levels(index).time)
            return paths.estimates(PREDICTIONS[prediction], levels(index), x, output)

        weights = _weights(kind, level, last)
        for steps in (len(times) // 2, len(times)):
            some = samplers.Weights(*(each[:steps] for each in weights))
            clip_at = _clip(schedules, clip)
            found = samplers.denoise(estimate, given, some, lambda i: noises[i], clip_at)
            schedules.check(name, found, row=steps - 1)
        tried += 1
    assert tried > 30


def _mlp(vectors):
    layers = [(vectors.param(f"mlp.{i}.weight"), vectors.param(f"mlp.{i}.bias")) for i in (0, 2, 4)]

    def velocity(x, t):
        x = jnp.concatenate([x, jnp.broadcast_to(t, (len(x), 1))], axis=1)
        for i, (weight, bias) in enumerate(layers):
            x = jnp.matmul(x, weight.T, precision="highest") + bias[None]
            x = jnp.tanh(x) if i < 2 else x
        return x

    return velocity


def _linear(vectors):
    a0, a1, b0, b1 = (vectors.param(f"linear.{name}") for name in ("A0", "A1", "b0", "b1"))

    def velocity(x, t):
        return jnp.matmul(x, (a0 + t * a1).T, precision="highest") + (b0 + t * b1)[None]

    return velocity


FIELDS = {"mlp": _mlp, "linear": _linear}


def _normal_log_prob(x):
    return -0.5 * (np.sum(np.square(x), axis=1) + x.shape[1] * np.log(2 * np.pi))


@pytest.mark.parametrize("name", FIELDS)
def test_flows_match_the_reference(flow, name):
    """Samples and log densities by each method, with the exact divergence and Hutchinson's."""
    velocity, noise, x = FIELDS[name](flow), flow.given("z"), flow.given("x")
    probes = flow.given("probes")
    for method in ("euler", "midpoint", "heun"):
        for steps in flow.meta["steps"]:
            times = np.arange(steps + 1) / steps
            found = samplers.integrate(velocity, noise, times, method)
            flow.check(f"{name}/sample/{method}_{steps}", found, 1e-5, row=-1)

            def log_prob(divergence, method=method, times=times):
                pair = samplers.with_divergence(velocity, divergence)
                start = (x, jnp.zeros(len(x)))
                end, lost = samplers.integrate(pair, start, times[::-1], method)
                return _normal_log_prob(end) + lost

            found = log_prob(samplers.exact_divergence)
            flow.check(f"{name}/logp/{method}_{steps}", found, 1e-5)
            found = jnp.stack([log_prob(samplers.hutchinson(probe)) for probe in probes])
            flow.check(f"{name}/logp_hutchinson/{method}_{steps}", found, 1e-5)


@pytest.mark.parametrize(("method", "order"), [("heun", 3), ("rk4", 10)])
@pytest.mark.parametrize("name", FIELDS)
def test_densities_converge_to_the_exact_ones(flow, name, method, order):
    velocity, x = FIELDS[name](flow), flow.given("x")
    pair = samplers.with_divergence(velocity, samplers.exact_divergence)
    errors = []
    for steps in (8, 16, 32) if method == "heun" else (2, 4, 8):
        times = np.arange(steps + 1)[::-1] / steps
        end, lost = samplers.integrate(pair, (x, jnp.zeros(len(x))), times, method)
        found = _normal_log_prob(end) + lost
        errors.append(np.abs(found - flow.read(f"out/{name}/logp")).max())
    # Their halves leave a quarter of the errors, or a sixteenth.
    assert errors[0] > order * errors[1] > order**2 * errors[2]
    assert errors[2] < 0.02


@pytest.mark.parametrize("name", FIELDS)
def test_densities_by_adaptive_steps_are_the_exact_ones(flow, name):
    pytest.importorskip("diffrax", reason="needs diffrax: pip install '.[ode]'")
    velocity, x = FIELDS[name](flow), flow.given("x")
    pair = samplers.with_divergence(velocity, samplers.exact_divergence)
    errors = []
    for tolerance in (1e-3, 1e-6):
        end, lost = samplers.integrate_adaptively(pair, (x, jnp.zeros(len(x))), 1.0, 0.0, tolerance)
        found = _normal_log_prob(end) + lost
        errors.append(np.abs(found - flow.read(f"out/{name}/logp")).max())
    assert errors[1] < 1e-4
    assert errors[1] < errors[0] < 0.1


def test_adaptive_steps_that_never_end_give_nan():
    pytest.importorskip("diffrax", reason="needs diffrax: pip install '.[ode]'")
    found = jax.jit(
        lambda x: samplers.integrate_adaptively(lambda x, s: x * jnp.nan, x, 0.0, 1.0, 1e-3)
    )(jnp.ones(2))
    assert np.isnan(found).all()


def test_without_diffrax_its_installation_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffrax", None)
    with pytest.raises(UsageError, match=r"pip install 'genjax-models\[ode\]'"):
        samplers.integrate_adaptively(lambda x, s: x, jnp.ones(2), 0.0, 1.0, 1e-3)


def test_edm_matches_the_reference(flow):
    arguments = flow.meta["edm"]
    spread = arguments["sigma_data"]
    ends = arguments["sigma_min"], arguments["sigma_max"]
    levels = samplers.karras_levels(arguments["steps"], *ends, arguments["rho"])
    flow.check("edm/sigmas", levels)
    kernel, slope, bias = (flow.param(f"edm.{letter}") for letter in "Kuw")

    def velocity(x, sigma):
        seen = x / jnp.sqrt(sigma**2 + spread**2)
        output = jnp.matmul(seen, kernel.T, precision="highest")
        output += (jnp.log(sigma) / 4 * slope + bias)[None]
        level = paths.Level(1.0, sigma, 0.0, 1.0, sigma)
        return paths.estimates(paths.preconditioned(spread), level, x, output)[1]

    start = levels[0] * flow.given("edm/z0")
    for method in ("heun", "euler"):
        found = samplers.integrate(velocity, start, levels, method, to_end=False)
        flow.check(f"edm/{method}", found, 1e-5, row=-1)
        found = samplers.integrate(velocity, start, levels[:3], method)
        flow.check(f"edm/{method}", found, 1e-5, row=2)


def test_a_pytree_can_be_integrated():
    found = samplers.integrate(
        lambda pair, s: (pair[1], -pair[0]), (jnp.zeros(()), jnp.ones(())), np.linspace(0, 1, 101)
    )
    np.testing.assert_allclose(found, (np.sin(1), np.cos(1)), atol=1e-4)


@pytest.mark.parametrize("path", [paths.circle, paths.straight, paths.additive])
def test_ancestral_sampling_and_ddim_are_one_sampler(path):
    """With the small variance, eta 1 and nothing clipped (Song et al. 2021, section 4.1)."""
    s = {paths.straight: np.linspace(0, 1, 6), paths.circle: np.linspace(1.5, 0, 6)}
    level = paths.Level(*path.position(s.get(path, np.linspace(2, 0, 6))), 0.0, 0.0, 0.0)
    x, data = np.random.default_rng(0).normal(size=(2, 5))
    one, two = samplers.ancestral(level.alpha, level.sigma), samplers.ddim(*level[:2], eta=1.0)
    noise = (x - level.alpha[:-1] * data) / level.sigma[:-1]

    def mean(weights):
        return weights.x * x + weights.data * data + weights.noise * noise

    np.testing.assert_allclose(mean(one), mean(two), atol=1e-12)
    np.testing.assert_allclose(one.fresh, two.fresh, atol=1e-12)


def test_samples_of_a_normal_distribution():
    """Data N(0, 4), whose best estimates are known, by each sampler with many steps."""
    s = np.linspace(np.pi / 2, 0, 201)
    level = paths.Level(*paths.circle.position(s), *paths.circle.velocity(s), s)
    levels = level.in_float32()

    def estimate(x, level):
        variance = 4 * level.alpha**2 + level.sigma**2
        return 4 * level.alpha / variance * x, level.sigma / variance * x

    def velocity(x, s):
        data, noise = estimate(x, paths.Level(*paths.circle.position(s), 0.0, 0.0, 0.0))
        alpha_rate, sigma_rate = paths.circle.velocity(s)
        return alpha_rate * data + sigma_rate * noise

    x = jax.random.normal(jax.random.key(0), (20_000, 1))

    def fresh(index):
        return jax.random.normal(jax.random.fold_in(jax.random.key(1), index), x.shape)

    found = [samplers.integrate(velocity, x, s, method) for method in ("euler", "heun")]
    for weights in (
        samplers.ancestral(level.alpha, level.sigma),
        samplers.ancestral(level.alpha, level.sigma, "large"),
        samplers.ddim(level.alpha, level.sigma),
    ):
        found.append(
            samplers.denoise(lambda x, index: estimate(x, levels(index)), x, weights, fresh)
        )
    # Of 20,000 draws the standard deviation has an error of 0.5%, and 200 steps add about 1%.
    np.testing.assert_allclose([jnp.std(each) for each in found], 2, rtol=0.03)
    np.testing.assert_allclose(found[1], 2 * x, rtol=1e-3)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_divergences_of_a_linear_field(divergence):
    matrix = jax.random.normal(jax.random.key(0), (6, 6))
    x = jax.random.normal(jax.random.key(1), (3, 2, 3))

    def field(x):
        return (x.reshape(3, 6) @ matrix).reshape(x.shape)

    if divergence == "exact":
        value, found = samplers.exact_divergence(field, x)
        np.testing.assert_allclose(found, np.full(3, np.trace(matrix)), rtol=1e-5)
    else:
        probe = jax.random.rademacher(jax.random.key(2), x.shape).astype(jnp.float32)
        value, found = samplers.hutchinson(probe)(field, x)
        rows = probe.reshape(3, 6)
        np.testing.assert_allclose(found, np.sum(rows @ matrix * rows, axis=1), rtol=1e-4)
    np.testing.assert_allclose(value, field(x), rtol=1e-5)
