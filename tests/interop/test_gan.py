import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.interop import gan as interop
from genjax.models import gan
from genjax.steps.optim import OptimizerConfig
from genjax.types import ImageSpec, UsageError
from tests.states import drawn_state

SPEC = ImageSpec(3, 5, 3)


def _config(latent=4, g=(6,), d=(7,), adam=None):
    adam = adam or {}
    return gan.GanConfig(
        latent_size=latent,
        generator=gan.PlayerConfig(hidden_sizes=g, **adam),
        discriminator=gan.PlayerConfig(hidden_sizes=d, **adam),
    )


def _variables(config, spec):
    state = drawn_state(gan.init, config, spec)
    params = {"generator": state.generator.params, "discriminator": state.discriminator.params}
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + rng.normal(size=x.shape).astype(np.float32), params)


@pytest.mark.device
def test_one_round_matches_the_reference(shared):
    """Losses, gradients and parameters after Adam's step of D, then of G, from PyTorch."""
    vectors = np.load(shared / "reference/a/gan_a.npz")
    meta = json.loads(str(vectors["meta"]))
    (latent, g_hidden, pixels), (_, d_hidden, _) = meta["G"], meta["D"]
    spec = ImageSpec(14, 14, 1)
    assert pixels == 14 * 14
    adam = {"learning_rate": meta["adam"]["lr"], "epsilon": meta["adam"]["eps"]}
    adam |= dict(zip(("beta1", "beta2"), meta["adam"]["betas"], strict=True))
    config = _config(latent, (g_hidden,), (d_hidden,), adam)

    def theirs(prefix):
        return {k[len(prefix) :]: vectors[k] for k in vectors.files if k.startswith(prefix)}

    params = jax.tree.map(jnp.asarray, interop.load(config, spec, theirs("param/")))
    state = gan.from_params(config, spec, params)
    z, real = jnp.asarray(vectors["in/z"]), jnp.asarray(vectors["in/real"]).reshape(-1, 14, 14, 1)

    generator, discriminator = gan.networks(config, spec)
    fake = gan.apply(generator, params["generator"], z)
    np.testing.assert_allclose(fake.reshape(16, -1), vectors["out/fake"], atol=2e-6)
    for images, name in ((real, "d_real"), (fake, "d_fake")):
        d = jax.nn.sigmoid(gan.apply(discriminator, params["discriminator"], images))
        np.testing.assert_allclose(d[:, None], vectors[f"out/{name}"], rtol=2e-6)

    update = jax.jit(gan.update_players, static_argnums=0)
    state, metrics = update(config, state, real, z)
    np.testing.assert_allclose(metrics["d_loss"], vectors["out/d_loss"], rtol=2e-6)
    np.testing.assert_allclose(metrics["g_loss"], vectors["out/g_loss_after_d_step"], rtol=2e-6)
    after = {"generator": state.generator.params, "discriminator": state.discriminator.params}
    for name, array in interop.dump(config, spec, after).items():
        player, rest = name.split(".", 1)
        # A step is 2e-4 wide. Adam's first is g / (|g| + 1e-8): where a gradient is of the size of
        # that epsilon float32 itself is off by 3e-6, as the reference's own float32 is.
        np.testing.assert_allclose(array, vectors[f"out/{player}_after.{rest}"], atol=4e-6)

    # Adam's first moment is (1 - beta1) times the gradient, which the step itself hides.
    first_moment = state.generator.opt_state[0].mu
    grads = jax.tree.map(lambda m: m / (1 - config.generator.beta1), first_moment)
    dumped = interop.dump(config, spec, {**after, "generator": grads})
    for name, expected in theirs("out/g_grad/").items():
        scale = np.abs(expected).max()
        np.testing.assert_allclose(dumped[f"G.{name}"], expected, atol=6e-6 * scale)

    saturating = gan.adversarial.saturating_generator_loss(
        gan.apply(
            discriminator, after["discriminator"], gan.apply(generator, after["generator"], z)
        )
    )
    np.testing.assert_allclose(jnp.mean(saturating), vectors["out/g_loss_saturating"], rtol=2e-6)


@pytest.mark.parametrize("spec", [SPEC, ImageSpec(4, 4, 1, 10)], ids=str)
def test_dump_and_load_are_inverse_at_any_size(spec):
    variables = _variables(_config(), spec)
    arrays = interop.dump(_config(), spec, variables)
    assert arrays["G.2.weight"].shape == (np.prod(spec.shape), 6)
    chex.assert_trees_all_equal(interop.load(_config(), spec, arrays), variables)


def test_their_pixels_are_channels_first():
    """The network of the dumped arrays, evaluated as theirs, gives our image in [C, H, W]."""
    config, variables = _config(), _variables(_config(), SPEC)
    theirs = {
        k: np.asarray(v, np.float64) for k, v in interop.dump(config, SPEC, variables).items()
    }

    def sequential(letter, x):
        x = x @ theirs[f"{letter}.0.weight"].T + theirs[f"{letter}.0.bias"]
        x = np.where(x > 0, x, 0.01 * x)
        return x @ theirs[f"{letter}.2.weight"].T + theirs[f"{letter}.2.bias"]

    generator, discriminator = gan.networks(config, SPEC)
    z = 0.1 * jax.random.normal(jax.random.key(1), (2, 4))
    ours = gan.apply(generator, variables["generator"], z)
    flat = np.tanh(sequential("G", np.asarray(z, np.float64)))
    np.testing.assert_allclose(ours.transpose(0, 3, 1, 2), flat.reshape(2, 3, 3, 5), atol=1e-5)
    logits = gan.apply(discriminator, variables["discriminator"], ours)
    np.testing.assert_allclose(logits[:, None], sequential("D", flat), rtol=1e-4)


def test_every_entry_that_does_not_fit_is_listed():
    arrays = interop.dump(_config(), SPEC, _variables(_config(), SPEC))
    del arrays["G.0.bias"]
    arrays["D.9.weight"] = np.zeros(1)
    arrays["D.2.weight"] = arrays["D.2.weight"].T
    with pytest.raises(UsageError) as error:
        interop.load(_config(), SPEC, arrays)
    for part in ("missing: G.0.bias (6,)", "unknown: D.9.weight", "D.2.weight (7, 1), wanted"):
        assert part in str(error.value)


@pytest.mark.device
def test_the_defaults_are_the_references_adam(shared):
    meta = json.loads(str(np.load(shared / "reference/a/gan_a.npz")["meta"]))
    ours = OptimizerConfig()
    assert (ours.learning_rate, ours.epsilon) == (meta["adam"]["lr"], meta["adam"]["eps"])
    assert [ours.beta1, ours.beta2] == meta["adam"]["betas"]
