"""The state of a training run: one pytree, nothing hidden."""

from typing import Any

import flax.struct
import jax

from genjax.types import ImageSpec


@flax.struct.dataclass
class Player:
    """One player of the game, or a model alone: parameters, its own optimizer's state, statistics.

    `stats` is the network's `batch_stats` collection; {} without batch norm.
    """

    params: Any
    opt_state: Any
    stats: Any = flax.struct.field(default_factory=dict)

    @property
    def variables(self) -> dict[str, Any]:
        """What the network's `apply` takes."""
        return {"params": self.params, "batch_stats": self.stats}


@flax.struct.dataclass
class SpectralPlayer(Player):
    """A player whose network may have spectral normalization: `spectral` is its collection."""

    spectral: Any = flax.struct.field(default_factory=dict)

    @property
    def variables(self) -> dict[str, Any]:
        """What the network's `apply` takes."""
        return {"params": self.params, "batch_stats": self.stats, "spectral": self.spectral}


@flax.struct.dataclass
class GanState:
    """Two players and the number of steps taken (int32 []); `spec` is static.

    `ema` is the moving average of the generator's `{"params", "batch_stats"}`, for sampling; None
    without one.
    """

    step: jax.Array
    generator: Player
    discriminator: Player
    spec: ImageSpec = flax.struct.field(pytree_node=False)
    ema: Any = None


@flax.struct.dataclass
class DensityState:
    """A model that is fitted alone, and the number of steps taken (int32 []); `spec` is static.

    `ema` is the moving average of the parameters, for samples and evaluation; None without one.
    """

    step: jax.Array
    model: Player
    spec: ImageSpec = flax.struct.field(pytree_node=False)
    ema: Any = None
