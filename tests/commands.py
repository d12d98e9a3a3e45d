"""`genjax ...` in processes of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Seconds. A process that waits for a dead one may do so until its heartbeat is missed.
PATIENCE = 400


def start(*arguments: Any, environment: Mapping[str, str]) -> subprocess.Popen:
    """`genjax` with these arguments, and these variables beside the environment's."""
    return subprocess.Popen(
        [sys.executable, "-m", "genjax.cli", *map(str, arguments)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, *workers: subprocess.Popen) -> None:
    """Until it exists; the workers should live until then."""
    end = time.monotonic() + PATIENCE
    while not path.exists():
        assert all(worker.poll() is None for worker in workers), workers[0].communicate()
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.01)
