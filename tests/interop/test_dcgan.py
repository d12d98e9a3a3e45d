import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.interop import dcgan as interop
from genjax.models import dcgan
from genjax.nn.resolution import base_resolution
from genjax.steps.update import apply_network
from genjax.types import ImageSpec, UsageError
from tests.states import drawn_state


def _config(latent=6, g=4, d=3, **fields):
    return dcgan.DcganConfig(
        latent_size=latent,
        generator=dcgan.PlayerConfig(features=g),
        discriminator=dcgan.PlayerConfig(features=d),
        **fields,
    )


def _variables(config, spec):
    state = drawn_state(dcgan.init, config, spec)
    return {"generator": state.generator.variables, "discriminator": state.discriminator.variables}


@pytest.mark.device
def test_images_logits_and_statistics_match_the_reference(shared):
    vectors = np.load(shared / "reference/a/dcgan_a.npz")
    meta = json.loads(str(vectors["meta"]))
    config = _config(meta["nz"], meta["ngf"], meta["ndf"])
    spec = ImageSpec(64, 64, meta["nc"])
    arrays = {k.removeprefix("param/"): vectors[k] for k in vectors.files if k.startswith("param/")}
    variables = jax.tree.map(jnp.asarray, interop.load(config, spec, arrays))
    generator, discriminator = dcgan.networks(config, spec)
    z = jnp.asarray(vectors["in/z"]).reshape(4, -1)
    real = jnp.asarray(vectors["in/real"].transpose(0, 2, 3, 1))

    inputs = {"generator": (generator, z), "discriminator": (discriminator, real)}
    for train, mode in ((False, "eval"), (True, "train")):
        outputs, stats = {}, {}
        for name, (network, x) in inputs.items():
            own = variables[name]
            run = jax.jit(apply_network, static_argnums=(0, 5))
            collections = {"batch_stats": own["batch_stats"]}
            outputs[name], stats[name] = run(network, own["params"], collections, x, None, train)
        expected = vectors[f"out/image_{mode}"].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(outputs["generator"], expected, atol=5e-6)
        d_real = jax.nn.sigmoid(outputs["discriminator"])
        np.testing.assert_allclose(d_real, vectors[f"out/d_real_{mode}"], rtol=5e-6)

    after = {name: {**variables[name], **stats[name]} for name in variables}
    dumped = interop.dump(config, spec, after)
    prefix = "out/buf_after/"
    names = [name for name in vectors.files if name.startswith(prefix)]
    assert len(names) == 14
    for name in names:
        np.testing.assert_allclose(
            dumped[name.removeprefix(prefix)], vectors[name], rtol=5e-6, atol=1e-7
        )


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("spec", [ImageSpec(28, 28, 1, 3), ImageSpec(16, 24, 3, 2)], ids=str)
def test_dump_and_load_are_inverse_at_any_size(spec, conditional):
    config = _config(conditional=conditional)
    variables = _variables(config, spec)
    arrays = interop.dump(config, spec, variables)
    assert arrays["G.main.0.weight"].shape[2:] == base_resolution(spec)[1]
    loaded = interop.load(config, spec, arrays)
    chex.assert_trees_all_equal(loaded, jax.tree.map(np.asarray, variables))


def test_every_entry_that_does_not_fit_is_listed():
    spec = ImageSpec(16, 16, 1)
    arrays = interop.dump(_config(), spec, _variables(_config(), spec))
    arrays["G.main.1.num_batches_tracked"] = np.zeros((), np.int64)
    interop.load(_config(), spec, arrays)
    del arrays["G.main.1.running_mean"]
    arrays["D.main.99.weight"] = np.zeros(1)
    arrays["D.main.0.weight"] = arrays["D.main.0.weight"][:, :, :3]
    with pytest.raises(UsageError) as error:
        interop.load(_config(), spec, arrays)
    for part in (
        "1 missing: G.main.1.running_mean (8,)",
        "1 unknown: D.main.99.weight",
        "1 misshapen: D.main.0.weight (3, 1, 3, 4), wanted (3, 1, 4, 4)",
    ):
        assert part in str(error.value)
