"""Measuring times, and comparing them with each other and with the machine's limits."""

import contextlib
import functools
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache.compilation_cache import reset_cache

Name = TypeVar("Name")
Dtype = Literal["float32", "bfloat16"]
# A sample has enough calls to take about this long; shorter times would be lost in noise.
SAMPLE_SECONDS = 0.01
# Times of one program in two processes may differ by this factor, for example by the places of its
# arrays in memory.
TOLERANCE = 1.1
# Level of confidence intervals.
CONFIDENCE = 0.99
# Bytes of the copied array, more than a cache holds; rows of the multiplied square matrices. On a
# CPU and elsewhere, where smaller ones would not keep the device busy.
COPIED_BYTES, ROWS = (2**28, 2**31), (2048, 8192)


def timed(call: Callable[[], Any]) -> float:
    """Return the seconds of one call, until all of its results are ready."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def sampler(call: Callable[[], Any]) -> Callable[[], float]:
    """Return a function that measures the seconds of one call; first calls are made here.

    A quick call is made several times for one sample, which is their mean.
    """
    jax.block_until_ready(call())
    repeats = max(1, round(SAMPLE_SECONDS / max(timed(call), 1e-7)))

    def several() -> Any:
        for _ in range(repeats - 1):
            call()
        return call()

    return lambda: timed(several) / repeats


def alternating_times(
    calls: Mapping[Name, Callable[[], float]], rounds: int
) -> dict[Name, list[float]]:
    """Collect `rounds` samples of each of `calls`, alternating between them.

    So a change of the machine's speed affects all of them alike.
    """
    times: dict[Name, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(call())
    return times


@contextlib.contextmanager
def without_cache() -> Iterator[None]:
    """Turn off jax's cache of compiled programs in files inside the context."""
    config: Any = jax.config
    before = config.jax_enable_compilation_cache
    config.update("jax_enable_compilation_cache", False)
    reset_cache()  # jax decides whether to use it at the first program
    try:
        yield
    finally:
        config.update("jax_enable_compilation_cache", before)
        reset_cache()


class Limits(NamedTuple):
    """Measured limits of the machine.

    Attributes:
        copy: Bytes a second, read and written, to copy an array that no cache holds.
        call: Seconds of a compiled call that does almost nothing.
        product: Operations a second of a large matrix product, by type; a multiply-add is two.
    """

    copy: float
    call: float
    product: dict[str, float]


def measure_limits(dtypes: Sequence[str], rounds: int = 5) -> Limits:
    """Time a copy and matrix products on the first device."""
    elsewhere = jax.default_backend() != "cpu"
    copied_bytes, rows = COPIED_BYTES[elsewhere], ROWS[elsewhere]
    x = jnp.zeros(copied_bytes // 4, jnp.float32)
    # An addition in place of a copy, because XLA would leave out the copy.
    copied = _shortest(jax.jit(lambda x: x + 1), x, rounds)
    product = {}
    for dtype in dtypes:
        # Random, because a GPU multiplies equal numbers faster.
        a = jax.random.normal(jax.random.key(0), (rows, rows), dtype)
        product[dtype] = 2 * rows**3 / _shortest(jax.jit(lambda a: a @ a), a, rounds)
    called = _shortest(jax.jit(lambda x: x + 1), jnp.ones(()), rounds)
    return Limits(2 * copied_bytes / copied, called, product)


def _shortest(function: Callable[[jax.Array], jax.Array], x: jax.Array, rounds: int) -> float:
    sample = sampler(functools.partial(function, x))
    return min(sample() for _ in range(rounds))


def machine() -> dict[str, Any]:
    """Describe this machine: date, devices, processor and versions."""
    packages = ("genjax-models", "jax", "jaxlib")
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    """Return the processor's name, on Linux with its widest vector instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    parts = [line.partition(":") for line in lines]
    values = {name.strip(): value.strip() for name, _, value in parts}
    flags = values.get("flags", "").split()
    vectors = [name for name in ("avx512f", "avx2") if name in flags]
    return " ".join([values.get("model name", platform.processor()), *vectors[:1]])


class Change(NamedTuple):
    """The ratio of two median times, with its confidence interval at level `CONFIDENCE`.

    Attributes:
        ratio: The ratio.
        low: The lower end of the interval.
        high: Its upper end.
    """

    ratio: float
    low: float
    high: float


def ratio_of_medians(new: Sequence[float], old: Sequence[float]) -> Change:
    """Estimate the ratio of medians, new over old, with an interval by the bootstrap of both."""
    ratio = float(np.median(new) / np.median(old))
    if min(len(new), len(old)) < 2:
        return Change(ratio, 0.0, float("inf"))
    from scipy.stats import bootstrap  # slow to import, and seldom needed

    found = bootstrap(
        (new, old),
        lambda new, old, axis: np.median(new, axis=axis) / np.median(old, axis=axis),
        vectorized=True,
        n_resamples=2000,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Change(ratio, float(found.low), float(found.high))


def drift(new: Limits, old: Limits) -> float:
    """Return the factor, at least `TOLERANCE`, by which the machine's own speed has changed."""
    ratios = [new.copy / old.copy]
    ratios += [new.product[name] / old.product[name] for name in new.product if name in old.product]
    return max(TOLERANCE, *(max(ratio, 1 / ratio) for ratio in ratios))


def verdict(change: Change, noise: float) -> str:
    """Return `slower` or `faster` if the whole interval lies beyond `noise`, otherwise `same`.

    `noise` is a factor, at least 1.
    """
    if change.low > noise:
        return "slower"
    if change.high < 1 / noise:
        return "faster"
    return "same"
