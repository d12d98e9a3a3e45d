"""The training loop works ahead: it starts steps before those before are recorded."""

import dataclasses
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import genjax
from genjax import DataOptions, Recipe
from genjax.data import batches
from genjax.data.batches import Resident
from genjax.models.gan import GanConfig
from genjax.run.checkpoint import Checkpoints
from genjax.run.sharding import Steps, as_array
from genjax.training.writer import Writer
from tests import commands

RECIPE = Recipe(
    family="gan", model=GanConfig(), steps=20, batch_size=16, log_interval=5, save_interval=10
)


@pytest.fixture
def events(monkeypatch):
    """Return the list of calls, records and saves that the loop makes from now on."""
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
    listen(Checkpoints, "save", "save", lambda step, state, metrics: step)
    return found


def test_steps_start_before_those_before_are_recorded_but_for_a_save(tmp_path, events):
    genjax.train(RECIPE, tmp_path / "run")
    assert events == [
        "start 1-5",
        *("start 6-10", "record 5", "record 10", "save 10"),
        "start 11-15",
        *("start 16-20", "record 15", "record 20", "save 20"),
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
        *("start 11-15", "record 10", "start 16-20", "record 20", "save 20"),
    ]


def _steps(gate):
    """Return steps that wait for the gate, and their batches."""

    def wait(number):
        gate.wait(commands.PATIENCE)
        return number

    def step(state, batch, key):
        waited = jax.pure_callback(wait, jax.ShapeDtypeStruct((), jnp.int32), state["step"])
        return {"step": waited + 1}, {"waited": waited}

    data = Resident(np.zeros((4, 2, 2, 1), np.uint8), np.zeros(4, np.int32), 2, seed=0)
    like = {"step": jnp.zeros((), jnp.int32)}
    return Steps(step, data, 2, jax.random.key(0), "jit", like, jax.devices()[:1]), data, like


def test_a_call_starts_without_waiting_for_its_steps_but_for_those_of_the_call_before():
    gate = threading.Event()
    steps, data, like = _steps(gate)
    state, first = steps.start(steps.put(like), data.feed(0, 2))
    assert not first["waited"].is_ready()
    opener = threading.Timer(0.2, gate.set)
    opener.start()
    state, second = steps.start(state, data.feed(2, 2))
    assert first["waited"].is_ready()
    np.testing.assert_array_equal(as_array(second["waited"]), [2, 3])
    opener.join()
