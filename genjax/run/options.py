"""Annotations of parameters that say how they appear on the command line."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import tyro

from genjax.console import printable
from genjax.data.names import some
from genjax.data.source import Source
from genjax.types import UsageError

# Makes the fields of a dataclass options of their own: `--size`, not `--data-options.size`.
Flat = tyro.conf.arg(name="")
# Give the options `--n` and `--output` the short forms `-n` and `-o`.
N = tyro.conf.arg(aliases=["-n"])
Output = tyro.conf.arg(aliases=["-o"])

# The seeds that jax takes; a recipe's has the same limit.
SEEDS = 2**32
# Names of classes that a message lists.
MOST_NAMES = 20

# Runs that on a command line are paths, whatever else they may be in Python.
Runs = tyro.conf.arg(metavar="RUN...", constructor_factory=lambda: list[str])

# Image files, folders or archives of one's own.
OwnImages = Annotated[
    Sequence[str | Path], tyro.conf.arg(constructor_factory=lambda: tuple[Path, ...])
]
# A file that may be left out.
AnyPath = Annotated[str | Path, tyro.conf.arg(metavar="PATH", constructor=Path)] | None
# Data: a string or, in Python, a value too.
AnyData = Annotated[str | Source, tyro.conf.arg(metavar="DATA", constructor=str)] | None
# Images other than the run's test split; a positional argument that may be left out.
Data = Annotated[
    str | Source | None,
    tyro.conf.Positional,
    tyro.conf.arg(metavar="[DATA]", constructor=str),
]


def check_seed(seed: int) -> None:
    """Raise a `UsageError` if a seed is out of range."""
    if not 0 <= seed < SEEDS:
        raise UsageError(f"seed = {seed}: should be from 0 to {SEEDS - 1}")


def check_choice(option: str, value: str | None, choices: Any) -> None:
    """Raise a `UsageError` if a value is neither None nor one of `choices`, a `Literal`."""
    wanted = get_args(choices)
    if value is not None and value not in wanted:
        raise UsageError(f"{option} = {value!r}: wanted {' or '.join(wanted)}")


def class_number(option: str, label: str | int, names: Sequence[str]) -> int:
    """Return a class's number, given its name or its number.

    Args:
        option: Name of the option.
        label: The name of a class, also one like "3" or "003"; otherwise its number.
        names: The names of the classes, in the order of their numbers.

    Raises:
        UsageError: No class has that name or number.
    """
    text = str(label)
    if text in names:
        return names.index(text)
    number = int(text) if re.fullmatch("[0-9]{1,9}", text) else len(names)
    if number >= len(names):
        raise UsageError(
            f"{option} = {printable(text)}: should be from 0 to {len(names) - 1}, or the "
            f"name of a class: {some(names, MOST_NAMES)}"
        )
    return number
