"""Tests of each family with all of XLA's optimizations, as users run it."""

import os
import subprocess
import sys
from pathlib import Path

from tests.families import each_family

ROOT = Path(__file__).parents[2]


@each_family(slow=("gan", "vae"))
def test_whole_states_resume_and_eight_devices_learn_as_one(name):
    """See `tests/models/as_users.py`."""
    ours = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS")
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "tests/models/as_users.py", "-k", f"[{name}]"],
        cwd=ROOT,
        env=environment | {"GENJAX_TEST_AS_USERS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout + done.stderr
