"""StyleGAN2 of its authors' PyTorch code: the state dicts of G and of D.

Names are such as `G.synthesis.b8.conv0.weight`, `.affine.weight` and `.noise_strength`, where
blocks are named by their size, `G.mapping.fc0.weight` and `G.mapping.w_avg`. Two arrays are not
parameters: `.noise_const`, the noise for images that are to have always the same, and
`.resample_filter`.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from genjax.interop.entries import (
    Entry,
    Format,
    conv_kernel,
    dense_kernel,
    dump_entries,
    has_discriminator,
    load_entries,
    numbers,
    same,
    shape_of,
    to_gan_state,
)
from genjax.models.stylegan2 import (
    Architecture,
    PlayerConfig,
    Stylegan2Config,
    convolutions,
    from_variables,
    init,
)
from genjax.nn.resample import BINOMIAL
from genjax.nn.resolution import base_resolution
from genjax.types import ImageSpec, UsageError

# The authors' filter [4, 4], which is the same in all layers.
FILTER = np.outer(BINOMIAL, BINOMIAL).astype(np.float32)
LETTERS = {"generator": "G", "discriminator": "D"}


def _name(player: str, inner: tuple[str, ...]) -> str:
    """Return the authors' name for a path: `block_1` is `b8`, and D's last layers are in `b4`."""
    parts = []
    for layer in inner:
        kind, _, level = layer.partition("_")
        parts.append(f"b{4 << int(level)}" if kind == "block" else layer)
    is_last = player == "discriminator" and not inner[0].startswith(("block", "mapping"))
    return ".".join([LETTERS[player], *["b4"] * is_last, *parts])


def _entries(config: Stylegan2Config, spec: ImageSpec) -> Iterator[Entry]:
    state = jax.eval_shape(lambda key: init(config, key, spec), jax.random.key(0))
    _, (height, width) = base_resolution(spec)
    for i, (level, conv) in enumerate(convolutions(spec)):
        path: tuple[str, ...] = ("generator", "noise", f"{i}")
        shape = (height << level, width << level)
        name = f"G.synthesis.b{4 << level}.{conv}.noise_const"
        yield Entry(name, shape, path, _add_ends, _drop_ends)
    both = {player: getattr(state, player).variables for player in LETTERS}
    for path, leaf in flatten_dict(both).items():
        player, collection, *inner, last = path
        name, shape = _name(player, tuple(inner)), leaf.shape
        if collection == "batch_stats":
            yield same(f"{name}.w_avg", path, shape)
        elif last == "kernel" and len(shape) == 4:
            yield conv_kernel(name, path[:-1], shape)
        elif last == "kernel":
            rows = np.arange(shape[0])
            if name == "D.b4.fc":  # the index of our inputs, [H, W, C], in theirs, [C, H, W]
                rows = rows.reshape(-1, height, width).transpose(1, 2, 0).ravel()
            yield dense_kernel(name, path[:-1], rows, np.arange(shape[1]))
        elif last == "const":
            yield Entry(f"{name}.const", (shape[2], *shape[:2]), path, _to_last, _to_first)
        else:
            yield same(f"{name}.{last}", path, shape)


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


def load(
    config: Stylegan2Config, spec: ImageSpec, arrays: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Convert the authors' arrays to `{"generator": variables, "discriminator": variables}`.

    Names are those of their state dicts, after `G.` and `D.`; D may be missing. G's variables are
    `{"params", "batch_stats", "noise"}`, where the noise is a list for `Synthesis`, [1, H, W, 1]
    for each convolution.

    Raises:
        UsageError: An entry is missing, unknown or misshapen (the message sums them up), or a
            filter is another.
    """
    entries = list(_entries(config, spec))
    filters = _filters(entry.name for entry in entries)
    for name in filters & arrays.keys():
        if not np.array_equal(arrays[name], FILTER):
            raise UsageError(f"{name} is another filter than [1, 3, 3, 1], the only one known here")
    found = {name: array for name, array in arrays.items() if name not in filters}
    variables = load_entries(entries, found)
    noise = variables["generator"].get("noise", {}) if "generator" in variables else {}
    if noise:
        variables["generator"]["noise"] = [noise[f"{i}"] for i in range(len(noise))]
    return variables


def dump(
    config: Stylegan2Config, spec: ImageSpec, variables: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Convert variables to the authors' arrays: the inverse of `load`.

    G's noise is that of one image, [1, H, W, 1] for each convolution, as `draw_noise` gives it.
    """
    if "generator" in variables:
        generator = variables["generator"]
        noise = {f"{i}": array for i, array in enumerate(generator["noise"])}
        variables = {**variables, "generator": {**generator, "noise": noise}}
    arrays = dump_entries(_entries(config, spec), variables)
    return arrays | dict.fromkeys(_filters(arrays), FILTER)


def _player(
    arrays: Mapping[str, np.ndarray], prefix: str, levels: int, settings: PlayerConfig
) -> PlayerConfig:
    """Infer what both players have, where names begin with `prefix`.

    Raises:
        UsageError: The features of the blocks do not follow from `channel_base` and `channel_max`.
    """
    to_rgb = prefix.startswith("G.")
    lowest = f"{prefix}b4.{'torgb' if to_rgb else 'fromrgb'}.weight"
    architecture: Architecture = "original"
    if f"{prefix}b8.skip.weight" in arrays:
        architecture = "residual"
    elif lowest in arrays:
        architecture = "skip"
    layers = ["conv1" if to_rgb else "conv", *["conv1" if to_rgb else "conv0"] * (levels - 1)]
    features = [
        shape_of(arrays, f"{prefix}b{4 << level}.{name}.weight", 4)[0]
        for level, name in enumerate(layers)
    ]
    mapping = numbers(arrays, rf"{prefix[:2]}mapping\.fc(\d+)\.weight$")
    found = dataclasses.replace(
        settings,
        architecture=architecture,
        channel_base=max(count << (level + 2) for level, count in enumerate(features)),
        channel_max=max(features),
        mapping_layers=len(mapping) or settings.mapping_layers,
    )
    if features != [found.features(level) for level in range(levels)]:
        raise UsageError(
            f"blocks have {features} features: known are a number divided by the size in pixels, "
            "and at most another"
        )
    return found


def infer(
    arrays: Mapping[str, np.ndarray], options: Mapping[str, Any]
) -> tuple[Stylegan2Config, ImageSpec]:
    """Infer the model."""
    _, height, width = shape_of(arrays, "G.synthesis.b4.const", 3)
    sizes = numbers(arrays, r"G\.synthesis\.b(\d+)\.")
    if sizes != [4 << level for level in range(len(sizes))]:
        raise UsageError(f"G has blocks of {sizes} pixels: wanted 4, 8, and so on")
    (style_size,) = shape_of(arrays, "G.mapping.w_avg", 1)
    _, latent_size = shape_of(arrays, "G.mapping.fc0.weight", 2)
    classes = 0
    if "G.mapping.embed.weight" in arrays:
        embedded, classes = shape_of(arrays, "G.mapping.embed.weight", 2)
        latent_size -= embedded
    channels, _, _, _ = shape_of(arrays, f"G.synthesis.b{sizes[-1]}.torgb.weight", 4)
    times = len(sizes) - 1
    spec = ImageSpec(height << times, width << times, channels, classes)
    default = Stylegan2Config()
    config = dataclasses.replace(
        default,
        latent_size=latent_size,
        style_size=style_size,
        conditional=classes > 0,
        generator=_player(arrays, "G.synthesis.", len(sizes), default.generator),
    )
    if has_discriminator(arrays):
        features, seen, _, _ = shape_of(arrays, "D.b4.conv.weight", 4)
        group = default.minibatch_std_group_size if seen > features else 0
        discriminator = _player(arrays, "D.", len(sizes), default.discriminator)
        config = dataclasses.replace(
            config, minibatch_std_group_size=group, discriminator=discriminator
        )
    return config, spec


FORMAT = Format(
    *(infer, load, dump, to_gan_state(from_variables), ("conv_clamp", "mapping_lr_multiplier")),
    unsaid="leaky ReLUs of slope 0.2; noise_const is not kept, other noise is drawn",
)
