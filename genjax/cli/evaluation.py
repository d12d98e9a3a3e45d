"""Commands that measure how good trained runs are, and what they say of single images."""

from pathlib import Path
from typing import Annotated

import tyro

from genjax.cli.command import Call, Command, print_together
from genjax.evaluation import classify, encode, score, tradeoff
from genjax.evaluation.compare import compare
from genjax.evaluation.evaluate import evaluate
from genjax.evaluation.fidelity import fidelity
from genjax.exchange.export import export
from genjax.exchange.imports import import_model
from genjax.figures.output import check_file

Csv = tyro.conf.arg(
    aliases=["-o"], help="A .csv for the scores; the least likely images go beside it, in a .png."
)
Npz = tyro.conf.arg(aliases=["-o"], help="A .npz for latents, labels, names and class_names.")
WrongPng = tyro.conf.arg(
    aliases=["-o"],
    help="A .png for the images that either gets wrong; each image's classes go beside it, in a "
    ".csv.",
)
Png = tyro.conf.arg(
    aliases=["-o"], help="A .png for the curves; the numbers go beside it, in a .csv."
)


def save_tradeoff(call: Call, output: Annotated[Path, Png] = Path("tradeoff.png")) -> int:
    """Write the curves of a trade-off, and its numbers."""
    check_file(output, ".png")
    tradeoff.save(call(), output)
    print(f"{output}\n{output.with_suffix('.csv')}")
    return 0


def save_scores(call: Call, output: Annotated[Path, Csv] = Path("scores.csv")) -> int:
    """Write the likelihood of each image, and draw the least likely ones."""
    check_file(output, ".csv")
    found = call()
    score.save(found, output)
    print(f"{found}\n{output}\n{output.with_suffix('.png')}")
    return 0


def save_latents(call: Call, output: Annotated[Path, Npz] = Path("latents.npz")) -> int:
    """Write latents."""
    check_file(output, ".npz")
    encode.save(call(), output)
    print(output)
    return 0


def save_classes(call: Call, output: Annotated[Path, WrongPng] = Path("classes.png")) -> int:
    """Draw the images that are classified wrongly, and write the classes of all."""
    check_file(output, ".png")
    found = call()
    classify.save(found, output)
    print(f"{found}\n{output}\n{output.with_suffix('.csv')}")
    return 0


COMMANDS = {
    "evaluate": Command(evaluate, print_together),
    "fidelity": Command(fidelity, print_together),
    "compare": Command(compare),
    "tradeoff": Command(tradeoff.tradeoff, save_tradeoff),
    "score": Command(score.score, save_scores),
    "encode": Command(encode.encode, save_latents),
    "export": Command(export),
    "import": Command(import_model),
    "classify": Command(classify.classify, save_classes),
}
