"""Commands that train, and what comes before: preparing data, and showing a recipe or program."""

import sys
from typing import Annotated

import jax
import tyro

from genjax.bench import profile
from genjax.cli.command import Call, Command, join_others
from genjax.console import finish
from genjax.data.prepare import prepare
from genjax.data.processes import is_first
from genjax.figures.sample import sample
from genjax.figures.terminal import draw
from genjax.planning.compile import compile_step, to_text
from genjax.run.recipe import list_all, to_json
from genjax.trainer.loop import resume, train
from genjax.trainer.signals import Stopped

Top = tyro.conf.arg(help="Number of operations to print.")


def print_outcome(call: Call) -> int:
    """Train together with the other processes, if any; the first one prints how it ended."""
    join_others()
    try:
        result = call()
    except Stopped as stop:
        if stop.result is None:
            raise
        _tell(stop.outcome)
        return 128 + stop.signal
    _tell(
        draw(sample(result.run, 16), sys.stdout),
        f"above    a few samples of the best checkpoint of {result.step} steps",
        f"samples  {max(path for path in (result.run / 'samples').iterdir())}",
        f"curves   {result.run / 'curves.png'}",
        f"next     genjax sample {result.run} -n 64 --seed 1 -o grid.png",
        f"         genjax evaluate {result.run}",
    )
    return 0


def _tell(*lines: str) -> None:
    """Print on the first process how a training ended, if there still is someone to read it."""
    if is_first():
        try:
            print(*lines, sep="\n", flush=True)
        except OSError:
            finish(sys.stdout)


def print_program(call: Call) -> int:
    """Compile a step, and print the memory and time that it needs."""
    if call.keywords["topology"] is not None:  # or jax would look for TPUs on this machine
        jax.config.update("jax_platforms", "cpu")
    print(to_text(call.keywords["recipe"], call()))
    return 0


def print_profile(call: Call, top: Annotated[int, Top] = 20) -> int:
    """Profile steps, and print the operations that take the longest."""
    print(profile.to_text(call(), top))
    return 0


COMMANDS = {
    "resume": Command(resume, print_outcome),
    "list": Command(list_all),
    "prepare": Command(prepare),
}
# Commands whose first argument is a recipe, because it decides which options there are.
RECIPE_COMMANDS = {
    "train": Command(train, print_outcome),
    "show": Command(to_json),
    "compile": Command(compile_step, print_program),
    "profile": Command(profile.profile, print_profile),
}
