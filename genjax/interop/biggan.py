"""BigGAN and BigGAN-deep of their authors' PyTorch code: the state dicts of G and of D.

Names are such as `blocks.0.0.conv1.weight`, with `.u0` and `.sv0` for spectral normalization and
`stored_mean` and `stored_var` for batch norm. Self-attention follows the blocks of its size, as
`blocks.2.1` (deep: `blocks.2.2`).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from genjax.interop.entries import Entry, conv_kernel, dump_entries, load_entries, same
from genjax.models.biggan import DEPTH, BigganConfig, init
from genjax.nn.resolution import base_resolution
from genjax.types import ImageSpec

# The authors' names of the leaves; gains of batch norm are weights where they follow a condition.
LEAVES = {
    "kernel": "weight",
    "embedding": "weight",
    "scale": "gain",
    "mean": "stored_mean",
    "var": "stored_var",
    "u": "u0",
    "sigma": "sv0",
}
LAYERS = {"norm": "output_layer.0", "output": "output_layer.2", "input": "input_conv"}


def _name(path: tuple[str, ...], deep: bool) -> str:
    """Return the authors' name for a path within a player: collection, layers, leaf."""
    _, top, *inner, leaf = path
    kind, _, index = top.partition("_")
    if kind == "block":
        first, _, second = index.partition("_")
        top = f"blocks.{first}.{second or 0}"
    elif kind == "attention":
        top = f"blocks.{index}.{DEPTH if deep else 1}"
    if inner[-1:] == ["norm"]:  # statistics of conditional batch norm
        inner = inner[:-1]
    return ".".join([LAYERS.get(top, top), *inner, LEAVES.get(leaf, leaf)])


def _entries(config: BigganConfig, spec: ImageSpec, player: str) -> Iterator[Entry]:
    state = jax.eval_shape(lambda key: init(config, key, spec), jax.random.key(0))
    _, (height, width) = base_resolution(spec)
    for path, leaf in flatten_dict(getattr(state, player).variables).items():
        name, shape = _name(path, config.deep), leaf.shape
        order = None
        if player == "generator" and path[1] == "linear" and path[-1] in ("kernel", "bias", "u"):
            # The index of each of our outputs, [H, W, C], in theirs, [C, H, W].
            theirs = np.arange(shape[-1]).reshape(-1, height, width)
            order = theirs.transpose(1, 2, 0).ravel()
        yield _entry(name, shape, path, order)


def _entry(
    name: str, shape: tuple[int, ...], path: tuple[str, ...], order: np.ndarray | None
) -> Entry:
    leaf = path[-1]
    if leaf == "sigma":
        return Entry(name, (1,), path, lambda x: x[0], lambda x: x[None])
    if leaf == "kernel" and len(shape) == 4:
        return conv_kernel(name.removesuffix(".weight"), path[:-1], shape)
    if order is None and leaf not in ("kernel", "u"):
        return same(name, path, shape)
    ours = np.arange(shape[-1]) if order is None else order
    back = np.argsort(ours)
    if leaf == "kernel":
        return Entry(name, shape[::-1], path, lambda x: x.T[:, ours], lambda x: x[:, back].T)
    if leaf == "u":
        return Entry(name, (1, *shape), path, lambda x: x[0, ours], lambda x: x[None, back])
    return Entry(name, shape, path, lambda x: x[ours], lambda x: x[back])


def load_generator(
    config: BigganConfig, spec: ImageSpec, arrays: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Convert the authors' PyTorch arrays of G to `{"params", "batch_stats", "spectral"}`.

    The arrays' names and shapes are those that `init` gives for the config, transposed.

    Raises:
        UsageError: An entry is missing, unknown or misshapen; the message lists all such entries.
    """
    return load_entries(_entries(config, spec, "generator"), arrays)


def load_discriminator(
    config: BigganConfig, spec: ImageSpec, arrays: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Convert the authors' arrays of D to `{"params", "spectral"}`; see `load_generator`."""
    return load_entries(_entries(config, spec, "discriminator"), arrays)


def dump_generator(
    config: BigganConfig, spec: ImageSpec, variables: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Convert G's variables to the authors' arrays: the inverse of `load_generator`."""
    return dump_entries(_entries(config, spec, "generator"), variables)


def dump_discriminator(
    config: BigganConfig, spec: ImageSpec, variables: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Convert D's variables to the authors' arrays: the inverse of `load_discriminator`."""
    return dump_entries(_entries(config, spec, "discriminator"), variables)
