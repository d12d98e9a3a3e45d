"""Runs that are killed at random times, in training and in saves, and resumed each time.

    python -m tests.trainer.killed FOLDER KILLS FAMILY...

For each family a run is trained without interruption, and others of the same recipe are killed by
SIGKILL until there were so many kills. Each life is a process of its own, forked before jax
computes, which shares the compiled programs. What it prints, as JSON, for each family: the kills;
the saves that were cut, of which something unfinished was left; the largest number of steps that a
kill lost; the runs that came to their end; and those of them that differ from the uninterrupted one
in any bit of the state or in their records.
"""

import dataclasses
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import genjax
from genjax.models import FAMILIES
from genjax.run.checkpoint import UNFINISHED, find_damage
from genjax.run.folder import RunFolder
from genjax.run.trained import load
from tests import runs
from tests.models.test_families import CONFIGS

# Families, some on images of another size, with the options of `CONFIGS`.
SAVE, RECORD, SAVES = 10, 5, 12
SMALLER: dict[str, dict[str, Any]] = {
    "glow": {"levels": 1, "steps_per_level": 1, "hidden_features": 8},
}


def _recipe(name: str) -> genjax.Recipe:
    return genjax.Recipe(
        family=name,
        model=dataclasses.replace(CONFIGS[name], **SMALLER.get(name, {})),
        steps=SAVE * SAVES,
        batch_size=16,
        log_interval=RECORD,
        save_interval=SAVE,
        keep=2,
    )


def _start(work: Callable[[], object]) -> int:
    """Return the process id of a fork that does the work, and fails if it raises."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    return child


def _wait(child: int, seconds: float = 1e9) -> int | None:
    """Return the exit code of a child; None if it still runs after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def _last_record(run: Path) -> int:
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n") if path.exists() else []
    return json.loads(lines[-2])["step"] if len(lines) > 1 else 0


def _is_saving(run: Path) -> bool:
    folder = run / "checkpoints"
    return folder.exists() and any(UNFINISHED in name for name in os.listdir(folder))


def _last_good(run: Path) -> int:
    folder = RunFolder(run)
    name = folder.read_config().id
    if not folder.checkpoints.exists():
        return 0
    paths = [path for path in folder.checkpoints.iterdir() if path.name.isdigit()]
    return max((int(path.name) for path in paths if find_damage(path, name) is None), default=0)


def _differs(run: Path, whole: Path) -> None:
    """Raise if the two runs differ."""
    mine, other = (load(x, "latest") for x in (run, whole))
    leaves, structure = jax.tree.flatten(mine.state)
    others, other_structure = jax.tree.flatten(other.state)
    assert (mine.step, structure) == (other.step, other_structure)
    for one, two in zip(leaves, others, strict=True):
        assert np.asarray(one).tobytes() == np.asarray(two).tobytes()
    assert runs.records(run) == runs.records(whole)
    assert not (run / "damaged").exists()


def _kill(folder: Path, name: str, kills: int) -> dict[str, int]:
    recipe, rng = _recipe(name), np.random.default_rng(0)
    whole, run = folder / f"{name}-whole", folder / f"{name}-killed"
    begun = time.monotonic()
    assert _wait(_start(lambda: genjax.train(recipe, whole))) == 0
    records = runs.records(whole)
    assert records[-1]["step"] == recipe.steps
    lines = (whole / "metrics.jsonl").read_text().splitlines()
    times = [json.loads(line)["seconds"] for line in lines]
    period = (times[-1] - times[1]) / (SAVES - 1)
    counts = {"kills": 0, "saves cut": 0, "most steps lost": 0, "ended": 0, "differ": 0}
    while counts["kills"] < kills or run.exists():
        work = genjax.resume if (run / "config.json").exists() else genjax.train
        if work is genjax.train:
            shutil.rmtree(run, ignore_errors=True)
            child = _start(lambda: genjax.train(recipe, run))
        else:
            child = _start(lambda: genjax.resume(run))
        before = _last_good(run) if work is genjax.resume else 0
        code = None
        if counts["kills"] == kills:
            code = _wait(child)
        else:
            # A tenth in start-up, half of the others in training, and half in a save.
            if rng.uniform() < 0.9:
                while code is None and _last_record(run) <= before:
                    code = _wait(child, 0.002)
                in_save = rng.uniform() < 0.5
                while in_save and code is None and not _is_saving(run):
                    code = _wait(child, 0.001)
                longest = 0.1 if in_save else 2 * period
            else:
                longest = 2 * period
            code = _wait(child, float(rng.uniform(0, longest))) if code is None else code
        if code is None:
            os.kill(child, signal.SIGKILL)
            _wait(child)
            if not (run / "config.json").exists():
                continue
            counts["kills"] += 1
            counts["saves cut"] += _is_saving(run)
            lost = _last_record(run) - _last_good(run)
            counts["most steps lost"] = max(counts["most steps lost"], lost)
        else:
            assert code == 0, code
            counts["ended"] += 1
            counts["differ"] += _wait(_start(lambda: _differs(run, whole))) != 0
            shutil.rmtree(run)
    shutil.rmtree(whole)
    return counts | {"seconds": round(time.monotonic() - begun)}


def main(folder: Path, kills: int, *names: str) -> None:
    """Kill runs of each family."""
    for name in names:
        assert name in FAMILIES
        print(json.dumps({name: _kill(folder, name, kills)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
