"""What a benchmark found: in a file, as a table, and beside an earlier one."""

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
from genjax.types import UsageError

Row = dict[str, Any]
NOTE_LETTERS = 200


@dataclass(frozen=True)
class Results:
    """Of one kind of benchmark, made in one go.

    Attributes:
        kind: losses, steps or startup.
        machine: As `timing.machine` gives it.
        limits: Of the machine, measured in the same run.
        rows: Each with the fields of `KEYS` that tell what it is of, `seconds` (all samples) and
            what else is known.
    """

    kind: str
    machine: dict[str, Any]
    limits: Limits
    rows: list[Row]


# What a row is of; rows that share them compare.
KEYS = ("function", "recipe", "what", "batch", "dtype", "devices")


def key_of(row: Row) -> tuple[Any, ...]:
    """What the row is of."""
    return tuple(row.get(name) for name in KEYS)


def save(results: Results, path: Path) -> None:
    """A .json with all, and beside it a .csv with the rows."""
    values = {
        "kind": results.kind,
        "machine": results.machine,
        "limits": results.limits._asdict(),
        "rows": results.rows,
    }
    write_atomically(path, json.dumps(values, indent=1).encode())
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
    """Raise a `UsageError` for a file that `save` would not write to."""
    if path is not None and path.suffix != ".json":
        raise UsageError(f"output {path}: should end in .json")
    if path is not None and not path.absolute().parent.is_dir():
        raise UsageError(f"output {path}: no folder {path.absolute().parent}")


def load(path: Path, kind: str) -> Results:
    """What `save` wrote.

    Raises:
        UsageError: No such file, not one of ours, or of another kind.
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
    """A line for each row that both have: the ratio of times, its interval, and a verdict.

    A difference counts if it is beyond chance, by its interval, and beyond the change of the
    machine's own speed between the two, by their measured limits.
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
    """Why something of a row could not be measured, a line each."""
    return [
        textwrap.shorten(f"{row['recipe']}: {name.removesuffix('_note')}: {value}", NOTE_LETTERS)
        for row in rows
        for name, value in row.items()
        if name.endswith("_note")
    ]


Column = tuple[str, Callable[[Row], str]]


def table(rows: Sequence[Row], columns: Sequence[Column], markdown: bool = False) -> str:
    """Rows as aligned columns for a terminal, or as a table of a page.

    Args:
        rows: The rows.
        columns: The title of each, and what it says of a row.
        markdown: For a page.
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
    """With its unit: 12.3 us, 4.56 ms or 7.8 s."""
    for factor, unit in ((1e6, "us"), (1e3, "ms")):
        if seconds * factor < 1000:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def machine_line(results: Results) -> str:
    """What was measured on, in a sentence."""
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
