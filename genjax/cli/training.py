"""Commands that train, and those that say what a recipe does before it is trained."""

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

Top = tyro.conf.arg(help="How many operations.")


def say_end(call: Call) -> int:
    """Train beside the other processes that there may be, of which the first says how it ended."""
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


def say_program(call: Call) -> int:
    """Compile a step, and print what it needs."""
    if call.keywords["topology"] is not None:  # to compile for TPUs, not to look for some
        jax.config.update("jax_platforms", "cpu")
    print(to_text(call.keywords["recipe"], call()))
    return 0


def say_profile(call: Call, top: Annotated[int, Top] = 20) -> int:
    """Profile steps, and print the operations that take longest."""
    from genjax.bench import profile

    print(profile.to_text(call(), top))
    return 0


def list_all() -> str:
    """List the recipes that come with genjax, and the families."""
    recipes = [f"  {name:16} {recipe_summary(path)}" for name, path in recipe_paths().items()]
    families = [f"  {name:16} {family.paper}" for name, family in FAMILIES.items()]
    return "\n".join(["recipes", *recipes, "families", *families])


COMMANDS = {"resume": command(resume, say_end), "list": command(list_all)}
# Their recipe comes first, for it decides which options there are.
RECIPE_COMMANDS = ("train", "show", "compile", "profile")


def recipe_command(name: str, recipe: Recipe) -> Command:
    """Return one of `RECIPE_COMMANDS`, whose defaults are those of a recipe."""
    if name == "train":
        return command(train, say_end, recipe=recipe)
    if name == "show":
        return command(to_json, recipe=recipe)
    if name == "compile":
        return command(compile_step, say_program, recipe=recipe)
    from genjax.bench.profile import profile  # nothing else should wait for the benchmarks

    return command(profile, say_profile, recipe=recipe)
