"""DCGAN of PyTorch's examples: two `nn.Sequential`s `G.main` and `D.main`.

G: ConvTranspose2d, BatchNorm2d, ReLU, ..., ConvTranspose2d, Tanh; D: Conv2d, LeakyReLU, then
Conv2d, BatchNorm2d, LeakyReLU, ..., Conv2d, Sigmoid (our D returns the logit). G's first and D's
last convolution cover all of the few pixels there; they are dense layers here.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from genjax.interop.entries import (
    Entry,
    Format,
    class_count,
    conv_kernel,
    dump_entries,
    has_discriminator,
    load_entries,
    numbers,
    same,
    shape_of,
    to_gan_state,
)
from genjax.models.dcgan import DcganConfig, from_variables
from genjax.nn.resolution import base_resolution
from genjax.types import ImageSpec

# PyTorch counts batches, but does not use the count if there is a momentum.
UNUSED = "num_batches_tracked"


def generator_entries(
    spec: ImageSpec, latent_size: int, features: int, path: tuple[str, ...] = ("generator",)
) -> Iterator[Entry]:
    """Iterate over the entries of a generator whose `params` and `batch_stats` are at `path`."""
    halvings, (height, width) = base_resolution(spec)
    params = (*path, "params")
    widths = [features << i for i in reversed(range(halvings))]
    base = (height, width, widths[0])
    yield Entry(
        "G.main.0.weight",
        (latent_size, widths[0], height, width),
        (*params, "project", "kernel"),
        lambda weight: weight.transpose(0, 2, 3, 1).reshape(latent_size, -1),
        lambda kernel: kernel.reshape(latent_size, *base).transpose(0, 3, 1, 2),
    )
    outputs = (*widths[1:], spec.channels)
    for i, (before, after) in enumerate(zip(widths, outputs, strict=True)):
        yield from _batch_norm(f"G.main.{3 * i + 1}", path, f"norm_{i}", before)
        shape = (4, 4, before, after)
        yield conv_kernel(f"G.main.{3 * i + 3}", (*params, f"up_{i}"), shape, transposed=True)


def discriminator_entries(
    spec: ImageSpec, features: int, batch_norm: bool, path: tuple[str, ...] = ("discriminator",)
) -> Iterator[Entry]:
    """Iterate over the entries of a discriminator at `path`, or of a critic without batch norm."""
    halvings, (height, width) = base_resolution(spec)
    params = (*path, "params")
    channels, index = spec.channels, 0
    for i in range(halvings):
        layer = (*params, f"down_{i}")
        yield conv_kernel(f"D.main.{index}", layer, (4, 4, channels, features << i))
        channels = features << i
        if not batch_norm:
            yield same(f"D.main.{index}.bias", (*layer, "bias"), (channels,))
        index += 1
        if batch_norm and i > 0:
            yield from _batch_norm(f"D.main.{index}", path, f"norm_{i}", channels)
            index += 1
        index += 1  # skip LeakyReLU
    yield Entry(
        f"D.main.{index}.weight",
        (1, channels, height, width),
        (*params, "output", "kernel"),
        lambda weight: weight.transpose(2, 3, 1, 0).reshape(-1, 1),
        lambda kernel: kernel.reshape(height, width, channels, 1).transpose(3, 2, 0, 1),
    )


def _batch_norm(name: str, path: tuple[str, ...], layer: str, channels: int) -> Iterator[Entry]:
    """Iterate over the entries of a BatchNorm2d: two parameters and two statistics."""
    for theirs, collection, ours in (
        ("weight", "params", "scale"),
        ("bias", "params", "bias"),
        ("running_mean", "batch_stats", "mean"),
        ("running_var", "batch_stats", "var"),
    ):
        yield same(f"{name}.{theirs}", (*path, collection, layer, ours), (channels,))


def _entries(config: DcganConfig, spec: ImageSpec) -> Iterator[Entry]:
    # In conditional variants labels follow z and the image's channels, in theirs as in ours.
    classes = spec.classes if config.conditional else 0
    seen = ImageSpec(spec.height, spec.width, spec.channels + classes)
    yield from generator_entries(spec, config.latent_size + classes, config.generator.features)
    yield from discriminator_entries(seen, config.discriminator.features, batch_norm=True)


def load(config: DcganConfig, spec: ImageSpec, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Convert PyTorch's arrays to `{"generator": variables, "discriminator": variables}`.

    A convolution's weight is [KH, KW, I, O] here, [O, I, KH, KW] in PyTorch (transposed ones
    [I, O, KH, KW]).

    Args:
        config: The model.
        spec: The shape of its images.
        arrays: `G.main.0.weight`, ..., `D.main.11.weight`, with the running statistics.

    Returns:
        Each player's `{"params", "batch_stats"}`.

    Raises:
        UsageError: An entry is missing, unknown or misshapen; the message sums them up.
    """
    wanted = {name: array for name, array in arrays.items() if not name.endswith(UNUSED)}
    return load_entries(_entries(config, spec), wanted)


def dump(
    config: DcganConfig, spec: ImageSpec, variables: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Convert variables to PyTorch's names and layouts: the inverse of `load`."""
    return dump_entries(_entries(config, spec), variables)


def infer_sizes(
    arrays: Mapping[str, np.ndarray], options: Mapping[str, Any]
) -> tuple[int, ImageSpec, int, int | None]:
    """Infer the sizes of these networks, conditional ones if there are classes.

    Returns:
        The size of z, the shape of images, the features of G, and those of D; None without D.
    """
    inputs, _, height, width = shape_of(arrays, "G.main.0.weight", 4)
    names = numbers(arrays, r"G\.main\.(\d+)\.weight$")
    layers = [i for i in names if np.ndim(arrays[f"G.main.{i}.weight"]) > 1]
    features, channels, _, _ = shape_of(arrays, f"G.main.{layers[-1]}.weight", 4)
    found, features_of_d = None, None
    if has_discriminator(arrays):
        features_of_d, seen, _, _ = shape_of(arrays, "D.main.0.weight", 4)
        found = seen - channels
    classes = class_count(options, found)
    halvings = len(layers) - 1
    spec = ImageSpec(height << halvings, width << halvings, channels, classes)
    return inputs - classes, spec, features, features_of_d


def infer(
    arrays: Mapping[str, np.ndarray], options: Mapping[str, Any]
) -> tuple[DcganConfig, ImageSpec]:
    """Infer the model; without D only the option `classes` says that it is conditional."""
    latent_size, spec, features, features_of_d = infer_sizes(arrays, options)
    default = DcganConfig()
    discriminator = default.discriminator
    if features_of_d is not None:
        discriminator = dataclasses.replace(discriminator, features=features_of_d)
    config = DcganConfig(
        latent_size=latent_size,
        conditional=spec.classes > 0,
        generator=dataclasses.replace(default.generator, features=features),
        discriminator=discriminator,
    )
    return config, spec


FORMAT = Format(
    *(infer, load, dump, to_gan_state(from_variables), ("classes",)),
    unsaid="strides of 2, ReLUs in G and leaky ReLUs of slope 0.2 in D",
)
