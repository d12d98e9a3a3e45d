"""What the training loop does beside the steps: it records those before, and writes files."""

import dataclasses
import threading
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import genjax
from genjax import DataOptions, Recipe
from genjax.data import batches
from genjax.data.batches import Resident
from genjax.models.gan import GanConfig
from genjax.run.checkpoint import Checkpoints, SaveError
from genjax.run.sharding import Steps, as_array
from genjax.run.trained import load
from genjax.trainer import loop
from genjax.trainer.background import Background
from genjax.trainer.writer import Writer
from tests import commands, runs

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


@pytest.fixture
def held(monkeypatch):
    """Let each save wait until this event is set; return it, and the list of saves that ended."""
    go, ended, save = threading.Event(), [], Checkpoints.save

    def waiting(self, step, state, metrics):
        go.wait(commands.PATIENCE)
        save(self, step, state, metrics)
        ended.append(step)

    monkeypatch.setattr(Checkpoints, "save", waiting)
    return go, ended


def test_steps_go_on_during_a_save_which_is_of_the_state_at_its_step(tmp_path, held, monkeypatch):
    """The save at step 10 is held back until steps 16 to 20 start; step 15 is recorded after it."""
    go, ended = held
    feed, record = Resident.feed, Writer.record

    def feeding(self, first, steps):
        if first == 15:
            assert ended == []
            go.set()
        return feed(self, first, steps)

    def recording(self, step, metrics):
        assert step <= 10 or ended == [10]
        record(self, step, metrics)

    monkeypatch.setattr(Resident, "feed", feeding)
    monkeypatch.setattr(Writer, "record", recording)
    genjax.train(RECIPE, tmp_path / "run")
    assert ended == [10, 20]
    monkeypatch.undo()
    genjax.train(dataclasses.replace(RECIPE, steps=10), tmp_path / "short")
    state, expected = (load(tmp_path / name, 10).state for name in ("run", "short"))
    chex.assert_trees_all_equal(state, expected)


def test_a_save_that_fails_beside_the_steps_ends_the_run_at_the_next(tmp_path, monkeypatch):
    save = Checkpoints.save

    def failing(self, step, state, metrics):
        if step == 20:
            raise SaveError("no space")
        save(self, step, state, metrics)

    monkeypatch.setattr(Checkpoints, "save", failing)
    with pytest.raises(SaveError, match="no space"):
        genjax.train(dataclasses.replace(RECIPE, steps=100), tmp_path / "run")
    assert [record["step"] for record in runs.records(tmp_path / "run")] == [5, 10, 15, 20]
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["00000010"]


def test_a_run_that_diverges_during_a_save_ends_after_it(tmp_path, held, monkeypatch):
    go, ended = held
    means = loop._Taken.means

    def diverging(self):
        if self.last == 15:
            threading.Timer(0.2, go.set).start()
            raise genjax.Diverged("at step 15")
        return means(self)

    monkeypatch.setattr(loop._Taken, "means", diverging)
    with pytest.raises(genjax.Diverged, match="step 15"):
        genjax.train(RECIPE, tmp_path / "run")
    assert ended == [10]
    assert load(tmp_path / "run", "latest").step == 10


def _fail():
    raise SaveError("no space")


def test_beside_another_error_a_failed_write_is_a_warning(caplog):
    with pytest.raises(genjax.Diverged), Background() as background:
        background.start([_fail])
        raise genjax.Diverged("at step 15")
    assert caplog.messages == ["no space"]


@pytest.mark.parametrize("processes", [1, 2])
def test_several_processes_write_between_the_steps(monkeypatch, processes):
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    threads = []
    with Background() as background:
        background.start([lambda: threads.append(threading.current_thread())])
    assert (threads == [threading.main_thread()]) == (processes == 2)
