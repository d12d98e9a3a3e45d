"""Functions that let a step be written for the global batch, where it sees only a share of it.

Under jit the batch is one array, on one device or many: means are plain means, and noise is sharded
over `BATCH_AXIS` of the current mesh, as the batch is. Under pmap over `BATCH_AXIS` a step sees its
replica's share, and these functions communicate with the other replicas. Within `one_part` a loss
sees one part of a batch, and gets that part of the batch's noise.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
from jax.sharding import PartitionSpec

BATCH_AXIS = "batch"

Tree = TypeVar("Tree")


def _is_mapped() -> bool:
    try:
        jax.lax.axis_index(BATCH_AXIS)
    except NameError:  # raised by jax where no map binds the axis
        return False
    return True


def is_split() -> bool:
    """Return whether the batch is one array, as under jit, that lies on several devices."""
    mesh = jax.sharding.get_abstract_mesh()
    return BATCH_AXIS in mesh.auto_axes and mesh.size > 1


def number_of_replicas() -> int:
    """Return the number of shares that the global batch is split into; 1 under jit."""
    return jax.lax.axis_size(BATCH_AXIS) if _is_mapped() else 1


def mean_over_replicas(tree: Tree) -> Tree:
    """Average each leaf over the replicas: local means become means over the global batch."""
    return jax.lax.pmean(tree, BATCH_AXIS) if _is_mapped() else tree


def normal_for_batch(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draw standard normal noise for a batch: this replica's rows of what one device would draw.

    Args:
        key: A PRNG key, the same on every replica.
        shape: [B, ...], where B is the batch size that the caller sees.

    Returns:
        float32 noise of `shape`.
    """
    return _for_batch(jax.random.normal, key, shape)


def uniform_for_batch(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draw noise as `normal_for_batch` does, but uniform on [0, 1)."""
    return _for_batch(jax.random.uniform, key, shape)


def _for_batch(draw: Callable[..., jax.Array], key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    parts, index = _part.get()
    noise = draw(key, (number_of_replicas() * parts * shape[0], *shape[1:]))
    if is_split():
        noise = jax.lax.with_sharding_constraint(noise, PartitionSpec(BATCH_AXIS))
    noise = own_rows(noise)
    return noise if parts == 1 else in_parts(noise, parts)[index]


# The number of parts that the batch is cut into, and the index of the current one.
_part: contextvars.ContextVar[tuple[int, Any]] = contextvars.ContextVar("part", default=(1, 0))


@contextlib.contextmanager
def one_part(parts: int, index: jax.Array) -> Iterator[None]:
    """Make code traced in this context draw the noise of part `index` of `in_parts(x, parts)`."""
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


def gather_over_replicas(x: jax.Array) -> jax.Array:
    """Gather the global batch, [replicas * B, ...], from every replica's rows x, [B, ...]."""
    return jax.lax.all_gather(x, BATCH_AXIS, tiled=True) if _is_mapped() else x


def own_rows(x: jax.Array) -> jax.Array:
    """Take this replica's rows, [B / replicas, ...], of the global batch x, [B, ...]."""
    if not _is_mapped():
        return x
    return x.reshape(number_of_replicas(), -1, *x.shape[1:])[jax.lax.axis_index(BATCH_AXIS)]
