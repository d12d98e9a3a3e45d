"""The records of a run: a line of metrics for each `log_interval` steps."""

import json

from genjax.run.folder import RunFolder

# Fields of a record that are not results, because they depend on the machine.
TIMINGS = ("seconds", "steps_per_second", "images_per_second")


def read_records(folder: RunFolder, last_step: int | None = None) -> list[dict[str, float]]:
    """Read the records of `metrics.jsonl` up to `last_step`, without lines cut short by a crash."""
    records = []
    if folder.metrics.exists():
        for line in folder.metrics.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if last_step is None or record["step"] <= last_step:
                records.append(record)
    return records
