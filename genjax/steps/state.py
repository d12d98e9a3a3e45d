"""The state of a training run: one pytree, nothing hidden."""

from typing import Any

import flax.struct
import jax

from genjax.types import ImageSpec


@flax.struct.dataclass
class Player:
    """One of a GAN's two networks, or a model that is trained alone.

    Attributes:
        params: Its parameters.
        opt_state: The state of its own optimizer.
        stats: The network's `batch_stats` collection; {} without batch norm.
    """

    params: Any
    opt_state: Any
    stats: Any = flax.struct.field(default_factory=dict)

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that the network's `apply` takes."""
        return {"params": self.params, "batch_stats": self.stats}


@flax.struct.dataclass
class SpectralPlayer(Player):
    """A player whose network may have spectral normalization; `spectral` is its collection."""

    spectral: Any = flax.struct.field(default_factory=dict)

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that the network's `apply` takes."""
        return {"params": self.params, "batch_stats": self.stats, "spectral": self.spectral}


@flax.struct.dataclass
class GanState:
    """The state of a GAN.

    Attributes:
        step: Number of steps taken, int32 [].
        generator: The generator.
        discriminator: The discriminator or critic.
        spec: The shape of the images; static.
        ema: The moving average of the generator's variables, for samples; None without one.
    """

    step: jax.Array
    generator: Player
    discriminator: Player
    spec: ImageSpec = flax.struct.field(pytree_node=False)
    ema: Any = None


@flax.struct.dataclass
class DensityState:
    """The state of a model with a likelihood.

    Attributes:
        step: Number of steps taken, int32 [].
        model: The model.
        spec: The shape of the images; static.
        ema: The moving average of the parameters, for samples and evaluation; None without one.
    """

    step: jax.Array
    model: Player
    spec: ImageSpec = flax.struct.field(pytree_node=False)
    ema: Any = None
