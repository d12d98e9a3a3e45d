"""One step, many devices: the same `step`, compiled with jit over a sharded batch, or with pmap.

Each way compiles one program that runs several steps (`lax.scan`), so Python is out of the loop.
State is donated. A step's key is a function of (root key, step), so it does not matter how steps
are grouped into calls, or whether a run was interrupted.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from genjax.data.batches import Batches
from genjax.nn.replicas import BATCH_AXIS
from genjax.types import Batch, Metrics, Occasional, State, UsageError

Step = Callable[[State, Batch, jax.Array], tuple[State, Metrics]]


class Steps:
    """A compiled train step.

    Args:
        step: `step(state, batch, key) -> (state, metrics)`.
        batches: Where batches come from.
        batch_size: Images a step, over all devices.
        root_key: Of all draws.
        parallel: `jit` or `pmap`.

    Raises:
        UsageError: `batch_size` does not divide among the devices.
    """

    def __init__(
        self, step: Step, batches: Batches, batch_size: int, root_key: jax.Array, parallel: str
    ):
        devices = jax.devices()
        if batch_size % len(devices):
            raise UsageError(
                f"batch_size = {batch_size}: should be a multiple of the {len(devices)} devices"
            )
        self._mapped = parallel == "pmap"
        mesh = jax.make_mesh((len(devices),), (BATCH_AXIS,), axis_types=(AxisType.Auto,))
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._over_devices = NamedSharding(mesh, PartitionSpec(BATCH_AXIS))
        self._batch_split = NamedSharding(mesh, PartitionSpec(None, BATCH_AXIS))
        self._devices = len(devices)

        def run(state: State, arrays: Any, feed: Any) -> tuple[State, Metrics]:
            def one(state: State, item: Any) -> tuple[State, Metrics]:
                key = jax.random.fold_in(root_key, state.step)
                return step(state, batches.select(arrays, item), key)

            return jax.lax.scan(one, state, feed)

        if self._mapped:
            self._run = jax.pmap(run, axis_name=BATCH_AXIS, donate_argnums=0)
        else:
            self._run = jax.jit(
                run,
                in_shardings=(self._replicated, self._replicated, self._batch_split),
                out_shardings=self._replicated,
                donate_argnums=0,
            )
        self._arrays = self.put(batches.arrays)

    def put(self, tree: Any) -> Any:
        """A pytree as the program takes it: on every device, and for pmap along a leading axis."""
        if not self._mapped:
            return jax.device_put(tree, self._replicated)
        stacked = jax.tree.map(lambda x: np.broadcast_to(x, (self._devices, *np.shape(x))), tree)
        return jax.device_put(stacked, self._over_devices)

    def get(self, state: State) -> State:
        """The state as one device would have it; undoes `put`."""
        return jax.tree.map(lambda x: x[0], state) if self._mapped else state

    def __call__(self, state: State, feed: Any) -> tuple[State, dict[str, np.ndarray]]:
        """Run the steps of one feed.

        Args:
            state: From `put` or an earlier call; donated.
            feed: From `batches.feed`, leading axes [steps, B].

        Returns:
            The new state, and each metric's values, [steps]; masked where a step measured none.
        """
        if self._mapped:
            feed = jax.tree.map(self._split, feed)
        state, metrics = self._run(state, self._arrays, feed)
        return state, {name: as_array(values) for name, values in self.get(metrics).items()}

    def _split(self, x: np.ndarray) -> np.ndarray:
        """[steps, B, ...] to [devices, steps, B / devices, ...]."""
        steps, batch = x.shape[:2]
        return x.reshape(steps, self._devices, batch // self._devices, *x.shape[2:]).swapaxes(0, 1)


def as_array(values: jax.Array | Occasional) -> np.ndarray:
    """A metric of several steps as numpy has it: masked where it was not measured."""
    if isinstance(values, Occasional):
        return np.ma.masked_array(values.value, ~np.asarray(values.measured))
    return np.asarray(values)
