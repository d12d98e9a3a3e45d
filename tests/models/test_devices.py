"""Tests that options with noise, labels or penalties give the same on one and many devices."""

import dataclasses
import functools
from typing import Any, get_args

import chex
import jax
import pytest

from genjax.models import FAMILIES, dcgan, glow, vae, wgan
from genjax.nn.augment import OperationName
from genjax.steps.augment import ADAPT_INTERVAL
from genjax.steps.optim import OptimizerConfig
from genjax.types import ImageSpec
from tests import stepping
from tests.models.test_families import CONFIGS

SPEC = ImageSpec(8, 8, 1, 10)
# D begins to normalize at its second halving.
SPECS = dict.fromkeys(("dcgan", "biggan"), ImageSpec(16, 16, 1, 10))

PLAYER = dcgan.PlayerConfig(features=4)
DCGAN = functools.partial(dcgan.DcganConfig, latent_size=8, generator=PLAYER, discriminator=PLAYER)
# With such an epsilon Adam makes no whole step of a gradient that is rounding alone, as are that of
# a critic's last bias, and some of Glow's while it is the identity.
CRITIC = wgan.PlayerConfig(learning_rate=1e-4, epsilon=1e-3, hidden_sizes=(16,))
VAE = functools.partial(vae.VaeConfig, hidden_sizes=(16,), latent_size=4)
STYLEGAN2 = functools.partial(dataclasses.replace, CONFIGS["stylegan2"])
# Its probability is adapted in the second of the two steps.
ADA: Any = {"augment": "ada", "augment_p": 0.5, "augment_operations": ("blit", "cutout")}
BIGGAN = functools.partial(dataclasses.replace, CONFIGS["biggan"], discriminator_steps=1)
CASES = {
    "dcgan-conditional": DCGAN(conditional=True),
    "dcgan-dragan": DCGAN(dragan_weight=10.0),
    "dcgan-ada": DCGAN(**ADA),
    "biggan-ada": BIGGAN(**ADA),
    "wgan_gp-conditional": wgan.WganGpConfig(
        network="mlp", conditional=True, n_critic=2, generator=CRITIC, critic=CRITIC
    ),
    "vae-conditional": VAE(conditional=True),
    "vae-iwae": VAE(bound="iwae", samples=5),
    "glow-conditional": glow.GlowConfig(
        levels=2,
        steps_per_level=2,
        hidden_features=8,
        conditional=True,
        optimizer=OptimizerConfig(learning_rate=1e-3, beta1=0.9, epsilon=1e-3),
    ),
    "stylegan2-conditional": STYLEGAN2(conditional=True, augment="none", augment_p=0.0),
    "stylegan2-ada": STYLEGAN2(
        augment="ada", augment_p=0.5, augment_operations=get_args(OperationName)
    ),
}
# Under jit a step is the same program whatever devices run it, but for noise, which is split.
FAST = [(case, "pmap", 2) for case in ("dcgan-conditional", "vae-iwae")]
LARGE = ("biggan", "glow", "stylegan2")
SLOW = [
    ("dcgan-dragan", "jit", 2),
    *((case, "pmap", 8) for case in CASES if not case.startswith(LARGE)),
]
ALL = [(case, parallel, 8) for case in CASES for parallel in ("jit", "pmap")]
RUNS = {
    **dict.fromkeys(ALL, pytest.mark.exhaustive),
    **dict.fromkeys(SLOW, pytest.mark.slow),
    **dict.fromkeys(FAST),
}


@functools.cache
def _steps(case, parallel, devices):
    family, spec = case.split("-")[0], SPECS.get(case.split("-")[0], SPEC)
    state = stepping.initial_state(FAMILIES[family], CASES[case], spec)
    if case == "dcgan-dragan":
        # D's initial weights have slopes near 0, with which the penalty is the same anywhere.
        steep = jax.tree.map(lambda x: 20 * x, state.discriminator.params)
        state = state.replace(discriminator=state.discriminator.replace(params=steep))
    if case in ("dcgan-ada", "biggan-ada"):
        state = state.replace(step=state.step + ADAPT_INTERVAL - 2)
    data = stepping.random_images(spec, 32)
    return stepping.take_steps(FAMILIES[family], CASES[case], state, data, 16, 2, parallel, devices)


def _players(state):
    fields = (getattr(state, field.name) for field in dataclasses.fields(state))
    return [(player.params, player.stats) for player in fields if hasattr(player, "params")]


@pytest.mark.parametrize(
    ("case", "parallel", "devices"),
    [
        pytest.param(*run, marks=[pytest.mark.xdist_group(run[0]), *([mark] if mark else [])])
        for run, mark in RUNS.items()
    ],
)
def test_devices_give_the_numbers_of_one(case, parallel, devices):
    one, one_metrics = _steps(case, "jit", 1)
    many, metrics = _steps(case, parallel, devices)
    # float32: sums over the batch are taken in another order. Adam divides by the root of tiny
    # second moments, so parameters are held to a hundredth of two steps of 1e-3.
    chex.assert_trees_all_close(one_metrics, metrics, rtol=5e-5, atol=1e-6)
    chex.assert_trees_all_close(_players(one), _players(many), rtol=0, atol=2e-5)
    if case in ("dcgan-ada", "biggan-ada"):
        assert one_metrics["augment_p"][0] == 0.5 != one_metrics["augment_p"][1]
