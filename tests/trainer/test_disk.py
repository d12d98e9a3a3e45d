"""Disks that fill up or vanish while a run trains, as a person sees it."""

import resource

import pytest

from genjax.run.checkpoint import find_damage
from genjax.run.folder import RunFolder
from tests import commands

OPTIONS = ["--size", 8, "--batch-size", 16, "--steps", 10**6, "--log-interval", 20]
OPTIONS += ["--save-interval", 20]


def _fill(process, run):
    """A limit on the size of files fails every write as a full disk does."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1000, 1000))


def _take_away(process, run):
    """The folder goes at once: a save would write into one that is being removed."""
    run.rename(run.parent / "away")


@pytest.mark.parametrize(
    ("kind", "vanish"),
    [
        ("full", _fill),
        pytest.param("gone", _take_away, marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_fails_ends_a_training_in_one_line(tmp_path, kind, vanish):
    run = tmp_path / "run"
    process = commands.start("train", "gan_digits_paper", *OPTIONS, "--run", run, environment={})
    commands.wait_for(run / "checkpoints/00000040", process)
    vanish(process, run)
    _, errors = process.communicate(timeout=commands.PATIENCE)
    assert process.returncode == 1, errors
    *progress, error = errors.splitlines()
    assert error.startswith("genjax: error: could not ")
    expected = ("step ", "reading ", "10 classes: ", "training ", "warning: step ")
    expected += ("warning: an old checkpoint",)
    assert [line for line in progress if not line.startswith(expected)] == []
    if kind == "gone":
        assert not run.exists() or not (run / "config.json").exists()
        return
    folder = RunFolder(run)
    name = folder.read_config().id
    good = [p for p in folder.checkpoints.iterdir() if find_damage(p, name) is None]
    last = max(int(path.name) for path in good)
    assert error.endswith(f"is step {last}; once that is mended, to go on: genjax resume {run}")
    assert "File too large" in error
