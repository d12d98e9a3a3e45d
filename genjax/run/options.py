"""Annotations of parameters that say how they appear on the command line."""

from pathlib import Path
from typing import Annotated

import tyro

# Makes the fields of a dataclass options of their own: `--size`, not `--data-options.size`.
Flat = tyro.conf.arg(name="")
# Give the options `--n` and `--output` the short forms `-n` and `-o`.
N = tyro.conf.arg(aliases=["-n"])
Output = tyro.conf.arg(aliases=["-o"])

# A run folder, local or in a bucket, `gs://BUCKET/RUN`; a positional argument.
Run = Annotated[str | Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", constructor=str)]
