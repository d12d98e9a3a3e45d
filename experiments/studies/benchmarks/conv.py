"""The speed of `genjax.nn.conv` beside that of XLA's own forms and PyTorch's, in GFLOP/s.

    pip install -e '.[bench]'
    python experiments/studies/benchmarks/conv.py

For the layers of DCGAN and of a ResNet: the convolution, its input gradient (which is the
transposed convolution), and its kernel gradient. Ours and XLA's run inside a compiled scan, as they
do in training, because XLA's transposes of a convolution have other speeds there than in calls.
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn.grad import conv2d_input, conv2d_weight

from genjax.nn import conv as ours
from genjax.nn.conv import xla
from genjax.nn.conv.geometry import Geometry

# Batch, size, input channels, output channels, kernel, stride, padding.
LAYERS = (
    (64, 32, 3, 128, 4, 2, 1),
    (64, 16, 128, 256, 4, 2, 1),
    (64, 8, 256, 512, 4, 2, 1),
    (64, 64, 3, 64, 4, 2, 1),
    (64, 32, 64, 128, 4, 2, 1),
    (64, 16, 128, 128, 3, 1, 1),
)
# XLA's own transposes can take ten seconds, so they are timed only once.
REPEATS, XLA_REPEATS, IN_SCAN = 5, 1, 2


def seconds(run: Callable[[], Any], repeats: int) -> float:
    """Return the median of the times of calls, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def seconds_in_scan(
    function: Callable[..., jax.Array], a: jax.Array, b: jax.Array, repeats: int
) -> float:
    """Return the seconds of a call inside a compiled scan whose iterations depend on each other."""

    @jax.jit
    def run(a: jax.Array, b: jax.Array) -> Any:
        def one(carry: Any, _: None) -> Any:
            a, b = carry
            output = function(a, b)
            scale = 1 + 1e-30 * (output.ravel()[0] + output.ravel()[-1])
            return (a * scale, b * scale), None

        return jax.lax.scan(one, (a, b), None, length=IN_SCAN)[0]

    compiled = run.lower(a, b).compile()
    return seconds(lambda: jax.block_until_ready(compiled(a, b)), repeats) / IN_SCAN


def main() -> None:
    """Print a row for each layer and function."""
    rng = np.random.default_rng(0)
    print("| layer (batch, size, in, out, kernel, stride) | function | genjax | XLA | PyTorch |")
    print("|---|---|---|---|---|")
    for batch, size, channels, features, kernel, stride, padding in LAYERS:
        geometry = Geometry((size, size), (kernel, kernel), stride, padding)
        shapes = {
            "x": (batch, size, size, channels),
            "y": (batch, *geometry.output_size, features),
            "w": (kernel, kernel, channels, features),
        }
        arrays = {k: rng.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}
        x, y, w = (jnp.asarray(arrays[name]) for name in "xyw")
        tx, ty = (torch.from_numpy(arrays[name].transpose(0, 3, 1, 2).copy()) for name in "xy")
        tw = torch.from_numpy(arrays["w"].transpose(3, 2, 0, 1).copy())
        options = {"stride": stride, "padding": padding}
        functions = {
            "forward": (
                (ours._conv, xla.conv, x, w),
                functools.partial(torch.nn.functional.conv2d, tx, tw, **options),
            ),
            "input gradient": (
                (ours._input_grad, xla.input_grad, y, w),
                functools.partial(conv2d_input, tx.shape, tw, ty, **options),
            ),
            "kernel gradient": (
                (ours._kernel_grad, xla.kernel_grad, x, y),
                functools.partial(conv2d_weight, tx, tw.shape, ty, **options),
            ),
        }
        flops = 2 * y.size * kernel * kernel * channels
        for name, ((mine, plain, a, b), theirs) in functions.items():
            times = (
                seconds_in_scan(functools.partial(mine, geometry), a, b, REPEATS),
                seconds_in_scan(functools.partial(plain, geometry), a, b, XLA_REPEATS),
                seconds(theirs, REPEATS),
            )
            cells = " | ".join(f"{flops / t / 1e9:.1f}" for t in times)
            layer = f"{batch}, {size}, {channels}, {features}, {kernel}, {stride}"
            print(f"| {layer} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
