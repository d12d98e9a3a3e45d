"""Tests of what the plain games share: the relativistic loss, and penalties on gradients."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.models import biggan, dcgan, gan, wgan
from genjax.objectives.penalties import r1_penalty
from genjax.run.sharding import as_array
from genjax.steps.update import apply_network
from genjax.types import Batch, ImageSpec
from tests.float64 import in_float64, to_float64
from tests.states import drawn_state

SPEC = ImageSpec(8, 8, 1, 10)
NARROW: Any = {"generator": {"features": 4}, "discriminator": {"features": 4}}
CRITIC: Any = {"generator": wgan.PlayerConfig(features=4), "critic": wgan.PlayerConfig(features=4)}
GAMES = {
    "gan": (gan.FAMILY, gan.GanConfig()),
    "dcgan": (dcgan.FAMILY, dcgan.DcganConfig(conditional=True, **NARROW)),
    "wgan": (wgan.WGAN, wgan.WganConfig(n_critic=1, **CRITIC)),
    "wgan_gp": (
        wgan.WGAN_GP,
        wgan.WganGpConfig(n_critic=1, gradient_penalty_weight=0.0, **CRITIC),
    ),
    "biggan": (
        biggan.FAMILY,
        biggan.BigganConfig(
            discriminator_steps=1,
            orthogonal_weight=0.0,
            generator=biggan.PlayerConfig(features=4),
            discriminator=biggan.PlayerConfig(features=4),
        ),
    ),
}
GAMMAS: Any = {"loss": "relativistic", "r1_gamma": 2.0, "r2_gamma": 3.0}
# BigGAN's steps take long to compile.
every_game = pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n == "biggan")) for n in GAMES],
)


def _batch():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, *SPEC.shape)).astype(np.uint8)
    return Batch(jnp.asarray(images), jnp.arange(6, dtype=jnp.int32))


@functools.cache
def _stepped(name, steps=1, **fields):
    """Return the states before and after the steps, and the metrics of each step."""
    family, config = GAMES[name]
    config = dataclasses.replace(config, **fields)
    state = drawn_state(family.init, config, SPEC)
    states, found = [state], []
    step = jax.jit(functools.partial(family.step, config))
    for i in range(steps):
        state, metrics = step(state, _batch(), jax.random.key(i))
        states.append(state)
        found.append({name: as_array(value) for name, value in metrics.items()})
    return config, states, found


@every_game
def test_the_relativistic_loss_knows_differences_alone(name):
    """D(x) + c for all x is the same player: d_real and d_fake are of pairs, and sum to 1."""
    _, _, (metrics,) = _stepped(name, **GAMMAS)
    np.testing.assert_allclose(metrics["d_real"] + metrics["d_fake"], 1, rtol=1e-6)
    # Initial logits are near one another, so that each answer costs about log 2.
    np.testing.assert_allclose(metrics["d_loss"], np.log(2), atol=0.25)
    np.testing.assert_allclose(metrics["g_loss"], np.log(2), atol=0.25)
    _, _, (hinge,) = _stepped(name, loss="hinge")
    np.testing.assert_allclose(hinge["d_loss"], 2, atol=0.6)


@every_game
def test_penalties_are_added_by_their_weights(name):
    """The first step of D by SGD of rate 1 is minus the gradient, which the weights add up."""
    player = "critic" if name.startswith("wgan") else "discriminator"
    sgd = dataclasses.replace(
        getattr(GAMES[name][1], player), rule="sgd", learning_rate=1e-3, beta1=0.0
    )
    unclipped = {"weight_clip": 1e9} if name == "wgan" else {}

    def moved(**gammas):
        fields = {"loss": "relativistic", player: sgd, **unclipped, **gammas}
        family, config = GAMES[name]
        config = dataclasses.replace(config, **fields)
        before = drawn_state(family.init, config, SPEC)
        with jax.enable_x64(True):
            step = in_float64(functools.partial(family.step, config))
            after, metrics = step(to_float64(before), _batch(), jax.random.key(0))
            leaves = map(jax.tree.leaves, (after.discriminator.params, before.discriminator.params))
            moves = [np.asarray(a) - np.asarray(b) for a, b in zip(*leaves, strict=True)]
        return np.concatenate([move.ravel() for move in moves]), metrics

    plain, _ = moved()
    r1, metrics = moved(r1_gamma=1.0)
    r2, other = moved(r2_gamma=1.0)
    all_three, _ = moved(r1_gamma=2.0, r2_gamma=3.0, dragan_weight=4.0)
    dragan, third = moved(dragan_weight=1.0)
    assert {*metrics} - {*other} == {"r1_penalty"}
    assert {*third} - {*metrics} == {"dragan_penalty"}
    assert {*other} - {*metrics} == {"r2_penalty"}
    assert np.abs(r1 - plain).max() > 1e-9
    assert np.abs(r2 - plain).max() > 1e-9
    expected = 2 * (r1 - plain) + 3 * (r2 - plain) + 4 * (dragan - plain)
    np.testing.assert_allclose(all_three - plain, expected, atol=1e-9 * np.abs(expected).max())


def test_r1_is_that_of_the_network_at_the_real_images():
    config, (state, _), (metrics,) = _stepped("dcgan", **GAMMAS)
    _, discriminator = dcgan.networks(config, SPEC)
    player, batch = state.discriminator, _batch()

    def critic(images):
        collections = player.collections
        return apply_network(
            discriminator, player.params, collections, images, batch.labels, False
        )[0]

    expected = r1_penalty(critic, batch.images.astype(jnp.float32) / 127.5 - 1).mean()
    np.testing.assert_allclose(metrics["r1_penalty"], expected, rtol=1e-4)


@every_game
def test_penalties_come_at_their_interval(name):
    _, states, metrics = _stepped(name, steps=3, penalty_interval=2, **GAMMAS)
    for penalty in ("r1_penalty", "r2_penalty"):
        due = [np.ma.count(each[penalty]) for each in metrics]
        assert due == [1, 0, 1]
    _, always, _ = _stepped(name, **(GAMMAS | {"r1_gamma": 4.0, "r2_gamma": 6.0}))
    # At a step that is due a penalty weighs as much as those that it stands for.
    for a, b in zip(jax.tree.leaves(states[1]), jax.tree.leaves(always[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_moving_average_of_the_mlp_gan_is_what_is_sampled():
    config, (_, state), _ = _stepped("gan", ema_decay=0.5)
    assert not np.array_equal(
        state.ema["params"]["output"]["kernel"], state.generator.params["output"]["kernel"]
    )
    key, labels = jax.random.key(0), jnp.zeros(3, jnp.int32)
    images = gan.sample(config, state, key, labels)
    z = jax.random.normal(key, (3, config.latent_size))
    expected = gan.apply(gan.networks(config, SPEC)[0], state.ema["params"], z)
    np.testing.assert_allclose(images, expected, rtol=1e-6)


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_a_player_of_dcgan_without_batch_norm_has_biases(player):
    config = dcgan.DcganConfig(**NARROW | {player: {"features": 4, "batch_norm": False}})
    state = dcgan.init(config, jax.random.key(0), SPEC)
    assert not getattr(state, player).stats
    layer = "up_0" if player == "generator" else "down_0"
    assert "bias" in getattr(state, player).params[layer]
