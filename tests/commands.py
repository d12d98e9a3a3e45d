"""Functions that run `genjax` commands in new processes."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Seconds to wait for a process, more than it takes to notice that another one is dead.
PATIENCE = 400


def genjax(*arguments: Any) -> list[str]:
    """Return the command line of `genjax` with these arguments."""
    return [sys.executable, "-m", "genjax.cli", *map(str, arguments)]


def start(*arguments: Any, environment: Mapping[str, str]) -> subprocess.Popen:
    """Start `genjax` with these arguments, and with variables added to the environment."""
    return subprocess.Popen(
        genjax(*arguments),
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, *workers: subprocess.Popen) -> None:
    """Wait until a file exists, and fail if a worker ends before."""
    end = time.monotonic() + PATIENCE
    while not path.exists():
        assert all(worker.poll() is None for worker in workers), workers[0].communicate()
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.01)
