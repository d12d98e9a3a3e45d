"""The U-Net of diffusion models in Hugging Face's diffusers, `UNet2DModel`.

Names such as `down_blocks.0.resnets.1.conv1.weight`. Their `up_blocks` begin with the smallest
size, our levels with the full one. Attention is `to_q`, `to_k`, `to_v`, `to_out.0`; files of before
mid-2023 have `query`, `key`, `value`, `proj_attn`, also as 1x1 convolutions.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from genjax.interop.entries import (
    Entry,
    Format,
    conv_kernel,
    dump_entries,
    linear,
    load_entries,
    numbers,
    same,
    shape_of,
)
from genjax.models.diffusion import DiffusionConfig, from_params
from genjax.nn.unet import UNetConfig, check_size
from genjax.types import ImageSpec, UsageError

# The layers of attention here, there, and in old files.
ATTENTION = (
    ("query", "to_q", "query"),
    ("key", "to_k", "key"),
    ("value", "to_v", "value"),
    ("output", "to_out.0", "proj_attn"),
)
# What the arrays do not say, in diffusers' config.json: its name, and ours.
SAID = {
    "norm_num_groups": "groups",
    "attention_head_dim": "head_size",
    "norm_eps": "epsilon",
    "dropout": "dropout",
    "freq_shift": "frequency_shift",
    "flip_sin_to_cos": "cosine_first",
    "downsample_padding": "symmetric_padding",
}
# What it may say of what our network has in one way only.
FIXED = {
    "_class_name": "UNet2DModel",
    "act_fn": "silu",
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "class_embed_type": None,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2D",
    "downsample_type": "conv",
    "upsample_type": "conv",
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "attn_norm_num_groups": None,
}
# What scheduler_config.json says of the path and of the sampler: its name, and ours.
SCHEDULED = {
    "prediction_type": "prediction",
    "beta_schedule": "path",
    "beta_start": "beta_start",
    "beta_end": "beta_end",
    "num_train_timesteps": "time_steps",
    "variance_type": "variance",
    "clip_sample": "clip",
}
# The values that some of these may have, and ours.
VALUES: dict[str, dict[Any, Any]] = {
    "prediction_type": {"epsilon": "noise", "sample": "data", "v_prediction": "velocity"},
    "beta_schedule": {"linear": "linear", "squaredcos_cap_v2": "cosine"},
    "variance_type": {"fixed_small": "small", "fixed_small_log": "small", "fixed_large": "large"},
    "clip_sample": {True: True, False: False},
}
# What it may say of what is here in one way only.
FIXED_SCHEDULE = {"trained_betas": None, "rescale_betas_zero_snr": False, "thresholding": False}

Path = tuple[str, ...]


def _conv(name: str, path: Path, size: int, channels: int, features: int) -> Iterator[Entry]:
    yield conv_kernel(name, path, (size, size, channels, features))
    yield same(f"{name}.bias", (*path, "bias"), (features,))


def _norm(name: str, path: Path, channels: int) -> Iterator[Entry]:
    yield same(f"{name}.weight", (*path, "scale"), (channels,))
    yield same(f"{name}.bias", (*path, "bias"), (channels,))


def _linear(name: str, path: Path, inputs: int, outputs: int) -> Iterator[Entry]:
    yield from linear(name, path, np.arange(inputs), np.arange(outputs))


def _block(name: str, path: Path, inputs: int, features: int, embedding: int) -> Iterator[Entry]:
    yield from _norm(f"{name}.norm1", (*path, "norm_0"), inputs)
    yield from _conv(f"{name}.conv1", (*path, "conv_0"), 3, inputs, features)
    yield from _linear(f"{name}.time_emb_proj", (*path, "time"), embedding, features)
    yield from _norm(f"{name}.norm2", (*path, "norm_1"), features)
    yield from _conv(f"{name}.conv2", (*path, "conv_1"), 3, features, features)
    if inputs != features:
        yield from _conv(f"{name}.conv_shortcut", (*path, "shortcut"), 1, inputs, features)


def _attention(name: str, path: Path, channels: int) -> Iterator[Entry]:
    yield from _norm(f"{name}.group_norm", (*path, "norm"), channels)
    for ours, theirs, _ in ATTENTION:
        yield from _linear(f"{name}.{theirs}", (*path, ours), channels, channels)


def _levels(config: UNetConfig, spec: ImageSpec) -> Iterator[Entry]:
    """Iterate over the entries of the way down, then of the way up."""
    first, last = config.features[0], len(config.features) - 1
    height = config.seen(spec).height
    attended = [height >> level in config.attention_sizes for level in range(last + 1)]
    channels, skips = first, [first]
    for level, features in enumerate(config.features):
        theirs, ours = f"down_blocks.{level}", f"down_{level}"
        for i in range(config.blocks):
            path = ("params", f"{ours}_block_{i}")
            yield from _block(f"{theirs}.resnets.{i}", path, channels, features, 4 * first)
            if attended[level]:
                path = ("params", f"{ours}_attention_{i}")
                yield from _attention(f"{theirs}.attentions.{i}", path, features)
            channels = features
            skips.append(channels)
        if level < last:
            path = ("params", f"{ours}_conv")
            yield from _conv(f"{theirs}.downsamplers.0.conv", path, 3, channels, channels)
            skips.append(channels)
    for level in range(last, -1, -1):
        features = config.features[level]
        theirs, ours = f"up_blocks.{last - level}", f"up_{level}"
        for i in range(config.blocks + 1):
            path, seen = ("params", f"{ours}_block_{i}"), channels + skips.pop()
            yield from _block(f"{theirs}.resnets.{i}", path, seen, features, 4 * first)
            if attended[level]:
                path = ("params", f"{ours}_attention_{i}")
                yield from _attention(f"{theirs}.attentions.{i}", path, features)
            channels = features
        if level > 0:
            path = ("params", f"{ours}_conv")
            yield from _conv(f"{theirs}.upsamplers.0.conv", path, 3, features, features)


def _entries(config: UNetConfig, spec: ImageSpec) -> Iterator[Entry]:
    """Iterate over all entries; with classes the embedding has a row for each."""
    check_size(config, spec)
    first, last = config.features[0], config.features[-1]
    width = 4 * first
    channels = config.seen(spec).channels
    yield from _conv("conv_in", ("params", "conv_in"), 3, channels, first)
    yield from _linear("time_embedding.linear_1", ("params", "time_0"), first, width)
    yield from _linear("time_embedding.linear_2", ("params", "time_1"), width, width)
    if spec.classes:
        table = ("params", "class_embedding", "embedding")
        yield same("class_embedding.weight", table, (spec.classes, width))
    yield from _levels(config, spec)
    for i in range(2):
        path = ("params", f"middle_block_{i}")
        yield from _block(f"mid_block.resnets.{i}", path, last, last, width)
    yield from _attention("mid_block.attentions.0", ("params", "middle_attention"), last)
    yield from _norm("conv_norm_out", ("params", "norm_out"), first)
    yield from _conv("conv_out", ("params", "conv_out"), 3, first, channels)


def _renamed(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays with today's names and shapes of attention."""
    old = {before: now for _, now, before in ATTENTION}
    found: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        part = re.fullmatch(r"(.*attentions\.\d+\.)(\w+|to_out\.0)(\.(?:weight|bias))", name)
        if part:
            now = f"{part[1]}{old.get(part[2], part[2])}{part[3]}"
            name = name if now in arrays else now  # of two of one meaning the old is unknown
            is_conv = np.shape(array)[2:] == (1, 1)
            array = np.asarray(array)[:, :, 0, 0] if is_conv else array
        found[name] = array
    return found


def load(config: UNetConfig, spec: ImageSpec, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Convert their arrays to `{"params": ...}`.

    Args:
        config: The network.
        spec: The shape of its images; the network sees as many classes, or none.
        arrays: `conv_in.weight`, ..., `conv_out.bias`, by today's names or older ones.

    Raises:
        UsageError: An entry is missing, unknown or misshapen (the message sums them up), or images
            do not fit the config.
    """
    return load_entries(_entries(config, spec), _renamed(arrays))


def dump(
    config: UNetConfig, spec: ImageSpec, variables: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Convert variables to their names, those of today, and layouts: the inverse of `load`."""
    return dump_entries(_entries(config, spec), variables)


def _check_fixed(file: str, found: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """Raise a `UsageError` if a file says of these names anything else."""
    for name, wanted in fixed.items():
        if found.get(name, wanted) != wanted:
            raise UsageError(f"{file}: {name} = {found[name]!r}: should be {wanted!r}")


def _scheduled(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `DiffusionConfig` that a scheduler_config.json says.

    Raises:
        UsageError: It has no noise path of ours.
    """
    if "beta_schedule" not in scheduler:
        kind = scheduler.get("_class_name")
        raise UsageError(f"scheduler: no beta_schedule in that of {kind}: should be as DDPM's")
    clipped = {"clip_sample_range": 1} if scheduler.get("clip_sample", True) else {}
    _check_fixed("scheduler", scheduler, FIXED_SCHEDULE | clipped)
    fields = {}
    for theirs, ours in SCHEDULED.items():
        value, names = scheduler.get(theirs), VALUES.get(theirs)
        if value is None:
            continue
        if names is None:
            fields[ours] = value
        elif value in list(names):
            fields[ours] = names[value]
        else:
            known = " or ".join(map(repr, names))
            raise UsageError(f"scheduler: {theirs} = {value!r}: should be {known}")
    steps = fields.get("time_steps", DiffusionConfig.time_steps)
    if isinstance(steps, int):
        fields["sampling_steps"] = min(DiffusionConfig.sampling_steps, steps)
    return fields


def _said(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `UNetConfig` that a config.json says.

    Raises:
        UsageError: It is of another network.
    """
    _check_fixed("config", config, FIXED)
    if config.get("downsample_padding", 1) not in (0, 1):
        raise UsageError(f"config: downsample_padding = {config['downsample_padding']}: 0 or 1")
    # What files leave out is as diffusers has it by default.
    defaults = {"norm_eps": 1e-5, "freq_shift": 0, "flip_sin_to_cos": True, "downsample_padding": 1}
    defaults |= {"attention_head_dim": 8}
    values = {**defaults, **config}
    said = {ours: values[theirs] for theirs, ours in SAID.items() if theirs in values}
    said["symmetric_padding"] = bool(said["symmetric_padding"])
    said["head_size"] = said["head_size"] or 0
    return said


def infer(
    arrays: Mapping[str, np.ndarray], options: Mapping[str, Any]
) -> tuple[DiffusionConfig, ImageSpec]:
    """Infer the model: DDPM's, unless the options `config` and `scheduler` say otherwise.

    Raises:
        UsageError: The size of images is not known, or it is another network.
    """
    said = options.get("config", {})
    _, channels, _, _ = shape_of(arrays, "conv_in.weight", 4)
    outputs, _, _, _ = shape_of(arrays, "conv_out.weight", 4)
    if outputs != channels:
        raise UsageError(
            f"conv_out.weight gives {outputs} channels for images of {channels}: wanted as many"
        )
    size = options.get("size") or said.get("sample_size")
    if size is None:
        raise UsageError("the arrays do not say the size of images: say --size HEIGHT WIDTH")
    match size if isinstance(size, (list, tuple)) else [size, size]:
        case [int(height), int(width)]:
            pass
        case _:
            raise UsageError(f"config: sample_size = {size!r}: should be a number or two")
    levels = numbers(arrays, r"down_blocks\.(\d+)\.")
    names = [f"down_blocks.{level}.resnets.0.conv1.weight" for level in range(len(levels))]
    attended = numbers(arrays, r"down_blocks\.(\d+)\.attentions\.")
    features = tuple(shape_of(arrays, name, 4)[0] for name in names)
    if not said and any(channels % UNetConfig.groups for channels in features):
        raise UsageError(
            f"the arrays do not say groups, and {UNetConfig.groups} do not divide features "
            f"{features}: say --config config.json"
        )
    network = UNetConfig(
        features=features,
        blocks=len(numbers(arrays, r"down_blocks\.0\.resnets\.(\d+)\.")),
        attention_sizes=tuple(height >> level for level in attended),
        **(_said(said) if said else {}),
    )
    found = {
        "block_out_channels": list(features),
        "layers_per_block": network.blocks,
        "in_channels": channels,
        "out_channels": channels,
    }
    for name, value in found.items():
        if said.get(name, value) != value:
            raise UsageError(
                f"config: {name} = {said[name]}: the arrays have {value}; is it of another file?"
            )
    classes = 0
    if "class_embedding.weight" in arrays:
        classes, _ = shape_of(arrays, "class_embedding.weight", 2)
    spec = ImageSpec(height, width, channels, classes)
    check_size(network, spec)
    fields = _scheduled(options["scheduler"]) if "scheduler" in options else {}
    if classes:
        # Labels were never hidden from it, so there is no guidance.
        fields |= {"conditional": True, "label_dropout": 0.0}
    return DiffusionConfig(network=network, **fields), spec


def _told(config: DiffusionConfig, spec: ImageSpec) -> ImageSpec:
    """Return the shape of images with the classes that the network is told."""
    return spec if config.conditional else dataclasses.replace(spec, classes=0, empty_classes=())


FORMAT = Format(
    infer,
    lambda config, spec, arrays: load(config.network, _told(config, spec), arrays)["params"],
    lambda config, spec, params: dump(config.network, _told(config, spec), {"params": params}),
    from_params,
    ("size", "config", "scheduler"),
    unsaid="noise prediction on DDPM's linear schedule (--scheduler)",
    said_by="scheduler",
    is_gan=False,
)
