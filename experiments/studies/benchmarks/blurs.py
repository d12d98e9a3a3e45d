"""StyleGAN2's blurs as sums of shifted slices, and as XLA's convolution in groups, timed here.

    python -m experiments.studies.benchmarks.blurs

`genjax.nn.resample` chooses between them by platform. The table has milliseconds of a blur with its
gradient, at the sizes of images of 256 pixels.
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from genjax.bench.results import Column, Row, table
from genjax.nn import resample

# Batch, size of the input, features; and up, down, zeros before and after.
SHAPES = ((16, 128, 128), (16, 32, 512))
SMALL_SHAPES = ((2, 16, 4),)
WAYS = {"same size": (1, 1, 2, 1), "twice the size": (2, 1, 2, 1), "half the size": (1, 2, 1, 1)}
FORMS = {"slices": resample.as_slices, "convolution": resample.as_convolution}
CALLS = 10


def measure(rehearse: bool = False, rounds: int = 3) -> list[Row]:
    """Time both forms for each shape, way and type; each row has `seconds` of each form."""
    rows = []
    for shape in SMALL_SHAPES if rehearse else SHAPES:
        batch, size, features = shape
        for dtype in ("float32", "bfloat16"):
            x = jax.random.normal(jax.random.key(0), (batch, size, size, features)).astype(dtype)
            for way, (up, down, before, after) in WAYS.items():
                row: Row = {"shape": shape, "dtype": dtype, "what": way}
                for name, form in FORMS.items():
                    blur = functools.partial(_blur, form, up, down, (before, after))
                    row[name] = _seconds(jax.jit(blur), x, rounds)
                rows.append(row)
    return rows


def _blur(
    form: Callable[..., jax.Array], up: int, down: int, padding: tuple[int, int], x: jax.Array
) -> Any:
    def blur(x: jax.Array) -> jax.Array:
        return resample.upfirdn(x, resample.BINOMIAL, up, down, padding * 2, up**2, form)

    y, gradient = jax.vjp(blur, x)
    return gradient(jnp.sin(y))


def _seconds(function: Callable[[jax.Array], Any], x: jax.Array, rounds: int) -> float:
    jax.block_until_ready(function(x))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready([function(x) for _ in range(CALLS)])
        times.append((time.perf_counter() - start) / CALLS)
    return statistics.median(times)


COLUMNS: list[Column] = [
    ("batch, size, features", lambda row: ", ".join(map(str, row["shape"]))),
    ("dtype", lambda row: str(row["dtype"])),
    ("blur to", lambda row: str(row["what"])),
    *((f"{name}, ms", lambda row, name=name: f"{1e3 * row[name]:.3g}") for name in FORMS),
]


if __name__ == "__main__":
    print(table(measure(), COLUMNS, markdown=True))
