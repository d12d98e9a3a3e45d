import contextlib
import dataclasses
import logging
import os
import signal
import subprocess
import sys
import threading
import weakref

import chex
import numpy as np
import pytest
from PIL import Image

import genjax
from genjax import Recipe
from genjax.models.gan import GanConfig
from genjax.run.trained import load
from genjax.trainer import iterator
from tests import runs

RECIPE = Recipe(
    family="gan", model=GanConfig(), steps=20, batch_size=16, log_interval=5, save_interval=10
)
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Train a run without looking at it."""
    return genjax.train(RECIPE, tmp_path_factory.mktemp("runs") / "whole").run


def test_a_loop_sees_each_record_and_trains_the_same(whole, tmp_path):
    training, seen = genjax.training(RECIPE, tmp_path / "run"), []
    assert not (tmp_path / "run").exists()
    for record in training:
        state = record.trained.state
        assert int(state.step) == record.step == record.metrics["step"]
        assert (record.grid is not None) == ("energy_distance" in record.metrics)
        seen.append(record)
    assert [record.step for record in seen] == [5, 10, 15, 20]
    assert isinstance(seen[1].grid, Image.Image) and seen[0].grid is None
    assert training.result.step == 20 and training.result.run == tmp_path / "run"
    with pytest.raises(genjax.UsageError, match=r"step 5: take it before the loop goes on"):
        _ = seen[0].trained
    chex.assert_trees_all_equal(state, load(whole, "latest").state)
    assert runs.records(tmp_path / "run") == runs.records(whole)
    assert genjax.history(whole)[-1]["step"] == 20
    assert {*genjax.history(whole)[0]} >= {"d_loss", "seconds"}


def _leave_by_break(training):
    for record in training:
        if record.step == 15:
            break


def _leave_by_error(training):
    with contextlib.suppress(RuntimeError):
        for record in training:
            if record.step == 15:
                raise RuntimeError


def _leave_by_close(training):
    with training:
        for _ in range(3):
            next(training)


@pytest.mark.parametrize("leave", [_leave_by_break, _leave_by_error, _leave_by_close])
def test_leaving_the_loop_saves_and_the_run_goes_on(whole, tmp_path, leave):
    leave(genjax.training(RECIPE, tmp_path / "run"))
    assert load(tmp_path / "run", "latest").step == 15
    genjax.resume(tmp_path / "run")
    chex.assert_trees_all_equal(load(tmp_path / "run").state, load(whole).state)
    assert runs.records(tmp_path / "run") == runs.records(whole)


def test_a_program_that_ends_within_the_loop_saves(tmp_path):
    code = (
        "import sys, genjax, tests.trainer.test_iterator as test\n"
        "training = genjax.training(test.RECIPE, sys.argv[1])\n"
        "next(training)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0 and "Traceback" not in ended.stderr
    assert load(tmp_path / "run", "latest").step == 5


def test_a_forked_process_leaves_the_training_alone(tmp_path):
    training = genjax.training(RECIPE, tmp_path / "run")
    next(training)
    iterator._close(weakref.ref(training), os.getpid() + 1)
    assert not [*(tmp_path / "run/checkpoints").glob("*")]
    iterator._close(weakref.ref(training), os.getpid())
    assert load(tmp_path / "run", "latest").step == 5


def test_a_signal_within_the_loop_saves_and_raises(tmp_path, stop_signal):
    seen = []
    with pytest.raises(genjax.Stopped) as stopped:
        for record in genjax.training(RECIPE, tmp_path / "run"):
            seen.append(record.step)
            if record.step == 5:
                os.kill(os.getpid(), stop_signal)
    assert seen == [5] and stopped.value.result.step == 10
    assert signal.getsignal(stop_signal) is signal.default_int_handler
    assert load(tmp_path / "run", "latest").step == 10


def test_runs_of_two_threads_do_not_mix_their_logs(tmp_path):
    barrier = threading.Barrier(2)

    def train(name):
        for _ in genjax.training(RECIPE, tmp_path / name):
            barrier.wait(60)

    threads = [threading.Thread(target=train, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, other in ("ab", "ba"):
        text = (tmp_path / name / "log.txt").read_text()
        assert f"training in {tmp_path / name} from" in text and "step 20 of 20" in text
        assert str(tmp_path / other) not in text and text.count("step 20 of 20") == 1


def test_a_library_is_quiet(tmp_path, capfd, monkeypatch):
    log = logging.getLogger("genjax")  # as it is in a new process
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "propagate", True)
    monkeypatch.setattr(log, "level", logging.NOTSET)
    log.manager._clear_cache()
    handler = logging.StreamHandler()  # as of logging.basicConfig
    logging.getLogger().addHandler(handler)
    try:
        genjax.train(RECIPE, tmp_path / "run")
        genjax.sample(tmp_path / "run", 2)
    finally:
        logging.getLogger().removeHandler(handler)
    assert capfd.readouterr() == ("", "")
    assert "step 20 of 20" in (tmp_path / "run/log.txt").read_text()


def test_a_run_of_an_array_wants_the_same_again(tmp_path):
    source = genjax.data.arrays(IMAGES, np.arange(40) % 2)
    options = genjax.DataOptions(split="train[:50%]", test_split="train[50%:]")
    recipe = dataclasses.replace(RECIPE, data_options=options)
    result = genjax.train(recipe, tmp_path / "run", data=source)
    config = (tmp_path / "run/config.json").read_text()
    assert '"data": "value:' in config and result.data is source
    genjax.resume(result, steps=25)  # it is there still
    other = genjax.data.arrays(IMAGES[::-1], np.arange(40) % 2)
    with pytest.raises(genjax.UsageError, match=r"has changed: .*accept-changed-data"):
        genjax.resume(tmp_path / "run", steps=30, data=other)
    named = genjax.data.arrays(IMAGES, np.arange(40) % 2, ["cat", "cow"])
    with pytest.raises(genjax.UsageError, match=r"classes cat, cow, were 0, 1; to go on"):
        genjax.resume(tmp_path / "run", steps=30, data=named)
    with pytest.raises(genjax.UsageError, match=r"not those that the run was made from"):
        genjax.evaluate(tmp_path / "run", data=other)
    np.savez(tmp_path / "same.npz", images=IMAGES, labels=np.arange(40) % 2)
    del source, result, named
    with pytest.raises(genjax.UsageError, match="were given in Python, and have to be given"):
        genjax.resume(tmp_path / "run", steps=30)
    assert genjax.resume(tmp_path / "run", 30, data=str(tmp_path / "same.npz")).step == 30


def test_the_name_of_a_run_of_an_array(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    genjax.train(RECIPE, data=genjax.data.arrays(IMAGES))
    assert (tmp_path / "runs/gan_value/config.json").exists()
