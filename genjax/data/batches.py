"""Batches: which images a step sees, and how they reach the device.

The order depends on (seed, step) alone: epochs are shuffled one by one and concatenated, and step s
takes the batch that begins at image s * batch_size. So a resumed run needs no loader state, and a
data set gives the same batches whether it is resident on the device or streamed.

With several processes, each feeds the rows of a batch that lie on its own devices. Of a streamed
data set it reads those rows only; of a resident one it reads a part, and the processes exchange
their parts.
"""

import collections
import contextvars
import functools
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import jax
import numpy as np

from genjax.console import progress
from genjax.data.broken import BrokenImage
from genjax.data.processes import all_gather
from genjax.data.source import DataOptions, Example, Source
from genjax.types import Batch, UsageError

log = logging.getLogger("genjax")

GIB = 2**30
# No more threads than cores, because decoding often holds the interpreter's lock.
THREADS = os.cpu_count() or 1
# Images that are read at once when all are: at most this many, and this many bytes.
READ_BLOCK, READ_BYTES = 256, 2**25
# A compiled call covers several streamed steps, up to this many bytes of images.
STREAM_BYTES = 256 * 2**20
# And up to this many indices of resident images.
FEED_INDICES = 2**26


@functools.lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count).astype(np.int32)


def batch_indices(seed: int, step: int, batch_size: int, count: int, steps: int = 1) -> np.ndarray:
    """Return the indices of the images that one or several consecutive steps see.

    Args:
        seed: Seed of the order.
        step: The first step, from 0.
        batch_size: Batch size B; may be larger than `count`.
        count: Number of images in the data set.
        steps: Number of steps.

    Returns:
        int32 [steps * B], batch after batch; each epoch has every image once.
    """
    start, stop = step * batch_size, (step + steps) * batch_size
    parts = [
        _epoch_order(seed, epoch, count)[max(0, start - epoch * count) : stop - epoch * count]
        for epoch in range(start // count, -(-stop // count))
    ]
    return np.concatenate(parts)


class Batches(Protocol):
    """The source of batches for the compiled program.

    Attributes:
        arrays: A pytree that stays on the device for the whole run.
        max_steps: Largest number of steps that one `feed` should cover.
    """

    arrays: Any
    max_steps: int

    def feed(self, first_step: int, steps: int) -> Any:
        """Return what the program scans over for these steps: a pytree of arrays [steps, B, ...].

        B is the size of this process's share of the batch.
        """
        ...

    @staticmethod
    def select(arrays: Any, item: Any) -> Batch:
        """Return one step's batch, inside the program, from `arrays` and one item of the feed."""
        ...


def share(count: int, alone: bool = False) -> slice:
    """Return this process's slice of `count` consecutive things: all if it works alone."""
    index, processes = (0, 1) if alone else (jax.process_index(), jax.process_count())
    return slice(count * index // processes, count * (index + 1) // processes)


class Resident:
    """A data set on the device: the feed has indices, and the program gathers the images."""

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        seed: int,
        alone: bool = False,
    ):
        self.arrays = Batch(images, labels)
        self.max_steps = max(1, FEED_INDICES // batch_size)
        self._batch_size, self._seed = batch_size, seed
        self._rows = share(batch_size, alone)

    def feed(self, first_step: int, steps: int) -> np.ndarray:
        """Return the indices of these steps' images, int32 [steps, B]."""
        count = len(self.arrays.images)
        indices = batch_indices(self._seed, first_step, self._batch_size, count, steps)
        return indices.reshape(steps, self._batch_size)[:, self._rows]

    @staticmethod
    def select(arrays: Batch, item: jax.Array) -> Batch:
        """Gather the images [B, H, W, C] and labels [B] at the indices, `item` int32 [B]."""
        return Batch(arrays.images[item], arrays.labels[item])


class Streamed:
    """A data set that is read during training, by threads that work ahead."""

    def __init__(
        self,
        source: Source,
        batch_size: int,
        seed: int,
        skip_broken: bool,
        alone: bool = False,
    ):
        self.arrays = ()
        batch_bytes = batch_size * int(np.prod(source.spec.shape))
        processes = 1 if alone else jax.process_count()
        self.max_steps = max(1, STREAM_BYTES * processes // batch_bytes)
        self._rows = share(batch_size, alone)
        self._source, self._batch_size, self._seed = source, batch_size, seed
        self._skip_broken = skip_broken
        self._reported: set[int] = set()
        self._next_step = -1
        self._stream: Iterator[Batch] = iter(())

    def feed(self, first_step: int, steps: int) -> Batch:
        """Return images and labels, [steps, B, ...]; fast if the steps follow the last feed's."""
        if first_step != self._next_step:
            import grain  # two seconds to import, and only a large data set needs it

            ahead = max(2, min(64, 2 * self.max_steps))
            options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=ahead)
            # The threads' messages belong to the log of this run.
            context = contextvars.copy_context()
            endless = grain.MapDataset.range(first_step, 2**31).map(
                lambda step: context.copy().run(self._read_batch, step)
            )
            self._stream = iter(endless.to_iter_dataset(options))
        batches = [next(self._stream) for _ in range(steps)]
        self._next_step = first_step + steps
        return Batch(
            np.stack([batch.images for batch in batches]),
            np.stack([batch.labels for batch in batches]),
        )

    @staticmethod
    def select(arrays: tuple[()], item: Batch) -> Batch:
        """Return the item, which is the batch."""
        del arrays
        return item

    def _read_batch(self, step: int) -> Batch:
        indices = batch_indices(self._seed, int(step), self._batch_size, len(self._source))
        indices = indices[self._rows]
        examples = [
            self._next_readable(int(index)) if isinstance(example, BrokenImage) else example
            for index, example in zip(indices, self._source.read(indices.tolist()), strict=True)
        ]
        return Batch(
            np.stack([image for image, _ in examples]),
            np.asarray([label for _, label in examples], np.int32),
        )

    def _next_readable(self, index: int) -> Example:
        """Return the next readable example after a broken one, if broken ones may be skipped."""
        for candidate in range(index, index + len(self._source)):
            candidate %= len(self._source)
            (example,) = self._source.read([candidate])
            if not isinstance(example, BrokenImage):
                return example
            if not self._skip_broken:
                raise UsageError(f"{example}; --on-broken skip leaves it out")
            if candidate not in self._reported:
                self._reported.add(candidate)
                log.warning("skipped a broken image: %s", example)
        raise UsageError("not one image can be read")


def read_blocks(
    source: Source, part: slice | Sequence[int] = slice(None)
) -> Iterator[list[Example | BrokenImage]]:
    """Read the examples of a part of a source in order, in blocks, with a progress bar.

    A few blocks are read ahead, so that memory is bounded and Ctrl-C soon heard.
    """
    wanted = range(len(source))[part] if isinstance(part, slice) else part
    size = max(1, min(READ_BLOCK, READ_BYTES // int(np.prod(source.spec.shape))))
    bar = progress(total=len(wanted), desc="reading", unit=" images", leave=False)
    with bar, ThreadPoolExecutor(THREADS) as pool:
        ahead: collections.deque[Future[list[Example | BrokenImage]]] = collections.deque()
        for start in range(0, len(wanted), size):
            ahead.append(pool.submit(source.read, wanted[start : start + size]))
            if len(ahead) > 2 * THREADS:
                yield _told(ahead.popleft().result(), bar)
        while ahead:
            yield _told(ahead.popleft().result(), bar)


def _told(examples: list[Example | BrokenImage], bar: Any) -> list[Example | BrokenImage]:
    bar.update(len(examples))
    return examples


def read_some(source: Source, n: int, seed: int) -> Batch:
    """Read `n` random images, or all if there are fewer, without those that cannot be read.

    With the same seed, the first images are the same for any `n`.

    Raises:
        UsageError: Not one image can be read.
    """
    order, start = np.random.default_rng(seed).permutation(len(source)), 0
    found: list[Example] = []
    while len(found) < n and start < len(order):
        indices = order[start : start + n - len(found)]
        start += len(indices)
        for example in source.read(indices.tolist()):
            if isinstance(example, BrokenImage):
                log.warning("left out a broken image: %s", example)
            else:
                found.append(example)
    if not found:
        raise UsageError(f"not one of {len(source)} images can be read")
    images, labels = zip(*found, strict=True)
    return Batch(np.stack(images), np.asarray(labels, np.int32))


def read_all(source: Source, part: slice = slice(None)) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Read every image of a part of a source that can be read.

    Returns:
        Images uint8 [N, H, W, C], labels int32 [N], and a message for each broken image.
    """
    images = np.empty((len(range(len(source))[part]), *source.spec.shape), np.uint8)
    labels: list[int] = []
    broken: list[str] = []
    for examples in read_blocks(source, part):
        for example in examples:
            if isinstance(example, BrokenImage):
                broken.append(str(example))
            else:
                images[len(labels)] = example[0]
                labels.append(example[1])
    return images[: len(labels)], np.asarray(labels, np.int32), broken


def open_batches(
    source: Source, batch_size: int, seed: int, options: DataOptions, alone: bool = False
) -> Resident | Streamed:
    """Open a source's batches: resident if they fit in `options.resident_gib`, else streamed.

    Args:
        source: The images.
        batch_size: The size of the batches of all processes together.
        seed: Seed of the order.
        options: How the images are read.
        alone: Whether this process trains alone, on whole batches, whatever the others do.

    Raises:
        UsageError: An image is broken and `options.on_broken` is `refuse`, or all are broken.
    """
    skip_broken = options.on_broken == "skip"
    if len(source) * np.prod(source.spec.shape) > options.resident_gib * GIB:
        return Streamed(source, batch_size, seed, skip_broken, alone)
    images, labels, broken = read_all(source, share(len(source), alone))
    own = np.array([len(images), len(broken)])
    counts = own[None] if alone else all_gather(own)
    read, failed = counts.sum(axis=0)
    if failed and not skip_broken:
        some = "; ".join(broken[:5]) + ("; ..." if len(broken) > 5 else "")
        raise UsageError(
            f"{failed} of {len(source)} images cannot be read: "
            f"{some or 'see what the other processes say'}. --on-broken skip leaves them out"
        )
    if not read:
        raise UsageError(f"not one of {len(source)} images can be read")
    for line in broken:
        log.warning("skipped a broken image: %s", line)
    images, labels = exchange(images, counts[:, 0]), exchange(labels, counts[:, 0])
    return Resident(images, labels, batch_size, seed, alone)


def exchange(own: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Concatenate the arrays of all processes, which have `counts` entries each, on all of them."""
    if len(counts) == 1:
        return own
    padded = np.zeros((counts.max(), *own.shape[1:]), own.dtype)
    padded[: len(own)] = own
    parts = all_gather(padded)
    return np.concatenate([part[:count] for part, count in zip(parts, counts, strict=True)])
