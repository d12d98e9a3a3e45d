"""The batch that a step is written for, which is spread in several ways.

The mesh of jax says how devices share it. Under jit the global batch is one array, on one device or
split over axis `BATCH_AXIS`; means are plain means. Under pmap over that axis a step sees the rows
of one replica, and these functions communicate with the others. In both cases a loss may be
computed part by part, to fit into memory; within `one_part` it sees one part of those rows.

A model draws its noise with `batch_noise`, asks for the size of the batch with `batch_size`, and
otherwise knows nothing of this: `steps.update` averages gradients, metrics, and what a loss needs
of the whole batch. `mean_over_replicas` and what follows it are for layers and metrics that compare
the images of a batch with one another. `run.sharding` places the batch, and compiles the step.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
from jax.sharding import PartitionSpec

BATCH_AXIS = "batch"

Tree = TypeVar("Tree")


def batch_noise(
    key: jax.Array,
    shape: tuple[int, ...],
    draw: Callable[..., jax.Array] = jax.random.normal,
) -> jax.Array:
    """Draw noise for the rows of the batch that the caller sees, as one device would for all rows.

    Args:
        key: A PRNG key, the same on every replica and for every part.
        shape: [B, ...], where B is the batch size that the caller sees.
        draw: `draw(key, shape)`, such as `jax.random.uniform`.

    Returns:
        float32 noise of `shape`.
    """
    parts, index = _part.get()
    noise = draw(key, (number_of_replicas() * parts * shape[0], *shape[1:]))
    if is_split():
        noise = jax.lax.with_sharding_constraint(noise, PartitionSpec(BATCH_AXIS))
    noise = own_rows(noise)
    return noise if parts == 1 else in_parts(noise, parts)[index]


def batch_size(x: jax.Array) -> int:
    """Return the number of images in the global batch, of which a step sees x, [B, ...]."""
    return number_of_replicas() * x.shape[0]


def is_split() -> bool:
    """Return whether the batch is one array, as under jit, that lies on several devices."""
    mesh = jax.sharding.get_abstract_mesh()
    return BATCH_AXIS in mesh.auto_axes and mesh.size > 1


def _is_mapped() -> bool:
    """Return whether the code is traced by pmap, which makes the axis a manual one."""
    return BATCH_AXIS in jax.sharding.get_abstract_mesh().manual_axes


def number_of_replicas() -> int:
    """Return the number of shares that the global batch is split into; 1 under jit."""
    return jax.sharding.get_abstract_mesh().shape[BATCH_AXIS] if _is_mapped() else 1


def mean_over_replicas(tree: Tree) -> Tree:
    """Average each leaf over the replicas: local means become means over the global batch."""
    return jax.lax.pmean(tree, BATCH_AXIS) if _is_mapped() else tree


def gather_over_replicas(x: jax.Array) -> jax.Array:
    """Gather the global batch, [replicas * B, ...], from every replica's rows x, [B, ...]."""
    return jax.lax.all_gather(x, BATCH_AXIS, tiled=True) if _is_mapped() else x


def own_rows(x: jax.Array) -> jax.Array:
    """Take this replica's rows, [B / replicas, ...], of the global batch x, [B, ...]."""
    if not _is_mapped():
        return x
    return x.reshape(number_of_replicas(), -1, *x.shape[1:])[jax.lax.axis_index(BATCH_AXIS)]


# The number of parts that the batch is cut into, and the index of the current one.
_part: contextvars.ContextVar[tuple[int, Any]] = contextvars.ContextVar("part", default=(1, 0))


@contextlib.contextmanager
def one_part(parts: int, index: jax.Array) -> Iterator[None]:
    """Make code traced in this context draw the noise of part `index`, int32 [], of `parts`."""
    token = _part.set((parts, index))
    try:
        yield
    finally:
        _part.reset(token)


def in_parts(x: jax.Array, parts: int) -> jax.Array:
    """Cut [B, ...] into [parts, B / parts, ...], where a part has every `parts`-th row.

    Each device that holds rows of the batch thus has its share of each part, and images that form a
    group of `minibatch_std`, whose indices differ by multiples of `parts`, stay together.
    """
    return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)
