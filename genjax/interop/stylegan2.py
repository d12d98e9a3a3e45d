"""StyleGAN2 of its authors' PyTorch code: the state dicts of G and of D.

Names are such as `synthesis.b8.conv0.weight`, `.affine.weight` and `.noise_strength`, where blocks
are named by their size, `mapping.fc0.weight` and `mapping.w_avg`. Two arrays are not parameters:
`.noise_const`, the noise for images that are to have always the same, and `.resample_filter`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from genjax.interop.entries import (
    Entry,
    conv_kernel,
    dense_kernel,
    dump_entries,
    load_entries,
    same,
)
from genjax.models.stylegan2 import Stylegan2Config, convolutions, init
from genjax.nn.resample import BINOMIAL
from genjax.nn.resolution import base_resolution
from genjax.types import ImageSpec, UsageError

# The authors' filter [4, 4], which is the same in all layers.
FILTER = np.outer(BINOMIAL, BINOMIAL).astype(np.float32)


def _name(player: str, inner: tuple[str, ...]) -> str:
    """Return the authors' name for a path: `block_1` is `b8`, and D's last layers are in `b4`."""
    parts = []
    for layer in inner:
        kind, _, level = layer.partition("_")
        parts.append(f"b{4 << int(level)}" if kind == "block" else layer)
    is_last = player == "discriminator" and not inner[0].startswith(("block", "mapping"))
    return ".".join(["b4"] * is_last + parts)


def _entries(config: Stylegan2Config, spec: ImageSpec, player: str) -> Iterator[Entry]:
    state = jax.eval_shape(lambda key: init(config, key, spec), jax.random.key(0))
    _, (height, width) = base_resolution(spec)
    for path, leaf in flatten_dict(getattr(state, player).variables).items():
        collection, *inner, last = path
        name, shape = _name(player, tuple(inner)), leaf.shape
        if collection == "batch_stats":
            yield same(f"{name}.w_avg", path, shape)
        elif last == "kernel" and len(shape) == 4:
            yield conv_kernel(name, path[:-1], shape)
        elif last == "kernel":
            rows = np.arange(shape[0])
            if name == "b4.fc":  # the index of our inputs, [H, W, C], in theirs, [C, H, W]
                rows = rows.reshape(-1, height, width).transpose(1, 2, 0).ravel()
            yield dense_kernel(name, path[:-1], rows, np.arange(shape[1]))
        elif last == "const":
            yield Entry(f"{name}.const", (shape[2], *shape[:2]), path, _to_last, _to_first)
        else:
            yield same(f"{name}.{last}", path, shape)
    if player == "generator":
        for i, (level, conv) in enumerate(convolutions(spec)):
            path = ("noise", f"{i}")
            shape = (height << level, width << level)
            name = f"synthesis.b{4 << level}.{conv}.noise_const"
            yield Entry(name, shape, path, _add_ends, _drop_ends)


def _to_last(x: np.ndarray) -> np.ndarray:
    return x.transpose(1, 2, 0)


def _to_first(x: np.ndarray) -> np.ndarray:
    return x.transpose(2, 0, 1)


def _add_ends(x: np.ndarray) -> np.ndarray:
    return x[None, ..., None]


def _drop_ends(x: np.ndarray) -> np.ndarray:
    return x[0, ..., 0]


def _filters(names: Iterable[str]) -> set[str]:
    """Return the names of the filters: in each convolution but those to RGB, and in each block."""
    layers = {name.removesuffix(".weight") for name in names if name.endswith(".weight")}
    ends = ("conv", "conv0", "conv1", "skip", "fromrgb")
    found = {layer for layer in layers if layer.rpartition(".")[2] in ends}
    blocks = {layer.rpartition(".")[0] for layer in layers if layer.endswith((".torgb", ".conv1"))}
    return {f"{layer}.resample_filter" for layer in found | blocks}


def _load(
    config: Stylegan2Config, spec: ImageSpec, player: str, arrays: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    entries = list(_entries(config, spec, player))
    filters = _filters(entry.name for entry in entries)
    for name in filters & arrays.keys():
        if not np.array_equal(arrays[name], FILTER):
            raise UsageError(f"{name} is another filter than [1, 3, 3, 1], the only one known here")
    found = {name: array for name, array in arrays.items() if name not in filters}
    return load_entries(entries, found)


def _dump(
    config: Stylegan2Config, spec: ImageSpec, player: str, variables: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    entries = list(_entries(config, spec, player))
    filters = dict.fromkeys(_filters(entry.name for entry in entries), FILTER)
    return dump_entries(entries, variables) | filters


def load_generator(
    config: Stylegan2Config, spec: ImageSpec, arrays: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Convert the authors' arrays of G to `{"params", "batch_stats", "noise"}`.

    The noise is a list for `Synthesis`, [1, H, W, 1] for each convolution.

    Raises:
        UsageError: An entry is missing, unknown or misshapen (the message lists all such entries),
            or a filter is another.
    """
    variables = _load(config, spec, "generator", arrays)
    noise = variables["noise"]
    return {**variables, "noise": [noise[f"{i}"] for i in range(len(noise))]}


def load_discriminator(
    config: Stylegan2Config, spec: ImageSpec, arrays: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Convert the authors' arrays of D to `{"params"}`; see `load_generator`."""
    return _load(config, spec, "discriminator", arrays)


def dump_generator(
    config: Stylegan2Config, spec: ImageSpec, variables: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Convert G's variables to the authors' arrays: the inverse of `load_generator`.

    `noise` is that of one image, [1, H, W, 1] for each convolution, as `draw_noise` returns it.
    """
    noise = {f"{i}": array for i, array in enumerate(variables["noise"])}
    return _dump(config, spec, "generator", {**variables, "noise": noise})


def dump_discriminator(
    config: Stylegan2Config, spec: ImageSpec, variables: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Convert D's variables to the authors' arrays: the inverse of `load_discriminator`."""
    return _dump(config, spec, "discriminator", variables)
