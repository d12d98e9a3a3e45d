"""The MLP GAN in plain PyTorch: two `nn.Sequential`s G and D of Linear, LeakyReLU, ..., Linear.

Their Linear weights are [out, in], ours are [in, out]; their images are flattened from [C, H, W],
ours from [H, W, C].
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from genjax.interop.entries import (
    Entry,
    Format,
    dump_entries,
    flat_images,
    has_discriminator,
    linear,
    load_entries,
    numbers,
    shape_of,
)
from genjax.models.gan import GanConfig, from_params
from genjax.steps.state import GanState
from genjax.types import ImageSpec


def mlp(
    letter: str,
    path: tuple[str, ...],
    inputs: np.ndarray,
    hidden_sizes: tuple[int, ...],
    outputs: np.ndarray,
) -> Iterator[Entry]:
    """Iterate over the entries of Linear layers with an activation after each but the last.

    Args:
        letter: Prefix of their names.
        path: Path of our network's parameters.
        inputs: Index of each of our inputs in theirs, int [I].
        hidden_sizes: Units of the hidden layers.
        outputs: Index of each of our outputs in theirs, int [O].
    """
    orders = [inputs, *(np.arange(size) for size in hidden_sizes), outputs]
    names = [*(f"hidden_{i}" for i in range(len(hidden_sizes))), "output"]
    for i, name in enumerate(names):
        yield from linear(f"{letter}.{2 * i}", (*path, name), orders[i], orders[i + 1])


def pixel_order(spec: ImageSpec) -> np.ndarray:
    """Return the index of each of our flattened values, [H, W, C], in theirs, [C, H, W]."""
    height, width, channels = spec.shape
    theirs = np.arange(height * width * channels).reshape(channels, height, width)
    return theirs.transpose(1, 2, 0).ravel()


def _entries(config: GanConfig, spec: ImageSpec) -> Iterator[Entry]:
    latents, pixels, logit = np.arange(config.latent_size), pixel_order(spec), np.arange(1)
    yield from mlp("G", ("generator",), latents, config.generator.hidden_sizes, pixels)
    yield from mlp("D", ("discriminator",), pixels, config.discriminator.hidden_sizes, logit)


def load(config: GanConfig, spec: ImageSpec, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Convert `G.0.weight`, [O, I], ..., `D.2.bias` to `{"generator", "discriminator"}` params.

    Raises:
        UsageError: An entry is missing, unknown or misshapen; the message sums them up.
    """
    return load_entries(_entries(config, spec), arrays)


def dump(config: GanConfig, spec: ImageSpec, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Convert parameters to PyTorch's names and layouts: the inverse of `load`."""
    return dump_entries(_entries(config, spec), variables)


def mlp_sizes(arrays: Mapping[str, np.ndarray], letter: str) -> list[int]:
    """Return the sizes of an MLP's input, of its hidden layers, and of its output."""
    layers = numbers(arrays, rf"{letter}\.(\d+)\.weight$") or [0]
    shapes = [shape_of(arrays, f"{letter}.{i}.weight", 2) for i in layers]
    return [shapes[0][1], *(shape[0] for shape in shapes)]


def infer(
    arrays: Mapping[str, np.ndarray], options: Mapping[str, Any]
) -> tuple[GanConfig, ImageSpec]:
    """Infer the model; images are square, or of the option `size`."""
    latent_size, *sizes, values = mlp_sizes(arrays, "G")
    default = GanConfig()
    generator = dataclasses.replace(default.generator, hidden_sizes=tuple(sizes))
    discriminator = default.discriminator
    if has_discriminator(arrays):
        sizes = mlp_sizes(arrays, "D")[1:-1]
        discriminator = dataclasses.replace(discriminator, hidden_sizes=tuple(sizes))
    config = GanConfig(latent_size=latent_size, generator=generator, discriminator=discriminator)
    return config, flat_images(values, options)


def to_state(config: GanConfig, spec: ImageSpec, variables: Mapping[str, Any]) -> GanState:
    """Return the state at step 0 of what `load` gives."""
    return from_params(config, spec, {"discriminator": {}, **variables})


FORMAT = Format(
    *(infer, load, dump, to_state, ("size",)),
    unsaid="leaky ReLUs of slope 0.01 and at last a tanh",
)
