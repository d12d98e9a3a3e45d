"""Schedules of step sizes, which count training steps for every player of every family."""

import dataclasses
import functools

import chex
import jax
import numpy as np

from genjax.models import FAMILIES
from genjax.steps.optim import OptimizerConfig
from genjax.types import ImageSpec
from tests import stepping
from tests.families import each_family
from tests.models.test_families import CONFIGS, SPECS

SPEC, BATCH, LAST = ImageSpec(16, 16, 1, 10), 16, 4
OPTIMIZER = {
    "rule": "adamw",
    "weight_decay": 0.01,
    "schedule": "cosine",
    "warmup_steps": 0,
    "decay_steps": LAST,
}


def _params(state):
    values = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value.params for name, value in values.items() if hasattr(value, "params")}


@each_family("gan", "vae", slow=("wgan", "biggan"))
def test_the_schedule_of_every_player_counts_training_steps(name):
    """At the last step of the schedule nobody moves, after however many updates it has had.

    G of WGAN and BigGAN has one in two steps here, and StyleGAN2's players have three.
    """
    family, config, spec = FAMILIES[name], CONFIGS[name], SPECS.get(name, SPEC)
    players = {
        field.name: dataclasses.replace(getattr(config, field.name), **OPTIMIZER)
        for field in dataclasses.fields(config)
        if isinstance(getattr(config, field.name), OptimizerConfig)
    }
    config = dataclasses.replace(config, **players)
    if name == "wgan":  # whose weights would be clipped without a step too
        config = dataclasses.replace(config, weight_clip=1e9)
    state, data = stepping.initial_state(family, config, spec), stepping.random_images(spec, BATCH)
    step = jax.jit(functools.partial(family.step, config))
    assert len(_params(state)) == len(players)
    for number in range(LAST + 2):
        before = _params(state)
        state, _ = step(state, data, jax.random.key(number))
        if number >= LAST:
            chex.assert_trees_all_equal(_params(state), before)
        elif number == LAST - 1:  # a step in which all players are due
            for player, params in _params(state).items():
                stayed = jax.tree.map(np.array_equal, params, before[player])
                assert not all(jax.tree.leaves(stayed)), player
