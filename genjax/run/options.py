"""How parameters of public functions appear on the command line, which reads their signatures."""

from pathlib import Path
from typing import Annotated

import tyro

# The fields of a dataclass as options of their own: `--size`, not `--data-options.size`.
Flat = tyro.conf.arg(name="")
# `-n` beside `--n`, and `-o` beside `--output`.
N = tyro.conf.arg(aliases=["-n"])
Output = tyro.conf.arg(aliases=["-o"])

# A run folder, or one in a bucket, `gs://BUCKET/RUN`; it comes before the options.
Run = Annotated[str | Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", constructor=str)]
