"""Rehearsal of the measurement of an accelerator, which runs there for the first time."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_every_part_is_measured_and_an_interrupted_one_goes_on(tmp_path):
    command = [sys.executable, "-m", "experiments.studies.benchmarks.accelerator", "--rehearse"]
    command += ["--output", str(tmp_path)]
    subprocess.run([*command, "--parts", "tests", "--seconds", "60"], check=True)
    tests = json.loads((tmp_path / "tests.json").read_text())
    assert tests["ended"] and tests["passed"] == 6 and not tests["failed"]
    subprocess.run([*command, "--parts", "blurs", "steps", "trainings"], check=True)
    rows = json.loads((tmp_path / "steps.json").read_text())["rows"]
    measured = {(row["recipe"], row["dtype"]) for row in rows}
    names, dtypes = ("gan_digits_paper", "vae_digits"), ("float32", "bfloat16")
    assert measured == {(name, dtype) for name in names for dtype in dtypes}
    assert json.loads((tmp_path / "trainings.json").read_text())["gan"]["step"] == 200
    page = (tmp_path / "page.md").read_text()
    for part in (
        "6 passed and 0 failed",
        "| 2, 16, 4 | bfloat16 | half the size |",
        "| gan_digits_paper | 128 | bfloat16 |",
        "- gan: step 200",
    ):
        assert part in page
