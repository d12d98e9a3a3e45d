"""The VAE of PyTorch's examples: Linear layers fc1, fc21 (mean), fc22 (log variance), fc3, fc4.

Their images are flattened from [C, H, W], ours from [H, W, C]. Encoder and decoder have one hidden
layer each.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from genjax.interop.entries import (
    Entry,
    Format,
    dump_entries,
    flat_images,
    linear,
    load_entries,
    shape_of,
)
from genjax.interop.gan import pixel_order
from genjax.models.vae import VaeConfig, from_params
from genjax.types import ImageSpec, UsageError


def _entries(config: VaeConfig, spec: ImageSpec) -> Iterator[Entry]:
    for name, wanted in (("network", "mlp"), ("likelihood", "bernoulli")):
        if getattr(config, name) != wanted:
            raise UsageError(f"{name} = {getattr(config, name)!r}: interop reads {wanted!r}")
    if len(config.hidden_sizes) != 1:
        raise UsageError(f"hidden_sizes = {config.hidden_sizes}: interop reads one hidden layer")
    # In conditional variants labels follow the pixels and z, in theirs as in ours.
    classes = spec.classes if config.conditional else 0
    pixels = pixel_order(spec)
    seen = np.concatenate([pixels, len(pixels) + np.arange(classes)])
    hidden = np.arange(config.hidden_sizes[0])
    latents = np.arange(config.latent_size)
    yield from linear("fc1", ("encoder", "hidden_0"), seen, hidden)
    yield from linear("fc21", ("encoder", "mean"), hidden, latents)
    yield from linear("fc22", ("encoder", "log_var"), hidden, latents)
    seen = np.arange(config.latent_size + classes)
    yield from linear("fc3", ("decoder", "hidden_0"), seen, hidden)
    yield from linear("fc4", ("decoder", "output"), hidden, pixels)


def load(config: VaeConfig, spec: ImageSpec, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Convert `fc1.weight`, [O, I], ..., `fc4.bias`, [O], to `{"encoder", "decoder"}` params.

    Raises:
        UsageError: An entry is missing, unknown or misshapen (the message sums them up),
            or their implementation has no such model.
    """
    return load_entries(_entries(config, spec), arrays)


def dump(config: VaeConfig, spec: ImageSpec, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Convert parameters to PyTorch's names and layouts: the inverse of `load`."""
    return dump_entries(_entries(config, spec), params)


def infer(
    arrays: Mapping[str, np.ndarray], options: Mapping[str, Any]
) -> tuple[VaeConfig, ImageSpec]:
    """Infer the model; images are square, or of the option `size`, and stay gray, as in theirs."""
    hidden, seen = shape_of(arrays, "fc1.weight", 2)
    latent_size, _ = shape_of(arrays, "fc21.weight", 2)
    values, _ = shape_of(arrays, "fc4.weight", 2)
    classes = seen - values
    if classes < 0:
        raise UsageError(f"fc1.weight sees {seen} values, and fc4.weight gives {values}")
    config = VaeConfig(
        hidden_sizes=(hidden,),
        latent_size=latent_size,
        conditional=classes > 0,
        binarization="none",
    )
    return config, flat_images(values, options, classes)


FORMAT = Format(
    *(infer, load, dump, from_params, ("size", "activation")),
    is_gan=False,
    unsaid="pixels as logits of gray values in [0, 1]",
)
