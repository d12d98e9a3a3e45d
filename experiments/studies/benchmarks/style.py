"""Choices in StyleGAN2's layers: how to blur, and how to modulate a convolution.

    python experiments/studies/benchmarks/style.py

Milliseconds of each variant, forward alone and with the gradient of all arguments.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from genjax.nn.resample import BINOMIAL, upfirdn
from genjax.nn.style import EPSILON, modulated_conv

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# Batch, size, channels.
SHAPES = ((32, 32, 16), (16, 64, 32), (4, 256, 16))


def depthwise(x: jax.Array, up: int, down: int, before: int, after: int) -> jax.Array:
    """Blur by XLA's convolution with a kernel for each channel."""
    channels = x.shape[3]
    kernel = np.outer(BINOMIAL, BINOMIAL).astype(np.float32) * up**2
    return lax.conv_general_dilated(
        x,
        jnp.broadcast_to(kernel[:, :, None, None], (4, 4, 1, channels)),
        (down, down),
        [(before, after + up - 1)] * 2,  # the zeros after the last pixel too
        lhs_dilation=(up, up),
        dimension_numbers=DIMENSIONS,
        feature_group_count=channels,
    )


def fused(x: jax.Array, kernel: jax.Array, styles: jax.Array) -> jax.Array:
    """Convolve with a modulated kernel for each image, as one grouped convolution."""
    batch, height, width, channels = x.shape
    kernels = kernel[None] * styles[:, None, None, :, None]
    squares = jnp.sum(kernels**2, axis=(1, 2, 3), keepdims=True)
    kernels *= lax.rsqrt(squares + EPSILON)
    features = kernel.shape[3]
    y = lax.conv_general_dilated(
        x.transpose(1, 2, 0, 3).reshape(1, height, width, batch * channels),
        kernels.transpose(1, 2, 3, 0, 4).reshape(*kernel.shape[:3], batch * features),
        (1, 1),
        "SAME",
        dimension_numbers=DIMENSIONS,
        feature_group_count=batch,
    )
    return y.reshape(height, width, batch, features).transpose(2, 0, 1, 3)


def by_image(x: jax.Array, kernel: jax.Array, styles: jax.Array) -> jax.Array:
    """Convolve one image after the other with modulated kernels, by our convolution."""
    return lax.map(
        lambda each: modulated_conv(each[0][None], kernel, each[1][None])[0], (x, styles)
    )


def milliseconds(functions: dict[str, Callable[..., Any]], arguments: Any, rounds: int) -> None:
    """Print the medians of each, forward and with its gradient."""
    programs = {}
    for name, function in functions.items():
        programs[name] = jax.jit(function)

        def total(*arguments: Any, function: Callable[..., Any] = function) -> jax.Array:
            return jnp.sum(jnp.sin(function(*arguments)))

        grads = jax.grad(total, argnums=tuple(range(len(arguments))))
        programs[f"{name}, with gradient"] = jax.jit(grads)
    times: dict[str, list[float]] = {name: [] for name in programs}
    for program in programs.values():
        jax.block_until_ready(program(*arguments))
    for _ in range(rounds):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            times[name].append(1e3 * (time.perf_counter() - start))
    for name, values in times.items():
        print(f"  {name}: {statistics.median(values):.1f} ms", flush=True)


def main() -> None:
    """Time all variants."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    plane = np.outer(BINOMIAL, BINOMIAL)
    for shape in SHAPES:
        batch, size, channels = shape
        x = jax.random.normal(jax.random.key(0), (batch, size, size, channels))
        for label, up, down, before, after in (
            ("the same size", 1, 1, 2, 1),
            ("twice the size", 2, 1, 2, 1),
            ("half the size", 1, 2, 1, 1),
        ):
            print(f"blur of {x.shape} to {label}")
            padding = (before, after) * 2
            kwargs: dict[str, Any] = {"up": up, "down": down, "padding": padding, "gain": up**2}
            functions: dict[str, Callable[..., Any]] = {
                "rows after columns": lambda x, kwargs=kwargs: upfirdn(x, BINOMIAL, **kwargs),
                "both at once": lambda x, kwargs=kwargs: upfirdn(x, plane, **kwargs),
                "depthwise convolution": lambda x, way=(up, down, before, after): depthwise(
                    x, *way
                ),
            }
            np.testing.assert_allclose(
                functions["both at once"](x), functions["depthwise convolution"](x), atol=1e-4
            )
            milliseconds(functions, (x,), rounds)
        print(f"modulated convolution of {x.shape}, 3x3")
        keys = jax.random.split(jax.random.key(1))
        kernel = jax.random.normal(keys[0], (3, 3, channels, channels))
        styles = jax.random.normal(keys[1], (batch, channels))
        np.testing.assert_allclose(
            modulated_conv(x, kernel, styles), fused(x, kernel, styles), atol=1e-3
        )
        forms: dict[str, Callable[..., Any]] = {
            "inputs and outputs scaled": modulated_conv,
            "a kernel for each image, in groups": fused,
            "one image after the other": by_image,
        }
        milliseconds(forms, (x, kernel, styles), rounds)


if __name__ == "__main__":
    main()
