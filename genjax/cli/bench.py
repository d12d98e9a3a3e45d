"""Commands that measure how fast the package is on this machine."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from genjax.bench import losses, results, startup, steps
from genjax.cli.command import Call, Command

Json = tyro.conf.arg(
    aliases=["-o"],
    help="A .json for all measurements; the rows are also written beside it, as a .csv.",
)
Earlier = tyro.conf.arg(help="The .json of an earlier run to compare with.")


def benchmark(
    kind: str,
    function: Callable[..., results.Results],
    columns: Callable[[results.Results], Sequence[results.Column]],
) -> Command:
    """Make a command of a function that measures; `columns` gives the columns of its table."""

    def print_results(
        call: Call,
        output: Annotated[Path | None, Json] = None,
        against: Annotated[Path | None, Earlier] = None,
    ) -> int:
        results.check_output(output)
        old = results.load(against, kind) if against is not None else None
        found = call()
        print(results.table(found.rows, columns(found)))
        print("", results.machine_line(found), *results.notes(found.rows), sep="\n")
        if output is not None:
            results.save(found, output)
            print(f"{output}\n{output.with_suffix('.csv')}")
        if old is not None:
            print(f"\nagainst {against}:", *results.against(found, old), sep="\n")
        return 0

    return Command(function, print_results)


COMMANDS = {
    "losses": benchmark("losses", losses.bench_losses, lambda found: losses.columns(found.limits)),
    "steps": benchmark("steps", steps.bench_steps, lambda found: steps.columns(found.limits)),
    "startup": benchmark("startup", startup.bench_startup, lambda found: startup.columns()),
}
