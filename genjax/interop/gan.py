"""The MLP GAN in plain PyTorch: two `nn.Sequential`s G and D of Linear, LeakyReLU, Linear.

Their Linear weights are [out, in], ours [in, out]; their images are flattened from [C, H, W], ours
from [H, W, C].
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from genjax.interop.entries import Entry, dump_entries, load_entries
from genjax.models.gan import GanConfig
from genjax.types import ImageSpec


def _linear(
    name: str, path: tuple[str, str], rows: np.ndarray, columns: np.ndarray
) -> Iterator[Entry]:
    """A Linear layer; `rows`, `columns` say where each of our inputs and outputs is in theirs."""
    to_rows, to_columns = np.argsort(rows), np.argsort(columns)
    yield Entry(
        f"{name}.weight",
        (len(columns), len(rows)),
        (*path, "kernel"),
        lambda weight: weight.T[np.ix_(rows, columns)],
        lambda kernel: kernel[np.ix_(to_rows, to_columns)].T,
    )
    yield Entry(
        f"{name}.bias",
        (len(columns),),
        (*path, "bias"),
        lambda bias: bias[columns],
        lambda bias: bias[to_columns],
    )


def _entries(config: GanConfig, spec: ImageSpec) -> Iterator[Entry]:
    height, width, channels = spec.shape
    in_order = np.arange
    theirs = in_order(height * width * channels).reshape(channels, height, width)
    pixels = theirs.transpose(1, 2, 0).ravel()
    latents, logit = in_order(config.latent_size), in_order(1)
    hidden = in_order(config.generator.hidden_size)
    yield from _linear("G.0", ("generator", "hidden"), latents, hidden)
    yield from _linear("G.2", ("generator", "output"), hidden, pixels)
    hidden = in_order(config.discriminator.hidden_size)
    yield from _linear("D.0", ("discriminator", "hidden"), pixels, hidden)
    yield from _linear("D.2", ("discriminator", "output"), hidden, logit)


def load(config: GanConfig, spec: ImageSpec, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """`{"generator": params, "discriminator": params}` from `G.0.weight`, ..., `D.2.bias`.

    Raises:
        UsageError: A missing, unknown or misshapen entry; the message lists them.
    """
    return load_entries(_entries(config, spec), arrays)


def dump(config: GanConfig, spec: ImageSpec, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `load`: our parameters under their names, in their layouts."""
    return dump_entries(_entries(config, spec), variables)
