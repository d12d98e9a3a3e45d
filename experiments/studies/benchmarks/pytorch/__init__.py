"""The families in plain PyTorch, to compare train steps with.

One file a family: its networks under the names that `genjax.interop` reads, a check that both
compute the same losses from the same parameters and draws, and a whole training step. PyTorch's
step has the same networks, batch, optimizers, moving average and compute type, and none of the
metrics of ours.
"""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from genjax.types import Config, ImageSpec, UsageError

if TYPE_CHECKING:
    from experiments.studies.benchmarks.pytorch.common import Counterpart

# The modules of the counterparts, imported only when asked for, because PyTorch is an extra.
MODULES = {
    "gan": "gan",
    "dcgan": "dcgan",
    "wgan": "wgan",
    "wgan_gp": "wgan",
    "vae": "vae",
    "glow": "glow",
    "biggan": "biggan",
    "stylegan": "stylegan",
    "stylegan2": "stylegan2",
    "diffusion": "diffusion",
}
LIBRARIES = {"torch": "PyTorch is", "diffusers": "Hugging Face's diffusers are"}
# `counterpart(config, spec, batch_size, compiled)`; see `common`.
Maker = Callable[[Config, ImageSpec, int, bool], "Counterpart"]


def find(family: str) -> Maker:
    """Return the function that makes a family's counterpart.

    Raises:
        UsageError: PyTorch, or what else the counterpart needs, is not installed.
    """
    try:
        module = importlib.import_module(f"{__name__}.{MODULES[family]}")
    except ModuleNotFoundError as error:
        if error.name not in LIBRARIES:
            raise
        raise UsageError(
            f"{error.name}: {LIBRARIES[error.name]} not installed: "
            "pip install 'genjax-models[bench]'"
        ) from error
    maker: Maker = module.counterpart
    return maker
