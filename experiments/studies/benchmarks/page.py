"""Measure all that the measured part of BENCHMARKS.md has, on a machine that does nothing else.

    pip install -e '.[bench]'
    python -m experiments.studies.benchmarks.page --data-dir DIR

`genjax bench losses`, `steps` with PyTorch beside them, and `startup`, and the three longest
operations of each step by `genjax profile`; half an hour on 2 CPU cores. What lies in the output
folder already is not measured again: after Ctrl-C the same command goes on. At the end the tables
are written into the page beside this folder: on a GPU into its own part of it.
"""

import argparse
import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from experiments.studies.benchmarks.pytorch.steps import Way, bench_beside_pytorch, columns
from genjax.bench import losses, startup, steps
from genjax.bench.profile import by_kind, profile
from genjax.bench.profile import columns as operation_columns
from genjax.bench.results import Results, load, machine_line, notes, save, table
from genjax.run.recipe import load_recipe

PAGE = Path(__file__).parents[2] / "BENCHMARKS.md"
MODULE = "experiments.studies.benchmarks.page"
LONGEST = 3


def measured(kind: str, measure: Callable[[], Results], folder: Path) -> Results:
    """Return results from their file, or measure and save them; `steps_RECIPE` has kind `steps`."""
    path = folder / f"{kind}.json"
    if not path.exists():
        save(measure(), path)
    return load(path, kind.partition("_")[0])


def longest_operations(name: str, folder: Path) -> str:
    """Return the table of a recipe's longest operations, profiled in a new process."""
    path = folder / f"{name}.md"
    if not path.exists():
        # A new process, because the profiler keeps earlier traces in memory.
        command = [sys.executable, "-m", MODULE, "--output", str(folder), "--profile", name]
        subprocess.run(command, check=True)
    return path.read_text()


def write_longest(name: str, folder: Path) -> None:
    """Profile a recipe, and write its table."""
    found = profile(load_recipe(name))
    rows: list[dict[str, Any]] = [{"operation": each} for each in found.operations[:LONGEST]]
    kinds = ", ".join(f"{100 * share:.0f}% {kind}" for kind, share in by_kind(found))
    text = table(rows, operation_columns(found), markdown=True)
    (folder / f"{name}.md").write_text(f"{text}\n\nBy kind: {kinds}.")


def page(folder: Path, data_dir: str | None, ways: tuple[Way, ...]) -> Iterator[str]:
    """Iterate over the parts of the page."""
    options = steps.Options(data_dir=data_dir)
    yield f"### Train steps: `genjax bench steps`, and PyTorch beside them: {' and '.join(ways)}"
    lines: list[str] = []
    said: list[str] = []
    for name in steps.RECIPES:
        # A file for each recipe, so that little is measured again after Ctrl-C.
        measure = functools.partial(bench_beside_pytorch, [name], ways, options)
        found = measured(f"steps_{name}", measure, folder)
        title, rule, *rows = table(found.rows, columns(found), markdown=True).splitlines()
        lines += rows if lines else [title, rule, *rows]
        said += [f"- {note}" for note in notes(found.rows)]
    yield machine_line(found)
    yield "\n".join(lines)
    if said:
        yield "\n".join(said)
    yield "### The longest operations of each: `genjax profile RECIPE`"
    for name in steps.RECIPES:
        yield f"`{name}`"
        yield longest_operations(name, folder)
    found = measured("losses", losses.bench_losses, folder)
    yield "### Losses: `genjax bench losses`"
    yield machine_line(found)
    yield table(found.rows, losses.columns(found.limits), markdown=True)
    found = measured("startup", lambda: startup.bench_startup(data_dir=data_dir), folder)
    yield "### From the command to the first step: `genjax bench startup`"
    yield machine_line(found)
    yield table(found.rows, startup.columns(), markdown=True)


def main() -> None:
    """Measure everything, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("benchmarks"))
    parser.add_argument("--data-dir", help="where tfds data lie")
    parser.add_argument("--torch", nargs="*", choices=("eager", "compiled"), default=["eager"])
    parser.add_argument("--profile", metavar="RECIPE", help="one, to the output")
    given = parser.parse_args()
    given.output.mkdir(exist_ok=True, parents=True)
    if given.profile:
        write_longest(given.profile, given.output)
        return
    text = "\n\n".join(page(given.output, given.data_dir, tuple(given.torch)))
    about = json.loads((given.output / "losses.json").read_text())["machine"]
    write_part("cpu" if about["device"] == "cpu" else "gpu", text)


def write_part(part: str, text: str) -> None:
    """Write the measured part of the page for `cpu` or `gpu`."""
    start, end = f"<!-- measured: {part} -->", f"<!-- end: {part} -->"
    old = PAGE.read_text()
    new = re.sub(f"{start}.*{end}", lambda _: f"{start}\n\n{text}\n\n{end}", old, flags=re.DOTALL)
    PAGE.write_text(new)


if __name__ == "__main__":
    main()
