"""Comparison of runs of any family by their latest evaluations."""

import base64
import csv
import dataclasses
import html
import io
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from etils import epath
from tyro.conf import Positional

from genjax.console import printable
from genjax.data.paths import is_remote
from genjax.run.checkpoint import write_atomically
from genjax.run.folder import RunFolder
from genjax.run.model_file import count, is_model_file, read_card
from genjax.run.options import AnyPath, Runs
from genjax.run.recipe import Recipe
from genjax.run.records import is_number, read_lines, read_records
from genjax.run.states import abstract_state
from genjax.run.trained import Result, Trained, path_of
from genjax.types import ImageSpec, UsageError

log = logging.getLogger("genjax")

# The parts of a protocol that must be equal for a comparison; and those that may differ, because
# they belong to the model, and are rows of the table.
SHARED = ("data", "split", "images", "content", "shape", "resized", "samples", "extractor", "seed")
OWN = (
    *("temperature", "truncation", "truncation_cutoff", "importance_samples", "likelihood_images"),
    *("sampler", "sampling_steps", "guidance"),
)
# The figures that `evaluate` writes, and their captions.
FIGURES = {
    "samples": "Samples",
    "interpolations": "Paths in latent space",
    "neighbours": "The samples nearest to a training image, each with the images that it is like",
}


# A number, with its error if it has one.
NUMBER = re.compile(r"[+-]?[\d.,]+(e[+-]?\d+)?( \+- [\d.]+(e[+-]?\d+)?)?")


class Comparison(NamedTuple):
    """A table with a column for each run.

    Attributes:
        runs: Names of the runs.
        rows: For each quantity, a text for each run, which is empty if the run has none.
        protocol: The parts of the protocol that all evaluations share.
    """

    runs: list[str]
    rows: dict[str, list[str]]
    protocol: dict[str, Any]

    def __str__(self) -> str:
        return to_text(self)


class _Compared(NamedTuple):
    """What is known of a run or model file without its weights."""

    path: epath.Path
    recipe: Recipe
    spec: ImageSpec
    steps: int
    minutes: float | None
    evaluation: dict[str, Any] | None


def compare(
    runs: Annotated[Sequence[str | Path | Result | Trained], Positional, Runs],
    csv: AnyPath = None,
    html: AnyPath = None,
) -> Comparison:
    """Compare runs of any family by their latest evaluations.

    The evaluations must have the same protocol.

    Args:
        runs: Run folders, each with an `evaluations.jsonl` of `genjax evaluate`, and model files
            that were exported after such an evaluation.
        csv: File to write the table to, a line for each run.
        html: File to write a page to: the table, and each run's samples, paths in latent space,
            nearest training images, and curves.

    Returns:
        The table; printed, it has aligned columns.

    Raises:
        UsageError: A folder has no run or no evaluation, protocols differ, which the message names,
            or a file cannot be written there.
    """
    if isinstance(runs, (str, Path, Result, Trained)):
        raise UsageError(f"runs = {runs!r:.60}: wanted a list of one run or more")
    if not runs:
        raise UsageError("no runs: wanted the folders of one or more")
    csv, html = (None if path is None else Path(path) for path in (csv, html))
    for name, path in (("csv", csv), ("html", html)):
        if path is not None and path.is_dir():
            raise UsageError(f"{name} {path}: is a folder; wanted a file")
        if path is not None and not path.absolute().parent.is_dir():
            raise UsageError(f"{name} {path}: no folder {path.parent}")
    compared = [_open(run) for run in runs]
    columns = [_column(each) for each in compared]
    evaluations = [_evaluation(each) for each in compared]
    protocols = [{name: e["protocol"].get(name) for name in SHARED} for e in evaluations]
    for each, protocol in zip(compared[1:], protocols[1:], strict=True):
        for name, value in protocol.items():
            if value != protocols[0][name]:
                raise UsageError(
                    f"{each.path} was evaluated with {name} = {value}, {compared[0].path} with "
                    f"{protocols[0][name]}: such numbers do not compare"
                )
    for column, evaluation in zip(columns, evaluations, strict=True):
        column["evaluated at step"] = str(evaluation["step"])
        for name in OWN:
            value = evaluation["protocol"].get(name)
            column[name.replace("_", " ")] = "" if value is None else str(value)
        seconds = evaluation.get("seconds_per_1000")
        column["seconds for 1,000 samples"] = f"{seconds:.3g}" if is_number(seconds) else ""
        column |= to_strings(evaluation["metrics"])
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = {name: [column.get(name, "") for column in columns] for name in names}
    # They come from files, and a terminal may show the .csv and the page too.
    rows = {
        printable(name): list(map(printable, texts)) for name, texts in rows.items() if any(texts)
    }
    comparison = Comparison([printable(each.path.name) for each in compared], rows, protocols[0])
    if csv is not None:
        write_atomically(csv, to_csv(comparison).encode())
    if html is not None:
        write_atomically(html, to_html(comparison, [each.path for each in compared]).encode())
    return comparison


def _open(run: str | Path | Result | Trained) -> _Compared:
    path, card = path_of(run), None
    if isinstance(run, Trained):
        card = run.card
    elif is_model_file(path):
        card = read_card(path)
    if card is not None:
        return _Compared(path, card.recipe, card.spec, card.step, card.minutes, card.evaluation)
    folder = RunFolder(path)
    config = folder.read_config()
    steps, minutes = trained_for(folder)
    evaluation = latest_evaluation(folder)
    return _Compared(path, config.recipe, config.spec, steps, minutes, evaluation)


def _evaluation(compared: _Compared) -> dict[str, Any]:
    if compared.evaluation is None:
        raise UsageError(f"{compared.path} has not been evaluated: genjax evaluate {compared.path}")
    return compared.evaluation


def latest_evaluation(folder: RunFolder, step: int | None = None) -> dict[str, Any] | None:
    """Return the latest evaluation of a run, or of one of its steps; None if there is none."""
    whole = [each for each in read_lines(folder.evaluations) if _is_evaluation(each)]
    if not whole:
        return None
    if len(list(filter(None, folder.evaluations.read_bytes().split(b"\n")))) > len(whole):
        log.warning("%s has lines that are damaged: left out", folder.evaluations)
    return next((each for each in whole[::-1] if step in (None, each["step"])), None)


def _is_evaluation(values: dict[str, Any]) -> bool:
    protocol, metrics = values.get("protocol"), values.get("metrics")
    if not isinstance(protocol, dict) or not isinstance(metrics, dict):
        return False
    numbers = [value for value in metrics.values() if value is not None]  # None is undefined
    return all(map(is_number, [values.get("step"), *numbers]))


def trained_for(folder: RunFolder, last_step: int | None = None) -> tuple[int, float]:
    """Return the steps, up to a last one, and the minutes that a run was trained for."""
    minutes, before = 0.0, 0
    for record in read_records(folder, last_step):
        step = int(record["step"])
        minutes += (step - before) / max(record["steps_per_second"], 1e-3) / 60
        before = step
    return before, minutes


def _column(compared: _Compared) -> dict[str, str]:
    """Return the rows of a run that do not come from its evaluation."""
    state = abstract_state(compared.recipe, compared.spec)
    players = (getattr(state, field.name) for field in dataclasses.fields(state))
    params = [player.params for player in players if hasattr(player, "params")]
    minutes = compared.minutes
    return {
        "family": compared.recipe.family,
        "parameters": f"{count(params):,}",
        "steps": f"{compared.steps:,}",
        "minutes of training": "" if minutes is None else f"{minutes:.1f}",
    }


def to_strings(metrics: dict[str, float | None]) -> dict[str, str]:
    """Format each metric, with its error if it has one: `0.123 +- 0.004`."""
    texts = {}
    for name, value in metrics.items():
        if name.endswith("_error"):
            continue
        text = "undefined" if value is None else f"{value:.4g}"
        error = metrics.get(f"{name}_error")
        texts[name.replace("_", " ")] = text if error is None else f"{text} +- {error:.2g}"
    return texts


def to_text(comparison: Comparison) -> str:
    """Format the table for a terminal, in aligned columns."""
    table = [["", *comparison.runs], *([name, *row] for name, row in comparison.rows.items())]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    return "\n".join([*lines, "", f"protocol: {json.dumps(comparison.protocol)}"])


def to_csv(comparison: Comparison) -> str:
    """Format the table as CSV, a line for each run."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(_as_text, ["run", *comparison.rows]))
    for i, run in enumerate(comparison.runs):
        writer.writerow(map(_as_text, [run, *(row[i] for row in comparison.rows.values())]))
    return buffer.getvalue()


def _as_text(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula; numbers stay as they are."""
    is_formula = cell.startswith(("=", "+", "-", "@", "\t", "\r")) and not NUMBER.fullmatch(cell)
    return f"'{cell}" if is_formula else cell


def to_html(comparison: Comparison, runs: Sequence[str | Path]) -> str:
    """Format the table, and the figures and curves of each run, as a self-contained HTML page."""

    def cells(tag: str, texts: Sequence[str]) -> str:
        return "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts)

    rows = [f"<tr>{cells('th', ['', *comparison.runs])}</tr>"]
    for name, row in comparison.rows.items():
        rows.append(f"<tr>{cells('th', [name])}{cells('td', row)}</tr>")
    sections = []
    for name, run in zip(comparison.runs, runs, strict=True):
        folder = RunFolder(run)
        figures = [(folder.figures / f"{figure}.png", text) for figure, text in FIGURES.items()]
        figures.append((folder.curves, "Loss and quality over steps"))
        images = "".join(_figure(path, text) for path, text in figures if _is_own(path, folder))
        sections.append(f"<section><h2>{html.escape(name)}</h2>{images}</section>")
    protocol = html.escape(json.dumps(comparison.protocol))
    return PAGE.format(rows="\n".join(rows), sections="\n".join(sections), protocol=protocol)


def _is_own(path: epath.Path, folder: RunFolder) -> bool:
    """Return whether a path is a PNG of the run, and no link to another file of the reader's."""
    if not path.is_file():
        return False
    linked = not is_remote(path) and Path(folder.path).resolve() not in Path(path).resolve().parents
    return not linked and path.read_bytes().startswith(b"\x89PNG")


def _figure(path: Path, text: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>genjax: runs compared</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 75em; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .2em .8em; text-align: right; border-bottom: 1px solid #ddd; }}
th:first-child {{ text-align: left; }}
section {{ display: flex; flex-wrap: wrap; gap: 1em; align-items: flex-start; }}
h2 {{ flex-basis: 100%; margin-bottom: 0; }}
figure {{ margin: 0; max-width: 36em; }}
figure:last-child {{ max-width: 60em; }}
img {{ max-width: 100%; image-rendering: pixelated; }}
code {{ overflow-wrap: anywhere; }}
</style>
<h1>Runs compared</h1>
<table>
{rows}
</table>
<p>Protocol: <code>{protocol}</code></p>
{sections}
</html>
"""
