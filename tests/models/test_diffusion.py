"""Diffusion: likelihoods known in closed form, samplers, guidance, and what a config may be.

A U-Net begins with an output of 0, so that a new model's differential equation is linear in x.
"""

import dataclasses
import functools
import itertools
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from genjax.models import diffusion
from genjax.nn.unet import UNetConfig
from genjax.types import Batch, ImageSpec, UsageError
from tests.states import drawn_state

SPEC = ImageSpec(4, 6, 1, 3)
NETWORK = UNetConfig(features=(4,), blocks=1, attention_sizes=(), groups=2)
CONFIG = functools.partial(diffusion.DiffusionConfig, network=NETWORK, ema_decay=0.0)
PATHS = {
    "noise": CONFIG(),
    "velocity": CONFIG(path="cosine", prediction="velocity"),
    "data": CONFIG(path="cosine", prediction="data", ode_steps=100),
    "straight": CONFIG(path="straight", prediction="velocity"),
    "edm": CONFIG(path="edm", prediction="preconditioned"),
}
KEY = jax.random.key(0)


def each(values, *fast):
    """Parametrize by values, of which all but some are slow."""
    return [v if v in fast else pytest.param(v, marks=pytest.mark.slow) for v in values]


def _batch(count=5):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *SPEC.shape), np.uint8)
    return Batch(jnp.asarray(images), jnp.arange(count) % 3)


def _variance(name):
    """Return the variance of all values under a new model."""
    config = PATHS[name]
    if name == "noise":  # dx/ds = -tan(s) x, which cos(s) solves
        first, last = diffusion.ode_grid(config)[[0, -1]]
        return (math.cos(first) / math.cos(last)) ** 2
    if name == "data":  # dx/ds = x / tan(s), which sin(s) solves
        first, last = diffusion.ode_grid(config)[[0, -1]]
        return (math.sin(first) / math.sin(last)) ** 2
    if name == "edm":  # dx/ds = s x / (s^2 + sigma_data^2), which the root of the latter solves
        spread = config.sigma_data**2
        least, most = config.sigma_min**2, config.sigma_max**2
        return most * (least + spread) / (most + spread)
    return 1.0


@pytest.mark.parametrize("name", each(PATHS, "edm"))
def test_the_likelihood_of_a_linear_equation_is_exact(name):
    config, batch = PATHS[name], _batch()
    state = diffusion.init(config, KEY, SPEC)
    found = jax.jit(functools.partial(diffusion.evaluate, config, samples=1))(state, batch, KEY)
    gray_key, _ = jax.random.split(jax.random.split(KEY, 1)[0])
    x = diffusion.to_data(batch.images, jax.random.uniform(gray_key, batch.images.shape))
    normal = stats.norm(scale=math.sqrt(_variance(name)))
    wanted = -normal.logpdf(np.asarray(x, np.float64)).sum(axis=(1, 2, 3)) + 24 * math.log(127.5)
    np.testing.assert_allclose(found.nll, wanted, rtol=2e-3)
    assert found.elbo is None


@pytest.mark.parametrize("name", each(PATHS, "velocity"))
def test_latents_and_images_are_the_ends_of_one_path(name):
    """`decode` inverts `encode`, and a new model's latents are images in other units."""
    config, batch = PATHS[name], _batch()
    config = dataclasses.replace(config, ode_steps=100)
    state = diffusion.init(config, KEY, SPEC)
    latents = jax.jit(functools.partial(diffusion.encode, config))(state, batch, KEY)
    assert latents.shape == (5, 24)
    x = diffusion.to_data(batch.images)
    np.testing.assert_allclose(latents * math.sqrt(_variance(name)), x.reshape(5, 24), atol=5e-3)
    images = jax.jit(functools.partial(diffusion.decode, config))(state, latents, batch.labels)
    np.testing.assert_allclose(images, x, atol=5e-3)


SAMPLERS = "ancestral", "ddim", "euler", "heun", "dopri5"


@pytest.mark.parametrize("sampler", each(SAMPLERS, "ancestral", "dopri5"))
def test_samples_of_a_linear_equation(sampler):
    """EDM's new model draws N(0, sigma_data^2), whatever the sampler."""
    if sampler == "dopri5":
        pytest.importorskip("diffrax", reason="needs diffrax: pip install '.[ode]'")
    config = CONFIG(path="edm", prediction="preconditioned", clip=False, sigma_data=0.25)
    state = diffusion.init(config, KEY, SPEC)
    images = diffusion.sample(config, state, KEY, jnp.zeros(300), sampler, 100)
    assert abs(float(jnp.std(images)) - 0.25) < 0.02
    assert images.shape == (300, *SPEC.shape)


def _perfect(spread, error):
    """Return `apply` of a network that is right for data N(0, spread^2), but for an error."""

    def apply(config, spec, params, x, level, labels, dropout_key=None):
        level = level.over(x)
        whole = (level.alpha * spread) ** 2 + level.sigma**2
        data, noise = level.alpha * spread**2 * x / whole, level.sigma * x / whole
        return diffusion.prediction_of(config).target(level, data, noise) + error

    return apply


CASES = list(itertools.product(PATHS, SAMPLERS))
FAST = ("data", "ddim"), ("noise", "heun"), ("edm", "dopri5"), ("straight", "euler")


@pytest.mark.parametrize("case", each(CASES, *FAST), ids="-".join)
def test_a_right_network_gives_the_data_by_every_sampler(case, monkeypatch):
    """Of normal data; small errors of the network stay small."""
    name, sampler = case
    if sampler == "dopri5":
        pytest.importorskip("diffrax", reason="needs diffrax: pip install '.[ode]'")
    monkeypatch.setattr(diffusion, "apply", _perfect(0.25, 1e-3))
    config = dataclasses.replace(PATHS[name], clip=False)
    state = diffusion.init(config, KEY, SPEC)
    images = diffusion.sample(config, state, KEY, jnp.zeros(500), sampler, 500)
    assert abs(float(jnp.mean(images))) < 0.02
    assert abs(float(jnp.std(images)) / 0.25 - 1) < 0.06


@pytest.mark.parametrize("name", each(["noise", "velocity"], "noise"))
def test_the_bound_is_that_of_the_papers_equations(name, monkeypatch):
    """KL divergences by the mean and variance of Ho et al. 2020, equations 6 and 7."""
    monkeypatch.setattr(diffusion, "apply", _perfect(0.25, 0.0))
    config = dataclasses.replace(
        PATHS[name], time_steps=30, sampling_steps=30, beta_end=0.5, likelihood="bound"
    )
    state, batch = diffusion.init(config, KEY, SPEC), _batch(2)
    found = jax.jit(functools.partial(diffusion.evaluate, config, samples=20000))(state, batch, KEY)

    data = np.asarray(diffusion.to_data(batch.images), np.float64).reshape(2, -1)
    kept = np.cos(diffusion.angles(config)) ** 2
    before = np.append(1.0, kept[:-1])
    betas = 1 - kept / before
    # Of a right network's error y - E[y|x]: its bias and its spread.
    whole = kept * 0.25**2 + 1 - kept
    bias, spread = (1 - kept) / whole, np.sqrt(kept * (1 - kept)) * 0.25**2 / whole
    squares = bias[:, None] ** 2 * (data**2).sum(1) + 24 * spread[:, None] ** 2
    factor, variance = np.sqrt(before) * betas / (1 - kept), (1 - before) / (1 - kept) * betas
    wanted = sum(factor[t] ** 2 * squares[t] / (2 * variance[t]) for t in range(1, 30))
    wanted += (kept[-1] * (data**2).sum(1) - 24 * (kept[-1] + np.log(1 - kept[-1]))) / 2
    rng, scale = np.random.default_rng(0), math.sqrt((1 - kept[0]) / kept[0])
    means = data * (1 - bias[0]) + spread[0] * rng.normal(size=(2000, *data.shape))
    upper = np.where(data > 1 - 1e-3, 1.0, stats.norm.cdf((data + 1 / 255 - means) / scale))
    lower = np.where(data < 1e-3 - 1, 0.0, stats.norm.cdf((data - 1 / 255 - means) / scale))
    wanted -= np.log(np.maximum(upper - lower, 1e-30)).sum(2).mean(0)
    np.testing.assert_allclose(found.nll, wanted, rtol=3e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", PATHS)
def test_adaptive_steps_give_what_many_steps_do(name):
    pytest.importorskip("diffrax", reason="needs diffrax: pip install '.[ode]'")
    config, batch = dataclasses.replace(PATHS[name], ode_steps=800), _batch()
    adaptive = dataclasses.replace(config, ode_steps=0, ode_tolerance=1e-6)
    state = drawn_state(diffusion.init, config, SPEC)
    # With weights as large as drawn, equations are too wild for any method.
    state = state.with_weights(jax.tree.map(lambda x: x / 3, state.weights))

    def both(function):
        return [jax.jit(functools.partial(function, each)) for each in (config, adaptive)]

    many, own = (encode(state, batch, KEY) for encode in both(diffusion.encode))
    np.testing.assert_allclose(own, many, atol=2e-2 * np.abs(many).max())
    latents = jax.random.normal(KEY, many.shape)
    many, own = (draw(state, latents, batch.labels) for draw in both(diffusion.decode))
    np.testing.assert_allclose(own, many, atol=2e-2)
    many, own = (log_prob(state, batch, KEY) for log_prob in both(diffusion.ode_log_prob))
    np.testing.assert_allclose(own, many, rtol=2e-3)


def test_without_diffrax_no_training_begins(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffrax", None)
    for config in (CONFIG(sampler="dopri5"), CONFIG(ode_steps=0)):
        with pytest.raises(UsageError, match=r"pip install 'genjax-models\[ode\]'"):
            diffusion.init(config, KEY, SPEC)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["noise", "straight", "edm"])
def test_the_bound_is_estimated_without_bias_from_some_time_steps(name):
    config = dataclasses.replace(
        PATHS[name], time_steps=40, sampling_steps=40, likelihood="bound", beta_end=0.5
    )
    state, batch = drawn_state(diffusion.init, config, SPEC), _batch(2)
    whole = diffusion.evaluate(config, state, batch, KEY, 100).nll
    some = jax.jit(lambda key: diffusion.bound(config, state, batch, key, 5))
    draws = jax.lax.map(some, jax.random.split(KEY, 2000))
    error = np.std(draws, axis=0) / 2000**0.5
    assert np.all(np.abs(np.mean(draws, axis=0) - whole) < 4 * error + 0.02 * np.abs(whole))


def test_guidance_is_between_and_beyond_the_two_outputs():
    config = CONFIG(path="straight", prediction="velocity", conditional=True, sampling_steps=3)
    state = drawn_state(diffusion.init, config, SPEC)
    draw = functools.partial(diffusion.sample, config, state, KEY, sampler="euler")
    labels, nothing = jnp.array([0, 1, 2]), jnp.full(3, -1)
    plain, unsaid = draw(labels), draw(nothing)
    assert np.abs(plain - unsaid).max() > 1e-3
    np.testing.assert_allclose(draw(labels, guidance=1.0), plain, atol=1e-5)
    np.testing.assert_allclose(draw(labels, guidance=0.0), unsaid, atol=1e-5)
    assert np.abs(draw(labels, guidance=3.0) - plain).max() > 1e-3
    guided = dataclasses.replace(config, guidance=3.0)
    found = diffusion.sample(guided, state, KEY, labels, sampler="euler")
    np.testing.assert_allclose(found, draw(labels, guidance=3.0), atol=1e-6)


@pytest.mark.slow
def test_labels_are_hidden_from_training_as_often_as_asked(monkeypatch):
    config = CONFIG(conditional=True, label_dropout=0.25)
    state = diffusion.init(config, KEY, SPEC)
    seen = []
    apply = diffusion.apply

    def spy(*args, **kwargs):
        jax.debug.callback(lambda labels: seen.extend(np.asarray(labels)), args[5])
        return apply(*args, **kwargs)

    monkeypatch.setattr(diffusion, "apply", spy)
    batch = _batch(400)
    diffusion.step(config, state, batch, KEY)
    jax.effects_barrier()
    hidden = np.array(seen) < 0
    assert 0.15 < hidden.mean() < 0.35
    assert set(np.array(seen)[~hidden]) == {0, 1, 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prediction": "foo"}, "prediction = 'foo': should be 'noise', 'data', 'velocity' or"),
        ({"path": "straight"}, "prediction = 'noise': with path = 'straight' it should be 'veloc"),
        ({"path": "edm"}, "it should be 'preconditioned'"),
        ({"sampling_steps": 1001}, "sampling_steps = 1001: should be at most time_steps = 1000"),
        ({"beta_start": 0.5}, "beta_start = 0.5: should be less than beta_end = 0.02"),
        ({"sigma_min": 80.0}, "sigma_min = 80.0: should be less than sigma_max = 80.0"),
        ({"guidance": 2.0}, "guidance = 2.0: wants a conditional model"),
        ({"guidance": 2.0, "conditional": True, "label_dropout": 0.0}, "with label_dropout above"),
    ],
)
def test_impossible_configs_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        CONFIG(**changes)


def test_images_that_do_not_fit_are_refused():
    config = CONFIG(network=UNetConfig(features=(4, 4), groups=2, attention_sizes=()))
    with pytest.raises(UsageError, match=r"images of 5x6: .* multiples of 2"):
        diffusion.init(config, KEY, ImageSpec(5, 6, 1))


@pytest.mark.parametrize("path", ["straight", "edm"])
def test_training_draws_levels_as_its_papers_do(path):
    prediction = "velocity" if path == "straight" else "preconditioned"
    config = CONFIG(path=path, prediction=prediction, time_sampling="logit_normal")
    level = diffusion.draw_levels(config, KEY, 20_000)
    if path == "edm":
        logs = np.log(level.sigma)
        assert abs(logs.mean() + 1.2) < 0.05 and abs(logs.std() - 1.2) < 0.05
        np.testing.assert_allclose(level.time, logs / 4, rtol=1e-4, atol=1e-6)
    else:
        logits = np.log(level.alpha / level.sigma)
        assert abs(logits.mean()) < 0.05 and abs(logits.std() - 1) < 0.05
        uniform = diffusion.draw_levels(
            dataclasses.replace(config, time_sampling="uniform"), KEY, 99
        )
        assert 0 <= float(uniform.alpha.min()) < float(uniform.alpha.max()) < 1


@pytest.mark.slow
@pytest.mark.parametrize("name", PATHS)
def test_a_model_learns(name):
    """On a handful of images the loss falls well below that of an output of 0."""
    config = dataclasses.replace(
        PATHS[name],
        network=UNetConfig(features=(16,), blocks=1, attention_sizes=(), groups=4),
        optimizer=dataclasses.replace(PATHS[name].optimizer, learning_rate=3e-3, warmup_steps=0),
    )
    batch = Batch(jnp.tile(_batch(4).images, (16, 1, 1, 1)), jnp.zeros(64, jnp.int32))
    state = diffusion.init(config, KEY, SPEC)

    @jax.jit
    def run(state):
        return jax.lax.scan(
            lambda state, key: diffusion.step(config, state, batch, key),
            *(state, jax.random.split(KEY, 200)),
        )

    _, metrics = run(state)
    losses = np.asarray(metrics["loss"])
    assert np.mean(losses[-50:]) < 0.7 * np.mean(losses[:5])
