"""The functions of genjax.objectives under pytest-benchmark.

    pip install -e '.[bench,test]'
    pytest -n 0 experiments/studies/benchmarks
    pytest -n 0 experiments/studies/benchmarks --benchmark-autosave --benchmark-compare

The same calls as `genjax bench losses`; nothing here asserts a time.
"""

from typing import Any

import jax
import pytest

from genjax.bench.losses import CASES, calls

BATCH = 64


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("what", ["value", "gradient"])
@pytest.mark.parametrize("name", CASES)
def test_loss(benchmark: Any, name: str, what: str, dtype: str) -> None:
    function, arguments = calls(name, BATCH, dtype)[what]
    compiled = jax.jit(function).lower(*arguments).compile()
    jax.block_until_ready(compiled(*arguments))
    benchmark(lambda: jax.block_until_ready(compiled(*arguments)))
