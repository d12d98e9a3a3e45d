import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.interop import stylegan2 as interop
from genjax.models import stylegan2
from genjax.models.stylegan2 import PlayerConfig, Stylegan2Config
from genjax.nn.style import broadcast
from genjax.objectives import adversarial
from genjax.objectives.penalties import path_lengths, r1_penalty
from genjax.steps.augment import adapt
from genjax.types import ImageSpec, UsageError

SPEC = ImageSpec(32, 32, 3)
PLAYER = PlayerConfig(channel_base=512, channel_max=32, mapping_layers=2)
CONFIG = Stylegan2Config(
    latent_size=32,
    style_size=32,
    conv_clamp=0,
    generator=dataclasses.replace(PLAYER, architecture="skip"),
    discriminator=PLAYER,
)
GENERATOR, DISCRIMINATOR = stylegan2.networks(CONFIG, SPEC)


@pytest.fixture
def vectors(shared):
    def load(name):
        file = np.load(shared / f"reference/a/stylegan2_{name}.npz")
        found = {"param": {}, "in": {}, "out": {}}
        for key in file.files:
            kind, _, rest = key.partition("/")
            if kind in found:
                found[kind][rest] = file[key]
        return found

    return load


def _close(found, expected, tolerance=2e-5):
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def _load(letter, arrays):
    return interop.load(CONFIG, SPEC, {f"{letter}.{name}": x for name, x in arrays.items()})


def _images(x):
    return np.transpose(x, (0, 2, 3, 1))


def _styles(variables, z, train=False):
    style = jax.jit(
        lambda variables, z: GENERATOR.apply(
            variables, z, None, train, method="style", mutable=["batch_stats"]
        )
    )
    return style({k: variables[k] for k in ("params", "batch_stats")}, z)


def _synthesize(variables, ws, noise):
    call = jax.jit(
        lambda params, ws, noise: GENERATOR.apply(
            {"params": params}, ws, noise, method="synthesize"
        )
    )
    return call(variables["params"], ws, noise)


@pytest.mark.device
def test_the_mapping_is_the_references(vectors):
    """Styles, their running mean after a pass in training, and truncated styles are the same."""
    reference = vectors("a_generator")
    variables = _load("G", reference["param"])["generator"]
    out, z = reference["out"], reference["in"]["z"]
    w, _ = _styles(variables, z)
    _close(broadcast(w, SPEC), out["ws"])
    _, updated = _styles(variables, z, train=True)
    _close(updated["batch_stats"]["mapping"]["mean"], out["w_avg_after_train_call"])
    state = stylegan2.from_variables(
        dataclasses.replace(CONFIG, ema_images=0),
        SPEC,
        {"generator": variables, "discriminator": {"params": {}}},
    )
    labels = np.zeros(4, np.int32)
    _close(stylegan2.style(CONFIG, state, z, labels, 0.7, 4), out["ws_trunc"])
    _close(stylegan2.style(CONFIG, state, z, labels, 0.7), out["ws_trunc_all"])


@pytest.mark.device
def test_the_synthesis_is_the_references(vectors):
    """Images with constant noise, without noise, and of two mixed styles are the same."""
    reference = vectors("a_generator")
    variables = _load("G", reference["param"])["generator"]
    out = reference["out"]
    _close(_synthesize(variables, out["ws"], variables["noise"]), _images(out["image"]))
    _close(_synthesize(variables, out["ws"], None), _images(out["image_noise_none"]))
    mixed = np.concatenate([out["ws"][:, :4], out["ws2"][:, 4:]], axis=1)
    _close(_synthesize(variables, mixed, variables["noise"]), _images(out["image_mixed"]))


@pytest.mark.device
def test_the_discriminator_is_the_references(vectors):
    reference = vectors("a_discriminator")
    variables = _load("D", reference["param"])["discriminator"]
    discriminate = jax.jit(lambda images: DISCRIMINATOR.apply(variables, images, None))
    image, noise = (_images(reference["in"][name]) for name in ("img", "img_noise"))
    out = reference["out"]
    _close(discriminate(image), out["logits"][:, 0])
    _close(discriminate(noise), out["logits_noise"][:, 0])
    _close(discriminate(np.concatenate([noise, image])), out["logits_batch8"][:, 0])


@pytest.mark.device
def test_losses_and_the_adaptation_are_the_references(vectors):
    reference = vectors("losses_a")
    given, out = reference["in"], reference["out"]
    real, fake = given["real_logits"][:, 0], given["fake_logits"][:, 0]
    _close(adversarial.non_saturating_generator_loss(fake), out["loss_G_per_sample"][:, 0])
    _close(adversarial.minimax_discriminator_loss(real, fake), out["loss_D_per_sample"][:, 0])
    for suffix, logits in (("", real), ("_abs_logits", np.abs(real))):
        sign = jnp.mean(jnp.sign(logits))
        _close(sign, out[f"ada_rt{suffix}"])
        p = adapt(given["p0"], sign, 0.6, 64 * 4, 500_000)
        _close(p, out[f"ada_p_new{suffix}"], 1e-6)


@pytest.mark.device
def test_r1_is_the_references(vectors):
    """Values, their gradient in the images, and that of their mean in each parameter agree."""
    reference = vectors("losses_a")
    variables = _load("D", vectors("a_discriminator")["param"])["discriminator"]
    real, out = _images(reference["in"]["real_img"]), reference["out"]

    def penalties(params):
        return (
            5
            * 2
            * r1_penalty(lambda images: DISCRIMINATOR.apply({"params": params}, images, None), real)
        )

    values, grads = jax.jit(
        lambda params: (penalties(params), jax.grad(lambda p: jnp.mean(penalties(p)))(params))
    )(variables["params"])
    _close(values, out["r1_penalty"])
    _check_gradients({"discriminator": {"params": grads}}, "r1_grad", out)


@pytest.mark.device
def test_path_lengths_are_the_references(vectors):
    """Lengths, running mean and the penalty's gradients agree, also at a mean held constant."""
    reference = vectors("losses_a")
    variables = _load("G", vectors("a_generator")["param"])["generator"]
    given, out = reference["in"], reference["out"]

    def penalty(params, detach):
        lengths = path_lengths(
            lambda ws: GENERATOR.apply(
                {"params": params}, ws, variables["noise"], method="synthesize"
            ),
            given["ws"],
            _images(given["pl_noise"]),
        )
        mean = given["pl_mean"] + CONFIG.path_length_decay * (jnp.mean(lengths) - given["pl_mean"])
        mean = jnp.where(detach, jax.lax.stop_gradient(mean), mean)
        return jnp.mean((lengths - mean) ** 2), (lengths, mean)

    gradient = jax.jit(jax.grad(penalty, has_aux=True))
    for detach, name in ((False, "pl_grad"), (True, "pl_grad_mean_detached")):
        grads, (lengths, mean) = gradient(variables["params"], detach)
        _close(lengths, out["pl_lengths"])
        _close(mean, out["pl_mean_new"])
        _check_gradients({"generator": {**variables, "params": grads}}, name, out)


def _check_gradients(variables, kind, out):
    """Check the gradients that the reference has, and that all others are zero."""
    arrays = interop.dump(CONFIG, SPEC, variables)
    found = {name.partition(".")[2]: array for name, array in arrays.items()}
    expected = {
        name.removeprefix(f"{kind}/"): value
        for name, value in out.items()
        if name.startswith(f"{kind}/")
    }
    assert len(expected) >= 3
    for name, value in expected.items():
        # Some gradients are small differences of large terms.
        scale = max(np.abs(value).max(), 1e-3)
        np.testing.assert_allclose(found[name], value, rtol=0, atol=5e-5 * scale, err_msg=name)


def test_what_is_loaded_is_dumped(vectors):
    both = {"G": "a_generator", "D": "a_discriminator"}
    arrays = {
        f"{letter}.{key}": value
        for letter, name in both.items()
        for key, value in vectors(name)["param"].items()
    }
    found = interop.dump(CONFIG, SPEC, interop.load(CONFIG, SPEC, arrays))
    assert found.keys() == arrays.keys()
    for key, value in arrays.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


def test_parameters_that_do_not_fit_are_listed(vectors):
    arrays = vectors("a_discriminator")["param"]
    del arrays["b4.out.bias"]
    with pytest.raises(UsageError, match=r"1 missing: D\.b4\.out\.bias \(1,\)$"):
        _load("D", arrays)
    arrays["b8.conv1.resample_filter"] = np.ones((4, 4), np.float32)
    with pytest.raises(UsageError, match="another filter"):
        _load("D", arrays)
