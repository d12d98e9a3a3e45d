import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import transforms
from genjax.interop import glow as interop
from genjax.models import glow
from genjax.objectives.likelihood import bits_per_dim, standard_normal_log_prob
from genjax.types import ImageSpec, UsageError
from tests.states import drawn_flow


def _zs_before_priors(config, spec, variables, x):
    """Return the latents as the reference has them, before its priors make them standard normal."""
    zs = []
    log_det = transforms.zero_log_det(x)
    for i, (_, _, channels) in enumerate(glow.levels_of(config, spec)):
        step = glow.flow_step(config, 4 * channels, None)
        chain = glow.chain_of(config, step, variables.of(f"level_{i}").of("steps"))
        x, more = transforms.chain(transforms.squeeze, chain).forward(x)
        log_det += more
        if i < config.levels - 1:
            (x, z), _ = transforms.split().forward(x)
            zs.append(z)
    return [*zs, x], log_det


@pytest.mark.device
@pytest.mark.parametrize("reversible", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_everything_matches_the_reference(shared, reversible):
    vectors = np.load(shared / "reference/a/glow_a.npz")
    meta = json.loads(str(vectors["meta"]))
    config = glow.GlowConfig(
        levels=meta["n_block"],
        steps_per_level=meta["n_flow"],
        hidden_features=meta["filter_size"],
        reversible=reversible,
    )
    spec = ImageSpec(meta["resolution"], meta["resolution"], meta["in_channel"])
    arrays = {k.removeprefix("param/"): vectors[k] for k in vectors.files if k.startswith("param/")}
    variables = jax.tree.map(jnp.asarray, interop.load(config, spec, arrays))
    x = jnp.asarray(vectors["in/x"].transpose(0, 2, 3, 1))

    @jax.jit
    def run(params, x, eps):
        def loss_fn(params):
            bijection = glow.flow(config, spec, variables._replace(params=params), None)
            zs, log_det = bijection.forward(x)
            log_p = sum(standard_normal_log_prob(z.reshape(len(z), -1)) for z in zs)
            five, eight = (
                bits_per_dim(glow.Terms(log_p, log_det, 0.0).nll(config_of_bits, spec), x[0].size)
                for config_of_bits in (glow.GlowConfig(bits=5), glow.GlowConfig(bits=8))
            )
            return jnp.mean(eight), (zs, log_det + log_p, five, eight)

        grads, (zs, log_px, five, eight) = jax.grad(loss_fn, has_aux=True)(params)
        bijection = glow.flow(config, spec, variables, None)
        before_priors, log_det = _zs_before_priors(config, spec, variables, x)
        found = {
            "log_det": log_det,
            "log_p": log_px - log_det,
            "bits_per_dim_5bit": five,
            "bits_per_dim_8bit": eight,
            **{f"z{i}": z for i, z in enumerate(before_priors)},
            "reconstruction": bijection.inverse(zs)[0],
            "sample_from_eps": bijection.inverse(eps)[0],
        }
        return grads, found

    eps = [jnp.asarray(vectors[f"in/eps{i}"].transpose(0, 2, 3, 1)) for i in range(2)]
    grads, found = run(variables.params, x, tuple(eps))
    dumped = interop.dump(config, spec, variables._replace(params=grads))
    found = {k: v.transpose(0, 3, 1, 2) if v.ndim == 4 else v for k, v in found.items()}
    found |= {f"grad/{name}": grad for name, grad in dumped.items()}
    names = [name for name in vectors.files if name.startswith("out/")]
    assert len(names) == 62
    for name in names:
        expected = vectors[name]
        # The reference's own float32 differs by 1e-5 of the largest entry.
        np.testing.assert_allclose(
            found[name.removeprefix("out/")],
            expected,
            rtol=1e-5,
            atol=2e-5 * np.abs(expected).max(),
            err_msg=name,
        )


@pytest.mark.parametrize("permutation", ["lu", "plain"])
@pytest.mark.parametrize("coupling", ["affine", "additive"])
@pytest.mark.parametrize("spec", [ImageSpec(8, 8, 1), ImageSpec(8, 16, 3)], ids=str)
def test_dump_and_load_are_inverse_at_any_size(spec, coupling, permutation):
    config = glow.GlowConfig(
        levels=3, steps_per_level=2, hidden_features=5, coupling=coupling, permutation=permutation
    )
    variables = drawn_flow(config, spec, noise=0.1)
    arrays = interop.dump(config, spec, variables)
    assert arrays["blocks.2.flows.1.invconv.w_s"].shape == (16 * spec.channels,)
    assert ("blocks.0.flows.0.invconv.weight" in arrays) == (permutation == "plain")
    loaded = interop.load(config, spec, arrays)
    chex.assert_trees_all_close(
        loaded.params, jax.tree.map(np.asarray, variables.params), rtol=1e-5, atol=1e-6
    )
    chex.assert_trees_all_equal(
        jax.tree.leaves(loaded.constants),
        [np.asarray(leaf) for leaf in jax.tree.leaves(variables.constants)],
    )


def test_what_does_not_fit_is_named():
    spec, config = ImageSpec(8, 8, 1), glow.GlowConfig(steps_per_level=1, hidden_features=5)
    arrays = interop.dump(config, spec, drawn_flow(config, spec, noise=0.1))
    del arrays["blocks.0.prior.scale"]
    arrays["blocks.2.prior.scale"] = np.zeros(1)
    with pytest.raises(UsageError, match=r"missing: blocks.0.prior.scale.*unknown: blocks.2.prior"):
        interop.load(config, spec, arrays)
    for field, value in (
        ("permutation", "reverse"),
        ("checkerboard_steps", 1),
        ("dequantization", "variational"),
        ("conditional", True),
    ):
        with pytest.raises(UsageError, match=field):
            interop.load(glow.GlowConfig(**{field: value}), spec, arrays)
