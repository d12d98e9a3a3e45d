"""BigGAN and BigGAN-deep of their authors' PyTorch code: the state dicts of G and of D.

Names are such as `G.blocks.0.0.conv1.weight`, with `.u0` and `.sv0` for spectral normalization and
`stored_mean` and `stored_var` for batch norm. Self-attention follows the blocks of its size, as
`G.blocks.2.1` (deep: `G.blocks.2.2`).
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from genjax.interop.entries import (
    Entry,
    Format,
    conv_kernel,
    dump_entries,
    has_discriminator,
    load_entries,
    numbers,
    same,
    shape_of,
    to_gan_state,
)
from genjax.models.biggan import (
    DEPTH,
    DISCRIMINATOR_WIDTHS,
    GENERATOR_WIDTHS,
    SMALL_HALVINGS,
    SMALL_UP_TO,
    BigganConfig,
    PlayerConfig,
    from_variables,
    init,
)
from genjax.nn.resolution import base_resolution
from genjax.types import ImageSpec, UsageError

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


def _entries(config: BigganConfig, spec: ImageSpec) -> Iterator[Entry]:
    state = jax.eval_shape(lambda key: init(config, key, spec), jax.random.key(0))
    _, (height, width) = base_resolution(spec)
    for letter, player in (("G", "generator"), ("D", "discriminator")):
        for path, leaf in flatten_dict(getattr(state, player).variables).items():
            name, shape = f"{letter}.{_name(path, config.deep)}", leaf.shape
            order = None
            if name.startswith("G.linear.") and path[-1] in ("kernel", "bias", "u"):
                # The index of each of our outputs, [H, W, C], in theirs, [C, H, W].
                theirs = np.arange(shape[-1]).reshape(-1, height, width)
                order = theirs.transpose(1, 2, 0).ravel()
            yield _entry(name, shape, (player, *path), order)


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


def load(config: BigganConfig, spec: ImageSpec, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Convert the authors' arrays to `{"generator": variables, "discriminator": variables}`.

    Names are those of their state dicts, after `G.` and `D.`; D may be missing. Shapes are those
    that `init` gives for the config, transposed.

    Raises:
        UsageError: An entry is missing, unknown or misshapen; the message sums them up.
    """
    return load_entries(_entries(config, spec), arrays)


def dump(
    config: BigganConfig, spec: ImageSpec, variables: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Convert variables to the authors' arrays: the inverse of `load`."""
    return dump_entries(_entries(config, spec), variables)


def _player(
    arrays: Mapping[str, np.ndarray], letter: str, heights: list[int], settings: PlayerConfig
) -> PlayerConfig:
    """Infer what both players have, where `heights` are those that each block gives."""
    names = [f"{letter}.blocks.{i}.{_attention_index(arrays)}.gamma" for i in range(len(heights))]
    attended = {height for name, height in zip(names, heights, strict=True) if name in arrays}
    return dataclasses.replace(
        settings,
        attention_resolutions=tuple(sorted(attended)),
        spectral_norm=f"{letter}.linear.u0" in arrays,
    )


def _attention_index(arrays: Mapping[str, np.ndarray]) -> int:
    return DEPTH if _is_deep(arrays) else 1


def _is_deep(arrays: Mapping[str, np.ndarray]) -> bool:
    return "G.blocks.0.0.conv4.weight" in arrays


def _latents(arrays: Mapping[str, np.ndarray], blocks: int) -> dict[str, Any]:
    """Infer the sizes of z and of the class embedding, and whether each block sees z."""
    _, inputs = shape_of(arrays, "G.linear.weight", 2)
    if "G.blocks.0.0.bn1.gain" in arrays:  # without a condition
        return {"latent_size": inputs, "conditional": False, "hierarchical": False}
    _, seen = shape_of(arrays, "G.blocks.0.0.bn1.gain.weight", 2)
    if "G.shared.weight" not in arrays:
        raise UsageError("there is no G.shared.weight: G_shared = False is not known here")
    _, shared = shape_of(arrays, "G.shared.weight", 2)
    found = {"shared_size": shared, "hierarchical": seen > shared}
    if seen <= shared:
        return found | {"latent_size": inputs}
    return found | {"latent_size": seen - shared if _is_deep(arrays) else inputs * (blocks + 1)}


def infer(
    arrays: Mapping[str, np.ndarray], options: Mapping[str, Any]
) -> tuple[BigganConfig, ImageSpec]:
    """Infer the model, whose images are square."""
    blocks = len(numbers(arrays, r"G\.blocks\.(\d+)\."))
    if blocks not in GENERATOR_WIDTHS:
        raise UsageError(f"G has {blocks} blocks: wanted 1 to {max(GENERATOR_WIDTHS)}")
    (last,) = shape_of(arrays, "G.output_layer.0.gain", 1)
    channels, _, _, _ = shape_of(arrays, "G.output_layer.2.weight", 4)
    units, _ = shape_of(arrays, "G.linear.weight", 2)
    features = last // GENERATOR_WIDTHS[blocks][-1]
    base = math.isqrt(units // max(1, features * GENERATOR_WIDTHS[blocks][0]))
    classes = shape_of(arrays, "G.shared.weight", 2)[0] if "G.shared.weight" in arrays else 0
    spec = ImageSpec(base << blocks, base << blocks, channels, classes)
    default = BigganConfig()
    heights = [base << (i + 1) for i in range(blocks)]
    generator = _player(arrays, "G", heights, default.generator)
    discriminator = default.discriminator
    if has_discriminator(arrays):
        deep = _is_deep(arrays)
        first = "D.input_conv.weight" if deep else "D.blocks.0.0.conv1.weight"
        widths = DISCRIMINATOR_WIDTHS[blocks]
        downs = min(blocks, SMALL_HALVINGS) if blocks <= SMALL_UP_TO else blocks
        heights = [spec.height >> min(i + 1, downs) for i in range(len(widths) - deep)]
        discriminator = dataclasses.replace(
            _player(arrays, "D", heights, discriminator),
            features=shape_of(arrays, first, 4)[0] // widths[0],
        )
    config = dataclasses.replace(
        default,
        deep=_is_deep(arrays),
        generator=dataclasses.replace(generator, features=features),
        discriminator=discriminator,
        **_latents(arrays, blocks),
    )
    return config, spec


FORMAT = Format(
    *(infer, load, dump, to_gan_state(from_variables), ("batch_norm_epsilon", "spectral_epsilon")),
    unsaid="norm_style = bn and ReLUs",
)
