import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.models import vae
from genjax.models.vae import VaeConfig
from genjax.types import Batch, ImageSpec, UsageError
from tests.states import drawn_state

SPEC = ImageSpec(16, 16, 1, 3)
GRAY = {"likelihood": "discretized_logistic", "binarization": "none"}


def _config(**fields):
    return VaeConfig(**{"hidden_sizes": (8,), "latent_size": 4, "features": 4, **fields})


def _batch(count=8, spec=SPEC):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *spec.shape), np.uint8)
    return Batch(jnp.asarray(images), jnp.asarray(np.arange(count) % 3, jnp.int32))


STEP = jax.jit(vae.step, static_argnums=0)


def _init(config, spec=SPEC):
    return drawn_state(vae.init, config, spec)


@functools.cache
def _stepped(config):
    state = _init(config)
    return state, *STEP(config, state, _batch(), jax.random.key(1))


def test_sizes_of_the_papers():
    spec = ImageSpec(28, 28, 1)
    config = VaeConfig(hidden_sizes=(200, 200), latent_size=50)
    params = jax.eval_shape(lambda: vae.init(config, jax.random.key(0), spec)).model.params
    shapes = jax.tree.map(lambda x: x.shape, params)
    assert shapes["encoder"]["hidden_0"]["kernel"] == (784, 200)
    assert shapes["encoder"]["mean"]["kernel"] == (200, 50)
    assert shapes["decoder"]["hidden_0"]["kernel"] == (50, 200)
    assert shapes["decoder"]["output"]["kernel"] == (200, 784)


@pytest.mark.parametrize("spec", [ImageSpec(28, 28, 1), ImageSpec(32, 64, 3)], ids=str)
@pytest.mark.parametrize("network", ["mlp", "resnet"])
def test_shapes(network, spec):
    config = _config(network=network, **GRAY)
    params = jax.eval_shape(lambda: vae.init(config, jax.random.key(0), spec)).model.params
    encoder, _ = vae.networks(config, spec)
    images = jax.ShapeDtypeStruct((5, *spec.shape), jnp.float32)
    posterior = jax.eval_shape(
        lambda params, x: encoder.apply({"params": params["encoder"]}, x, None), params, images
    )
    chex.assert_shape([posterior.mean, posterior.log_var], (5, 4))
    z = jax.ShapeDtypeStruct((7, 5, 4), jnp.float32)
    output = jax.eval_shape(
        lambda params, z: vae.apply_decoder(config, spec, params, z, None), params, z
    )
    assert output.location.shape == (7, 5, *spec.shape)
    assert output.log_scale.shape == (spec.channels,)


def test_a_resnet_of_a_size_that_does_not_halve_is_refused():
    with pytest.raises(UsageError, match="30x30"):
        vae.init(_config(network="resnet"), jax.random.key(0), ImageSpec(30, 30, 1))


def test_binarization():
    images = jnp.asarray(np.repeat(np.array([0, 64, 255], np.uint8), 4000).reshape(3, 40, 100, 1))
    keys = jax.random.split(jax.random.key(0))
    one, other = (vae.to_inputs(VaeConfig(), images, key) for key in keys)
    for drawn in (one, other):
        assert set(np.unique(drawn)) == {0, 1}
        np.testing.assert_allclose(jnp.mean(drawn, axis=(1, 2, 3)), [0, 64 / 255, 1], atol=0.03)
    assert not np.array_equal(one, other)
    static = VaeConfig(binarization="static")
    one, other = (vae.to_inputs(static, images, key) for key in keys)
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(jnp.mean(one, axis=(1, 2, 3)), [0, 64 / 255, 1], atol=0.03)
    # The noise depends on the image, not on its place in the batch.
    np.testing.assert_array_equal(vae.to_inputs(static, images[1:2], keys[0]), one[1:2])
    changed = vae.to_inputs(static, images[1:2].at[0, 0, 0, 0].add(1), keys[0])
    assert np.mean(changed != one[1:2]) > 0.2
    gray = vae.to_inputs(VaeConfig(binarization="none"), images, keys[0])
    np.testing.assert_allclose(gray[:, 0, 0, 0], [0, 64 / 255, 1], rtol=1e-6)
    signed = vae.to_inputs(VaeConfig(**GRAY), images, keys[0])
    np.testing.assert_allclose(signed[:, 0, 0, 0], [-1, 64 / 127.5 - 1, 1], rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"likelihood": "normal"}, "binarization = 'dynamic'"),
        ({"bound": "iwae", "beta": 0.5}, "beta = 0.5: the bound 'iwae' has none; should be 1.0"),
        ({"bound": "iwae", "free_bits": 0.1}, "free_bits = 0.1"),
        ({"bound": "iwae", "kl_warmup_steps": 5}, "kl_warmup_steps = 5"),
        ({"bound": "iwae", "sticking_the_landing": True}, "sticking_the_landing = True"),
        ({"free_bits": 0.1, "sticking_the_landing": True}, "free_bits = 0.1"),
        ({"samples": 0}, "samples"),
    ],
)
def test_impossible_configs_are_refused_by_name(fields, message):
    with pytest.raises(UsageError, match=message):
        VaeConfig(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"network": "resnet", "conditional": True, "dtype": "bfloat16"},
        pytest.param({"network": "resnet", **GRAY}, marks=pytest.mark.slow),
        {"bound": "iwae", "samples": 3},
        {"sticking_the_landing": True, "samples": 2},
        {"free_bits": 0.5, "conditional": True, "dtype": "bfloat16"},
        {"likelihood": "normal", "binarization": "none", "ema_decay": 0.9},
        GRAY,
    ],
    ids=str,
)
def test_a_step_is_finite_and_moves_every_parameter(fields):
    state, after, metrics = _stepped(_config(**fields))
    chex.assert_tree_all_finite((after, metrics))
    chex.assert_type(jax.tree.leaves(after.model.params), jnp.float32)
    before = jax.tree_util.tree_flatten_with_path(state.model.params)[0]
    for (path, a), b in zip(before, jax.tree.leaves(after.model.params), strict=True):
        assert not np.array_equal(a, b), path


def test_the_bounds_order():
    """IWAE's bound on the same images rises with the number of samples, above the ELBO."""
    config = _config()
    state = _init(config)
    run = jax.jit(vae.evaluate, static_argnums=(0, 4))
    nll = [
        float(jnp.mean(run(config, state, _batch(), jax.random.key(2), samples).nll))
        for samples in (1, 10, 500)
    ]
    assert nll[0] > nll[1] > nll[2]
    elbo = run(config, state, _batch(), jax.random.key(2), 500).elbo
    assert -jnp.mean(elbo) > nll[2]


def test_evaluate_is_the_likelihood_by_integration():
    """The model has one latent, so log p(x) is an integral over a line."""
    config = _config(latent_size=1, binarization="static")
    state, batch = _init(config), _batch(3)
    found = jax.jit(vae.evaluate, static_argnums=(0, 4))(
        config, state, batch, jax.random.key(0), 20_000
    )
    z = jnp.linspace(-6, 6, 2001)
    images = vae.to_inputs(config, batch.images, jax.random.key(0))
    latents = jnp.broadcast_to(z[:, None, None], (len(z), 3, 1))

    @jax.jit
    def log_joints(params):
        output = vae.apply_decoder(config, SPEC, params, latents, None)
        log_prior = jax.scipy.stats.norm.logpdf(z)[:, None]
        return vae.log_likelihood(config, images, output) + log_prior

    log_joint = log_joints(state.model.params)
    expected = jax.scipy.special.logsumexp(log_joint, axis=0) + jnp.log(z[1] - z[0])
    np.testing.assert_allclose(-found.nll, expected, atol=0.05)


def test_samples_of_one_image_are_drawn_apart():
    posterior = vae.Normal(jnp.zeros((2, 3)), jnp.full((2, 3), np.log(4.0)))
    z = vae.draw(posterior, jax.random.key(0), 5000)
    chex.assert_shape(z, (5000, 2, 3))
    np.testing.assert_allclose(jnp.std(z, axis=0), 2, rtol=0.05)
    np.testing.assert_allclose(jnp.mean(z, axis=0), 0, atol=0.1)


def test_the_loss_is_the_bound_that_was_asked_for():
    key = jax.random.key(1)
    _, _, plain = _stepped(_config())
    np.testing.assert_allclose(plain["loss"], -plain["elbo"], rtol=1e-6)
    _, _, half = _stepped(_config(beta=0.5))
    np.testing.assert_allclose(half["loss"], -plain["elbo"] - 0.5 * plain["kl"], rtol=1e-5)
    warm = _config(kl_warmup_steps=10)
    state, _, first = _stepped(warm)
    np.testing.assert_allclose(first["loss"], -plain["elbo"] - plain["kl"], rtol=1e-5)
    later = dataclasses.replace(state, step=jnp.int32(5))
    np.testing.assert_allclose(STEP(warm, later, _batch(), key)[1]["loss"], half["loss"], rtol=1e-5)
    # An untrained model's KL is far below half a nat in each of 4 latents.
    _, _, free = _stepped(_config(free_bits=1.0))
    assert free["kl"] < 4
    np.testing.assert_allclose(free["loss"], -plain["elbo"] - plain["kl"] + 4, rtol=1e-5)


def test_iwae_of_one_sample_has_the_gradient_of_the_elbo_in_the_mean():
    """IWAE's KL is sampled, so only the mean over many draws agrees."""
    state = _init(_config())
    images = jax.tree.map(lambda x: jnp.repeat(x, 500, axis=0), _batch(2))
    elbo, iwae = (
        STEP(_config(bound=bound), state, images, jax.random.key(0))[1]["loss"]
        for bound in ("elbo", "iwae")
    )
    np.testing.assert_allclose(elbo, iwae, rtol=2e-3)


def test_the_moving_average_lags_and_is_what_is_used():
    config = _config(ema_decay=0.999)
    state, after, _ = _stepped(config)
    # The first update of the average gives its old value a weight of 1 / 10.
    expected = jax.tree.map(
        lambda old, new: 0.1 * old + 0.9 * new, state.model.params, after.model.params
    )
    chex.assert_trees_all_close(after.ema, expected, rtol=1e-5, atol=1e-7)
    z, labels = jax.random.normal(jax.random.key(3), (4, 4)), jnp.zeros(4, jnp.int32)
    swapped = dataclasses.replace(
        after, model=dataclasses.replace(after.model, params=expected), ema=None
    )
    decode = jax.jit(vae.decode, static_argnums=0)
    np.testing.assert_allclose(
        decode(config, after, z, labels), decode(config, swapped, z, labels), rtol=1e-5, atol=1e-6
    )


def test_labels_reach_encoder_and_decoder():
    config = _config(conditional=True)
    state, _, _ = _stepped(config)
    assert state.model.params["encoder"]["hidden_0"]["kernel"].shape[0] == 256 + 3
    assert state.model.params["decoder"]["hidden_0"]["kernel"].shape[0] == 4 + 3
    batch = _batch()
    other = batch._replace(labels=batch.labels[::-1])
    key = jax.random.key(0)
    encode = jax.jit(functools.partial(vae.encode, config))
    assert not np.allclose(encode(state, batch, key), encode(state, other, key))
    z = jnp.zeros((3, 4))
    images = jax.jit(functools.partial(vae.decode, config))(state, z, jnp.arange(3))
    assert not np.allclose(images[0], images[1])
    with pytest.raises(UsageError, match="conditional"):
        vae.init(config, key, ImageSpec(16, 16, 1))


def test_active_units_are_those_that_vary():
    config = _config()
    state, _, metrics = _stepped(config)
    assert metrics["active_fraction"] == metrics["active_units"] / 4
    params = jax.tree.map(jnp.zeros_like, state.model.params)
    dead = dataclasses.replace(state, model=dataclasses.replace(state.model, params=params))
    assert STEP(config, dead, _batch(), jax.random.key(0))[1]["active_units"] == 0
