"""Commands that train, and commands that show a recipe or its program before it is trained."""

import logging
from typing import Annotated

import jax
import tyro

from genjax.cli.command import Call, Command, command
from genjax.data.processes import is_first, join
from genjax.figures.grid import as_text
from genjax.figures.sample import sample
from genjax.models import FAMILIES
from genjax.planning.compile import compile_step, to_text
from genjax.run.recipe import Recipe, recipe_paths, recipe_summary, to_json
from genjax.training.loop import resume, train

Top = tyro.conf.arg(help="Number of operations to print.")


def print_outcome(call: Call) -> int:
    """Train together with the other processes, if any; the first one prints how it ended."""
    join()
    if not is_first():
        logging.getLogger("genjax").handlers[0].setLevel(logging.ERROR)
    result = call()
    if result.signal is not None:
        if is_first():
            print(f"stopped and saved at step {result.step}; to go on: genjax resume {result.run}")
        return 128 + result.signal
    picture = as_text(sample(result.run, 16))
    if is_first():
        print(picture)
        print(f"above    a few samples of the best checkpoint of {result.step} steps")
        print(f"samples  {max((result.run / 'samples').glob('*.png'))}")
        print(f"curves   {result.run / 'curves.png'}")
        print(f"more     genjax sample {result.run} -n 64 --seed 1 -o grid.png")
    return 0


def print_program(call: Call) -> int:
    """Compile a step, and print the memory and time that it needs."""
    if call.keywords["topology"] is not None:  # or jax would look for TPUs on this machine
        jax.config.update("jax_platforms", "cpu")
    print(to_text(call.keywords["recipe"], call()))
    return 0


def print_profile(call: Call, top: Annotated[int, Top] = 20) -> int:
    """Profile steps, and print the operations that take the longest."""
    from genjax.bench import profile

    print(profile.to_text(call(), top))
    return 0


def list_all() -> str:
    """List the recipes that come with genjax, and the families."""
    recipes = [f"  {name:16} {recipe_summary(path)}" for name, path in recipe_paths().items()]
    families = [f"  {name:16} {family.paper}" for name, family in FAMILIES.items()]
    return "\n".join(["recipes", *recipes, "families", *families])


COMMANDS = {"list": command(list_all)}
# Commands whose first argument is a recipe, because it decides which options there are.
RECIPE_COMMANDS = ("train", "show", "compile", "profile")


def recipe_command(name: str, recipe: Recipe) -> Command:
    """Return one of `RECIPE_COMMANDS`, or `resume`, whose defaults are those of a recipe."""
    if name == "resume":
        return command(resume, print_outcome, recipe=recipe)
    if name == "train":
        return command(train, print_outcome, recipe=recipe)
    if name == "show":
        return command(to_json, recipe=recipe)
    if name == "compile":
        return command(compile_step, print_program, recipe=recipe)
    from genjax.bench.profile import profile  # slow to import, so only when asked for

    return command(profile, print_profile, recipe=recipe)
