"""Memory and compile time of Glow's gradient at several depths, without running it.

    python experiments/studies/benchmarks/glow_memory.py

One level of the paper's model of CIFAR-10: K steps of flow on 16x16x12, couplings of 512 channels,
batch 16. `temporary` is what the compiled gradient needs beside its arguments and results, by
`compiled.memory_analysis()`; `step` the median of a few calls. `stored` is plain autodiff of the
scanned chain, `checkpoint` the same with `jax.checkpoint` around each step, `reversible` rebuilds
activations by inversion, `unrolled` is plain autodiff of the K steps one after the other.

Then the time to compile the whole train step of the paper's model (L = 3), scanned and unrolled.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from genjax import transforms
from genjax.models import glow
from genjax.transforms import Bijection
from genjax.types import Batch, ImageSpec

CHANNELS, SIZE, BATCH = 12, 16, 16


def unrolled(layers: dict[str, transforms.Layer], params: dict[str, Any]) -> Bijection:
    """Chain the same steps as `transforms.scanned`, without a loop."""
    depth = len(jax.tree.leaves(params)[0])
    return transforms.chain(
        *(
            layer(jax.tree.map(lambda leaf: leaf[k], params[name]))  # noqa: B023
            for k in range(depth)
            for name, layer in layers.items()
        )
    )


def checkpointed(layers: dict[str, transforms.Layer], params: dict[str, Any]) -> Bijection:
    """Chain steps like `transforms.scanned`, and keep only the input of each (`jax.checkpoint`)."""

    def step(params: Any) -> Bijection:
        whole = transforms.chain(*(layer(params[name]) for name, layer in layers.items()))
        return Bijection(jax.checkpoint(whole.forward), whole.inverse)

    return transforms.scanned({"step": step}, {"step": params})


CHAINS: dict[str, Callable[[Any, Any], Bijection]] = {
    "stored": transforms.scanned,
    "checkpoint": checkpointed,
    "reversible": transforms.reversible,
    "unrolled": unrolled,
}


def compiled_gradient(chain: Callable[[Any, Any], Bijection], depth: int) -> tuple[Any, Any, float]:
    """Compile the gradient of a level's log-likelihood; return it, arguments and seconds."""
    config = glow.GlowConfig(hidden_features=512)
    step = glow.flow_step(config, CHANNELS, None)
    x = jax.random.normal(jax.random.key(0), (BATCH, SIZE, SIZE, CHANNELS))
    init = jax.jit(lambda key: glow.init_chain(key, step, depth, x[:1]))
    variables = init(jax.random.key(1))
    layers = glow.layers_of(step)

    def loss(params: Any, x: jax.Array) -> jax.Array:
        by_layer = glow.by_layer(step, variables._replace(params=params))
        z, log_det = chain(layers, by_layer).forward(x)
        return jnp.mean(0.5 * jnp.sum(z**2, axis=(1, 2, 3)) - log_det)

    arguments = (variables.params, x)
    start = time.perf_counter()
    compiled = jax.jit(jax.grad(loss)).lower(*arguments).compile()
    return compiled, arguments, time.perf_counter() - start


def seconds_to_compile(chain: Callable[[Any, Any], Bijection]) -> float:
    """Return the seconds to trace and compile the train step of the paper's model."""
    config = glow.GlowConfig(levels=3, steps_per_level=32, hidden_features=512)
    spec = ImageSpec(32, 32, 3)
    state = jax.eval_shape(lambda: glow.init(config, jax.random.key(0), spec))
    batch = Batch(jnp.zeros((BATCH, *spec.shape), jnp.uint8), jnp.zeros(BATCH, jnp.int32))
    scanned = transforms.scanned
    vars(transforms).update(scanned=chain)
    try:
        start = time.perf_counter()
        step = jax.jit(functools.partial(glow.step, config))
        step.lower(state, batch, jax.random.key(0)).compile()
        return time.perf_counter() - start
    finally:
        vars(transforms).update(scanned=scanned)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="calls of each gradient")
    arguments = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}")
    for depth in (4, 8, 16, 32):
        gradients = {name: compiled_gradient(chain, depth) for name, chain in CHAINS.items()}
        times: dict[str, list[float]] = {name: [] for name in gradients}
        for _ in range(arguments.rounds):
            for name, (gradient, inputs, _) in gradients.items():
                start = time.perf_counter()
                jax.block_until_ready(gradient(*inputs))
                times[name].append(time.perf_counter() - start)
        for name, (gradient, _, compile_time) in gradients.items():
            temporary = gradient.memory_analysis().temp_size_in_bytes / 2**20
            print(
                f"K = {depth:2}, {name:10}: temporary {temporary:6.0f} MiB, "
                f"step {1e3 * statistics.median(times[name]):6.0f} ms, compiled in "
                f"{compile_time:5.1f} s",
                flush=True,
            )
    for name in ("stored", "unrolled"):
        print(f"paper's model, {name}: compiled in {seconds_to_compile(CHAINS[name]):.0f} s")


if __name__ == "__main__":
    main()
