"""Glow of rosinality/glow-pytorch, with names such as `blocks.0.flows.0.actnorm.loc`.

Their state dict also has arrays that follow from the sizes, such as masks: `load` does not need
them, `dump` adds them. Even without `conv_lu` their last level has LU convolutions, which are
converted from and to the plain matrix.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import scipy.linalg

from genjax.interop.entries import (
    Entry,
    Format,
    conv_kernel,
    dump_entries,
    load_entries,
    numbers,
    same,
    shape_of,
)
from genjax.models.glow import GlowConfig, Variables, from_variables
from genjax.types import ImageSpec, UsageError

# The parts of a convolution by LU decomposition: the name there, and the name and collection here.
LU = (
    ("w_l", "lower", "params"),
    ("w_u", "upper", "params"),
    ("w_s", "log_scale", "params"),
    ("w_p", "permutation", "constants"),
    ("s_sign", "sign", "constants"),
)


def _check(config: GlowConfig) -> None:
    wanted = {
        "permutation": ("lu", "plain"),
        "checkerboard_steps": (0,),
        "dequantization": ("uniform",),
        "conditional": (False,),
    }
    for name, values in wanted.items():
        if getattr(config, name) not in values:
            accepted = " or ".join(map(repr, values))
            raise UsageError(f"{name} = {getattr(config, name)!r}: interop reads {accepted}")


def _channels(config: GlowConfig, spec: ImageSpec) -> list[int]:
    """List the channels of each level, after the squeeze."""
    return [4 * spec.channels << level for level in range(config.levels)]


def _per_channel(name: str, path: tuple[str, ...], channels: int) -> Entry:
    """Return the entry of an array [C] that is [1, C, 1, 1] in theirs."""
    shape = (1, channels, 1, 1)
    return Entry(name, shape, path, lambda x: x.reshape(-1), lambda x: x.reshape(shape))


def _zero_conv(name: str, path: tuple[str, ...], channels: int, features: int) -> Iterator[Entry]:
    yield _per_channel(f"{name}.scale", (*path, "log_scale"), features)
    yield conv_kernel(f"{name}.conv", path, (3, 3, channels, features))
    yield same(f"{name}.conv.bias", (*path, "bias"), (features,))


def _step_entries(
    config: GlowConfig, theirs: str, ours: tuple[str, ...], channels: int
) -> Iterator[Entry]:
    hidden = config.hidden_features
    for name in ("loc", "scale"):
        path = ("params", *ours, "actnorm", name)
        yield _per_channel(f"{theirs}.actnorm.{name}", path, channels)
    square = (channels, channels)
    if config.permutation == "plain":
        path = ("params", *ours, "conv1x1", "kernel")
        yield Entry(
            f"{theirs}.invconv.weight",
            (*square, 1, 1),
            path,
            lambda weight: weight[:, :, 0, 0],
            lambda kernel: kernel[:, :, None, None],
        )
    else:
        for name, our_name, collection in LU:
            shape = square if name in ("w_l", "w_u", "w_p") else (channels,)
            yield same(f"{theirs}.invconv.{name}", (collection, *ours, "conv1x1", our_name), shape)
    net, path = f"{theirs}.coupling.net", ("params", *ours, "coupling", "net")
    half = channels // 2
    yield conv_kernel(f"{net}.0", (*path, "conv_0"), (3, 3, half, hidden))
    yield same(f"{net}.0.bias", (*path, "conv_0", "bias"), (hidden,))
    yield Entry(
        f"{net}.2.weight",
        (hidden, hidden, 1, 1),
        (*path, "conv_1", "kernel"),
        lambda weight: weight[:, :, 0, 0].T,
        lambda kernel: kernel.T[:, :, None, None],
    )
    yield same(f"{net}.2.bias", (*path, "conv_1", "bias"), (hidden,))
    features = channels if config.coupling == "affine" else half
    yield from _zero_conv(f"{net}.4", (*path, "output"), hidden, features)


def _entries(config: GlowConfig, spec: ImageSpec) -> Iterator[Entry]:
    """Iterate over all entries; our steps are unstacked, under `level_i/steps/k`."""
    for i, channels in enumerate(_channels(config, spec)):
        for k in range(config.steps_per_level):
            ours = (f"level_{i}", "steps", str(k))
            yield from _step_entries(config, f"blocks.{i}.flows.{k}", ours, channels)
        is_last = i == config.levels - 1
        seen, features = (channels, 2 * channels) if is_last else (channels // 2, channels)
        path = ("params", f"level_{i}", "prior", "net")
        yield from _zero_conv(f"blocks.{i}.prior", path, seen, features)


def _derived(config: GlowConfig, spec: ImageSpec) -> dict[str, np.ndarray]:
    """Return the arrays of the PyTorch state dict that follow from the sizes."""
    arrays: dict[str, np.ndarray] = {}
    for i, channels in enumerate(_channels(config, spec)):
        for k in range(config.steps_per_level):
            name = f"blocks.{i}.flows.{k}"
            arrays[f"{name}.actnorm.initialized"] = np.ones((), np.uint8)
            if config.permutation == "lu" or i == config.levels - 1:
                one = np.ones((channels, channels), np.float32)
                arrays[f"{name}.invconv.u_mask"] = np.triu(one, 1)
                arrays[f"{name}.invconv.l_mask"] = np.tril(one, -1)
                arrays[f"{name}.invconv.l_eye"] = np.eye(channels, dtype=np.float32)
    return arrays


def _last_convolutions(config: GlowConfig) -> list[str]:
    """List the convolutions, by PyTorch name, that are LU there and plain here."""
    if config.permutation == "lu":
        return []
    last = config.levels - 1
    return [f"blocks.{last}.flows.{k}.invconv" for k in range(config.steps_per_level)]


def load(config: GlowConfig, spec: ImageSpec, arrays: Mapping[str, np.ndarray]) -> Variables:
    """Convert the PyTorch state dict to `Variables`; steps are stacked, [K, ...], in each level.

    Raises:
        UsageError: An entry is missing, unknown or misshapen (the message sums them up),
            their implementation has no such model, or this one has not been trained.
    """
    _check(config)
    derived = _derived(config, spec)
    for name in derived:
        if name.endswith(".initialized") and not np.all(arrays.get(name, 1)):
            raise UsageError(f"{name} is 0: the actnorms are not fitted to any data yet")
    arrays = {name: array for name, array in arrays.items() if name not in derived}
    for name in _last_convolutions(config):
        parts = {part: arrays.pop(f"{name}.{part}", None) for part, *_ in LU}
        found = {part: array for part, array in parts.items() if array is not None}
        if len(found) == len(LU):
            lower, upper, log_scale, permutation, sign = (found[part] for part, *_ in LU)
            one = np.eye(len(lower))
            upper = np.triu(upper, 1) + np.diag(sign * np.exp(log_scale))
            weight = permutation @ (np.tril(lower, -1) + one) @ upper
            arrays[f"{name}.weight"] = weight[:, :, None, None].astype(lower.dtype)
    loaded = load_entries(_entries(config, spec), arrays)
    for levels in loaded.values():
        for level in levels.values():
            if "steps" in level:
                steps = [level["steps"][str(k)] for k in range(config.steps_per_level)]
                level["steps"] = jax.tree.map(lambda *leaves: np.stack(leaves), *steps)
    return Variables(loaded["params"], loaded.get("constants", {}))


def dump(config: GlowConfig, spec: ImageSpec, variables: Variables) -> dict[str, np.ndarray]:
    """Convert `Variables`, steps [K, ...], to the PyTorch state dict: the inverse of `load`."""
    _check(config)
    apart: dict[str, Any] = {}
    for collection, levels in variables._asdict().items():
        for name, level in levels.items():
            steps = {
                str(k): jax.tree.map(lambda leaf: leaf[k], level.get("steps", {}))  # noqa: B023
                for k in range(config.steps_per_level)
            }
            apart.setdefault(collection, {})[name] = {**level, "steps": steps}
    arrays = dump_entries(_entries(config, spec), apart)
    for name in _last_convolutions(config):
        weight = arrays.pop(f"{name}.weight")[:, :, 0, 0]
        permutation, lower, upper = scipy.linalg.lu(weight)
        scale = np.diag(upper)
        parts = (lower, np.triu(upper, 1), np.log(np.abs(scale)), permutation, np.sign(scale))
        for (part, *_), array in zip(LU, parts, strict=True):
            arrays[f"{name}.{part}"] = array.astype(weight.dtype)
    return arrays | _derived(config, spec)


def infer(
    arrays: Mapping[str, np.ndarray], options: Mapping[str, Any]
) -> tuple[GlowConfig, ImageSpec]:
    """Infer the model, but for its options `size` and `bits`: its networks take any.

    Raises:
        UsageError: An option is not given, or sizes cannot be inferred.
    """
    first = "blocks.0.flows.0"
    _, channels, _, _ = shape_of(arrays, f"{first}.actnorm.loc", 4)
    hidden, _, _, _ = shape_of(arrays, f"{first}.coupling.net.0.weight", 4)
    outputs, _, _, _ = shape_of(arrays, f"{first}.coupling.net.4.conv.weight", 4)
    wanted = {"size": "--size HEIGHT WIDTH", "bits": "--bits N (5 in their train.py)"}
    missing = [text for name, text in wanted.items() if name not in options]
    if missing:
        raise UsageError(
            f"the arrays do not say what images they are for: say {', '.join(missing)}"
        )
    config = GlowConfig(
        levels=len(numbers(arrays, r"blocks\.(\d+)\.")),
        steps_per_level=len(numbers(arrays, r"blocks\.0\.flows\.(\d+)\.")),
        hidden_features=hidden,
        coupling="affine" if outputs == channels else "additive",
        permutation="lu" if f"{first}.invconv.w_s" in arrays else "plain",
        bits=options["bits"],
    )
    height, width = options["size"]
    return config, ImageSpec(height, width, channels // 4)


FORMAT = Format(*(infer, load, dump, from_variables, ("size", "bits")), is_gan=False)
