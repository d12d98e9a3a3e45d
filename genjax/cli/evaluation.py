"""Commands that measure how good trained runs are."""

from pathlib import Path
from typing import Annotated

import tyro

from genjax.cli.command import Call, command
from genjax.evaluation import compare, tradeoff
from genjax.evaluation.evaluate import evaluate
from genjax.figures.output import check_output
from genjax.run.checkpoint import write_atomically
from genjax.types import UsageError

Csv = tyro.conf.arg(help="File to write the table to, a line for each run.")
Html = tyro.conf.arg(
    help="File to write a page to: the table, and each run's samples, paths in latent space, "
    "nearest training images, and curves."
)
Png = tyro.conf.arg(
    aliases=["-o"], help="A .png for the curves; the numbers go beside it, in a .csv."
)


def print_comparison(
    call: Call,
    csv: Annotated[Path | None, Csv] = None,
    html: Annotated[Path | None, Html] = None,
) -> int:
    """Print the table of a comparison, and write it where asked."""
    found = call()
    if csv is not None:
        write_atomically(csv, compare.to_csv(found).encode())
    if html is not None:
        write_atomically(html, compare.to_html(found, call.keywords["runs"]).encode())
    print(compare.to_text(found))
    return 0


def save_tradeoff(call: Call, output: Annotated[Path, Png] = Path("tradeoff.png")) -> int:
    """Write the curves of a trade-off, and its numbers."""
    if output.suffix.lower() != ".png":
        raise UsageError(f"output {output}: should end in .png")
    check_output(output)
    rows, table = call(), output.with_suffix(".csv")
    write_atomically(output, tradeoff.to_figure(rows))
    write_atomically(table, tradeoff.to_csv(rows).encode())
    print(f"{output}\n{table}")
    return 0


COMMANDS = {
    "evaluate": command(evaluate),
    "compare": command(compare.compare, print_comparison),
    "tradeoff": command(tradeoff.tradeoff, save_tradeoff),
}
