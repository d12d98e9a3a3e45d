"""Tests of training every family in bfloat16: learning, resuming and sampling."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import genjax
from genjax import Recipe
from genjax.models import biggan, dcgan, gan, glow, stylegan, stylegan2, vae, wgan
from genjax.steps.optim import OptimizerConfig
from tests import runs
from tests.families import each_family

pytestmark = pytest.mark.usefixtures("optimized_programs")


def _adam(player, **fields):
    return player(learning_rate=1e-3, beta1=0.5, **fields)


GAN = _adam(gan.PlayerConfig, hidden_sizes=(64,))
DCGAN = _adam(dcgan.PlayerConfig, features=8)
WGAN = dataclasses.replace(wgan.WGAN_PLAYER, learning_rate=1e-3, hidden_sizes=(64,))
WGAN_GP = _adam(wgan.PlayerConfig, hidden_sizes=(64,))
BIGGAN = biggan.PlayerConfig(features=8, attention_resolutions=(), learning_rate=1e-3, beta1=0.0)
STYLE: dict = {"learning_rate": 3e-3, "channel_base": 64, "channel_max": 16}
SIZES: dict = {"latent_size": 16, "style_size": 16, "mapping_layers": 2}
# Small networks that learn within so many steps, and an eighth of them between two checkpoints.
MODELS = {
    "gan": (gan.GanConfig(latent_size=16, generator=GAN, discriminator=GAN), 400),
    "dcgan": (dcgan.DcganConfig(latent_size=16, generator=DCGAN, discriminator=DCGAN), 160),
    "wgan": (wgan.WganConfig(network="mlp", latent_size=16, generator=WGAN, critic=WGAN), 400),
    "wgan_gp": (
        wgan.WganGpConfig(network="mlp", latent_size=16, generator=WGAN_GP, critic=WGAN_GP),
        400,
    ),
    "biggan": (
        biggan.BigganConfig(
            latent_size=12, shared_size=8, ema_decay=0.9, generator=BIGGAN, discriminator=BIGGAN
        ),
        160,
    ),
    "stylegan": (
        stylegan.StyleganConfig(
            **SIZES,
            fade_steps=40,
            stable_steps=20,
            ema_decay=0.9,
            generator=stylegan.PlayerConfig(**STYLE),
            discriminator=stylegan.PlayerConfig(**STYLE),
        ),
        160,
    ),
    "stylegan2": (
        stylegan2.Stylegan2Config(
            latent_size=16,
            style_size=16,
            r1_gamma=1.0,
            ema_images=200,
            generator=stylegan2.PlayerConfig(architecture="skip", mapping_layers=2, **STYLE),
            discriminator=stylegan2.PlayerConfig(mapping_layers=2, **STYLE),
        ),
        160,
    ),
    "vae": (vae.VaeConfig(hidden_sizes=(64,), latent_size=8, ema_decay=0.9), 200),
    "glow": (
        glow.GlowConfig(
            levels=2,
            steps_per_level=2,
            hidden_features=16,
            bits=4,
            optimizer=OptimizerConfig(
                learning_rate=3e-3, beta1=0.9, warmup_steps=20, clip_norm=1.0
            ),
        ),
        160,
    ),
}
LIKELIHOOD = ("vae", "glow")


@pytest.mark.device
@each_family(slow=("gan",))
def test_a_run_in_bfloat16_learns_and_resumes_bit_for_bit(name, tmp_path):
    if name not in MODELS:
        pytest.skip("MODELS has no small network of it that learns")
    model, steps = MODELS[name]
    recipe = Recipe(
        family=name,
        model=dataclasses.replace(model, dtype="bfloat16"),
        steps=steps,
        batch_size=32,
        log_interval=steps // 8,
        save_interval=steps // 8,
    )
    genjax.train(recipe, tmp_path / "whole")
    state, records = runs.results(tmp_path / "whole")
    first, last = records[0], records[-1]
    if name in LIKELIHOOD:
        assert last["loss"] < 0.9 * first["loss"]
        assert last["eval_nll"] < 0.9 * first["eval_nll"]
    else:
        assert last["energy_distance"] < 0.6 * first["energy_distance"]
    # Only what networks compute with is narrow: what is learned is not.
    floats = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    chex.assert_type(floats, jnp.float32)

    genjax.train(dataclasses.replace(recipe, steps=steps // 2), tmp_path / "run")
    genjax.resume(tmp_path / "run", steps=steps)
    resumed, resumed_records = runs.results(tmp_path / "run")
    chex.assert_trees_all_equal(state, resumed)
    assert records == resumed_records

    images = genjax.sample(tmp_path / "run", n=16, checkpoint="latest")
    assert images.shape == (16, 8, 8, 1)
    assert images.dtype == np.uint8
    assert np.std(images, axis=0).mean() > 10
