"""What the training loop does beside the steps: it records those before."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import genjax
from genjax import DataOptions, Recipe
from genjax.data import batches
from genjax.data.batches import Resident
from genjax.models.gan import GanConfig
from genjax.run.sharding import Steps, as_array
from genjax.training.writer import Writer

RECIPE = Recipe(
    family="gan", model=GanConfig(), steps=20, batch_size=16, log_interval=5, save_interval=10
)


@pytest.fixture
def events(monkeypatch):
    """Return the list of calls and records that the loop makes from now on."""
    found = []

    def listen(owner, name, what, which):
        original = getattr(owner, name)

        def listening(self, *args):
            found.append(f"{what} {which(*args)}")
            return original(self, *args)

        monkeypatch.setattr(owner, name, listening)

    for owner in (batches.Resident, batches.Streamed):
        listen(owner, "feed", "start", lambda first, steps: f"{first + 1}-{first + steps}")
    listen(Writer, "record", "record", lambda step, metrics: step)
    return found


def test_steps_start_before_those_before_are_recorded_but_for_a_save(tmp_path, events):
    genjax.train(RECIPE, tmp_path / "run")
    assert events == [
        "start 1-5",
        *("start 6-10", "record 5", "record 10"),
        "start 11-15",
        *("start 16-20", "record 15", "record 20"),
    ]


def test_steps_of_several_calls_are_recorded_when_the_next_call_has_started(
    tmp_path, events, monkeypatch
):
    monkeypatch.setattr(batches, "STREAM_BYTES", 5 * 16 * 64)
    options = DataOptions(resident_gib=0)
    recipe = dataclasses.replace(RECIPE, log_interval=10, save_interval=20, data_options=options)
    genjax.train(recipe, tmp_path / "run")
    assert events == [
        *("start 1-5", "start 6-10"),
        *("start 11-15", "record 10", "start 16-20", "record 20"),
    ]


class _State(NamedTuple):
    step: jax.Array


def test_a_call_waits_for_the_call_before_and_not_for_its_own_steps(monkeypatch):
    awaited, wait = [], jax.block_until_ready

    def waiting(values):
        awaited.append(values)
        return wait(values)

    monkeypatch.setattr(jax, "block_until_ready", waiting)
    data = Resident(np.zeros((4, 2, 2, 1), np.uint8), np.zeros(4, np.int32), 2, seed=0)
    like, one = _State(jnp.zeros((), jnp.int32)), jax.devices()[:1]
    steps = Steps(
        lambda state, batch, key: (_State(state.step + 1), {"number": state.step}),
        *(data, 2, jax.random.key(0), "jit", like, one),
    )
    state, calls = steps.put(like), []
    for first in (0, 2, 4):
        state, metrics = steps.start(state, data.feed(first, 2))
        calls.append(metrics)
    assert awaited == [{}, *calls[:2]]
    np.testing.assert_array_equal(as_array(calls[2]["number"]), [4, 5])
