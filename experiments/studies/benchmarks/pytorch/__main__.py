"""`genjax bench steps`, with PyTorch's steps beside ours.

    pip install -e '.[bench]'
    python -m experiments.studies.benchmarks.pytorch [RECIPE ...] --torch eager compiled

Without recipes it is one of each family, for a small machine.
"""

import functools

from experiments.studies.benchmarks.pytorch.steps import bench_beside_pytorch, columns
from genjax.cli.bench import benchmark
from genjax.cli.run import run_and_exit

COMMAND = benchmark("steps", bench_beside_pytorch, columns)

if __name__ == "__main__":
    run_and_exit(functools.partial(COMMAND.run, "bench steps"))
