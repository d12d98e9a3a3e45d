import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.interop import wgan as interop
from genjax.models import wgan
from genjax.objectives.adversarial import wasserstein_critic_loss
from genjax.objectives.penalties import gradient_penalty, input_gradient_norm, interpolate
from genjax.types import ImageSpec, UsageError
from tests.states import drawn_state


def _variables(config, spec):
    state = drawn_state(wgan.init, config, spec)
    return {"generator": state.generator.variables, "discriminator": state.discriminator.variables}


@pytest.mark.device
def test_penalty_its_gradient_and_the_loss_match_the_reference(shared):
    vectors = np.load(shared / "reference/a/wgan_gp_a.npz")
    meta = json.loads(str(vectors["meta"]))
    pixels, *hidden, _ = meta["layers"]
    assert meta["leaky_slope"] == wgan.LEAKY_SLOPE
    config = wgan.WganGpConfig(network="mlp", critic=wgan.PlayerConfig(hidden_sizes=tuple(hidden)))
    assert config.gradient_penalty_weight == meta["lambda_gp"]
    spec = ImageSpec(1, pixels, 1)

    def theirs(prefix):
        return {k[len(prefix) :]: vectors[k] for k in vectors.files if k.startswith(prefix)}

    arrays = interop.dump(config, spec, _variables(config, spec))
    arrays |= {f"D.{name}": array for name, array in theirs("param/").items()}
    params = interop.load(config, spec, arrays)["discriminator"]["params"]
    _, critic = wgan.networks(config, spec)
    real, fake = (
        jnp.asarray(vectors[f"in/{name}"]).reshape(-1, *spec.shape) for name in ("real", "fake")
    )
    points = interpolate(real, fake, jnp.asarray(vectors["in/alpha"])[:, 0])

    def value(params):
        return lambda x: critic.apply({"params": params}, x, None, train=True)

    def penalty_fn(params):
        return jnp.mean(gradient_penalty(value(params), points))

    norms = input_gradient_norm(value(params), points)
    np.testing.assert_allclose(norms, vectors["out/grad_norm"], rtol=1e-6)
    penalty, grads = jax.value_and_grad(penalty_fn)(jax.tree.map(jnp.asarray, params))
    np.testing.assert_allclose(penalty, vectors["out/penalty"], rtol=1e-6)
    loss = jnp.mean(wasserstein_critic_loss(value(params)(real), value(params)(fake)))
    np.testing.assert_allclose(
        loss + config.gradient_penalty_weight * penalty, vectors["out/critic_loss"], rtol=1e-6
    )
    dumped = interop.dump(
        config, spec, {**_variables(config, spec), "discriminator": {"params": grads}}
    )
    for name, expected in theirs("out/penalty_grad/").items():
        np.testing.assert_allclose(dumped[f"D.{name}"], expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("network", ["mlp", "dcgan"])
@pytest.mark.parametrize("conditional", [False, True])
def test_dump_and_load_are_inverse(network, conditional):
    spec = ImageSpec(16, 24, 3, 2)
    config = wgan.WganConfig(
        network=network,
        latent_size=5,
        conditional=conditional,
        generator=wgan.PlayerConfig(features=3, hidden_sizes=(6, 7)),
        critic=wgan.PlayerConfig(features=4, hidden_sizes=(8,)),
    )
    variables = _variables(config, spec)
    arrays = interop.dump(config, spec, variables)
    loaded = interop.load(config, spec, arrays)
    for name in ("generator", "discriminator"):
        chex.assert_trees_all_equal(
            loaded[name]["params"], jax.tree.map(np.asarray, variables[name]["params"])
        )


def test_resnets_are_refused():
    config = wgan.WganConfig(network="resnet")
    with pytest.raises(UsageError, match="resnet"):
        interop.load(config, ImageSpec(16, 16, 1), {})
