"""The state of a training run: one pytree, nothing hidden."""

from typing import Any

import flax.struct
import jax

from genjax.types import ImageSpec


@flax.struct.dataclass
class Player:
    """One player of the game: its parameters and its own optimizer's state."""

    params: Any
    opt_state: Any


@flax.struct.dataclass
class GanState:
    """Two players and the number of steps taken (int32 []); `spec` is static."""

    step: jax.Array
    generator: Player
    discriminator: Player
    spec: ImageSpec = flax.struct.field(pytree_node=False)
