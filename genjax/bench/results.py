"""Results of benchmarks: in files, as tables, and compared with earlier ones."""

import csv
import io
import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genjax.bench.timing import Limits, drift, ratio_of_medians, verdict
from genjax.run.checkpoint import write_atomically
from genjax.run.records import to_strict_json
from genjax.types import UsageError

Row = dict[str, Any]
# Longest note in a table's footer, in characters.
NOTE_LETTERS = 200


@dataclass(frozen=True)
class Results:
    """The results of one run of a benchmark.

    Attributes:
        kind: losses, steps or startup.
        machine: The machine, from `timing.machine`.
        limits: Limits of the machine, measured in the same run.
        rows: Rows, each with the fields of `KEYS` that identify it, `seconds` (all samples), and
            other measurements.
    """

    kind: str
    machine: dict[str, Any]
    limits: Limits
    rows: list[Row]


# The fields that identify a row; rows of two results are compared if these are equal.
KEYS = ("function", "recipe", "what", "batch", "dtype", "devices")


def key_of(row: Row) -> tuple[Any, ...]:
    """Return the values of `KEYS`, which identify the row."""
    return tuple(row.get(name) for name in KEYS)


def save(results: Results, path: Path) -> None:
    """Write results to a .json, and their rows to a .csv beside it."""
    values = {
        "kind": results.kind,
        "machine": results.machine,
        "limits": results.limits._asdict(),
        "rows": results.rows,
    }
    write_atomically(path, to_strict_json(values, indent=1).encode())
    write_atomically(path.with_suffix(".csv"), _csv(results.rows).encode())


def _csv(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                name: " ".join(map(str, value)) if isinstance(value, list) else value
                for name, value in row.items()
            }
        )
    return buffer.getvalue()


def check_output(path: Path | None) -> None:
    """Raise a `UsageError` if `save` cannot write to a path."""
    if path is not None and path.suffix != ".json":
        raise UsageError(f"output {path}: should end in .json")
    if path is not None and not path.absolute().parent.is_dir():
        raise UsageError(f"output {path}: no folder {path.absolute().parent}")


def load(path: Path, kind: str) -> Results:
    """Read results that `save` wrote.

    Raises:
        UsageError: The file does not exist, holds no results, or is of another kind of benchmark.
    """
    if not path.is_file():
        raise UsageError(f"against {path}: no such file")
    try:
        values = json.loads(path.read_text())
        results = Results(
            values["kind"], values["machine"], Limits(**values["limits"]), values["rows"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"against {path}: is not a result of genjax bench") from error
    if results.kind != kind:
        raise UsageError(f"against {path}: is of {results.kind}; wanted one of {kind}")
    return results


def against(new: Results, old: Results) -> list[str]:
    """Compare rows that both results have; return a line for each that differs, and a summary.

    A line has the verdict, the ratio of times, and its confidence interval. A difference counts if
    the whole interval lies beyond the change of the machine's own speed, by the measured limits.
    """
    noise = drift(new.limits, old.limits)
    before = {key_of(row): row for row in old.rows}
    lines, counts = [], {"slower": 0, "same": 0, "faster": 0}
    for row in new.rows:
        earlier = before.get(key_of(row))
        if earlier is None:
            continue
        change = ratio_of_medians(row["seconds"], earlier["seconds"])
        said = verdict(change, noise)
        counts[said] += 1
        if said != "same":
            name = " ".join(str(part) for part in key_of(row) if part is not None)
            lines.append(
                f"{said:7} {change.ratio:5.2f} ({change.low:.2f} to {change.high:.2f})  {name}"
            )
    if new.machine.get("device") != old.machine.get("device"):
        lines.append(f"the earlier one is of another device: {old.machine.get('device')}")
    total = ", ".join(f"{count} {name}" for name, count in counts.items())
    lines.append(
        f"{total}, of {sum(counts.values())}; a factor of {noise:.2f} is put down to the machine"
    )
    return lines


def notes(rows: Sequence[Row]) -> list[str]:
    """Return a line for each measurement that could not be made, with the reason."""
    return [
        textwrap.shorten(f"{row['recipe']}: {name.removesuffix('_note')}: {value}", NOTE_LETTERS)
        for row in rows
        for name, value in row.items()
        if name.endswith("_note")
    ]


Column = tuple[str, Callable[[Row], str]]


def table(rows: Sequence[Row], columns: Sequence[Column], markdown: bool = False) -> str:
    """Format rows as a table.

    Args:
        rows: The rows.
        columns: For each column its title, and a function from a row to its text.
        markdown: Whether to format it as Markdown, not in aligned columns for a terminal.
    """
    cells = [[text(row) for _, text in columns] for row in rows]
    titles = [title for title, _ in columns]
    if markdown:
        rule = ["---", *["---:"] * (len(columns) - 1)]
        return "\n".join(f"| {' | '.join(line)} |" for line in (titles, rule, *cells))
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    lines = []
    for first, *others in [titles, *cells]:
        texts = [first.ljust(widths[0])]
        texts += [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(texts).rstrip())
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Format a duration with its unit: 12.3 us, 4.56 ms or 7.8 s."""
    for factor, unit in ((1e6, "us"), (1e3, "ms")):
        if seconds * factor < 1000:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def machine_line(results: Results) -> str:
    """Describe the machine, the versions, and the measured limits in a sentence."""
    m, limits = results.machine, results.limits
    device = m["device"] if m["device"] != "cpu" else f"{m['cores']} cores of {m['processor']}"
    devices = f"{m['devices']} devices, " if m["devices"] > 1 else ""
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
    products = ", ".join(
        f"{rate / 1e9:,.0f} GFLOP/s in {dtype}" for dtype, rate in limits.product.items()
    )
    return (
        f"{m['date']}, {devices}{device}; Python {m['python']}, {versions}. Limits measured in the "
        f"same run: a copy {limits.copy / 1e9:.3g} GB/s, a matrix product {products}, a call "
        f"{duration(limits.call)}."
    )
