"""The fault run: processes that are killed, and file operations that fail, while a run is saved."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KILLED = ("gan", "wgan_gp", "vae", "glow", "stylegan2")


def _run(*arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=pytest.mark.xdist_group(x)) for x in KILLED]
)
def test_killed_at_random_times_a_run_ends_as_if_it_never_was(tmp_path, name):
    """With programs as users have them; `GENJAX_TEST_KILLS` kills for each family, or else 20."""
    ours = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS")
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    kills = int(os.environ.get("GENJAX_TEST_KILLS", "20"))
    (counts,) = _run("tests.trainer.killed", tmp_path, kills, name, **environment).values()
    print(name, counts)
    assert counts["kills"] == kills
    assert counts["most steps lost"] <= 10  # its save interval
    assert counts["ended"] > 0
    assert counts["differ"] == 0


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_every_file_operation_of_a_save_may_fail_or_be_the_last(tmp_path):
    if sys.platform != "linux" or shutil.which("cc") is None:
        pytest.skip("needs a C compiler, for the library that makes file operations fail")
    library, source = tmp_path / "faults.so", ROOT / "tests/run/faults.c"
    build = ["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"]
    subprocess.run(build, check=True)
    environment = os.environ | {"LD_PRELOAD": str(library)}

    def outcomes(mode):
        (tmp_path / mode).mkdir()
        return _run("tests.run.faulty", tmp_path / mode, mode, **environment)

    modes = ("fails", "last", "late")
    with ThreadPoolExecutor() as pool:  # together, as each waits for the disk
        counts = dict(zip(modes, pool.map(outcomes, modes), strict=True))
    print(counts)
    assert all(set(found) <= {"saved", "refused", "killed", "done"} for found in counts.values())
    assert counts["fails"]["refused"] > 30
    assert counts["last"]["killed"] > 50
    assert counts["late"]["saved"] > 50
