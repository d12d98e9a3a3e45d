"""The time from the command to the first step, for `genjax bench startup`."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tyro.conf import Positional

from genjax.bench.results import Column, Results, Row, duration
from genjax.bench.timing import machine, measure_limits
from genjax.run.folder import RunFolder
from genjax.run.recipe import load_recipe
from genjax.types import UsageError

# The smallest and the largest recipe that two CPU cores can train.
RECIPES = ("gan_digits", "stylegan2_mnist")
POLL_SECONDS = 0.02


def bench_startup(
    recipes: Positional[Sequence[str]] = RECIPES, rounds: int = 3, data_dir: str | None = None
) -> Results:
    """Time `genjax train` from the command to the record of the first step.

    Each round starts it with an empty compilation cache, and then with the cache that this filled.

    Args:
        recipes: Names of recipes.
        rounds: Number of samples of each.
        data_dir: The folder of tfds data.

    Returns:
        Rows of `recipe` and `what` (cold, cached) with `seconds`.

    Raises:
        UsageError: A recipe is unknown, or a command failed, with its message.
    """
    if rounds < 1:
        raise UsageError(f"rounds = {rounds}: should be at least 1")
    rows: list[Row] = []
    for name in recipes:
        load_recipe(name)
        times: dict[str, list[float]] = {"cold": [], "cached": []}
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                for what, seconds in times.items():
                    seconds.append(_seconds_to_first_step(name, data_dir, Path(folder), what))
        rows += [
            {"recipe": name, "what": what, "seconds": seconds} for what, seconds in times.items()
        ]
    return Results("startup", machine(), measure_limits(["float32"]), rows)


def _seconds_to_first_step(name: str, data_dir: str | None, folder: Path, what: str) -> float:
    """Start a training, wait for its first record, kill it, and return the seconds waited."""
    metrics = Path(RunFolder(folder / what).metrics)
    command = [sys.executable, "-m", "genjax.cli", "train", name, "--run", str(folder / what)]
    command += ["--log-interval", "1", *(["--data-dir", data_dir] if data_dir else [])]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / "xla")}
    with (folder / "errors").open("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=errors
        )
        try:
            while not (metrics.is_file() and metrics.stat().st_size):
                if process.poll() is not None:
                    errors.seek(0)
                    raise UsageError(_error(errors.read()))
                time.sleep(POLL_SECONDS)
            return time.perf_counter() - start
        finally:
            process.kill()
            process.wait()


def _error(said: str) -> str:
    """Return the command's error message, without other lines on standard error."""
    lines = said.strip().splitlines() or ["it ended without a message"]
    own = [line.partition("genjax: error: ")[2] for line in lines if "genjax: error: " in line]
    return f"genjax train: {[*lines, *own][-1]}"


def columns() -> list[Column]:
    """Return the columns of the table."""

    def spread(row: Row) -> str:
        return f"{min(row['seconds']):.3g} to {max(row['seconds']):.3g}"

    return [
        ("recipe", lambda row: row["recipe"]),
        ("", lambda row: row["what"]),
        ("to the first step", lambda row: duration(float(np.median(row["seconds"])))),
        ("s, least and most", spread),
    ]
