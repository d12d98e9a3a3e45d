"""The state of a training run: one pytree, nothing hidden."""

import dataclasses
from typing import Any, Self

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
    def collections(self) -> dict[str, Any]:
        """The network's variables besides the parameters: a pass in training updates them."""
        return {"batch_stats": self.stats}

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that the network's `apply` takes."""
        return {"params": self.params, **self.collections}

    def with_collections(self, collections: dict[str, Any]) -> Self:
        """Return the player with other `collections`."""
        return dataclasses.replace(self, stats=collections["batch_stats"])

    def with_variables(self, variables: dict[str, Any]) -> Self:
        """Return the player with other `variables`, and its own optimizer."""
        return dataclasses.replace(self, params=variables["params"]).with_collections(variables)


@flax.struct.dataclass
class SpectralPlayer(Player):
    """A player whose network may have spectral normalization; `spectral` is its collection."""

    spectral: Any = flax.struct.field(default_factory=dict)

    @property
    def collections(self) -> dict[str, Any]:
        """The network's variables besides the parameters: a pass in training updates them."""
        return {"batch_stats": self.stats, "spectral": self.spectral}

    def with_collections(self, collections: dict[str, Any]) -> Self:
        """Return the player with other `collections`."""
        return dataclasses.replace(
            self, stats=collections["batch_stats"], spectral=collections["spectral"]
        )


@flax.struct.dataclass
class GanState:
    """The state of a GAN.

    Attributes:
        step: Number of steps taken, int32 [].
        generator: The generator.
        discriminator: The discriminator or critic.
        spec: The shape of the images; static.
        ema: The moving average of the generator's variables, for samples; None without one.

    A state that is only for samples has None for its players.
    """

    step: jax.Array
    generator: Player
    discriminator: Player
    spec: ImageSpec = flax.struct.field(pytree_node=False)
    ema: Any = None

    @property
    def sampling_variables(self) -> dict[str, Any]:
        """The generator's variables for samples: their moving average if there is one."""
        variables: dict[str, Any] = self.generator.variables if self.ema is None else self.ema
        return variables

    @property
    def weights(self) -> dict[str, Any]:
        """The variables of the networks; `ema` are those for samples, averaged or not."""
        average = self.sampling_variables
        return {
            "generator": average if self.generator is None else self.generator.variables,
            "discriminator": {} if self.discriminator is None else self.discriminator.variables,
            "ema": average,
        }

    def with_weights(self, weights: dict[str, Any]) -> Self:
        """Return the state with other `weights`, and its own optimizers."""
        ema = None if self.ema is None else weights["ema"]
        generator = self.generator.with_variables(weights["generator"])
        discriminator = self.discriminator.with_variables(weights["discriminator"])
        return dataclasses.replace(self, generator=generator, discriminator=discriminator, ema=ema)

    def for_sampling(self) -> Self:
        """Return the state without what only training needs: the players and their optimizers."""
        nobody: Any = None
        return dataclasses.replace(
            self, generator=nobody, discriminator=nobody, ema=self.sampling_variables
        )


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

    @property
    def sampling_params(self) -> Any:
        """The parameters for samples and evaluation: their moving average if there is one."""
        return self.model.params if self.ema is None else self.ema

    @property
    def weights(self) -> dict[str, Any]:
        """The variables of the network; `ema` are the parameters for samples, averaged or not."""
        return {"model": self.model.variables, "ema": self.sampling_params}

    def with_weights(self, weights: dict[str, Any]) -> Self:
        """Return the state with other `weights`, and its own optimizer."""
        ema = None if self.ema is None else weights["ema"]
        model = self.model.with_variables(weights["model"])
        return dataclasses.replace(self, model=model, ema=ema)

    def for_sampling(self) -> Self:
        """Return the state without what only training needs: optimizer and second parameters."""
        model = dataclasses.replace(self.model, params=self.sampling_params, opt_state=None)
        return dataclasses.replace(self, model=model, ema=None)


def named_leaves(state: Any) -> dict[str, Any]:
    """Return the leaves of a state by their paths in it, such as `generator.params.output.bias`."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
