"""The results of a run, for tests that compare two runs."""

from pathlib import Path
from typing import Any

from genjax.run.folder import RunFolder
from genjax.run.records import TIMINGS, read_records
from genjax.run.trained import load
from genjax.types import State


def records(run: Path | str) -> list[dict[str, float]]:
    """Return the records without the fields that depend on the machine."""
    return [
        {name: value for name, value in record.items() if name not in TIMINGS}
        for record in read_records(RunFolder(run))
    ]


def results(run: Path) -> tuple[State, list[dict[str, Any]]]:
    """Return the latest state and the records."""
    return load(run, "latest").state, records(run)
