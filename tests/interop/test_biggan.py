import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.interop import biggan as interop
from genjax.models import biggan
from genjax.models.biggan import BigganConfig, PlayerConfig
from genjax.objectives.adversarial import ADVERSARIAL_LOSSES
from genjax.objectives.penalties import orthogonal_penalty
from genjax.types import ImageSpec, UsageError

SPEC = ImageSpec(32, 32, 3, 10)
# In the reference's table for 32x32, attention at 16 stands behind each block of D, whose outputs
# have 16, 8, 8 and 8 pixels.
CONFIG = BigganConfig(
    latent_size=32,
    shared_size=16,
    generator=PlayerConfig(features=8, attention_resolutions=(16,)),
    discriminator=PlayerConfig(features=8, attention_resolutions=(16, 8)),
)


@pytest.fixture
def vectors(shared):
    def load(name):
        file = np.load(shared / f"reference/a/biggan_{name}.npz")
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


@pytest.mark.device
def test_the_generator_is_the_references(vectors):
    """Images in evaluation and training, gradients, statistics, spectral vectors are the same."""
    reference = vectors("a_generator")
    variables = _load("G", reference["param"])["generator"]
    generator, _ = biggan.networks(CONFIG, SPEC)
    z, y = reference["in"]["z"], reference["in"]["y"]
    out = reference["out"]
    _close(variables["params"]["shared"]["embedding"][y], out["shared_y"])

    def total(params):
        images, updated = generator.apply(
            {**variables, "params": params}, z, y, True, mutable=["batch_stats", "spectral"]
        )
        drawn = generator.apply({**variables, "params": params}, z, y, train=False)
        return jnp.mean(images * _images(reference["in"]["img_cotangent"])), (
            images,
            drawn,
            updated,
        )

    grads, (images, drawn, updated) = jax.jit(jax.grad(total, has_aux=True))(variables["params"])
    _close(drawn, _images(out["image_eval"]))
    _close(images, _images(out["image_train"]))
    after = interop.dump(CONFIG, SPEC, {"generator": {**updated, "params": grads}})
    names = {f"G.{name.partition('/')[2]}": name for name in out if "/" in name}
    assert len(names) > 70
    for name, key in names.items():
        _close(after[name], out[key])


@pytest.mark.device
def test_the_discriminator_is_the_references(vectors):
    reference = vectors("a_discriminator")
    variables = _load("D", reference["param"])["discriminator"]
    _, discriminator = biggan.networks(CONFIG, SPEC)
    x, y = _images(reference["in"]["x"]), reference["in"]["y"]
    out = reference["out"]
    judge = jax.jit(lambda variables: discriminator.apply(variables, x, y, train=False)[:, None])
    _close(judge(variables), out["logits_eval"])

    def total(params):
        logits, updated = discriminator.apply(
            {**variables, "params": params}, x, y, True, mutable=["spectral"]
        )
        return jnp.mean(logits * reference["in"]["logit_cotangent"][:, 0]), (logits, updated)

    grads, (logits, updated) = jax.jit(jax.grad(total, has_aux=True))(variables["params"])
    _close(logits[:, None], out["logits_train"])
    after = interop.dump(CONFIG, SPEC, {"discriminator": {**updated, "params": grads}})
    names = {f"D.{name.partition('/')[2]}": name for name in out if "/" in name}
    assert len(names) > 50
    for name, key in names.items():
        _close(after[name], out[key])
    _close(judge({**variables, **updated}), out["logits_train_2nd_call"])


@pytest.mark.device
def test_losses_and_the_orthogonal_gradient_are_the_references(vectors):
    reference = vectors("losses_a")
    inputs, out = reference["in"], reference["out"]
    hinge = ADVERSARIAL_LOSSES["hinge"]
    real, fake = inputs["real"][:, 0], inputs["fake"][:, 0]
    _close(jnp.mean(hinge.discriminator_loss(real, fake)), out["hinge_D"])
    _close(jnp.mean(hinge.generator_loss(fake)), out["hinge_G"])
    for diagonal, name in ((False, "ortho_grad"), (True, "default_ortho_grad")):
        for weight, back in (
            (inputs["w"].transpose(2, 3, 1, 0), (3, 2, 0, 1)),
            (inputs["w_lin"].T, (1, 0)),
        ):
            grad = 1e-4 * jax.grad(orthogonal_penalty)(jnp.asarray(weight), diagonal)
            key = "w" if weight.ndim == 4 else "w_lin"
            _close(grad.transpose(back), out[f"{name}/{key}"])


@pytest.mark.parametrize(
    ("changes", "spec"),
    [
        ({}, ImageSpec(28, 28, 1, 10)),
        pytest.param({"shared_size": 0}, ImageSpec(16, 32, 1, 4), marks=pytest.mark.slow),
        pytest.param({"conditional": False}, ImageSpec(16, 16, 1, 10), marks=pytest.mark.slow),
        ({"conditional": False, "hierarchical": False}, ImageSpec(16, 16, 3)),
        ({"deep": True}, ImageSpec(16, 16, 3, 5)),
    ],
    ids=str,
)
def test_dump_and_load_are_inverse_at_any_size(changes, spec):
    config = dataclasses.replace(CONFIG, latent_size=30, **changes)
    state = jax.eval_shape(lambda key: biggan.init(config, key, spec), jax.random.key(0))
    rng = np.random.default_rng(0)
    players = {name: getattr(state, name).variables for name in ("generator", "discriminator")}
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape), players)
    arrays = interop.dump(config, spec, variables)
    loaded = interop.load(config, spec, arrays)
    used = {k: {c: tree for c, tree in v.items() if tree} for k, v in variables.items()}
    jax.tree.map(np.testing.assert_array_equal, used, loaded)
    with pytest.raises(UsageError, match=r"1 unknown: extra$"):
        interop.load(config, spec, {**arrays, "extra": np.zeros(1)})
