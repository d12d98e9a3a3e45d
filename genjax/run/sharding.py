"""Train steps over many devices: a `step` compiled with jit over a sharded batch, or with pmap.

Both compile one program that runs several steps (`lax.scan`), so Python is out of the loop. The
state is donated. A step's key is a function of (root key, step), so it does not matter how steps
are grouped into calls, or whether a run was interrupted. The devices are those of all processes,
and each process feeds its share of a batch.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from genjax.data.batches import Batches
from genjax.nn.batch import BATCH_AXIS
from genjax.types import Batch, MaskedMetric, Metrics, State, UsageError

Step = Callable[[State, Batch, jax.Array], tuple[State, Metrics]]
Parallel = Literal["jit", "pmap", "fsdp"]

# Arrays with fewer elements are not split, because gathering them costs more than it saves.
SMALLEST_SPLIT = 2**12
# Fields of a state that no network reads during a step; each device updates its part of them.
UPDATED_ONLY = {"opt_state", "ema"}


class Steps:
    """A compiled train step, which runs on one or many devices.

    Args:
        step: `step(state, batch, key) -> (state, metrics)`.
        batches: The source of batches.
        batch_size: Images a step, over all devices.
        root_key: The key from which every step's key is derived. It is an argument of the program,
            which is the same for every seed.
        parallel: `jit`: each device holds the whole state, and the batch is split. `fsdp`: the
            large arrays of the state are split too, each along the longest axis that the number of
            devices divides; those that networks read are gathered at the beginning of each step,
            and each device updates its part (Rajbhandari et al. 2020; Zhao et al. 2023). `pmap`:
            like `jit`, by jax's older transform.
        like: A pytree with the shapes and types of the state.
        devices: The devices to run on. None: all devices of all processes.
        deterministic: Take only operations whose results have the same bits in every run; not with
            pmap.

    Attributes:
        saved: Shapes, types and shardings of the state in a checkpoint.

    Raises:
        UsageError: `batch_size` is no multiple of the number of devices.
    """

    def __init__(
        self,
        step: Step,
        batches: Batches,
        batch_size: int,
        root_key: jax.Array,
        parallel: Parallel,
        like: State,
        devices: Sequence[jax.Device] | None = None,
        deterministic: bool = False,
    ):
        # Sorted by process, so that each process holds consecutive rows of the batch.
        devices = sorted(devices or jax.devices(), key=lambda d: (d.process_index, d.id))
        if batch_size % len(devices):
            near = sorted({batch_size // len(devices) or 1, batch_size // len(devices) + 1})
            options = " or ".join(f"--batch-size {n * len(devices)}" for n in near)
            raise UsageError(
                f"batch_size = {batch_size}: should be a multiple of the {len(devices)} devices, "
                f"as with {options}"
            )
        self._mapped, self._splits_state = parallel == "pmap", parallel == "fsdp"
        self._mesh = Mesh(np.array(devices), (BATCH_AXIS,), axis_types=(AxisType.Auto,))
        self._replicated = NamedSharding(self._mesh, PartitionSpec())
        self._batch_split = NamedSharding(self._mesh, PartitionSpec(None, BATCH_AXIS))
        self._local_devices = [d for d in devices if d.process_index == jax.process_index()]
        shardings = jax.tree.map(
            lambda x: self._split_over(x.shape) if self._splits_state else self._replicated, like
        )
        self.saved = jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            like,
            shardings,
        )

        self._key_data = np.asarray(jax.random.key_data(root_key))
        key_type = jax.random.key_impl(root_key)

        def run(state: State, arrays: Any, key_data: Any, feed: Any) -> tuple[State, Metrics]:
            root_key = jax.random.wrap_key_data(key_data, impl=key_type)

            def one(state: State, item: Any) -> tuple[State, Metrics]:
                key = jax.random.fold_in(root_key, state.step)
                if self._splits_state:
                    state = jax.tree_util.tree_map_with_path(self._gather_what_networks_read, state)
                state, metrics = step(state, batches.select(arrays, item), key)
                if self._splits_state:
                    state = jax.lax.with_sharding_constraint(state, shardings)
                return state, metrics

            return jax.lax.scan(one, state, feed)

        if self._mapped:
            self._run = jax.pmap(
                run, axis_name=BATCH_AXIS, in_axes=(0, 0, None, 0), donate_argnums=0
            )
        else:
            self._run = jax.jit(
                run,
                in_shardings=(shardings, self._replicated, self._replicated, self._batch_split),
                out_shardings=(shardings, self._replicated),
                donate_argnums=0,
                compiler_options={"xla_gpu_deterministic_ops": True} if deterministic else None,
            )
        self._gather = jax.jit(lambda tree: tree, out_shardings=self._replicated)
        self._finite = jax.jit(
            lambda state: jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(state)]),
            out_shardings=None if self._mapped else self._replicated,
        )
        self._last: Metrics = {}
        self._batches = batches
        self._arrays = (
            self._on_each_device(batches.arrays)
            if self._mapped
            else jax.device_put(batches.arrays, self._replicated)
        )

    def _split_over(self, shape: tuple[int, ...]) -> NamedSharding:
        """Return the sharding of a state's array: split along an axis, or replicated."""
        if np.prod(shape) >= SMALLEST_SPLIT:
            for axis in sorted(range(len(shape)), key=lambda axis: -shape[axis]):
                if shape[axis] % self._mesh.size == 0:
                    return NamedSharding(self._mesh, PartitionSpec(*[None] * axis, BATCH_AXIS))
        return self._replicated

    def _gather_what_networks_read(self, path: Any, x: jax.Array) -> jax.Array:
        """Replicate an array of the state that networks read.

        Without this the compiler would split activations like parameters, not along the batch.
        """
        names = {getattr(key, "name", None) for key in path}
        if names & UPDATED_ONLY:
            return x
        return jax.lax.with_sharding_constraint(x, self._replicated)

    def put(self, state: State) -> State:
        """Place a state on the devices as the program takes it; the inverse of `get`."""
        if self._mapped:
            return self._on_each_device(state)
        return jax.device_put(state, jax.tree.map(lambda x: x.sharding, self.saved))

    def get(self, state: State) -> State:
        """Return the whole state on one device of this process; valid as long as `state` is."""
        if self._splits_state:
            state = self._gather(state)
        return jax.tree.map(self._on_one_device, state)

    def to_save(self, state: State) -> State:
        """Return the state for a checkpoint.

        It is a copy in the host's memory, which stays when `state` is donated; with several
        processes, of which each saves its part, the state with the shardings of `saved`.
        """
        state = self.get(state) if self._mapped else state
        if jax.process_count() == 1:
            # All arrays travel at once. On a CPU they are the device's own memory, so far.
            return jax.tree.map(np.array, jax.device_get(state))
        if self._mapped:
            return jax.device_put(jax.tree.map(np.asarray, state), self._replicated)
        return state

    def finite_leaves(self, state: State) -> jax.Array:
        """Return whether each leaf of the state is free of NaN and infinities, bool [leaves]."""
        finite: jax.Array = self._finite(self.get(state) if self._mapped else state)
        return finite

    def __call__(self, state: State, feed: Any) -> tuple[State, dict[str, np.ndarray]]:
        """Run the steps of one feed, and wait for them; see `start`.

        Returns:
            The new state, and each metric's values, [steps], masked at steps that did not measure
            it.
        """
        state, metrics = self.start(state, feed)
        return state, {name: as_array(values) for name, values in metrics.items()}

    def start(self, state: State, feed: Any) -> tuple[State, Metrics]:
        """Start the steps of one feed, and wait until those of the call before have ended.

        So the devices have a next call while the host reads images and writes records, and hold two
        feeds at most.

        Args:
            state: The state from `put` or an earlier call; donated.
            feed: The result of `batches.feed`, with leading axes [steps, B], where B is the share
                of this process.

        Returns:
            The state and each metric's values, [steps], which will be there once the steps have
            ended.
        """
        if self._mapped:
            feed = jax.tree.map(self._split, feed)
        else:
            feed = jax.tree.map(
                lambda x: jax.make_array_from_process_local_data(self._batch_split, x), feed
            )
        with self._mesh_for_noise():
            state, metrics = self._run(state, self._arrays, self._key_data, feed)
        metrics = jax.tree.map(self._on_one_device, metrics)
        before, self._last = self._last, metrics
        jax.block_until_ready(before)
        return state, metrics

    def trace(self, steps: int) -> jax.stages.Traced:
        """Trace a call of `steps` steps, to lower and compile it without running it."""
        with self._mesh_for_noise():
            feed = self._batches.feed(0, steps)
            return self._run.trace(self.saved, self._arrays, self._key_data, feed)

    def _mesh_for_noise(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which a batch's noise is drawn split among the devices."""
        return contextlib.nullcontext() if self._mapped else jax.set_mesh(self._mesh)

    def _on_each_device(self, tree: Any) -> Any:
        """Copy arrays to each device of this process, along a new leading axis, for pmap."""
        count = len(self._local_devices)
        mesh = Mesh(np.array(self._local_devices), (BATCH_AXIS,))
        stacked = jax.tree.map(
            lambda x: np.broadcast_to(np.asarray(x), (count, *np.shape(x))), tree
        )
        return jax.device_put(stacked, NamedSharding(mesh, PartitionSpec(BATCH_AXIS)))

    def _on_one_device(self, x: jax.Array) -> jax.Array:
        own = x.addressable_data(0)
        return own[0] if self._mapped else own

    def _split(self, x: np.ndarray) -> np.ndarray:
        """Reshape [steps, B, ...] to [local devices, steps, B / local devices, ...]."""
        count, (steps, batch) = len(self._local_devices), x.shape[:2]
        return x.reshape(steps, count, batch // count, *x.shape[2:]).swapaxes(0, 1)


def as_array(values: jax.Array | MaskedMetric) -> np.ndarray:
    """Convert a metric, [steps], to a numpy array, masked where it was not measured."""
    if isinstance(values, MaskedMetric):
        return np.ma.masked_array(values.value, ~np.asarray(values.mask))
    return np.asarray(values)
