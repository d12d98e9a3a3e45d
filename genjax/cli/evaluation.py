"""Commands that measure how good trained runs are."""

from pathlib import Path
from typing import Annotated

import tyro

from genjax.cli.command import Call, Command
from genjax.evaluation import tradeoff
from genjax.evaluation.compare import compare
from genjax.evaluation.evaluate import evaluate
from genjax.evaluation.fidelity import fidelity
from genjax.figures.output import check_output
from genjax.types import UsageError

Png = tyro.conf.arg(
    aliases=["-o"], help="A .png for the curves; the numbers go beside it, in a .csv."
)


def save_tradeoff(call: Call, output: Annotated[Path, Png] = Path("tradeoff.png")) -> int:
    """Write the curves of a trade-off, and its numbers."""
    if output.suffix.lower() != ".png":
        raise UsageError(f"output {output}: should end in .png")
    check_output(output)
    tradeoff.save(call(), output)
    print(f"{output}\n{output.with_suffix('.csv')}")
    return 0


COMMANDS = {
    "evaluate": Command(evaluate),
    "fidelity": Command(fidelity),
    "compare": Command(compare),
    "tradeoff": Command(tradeoff.tradeoff, save_tradeoff),
}
