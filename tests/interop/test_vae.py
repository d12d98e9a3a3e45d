import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.interop import vae as interop
from genjax.models import vae
from genjax.objectives import likelihood
from genjax.types import ImageSpec, UsageError


def _params(config, spec):
    return jax.jit(vae.init, static_argnums=(0, 2))(config, jax.random.key(0), spec).model.params


@pytest.mark.device
def test_bound_and_gradients_match_the_reference(shared):
    vectors = np.load(shared / "reference/a/vae_a.npz")
    meta = json.loads(str(vectors["meta"]))
    config = vae.VaeConfig(
        hidden_sizes=(meta["hidden"],), latent_size=meta["latent"], binarization="none"
    )
    spec = ImageSpec(28, 28, 1)
    arrays = {k.removeprefix("param/"): vectors[k] for k in vectors.files if k.startswith("param/")}
    params = jax.tree.map(jnp.asarray, interop.load(config, spec, arrays))
    images = jnp.asarray(vectors["in/x"]).reshape(-1, *spec.shape)
    encoder, _ = vae.networks(config, spec)

    def loss_fn(params):
        posterior = encoder.apply({"params": params["encoder"]}, images, None)
        # This is what `vae.draw` does, with the reference's noise.
        z = posterior.mean + jnp.exp(0.5 * posterior.log_var) * vectors["in/eps"]
        output = vae.apply_decoder(config, spec, params, z[None], None)
        fit = vae.log_likelihood(config, images, output)[0]
        kl = jnp.sum(likelihood.normal_kl(*posterior), axis=-1)
        return -jnp.sum(likelihood.elbo(fit, kl)), (posterior, z, output.location[0], kl)

    run = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    (loss, (posterior, z, logits, kl)), grads = run(params)
    found = {
        "mu": posterior.mean,
        "logvar": posterior.log_var,
        "z": z,
        "recon": jax.nn.sigmoid(logits).reshape(len(images), -1),
        "loss": loss,
        "kld": kl,
        **{f"grad/{name}": grad for name, grad in interop.dump(config, spec, grads).items()},
    }
    names = [name for name in vectors.files if name.startswith("out/")]
    assert len(names) == 16
    for name in names:
        # A gradient is a sum over the batch, rounded as its largest entries are.
        atol = 2e-6 * np.abs(vectors[name]).max()
        np.testing.assert_allclose(
            found[name.removeprefix("out/")], vectors[name], rtol=2e-5, atol=atol, err_msg=name
        )


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("spec", [ImageSpec(8, 8, 1, 3), ImageSpec(6, 10, 3, 2)], ids=str)
def test_dump_and_load_are_inverse_at_any_size(spec, conditional):
    config = vae.VaeConfig(hidden_sizes=(7,), latent_size=3, conditional=conditional)
    params = _params(config, spec)
    arrays = interop.dump(config, spec, params)
    assert arrays["fc4.weight"].shape == (np.prod(spec.shape), 7)
    loaded = interop.load(config, spec, arrays)
    chex.assert_trees_all_equal(loaded, jax.tree.map(np.asarray, params))


def test_what_does_not_fit_is_named():
    spec, config = ImageSpec(8, 8, 1), vae.VaeConfig(hidden_sizes=(7,))
    arrays = interop.dump(config, spec, _params(config, spec))
    del arrays["fc21.bias"]
    arrays["fc5.bias"] = np.zeros(1)
    with pytest.raises(UsageError, match=r"missing: fc21.bias.*unknown: fc5.bias"):
        interop.load(config, spec, arrays)
    for field, value in (
        ("hidden_sizes", (7, 7)),
        ("network", "resnet"),
    ):
        with pytest.raises(UsageError, match=field):
            interop.load(vae.VaeConfig(**{field: value}), spec, arrays)
