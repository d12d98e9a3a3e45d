"""Tests of several processes on one machine, and of the variables that describe them."""

import dataclasses
import signal
import socket
from pathlib import Path

import jax
import numpy as np
import pytest

import genjax
from genjax.data import processes
from genjax.run.checkpoint import DIGESTS
from genjax.run.folder import RunFolder
from genjax.run.records import TIMINGS, read_records
from genjax.types import UsageError
from tests import commands

OPTIONS = ("--log-interval", "10", "--save-interval", "20", "--batch-size", "32")


def _start(arguments, devices, index=0, count=1, port=0):
    """Start `genjax` as process `index` of `count`, with so many devices."""
    variables = {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(index),
    }
    environment = {"JAX_NUM_CPU_DEVICES": str(devices)}
    return commands.start(*arguments, environment=environment | (variables if count > 1 else {}))


def _start_two(*arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [_start(arguments, 4, index, 2, port) for index in range(2)]


def _checkpoint(run, step):
    return run / "checkpoints" / f"{step:08d}" / DIGESTS


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_train_stop_lose_one_and_one_goes_on(tmp_path):
    run, alone = tmp_path / "run", tmp_path / "alone"

    # A signal to one process saves once, at the same step on all.
    workers = _start_two("train", "gan_digits_paper", "--steps", 10**6, "--run", run, *OPTIONS)
    commands.wait_for(_checkpoint(run, 20), *workers)
    workers[1].send_signal(signal.SIGTERM)
    (out, _), (silence, _) = (worker.communicate(timeout=commands.PATIENCE) for worker in workers)
    assert [worker.returncode for worker in workers] == [128 + signal.SIGTERM] * 2
    assert "stopped and saved at step" in out
    # The transport's threads say that they are connected, at times into each other's lines.
    assert not [line for line in silence.splitlines() if line and "peer ranks" not in line]
    stopped = read_records(RunFolder(run))[-1]["step"]
    assert f"saved at step {stopped};" in out
    assert _checkpoint(run, stopped).exists()

    # When one process is killed, the other ends soon, with a message.
    workers = _start_two("resume", run)
    last = stopped - stopped % 20 + 40
    commands.wait_for(_checkpoint(run, last), *workers)
    workers[1].kill()
    _, errors = workers[0].communicate(timeout=commands.PATIENCE)
    workers[1].communicate()
    # The other meets a closed connection or, amid a wait, a missed heartbeat, on which jax
    # aborts the process with a message of its own.
    ends = {1: "another process is gone", -signal.SIGABRT: "another task died"}
    assert ends[workers[0].returncode] in errors, errors
    assert f"genjax resume {run}" in errors

    # The run goes on with one process of two devices, as if nothing had been.
    steps = last + 40
    worker = _start(("resume", run, "--steps", steps), 2)
    _, errors = worker.communicate(timeout=commands.PATIENCE)
    assert worker.returncode == 0, errors
    options = {"steps": steps, "log_interval": 10, "save_interval": 20, "batch_size": 32}
    genjax.train(dataclasses.replace(genjax.load_recipe("gan_digits_paper"), **options), alone)
    found, wanted = (read_records(RunFolder(folder)) for folder in (run, alone))
    assert [record["step"] for record in found] == list(range(10, steps + 1, 10))
    for one, other in zip(found, wanted, strict=True):
        assert set(one) == set(other) or one["step"] == stopped
        for name in set(one) - set(TIMINGS):
            np.testing.assert_allclose(one[name], other[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"JAX_PROCESS_ID": "0"}, "without JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES"),
        (("nowhere", "2", "0"), "JAX_COORDINATOR_ADDRESS = 'nowhere': should be HOST:PORT"),
        (("host:1", "two", "0"), "JAX_NUM_PROCESSES = 'two': should be a whole number from 1"),
        (("host:1", "2", "-1"), "JAX_PROCESS_ID = '-1': should be a whole number from 0"),
        (("host:1", "2", "2"), "JAX_PROCESS_ID = 2: should be below JAX_NUM_PROCESSES = 2"),
    ],
)
def test_impossible_variables_are_refused_by_name(monkeypatch, variables, message):
    if isinstance(variables, tuple):
        names = (processes.ADDRESS, processes.COUNT, processes.INDEX)
        variables = dict(zip(names, variables, strict=True))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message):
        processes.join()


@pytest.mark.parametrize(
    ("variables", "chips", "joins"),
    [
        ({}, 0, False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, 0, False),
        ({"SLURM_STEP_NUM_TASKS": "4"}, 0, True),
        ({}, 4, True),
        ({"JAX_PLATFORMS": "cpu"}, 4, False),
    ],
)
def test_slurm_steps_and_tpu_workers_are_joined(monkeypatch, variables, chips, joins):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: calls.append(given))
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: name == "libtpu")
    glob = Path.glob
    monkeypatch.setattr(
        Path,
        "glob",
        lambda self, pattern: [None] * chips if str(self) == "/dev" else glob(self, pattern),
    )
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    processes.join()
    assert calls == [{"heartbeat_timeout_seconds": processes.HEARTBEAT_SECONDS}] * joins


def test_alone_every_value_is_ones_own():
    assert processes.is_first()
    assert processes.run_on_first(lambda: [1, 2]) == [1, 2]
    np.testing.assert_array_equal(processes.all_gather(np.arange(3)), [[0, 1, 2]])
