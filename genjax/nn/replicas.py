"""A step is written for the global batch; these make it hold where a batch is seen in shares.

Under jit the batch is one array, whatever devices it lies on, and each function is the plain one;
noise is split over `BATCH_AXIS` of the mesh that is set, if any, as a batch is, and with it what is
computed of it. Under pmap over `BATCH_AXIS` a step sees its replica's share, and they reach across
replicas. In `one_part` a loss sees a part of a batch, and its noise is that part of the batch's.
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
    except NameError:  # jax's way to say that no map binds the axis
        return False
    return True


def is_split() -> bool:
    """Whether the batch is one array, as under jit, that lies on several devices."""
    mesh = jax.sharding.get_abstract_mesh()
    return BATCH_AXIS in mesh.auto_axes and mesh.size > 1


def number_of_replicas() -> int:
    """How many shares the global batch is split into; 1 under jit."""
    return jax.lax.axis_size(BATCH_AXIS) if _is_mapped() else 1


def mean_over_replicas(tree: Tree) -> Tree:
    """The mean of each leaf over the replicas: of local means, the mean of the global batch."""
    return jax.lax.pmean(tree, BATCH_AXIS) if _is_mapped() else tree


def normal_for_batch(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal noise for a batch: this replica's rows of what one device would draw.

    Args:
        key: The same on every replica.
        shape: [B, ...], B the batch that the caller sees.

    Returns:
        float32 of `shape`.
    """
    return _for_batch(jax.random.normal, key, shape)


def uniform_for_batch(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The same, uniform on [0, 1)."""
    return _for_batch(jax.random.uniform, key, shape)


def _for_batch(draw: Callable[..., jax.Array], key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    parts, index = _part.get()
    noise = draw(key, (number_of_replicas() * parts * shape[0], *shape[1:]))
    if is_split():
        noise = jax.lax.with_sharding_constraint(noise, PartitionSpec(BATCH_AXIS))
    noise = own_rows(noise)
    return noise if parts == 1 else in_parts(noise, parts)[index]


# How many parts the batch is seen in, and which of them this is.
_part: contextvars.ContextVar[tuple[int, Any]] = contextvars.ContextVar("part", default=(1, 0))


@contextlib.contextmanager
def one_part(parts: int, index: jax.Array) -> Iterator[None]:
    """Within, what is traced sees the part `index` of `in_parts(batch, parts)`."""
    token = _part.set((parts, index))
    try:
        yield
    finally:
        _part.reset(token)


def in_parts(x: jax.Array, parts: int) -> jax.Array:
    """[B, ...] to [parts, B / parts, ...], every part with rows from all over the batch.

    So each device that holds some of the batch has its share of each part, and images that a
    minibatch's statistic groups, whose numbers are a multiple of `parts` apart, stay together.
    """
    return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)


def gather_over_replicas(x: jax.Array) -> jax.Array:
    """The global batch, [replicas * B, ...], of which this replica has the rows x, [B, ...]."""
    return jax.lax.all_gather(x, BATCH_AXIS, tiled=True) if _is_mapped() else x


def own_rows(x: jax.Array) -> jax.Array:
    """The inverse: of the global batch the rows of this replica, [B / replicas, ...]."""
    if not _is_mapped():
        return x
    return x.reshape(number_of_replicas(), -1, *x.shape[1:])[jax.lax.axis_index(BATCH_AXIS)]
