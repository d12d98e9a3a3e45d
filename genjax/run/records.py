"""The records of a run: a line of metrics for each `log_interval` steps."""

import json
import math
from typing import Any

from genjax.run.folder import RunFolder

# Fields of a record that are not results, because they depend on the machine.
TIMINGS = ("seconds", "steps_per_second", "images_per_second")


def to_strict_json(values: Any, indent: int | None = None) -> str:
    """Format as JSON, in which numbers that are not finite are null, as it has no word for them."""
    return json.dumps(_finite(values), indent=indent, allow_nan=False)


def _finite(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: _finite(value) for name, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


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
