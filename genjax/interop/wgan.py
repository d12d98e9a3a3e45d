"""WGAN and WGAN-GP in plain PyTorch: the networks of the MLP GAN, or of DCGAN.

The network `mlp` has the names of `interop.gan`, `dcgan` those of `interop.dcgan`, where D is a
critic, with biases and without batch norm. The ResNets of other implementations are not read.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from genjax.interop.dcgan import UNUSED, discriminator_entries, generator_entries
from genjax.interop.entries import Entry, dump_entries, load_entries
from genjax.interop.gan import mlp, pixel_order
from genjax.models.wgan import WganConfig, WganGpConfig
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
        UsageError: An entry is missing, unknown or misshapen (the message lists all such entries),
            or the network is a ResNet.
    """
    wanted = {name: array for name, array in arrays.items() if not name.endswith(UNUSED)}
    return load_entries(_entries(config, spec), wanted)


def dump(
    config: WganConfig | WganGpConfig, spec: ImageSpec, variables: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Convert variables to PyTorch's names and layouts: the inverse of `load`."""
    return dump_entries(_entries(config, spec), variables)
