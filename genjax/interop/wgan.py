"""WGAN and WGAN-GP in plain PyTorch: the networks of the MLP GAN, or of DCGAN.

The network `mlp` has the names of `interop.gan`, `dcgan` those of `interop.dcgan`, where D is a
critic, with biases and without batch norm. The ResNets of other implementations are not read.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from genjax.interop.dcgan import UNUSED, discriminator_entries, generator_entries, infer_sizes
from genjax.interop.entries import (
    Entry,
    Format,
    class_count,
    dump_entries,
    flat_images,
    has_discriminator,
    load_entries,
    to_gan_state,
)
from genjax.interop.gan import mlp, mlp_sizes, pixel_order
from genjax.models.wgan import WganConfig, WganGpConfig, from_variables
from genjax.types import ImageSpec, UsageError


def _entries(config: WganConfig | WganGpConfig, spec: ImageSpec) -> Iterator[Entry]:
    classes = spec.classes if config.conditional else 0
    seen = ImageSpec(spec.height, spec.width, spec.channels + classes)
    latent_size = config.latent_size + classes
    if config.network == "mlp":
        latents, logit = np.arange(latent_size), np.arange(1)
        sizes = config.generator.hidden_sizes
        yield from mlp("G", ("generator", "params"), latents, sizes, pixel_order(spec))
        sizes = config.critic.hidden_sizes
        yield from mlp("D", ("discriminator", "params"), pixel_order(seen), sizes, logit)
    elif config.network == "dcgan":
        yield from generator_entries(spec, latent_size, config.generator.features)
        yield from discriminator_entries(seen, config.critic.features, batch_norm=False)
    else:
        raise UsageError(f"network = {config.network!r}: interop reads 'mlp' and 'dcgan'")


def load(
    config: WganConfig | WganGpConfig, spec: ImageSpec, arrays: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Convert PyTorch's arrays to `{"generator": variables, "discriminator": variables}`.

    The latter is the critic. Layouts are those of `interop.gan` and `interop.dcgan`.

    Raises:
        UsageError: An entry is missing, unknown or misshapen (the message sums them up),
            or the network is a ResNet.
    """
    wanted = {name: array for name, array in arrays.items() if not name.endswith(UNUSED)}
    return load_entries(_entries(config, spec), wanted)


def dump(
    config: WganConfig | WganGpConfig, spec: ImageSpec, variables: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Convert variables to PyTorch's names and layouts: the inverse of `load`."""
    return dump_entries(_entries(config, spec), variables)


def _infer(
    default: WganConfig | WganGpConfig,
    arrays: Mapping[str, np.ndarray],
    options: Mapping[str, Any],
) -> tuple[WganConfig | WganGpConfig, ImageSpec]:
    """Infer the model; an MLP's images are square, or of the option `size`.

    Without D only the option `classes` says that the model is conditional.
    """
    is_mlp = not any(name.startswith("G.main.") for name in arrays)
    g_sizes: dict[str, Any]
    c_sizes: dict[str, Any] = {}
    if is_mlp:
        inputs, *sizes, values = mlp_sizes(arrays, "G")
        spec, found = flat_images(values, options), None
        g_sizes = {"hidden_sizes": tuple(sizes)}
        if has_discriminator(arrays):
            seen, *sizes, _ = mlp_sizes(arrays, "D")
            c_sizes = {"hidden_sizes": tuple(sizes)}
            found = (seen - math.prod(spec.shape)) // (spec.height * spec.width)
        spec = dataclasses.replace(spec, classes=class_count(options, found))
        latent_size = inputs - spec.classes
    else:
        latent_size, spec, features, features_of_d = infer_sizes(arrays, options)
        g_sizes = {"features": features}
        c_sizes = {} if features_of_d is None else {"features": features_of_d}
    config = dataclasses.replace(
        default,
        network="mlp" if is_mlp else "dcgan",
        latent_size=latent_size,
        conditional=spec.classes > 0,
        generator=dataclasses.replace(default.generator, **g_sizes),
        critic=dataclasses.replace(default.critic, **c_sizes),
    )
    return config, spec


def _format(default: WganConfig | WganGpConfig) -> Format:
    return Format(
        *(functools.partial(_infer, default), load, dump, to_gan_state(from_variables)),
        options=("size", "classes"),
        unsaid="leaky ReLUs of slope 0.2, but ReLUs in a convolutional G",
    )


WGAN, WGAN_GP = _format(WganConfig()), _format(WganGpConfig())
