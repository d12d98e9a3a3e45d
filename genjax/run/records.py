"""The records of a run: a line of metrics for each `log_interval` steps."""

import json
import math
import sys
from typing import Any

from etils import epath

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


def read_lines(path: epath.Path) -> list[dict[str, Any]]:
    """Read the JSON objects of a file, one a line, without lines that a crash or a flip damaged."""
    found = []
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict):
            found.append(values)
    return found


def append_line(folder: RunFolder, path: epath.Path, values: dict[str, Any]) -> None:
    """Append values to a file of the run, on a line of their own even if the last was cut short."""
    with folder.to_append(path).open("ab+") as file:
        end = file.tell()
        file.seek(max(end - 1, 0))
        begin = b"" if file.read(1) in (b"\n", b"") else b"\n"
        file.write(begin + to_strict_json(values).encode() + b"\n")


def read_records(folder: RunFolder, last_step: int | None = None) -> list[dict[str, float]]:
    """Read the records of `metrics.jsonl` up to `last_step`, without damaged lines."""
    records = [record for record in read_lines(folder.metrics) if _is_record(record)]
    return [record for record in records if last_step is None or record["step"] <= last_step]


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a number that a float can hold."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _is_record(values: dict[str, Any]) -> bool:
    numbers = all(map(is_number, values.values()))
    timings = [values.get(name, math.nan) for name in TIMINGS]
    return numbers and type(values.get("step")) is int and all(time >= 0 for time in timings)
