"""StyleGAN2's blurs as sums of shifted slices, and as XLA's convolution in groups, timed here.

    python -m experiments.studies.benchmarks.blurs

`genjax.nn.resample` chooses between them by platform. The table has milliseconds of a blur with its
gradient, at the sizes of images of 256 pixels.
"""

import functools
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from genjax.bench.results import Column, Row, table
from genjax.bench.timing import alternating_times, sampler
from genjax.nn import resample

# Batch, size of the input, features; and up, down, zeros before and after.
SHAPES = ((16, 128, 128), (16, 32, 512))
SMALL_SHAPES = ((2, 16, 4),)
WAYS = {"same size": (1, 1, 2, 1), "twice the size": (2, 1, 2, 1), "half the size": (1, 2, 1, 1)}
FORMS = {"slices": resample.as_slices, "convolution": resample.as_convolution}


def measure(rehearse: bool = False, rounds: int = 3) -> list[Row]:
    """Time both forms for each shape, way and type; each row has the seconds of each form."""
    rows = []
    for shape in SMALL_SHAPES if rehearse else SHAPES:
        batch, size, features = shape
        for dtype in ("float32", "bfloat16"):
            x = jax.random.normal(jax.random.key(0), (batch, size, size, features)).astype(dtype)
            for way, (up, down, before, after) in WAYS.items():
                blurs = {
                    name: _compiled(form, up, down, (before, after)) for name, form in FORMS.items()
                }
                calls = {name: sampler(functools.partial(f, x)) for name, f in blurs.items()}
                times = alternating_times(calls, rounds)
                row: Row = {"shape": shape, "dtype": dtype, "what": way}
                rows.append(row | {name: statistics.median(times[name]) for name in FORMS})
    return rows


def _compiled(
    form: resample.Form, up: int, down: int, padding: tuple[int, int]
) -> Callable[[jax.Array], Any]:
    """Return the compiled gradient of a blur at its input."""

    def blur(x: jax.Array) -> jax.Array:
        return resample.upfirdn(x, resample.BINOMIAL, up, down, padding * 2, up**2, form)

    @jax.jit
    def gradient(x: jax.Array) -> Any:
        y, pull_back = jax.vjp(blur, x)
        return pull_back(jnp.sin(y))

    return gradient


COLUMNS: list[Column] = [
    ("batch, size, features", lambda row: ", ".join(map(str, row["shape"]))),
    ("dtype", lambda row: str(row["dtype"])),
    ("blur to", lambda row: str(row["what"])),
    *((f"{name}, ms", lambda row, name=name: f"{1e3 * row[name]:.3g}") for name in FORMS),
]


if __name__ == "__main__":
    print(table(measure(), COLUMNS, markdown=True))
