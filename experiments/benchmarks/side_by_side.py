"""Runners that take turns, so that a change in the machine's speed meets all of them."""

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax.types import Batch, Config, Family, ImageSpec

# Runs a few steps and gives the seconds of one.
Runner = Callable[[], float]


def genjax_runner(
    family: Family, config: Config, spec: ImageSpec, batch: int, steps: int
) -> Runner:
    """Train steps in a compiled scan, of resident images, with all metrics, as `genjax train`."""
    state = [jax.jit(lambda key: family.init(config, key, spec))(jax.random.key(0))]
    images = np.random.default_rng(0).integers(0, 256, (1024, *spec.shape), np.uint8)
    resident, root = jnp.asarray(images), jax.random.key(1)

    @functools.partial(jax.jit, donate_argnums=0)
    def run(state: Any, resident: Any) -> Any:
        def one(state: Any, _: None) -> Any:
            key, index_key = jax.random.split(jax.random.fold_in(root, state.step))
            indices = jax.random.randint(index_key, (batch,), 0, len(resident))
            chosen = Batch(resident[indices], jnp.zeros(batch, int))
            return family.step(config, state, chosen, key)

        return jax.lax.scan(one, state, None, length=steps)

    def timed() -> float:
        start = time.perf_counter()
        state[0], _ = jax.block_until_ready(run(state[0], resident))
        return (time.perf_counter() - start) / steps

    timed()
    return timed


def report(label: str, runners: Mapping[str, Runner], rounds: int) -> None:
    """Run all in turn; print medians, and the ratios of each to its neighbour called genjax."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, timed in runners.items():
            times[name].append(timed())
    for name, values in times.items():
        ratios = sorted(b / a for a, b in zip(times["genjax"], values, strict=True))
        print(
            f"{label} {name}: {1e3 * statistics.median(values):.0f} ms a step "
            f"({1e3 * min(values):.0f} to {1e3 * max(values):.0f}), "
            f"{statistics.median(ratios):.2f} of genjax ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            flush=True,
        )
