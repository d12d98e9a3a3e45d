"""Saves whose file operations fail, are the last or are late, one after the other.

    LD_PRELOAD=faults.so python -m tests.run.faulty FOLDER MODE

Each save is made in a process of its own, forked before jax computes. After it another process
opens the checkpoints and must find the last good one whole, bit for bit, and be able to save again.
It prints, as JSON, how often each outcome came.
"""

import collections
import ctypes
import functools
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from genjax.run.checkpoint import Checkpoints, SaveError

MODES = {"fails": 1, "last": 2, "late": 3}
OUTCOMES = {0: "saved", 1: "refused", -9: "killed", 2: "done"}


def _state(step: int) -> dict[str, jax.Array]:
    values = {"step": np.int32(step), "params": np.arange(5000, dtype=np.float32) + step}
    return jax.device_put(values)  # without a program that each process would compile


def _open(folder: Path) -> Checkpoints:
    return Checkpoints(folder / "checkpoints", "0" * 16, 2, "score", writable=True)


def _prepare(folder: Path) -> int:
    checkpoints = _open(folder)
    for step in (1, 2):
        checkpoints.save(step, _state(step), {"score": 1.0 / step})
    return 0


def _save(folder: Path, faults: ctypes.CDLL, at: int, mode: int) -> int:
    checkpoints = _open(folder)
    state = jax.block_until_ready(_state(3))
    faults.arm(os.fsencode(folder), ctypes.c_long(at), mode)
    try:
        checkpoints.save(3, state, {"score": 0.1})
    except SaveError:
        return 1
    return 0 if faults.counted() >= at else 2


def _check(folder: Path, outcome: str) -> int:
    """Return 0 if what is there is sound; otherwise a number that says what is wrong."""
    checkpoints = _open(folder)
    latest = checkpoints.latest
    if latest not in ((3,) if outcome in ("saved", "done") else (2, 3)):
        return 3
    if latest == 2:
        checkpoints.save(3, _state(3), {"score": 0.1})
    for step in (2, 3):
        restored = checkpoints.restore(step, jax.eval_shape(lambda: _state(0)))
        for name, array in _state(step).items():
            if not np.array_equal(restored[name], array):
                return 4
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    return 0 if {"00000002", "00000003"} <= names and not (folder / "damaged").exists() else 5


def _in_a_fork(work: Callable[[], int]) -> int:
    """Return the exit code of a process that does the work; minus the signal that ended it."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        code = 9
        try:
            code = work()
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: Path, mode: str) -> None:
    """Let every operation of a save fail, be the last or be late."""
    faults = ctypes.CDLL(None)
    faults.counted.restype = ctypes.c_long
    assert _in_a_fork(lambda: _prepare(folder / "base")) == 0
    counts: collections.Counter[str] = collections.Counter()
    at, outcome = 0, ""
    while outcome != "done":
        at += 1
        run = folder / str(at)
        shutil.copytree(folder / "base", run)
        code = _in_a_fork(functools.partial(_save, run, faults, at, MODES[mode]))
        outcome = OUTCOMES.get(code, f"code {code}")
        found = _in_a_fork(functools.partial(_check, run, outcome))
        counts[outcome if found == 0 else f"{outcome} at {at}, wrong {found}"] += 1
        shutil.rmtree(run)
    print(json.dumps(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
