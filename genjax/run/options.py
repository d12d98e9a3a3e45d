"""Annotations of parameters that say how they appear on the command line."""

from pathlib import Path
from typing import Annotated

import tyro

from genjax.types import UsageError

# Makes the fields of a dataclass options of their own: `--size`, not `--data-options.size`.
Flat = tyro.conf.arg(name="")
# Give the options `--n` and `--output` the short forms `-n` and `-o`.
N = tyro.conf.arg(aliases=["-n"])
Output = tyro.conf.arg(aliases=["-o"])

# The seeds that jax takes; a recipe's has the same limit.
SEEDS = 2**32

# A run folder, local or in a bucket, `gs://BUCKET/RUN`; a positional argument.
Run = Annotated[str | Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", constructor=str)]


def check_seed(seed: int) -> None:
    """Raise a `UsageError` if a seed is out of range."""
    if not 0 <= seed < SEEDS:
        raise UsageError(f"seed = {seed}: should be from 0 to {SEEDS - 1}")
