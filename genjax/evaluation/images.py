"""Functions of one image, applied to many: read as they are needed, spread over the devices."""

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from genjax.data.batches import read_blocks
from genjax.data.broken import BrokenImage
from genjax.data.source import Source
from genjax.data.values import name_of
from genjax.figures.sample import is_conditional
from genjax.objectives.likelihood import MOST_SAMPLES, MOST_VALUES
from genjax.run.options import AnyData
from genjax.run.states import class_numbers, open_data
from genjax.run.trained import Trained
from genjax.types import Batch, ImageSpec, State, UsageError

log = logging.getLogger("genjax")

# Most images on a device in one call.
MOST_IMAGES = 100

# A function of a state, a batch of one image, and a key; its results are arrays [1, ...].
OfOneImage = Callable[[State, Batch, jax.Array], Any]
# The same for many images: a state, batches of any sizes, a key, and the index of the first image,
# to the results of the next images, arrays [n, ...], as they come.
OfImages = Callable[..., Iterator[Any]]


def over_images(function: OfOneImage) -> OfImages:
    """Compile a function of one image for many, a few at a time on each device of this process.

    An image's key is folded with its index among all images, and every call has the same size on
    each device. So its result depends neither on how the images come nor, up to rounding, on how
    many devices there are.
    """
    mesh = Mesh(np.array(jax.local_devices()), ("device",))
    everywhere, spread = PartitionSpec(), PartitionSpec("device")

    def of_one(state: State, image: Batch, key: jax.Array) -> Any:
        found = function(state, jax.tree.map(lambda x: x[None], image), key)
        return jax.tree.map(lambda x: x[0], found)

    def of_share(state: State, batch: Batch, indices: jax.Array, key: jax.Array) -> Any:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
        return jax.vmap(of_one, (None, 0, 0))(state, batch, keys)

    of_call = jax.jit(
        jax.shard_map(
            of_share,
            mesh=mesh,
            in_specs=(everywhere, spread, spread, everywhere),
            out_specs=spread,
            check_vma=False,
        )
    )

    def of_all(
        state: State, batches: Iterable[Batch], key: jax.Array, first: int = 0
    ) -> Iterator[Any]:
        state, key = jax.device_put((state, key), NamedSharding(mesh, everywhere))
        size = images_at_once(state.spec) * mesh.size
        indices = np.arange(first, first + size, dtype=np.int32)
        for batch in regroup(batches, size):
            count = len(batch.images)
            filled = Batch(*(np.resize(array, (size, *array.shape[1:])) for array in batch))
            found = jax.device_get(of_call(state, filled, indices, key))
            yield jax.tree.map(lambda x: x[:count], found)  # noqa: B023
            indices += count

    return of_all


def images_at_once(spec: ImageSpec) -> int:
    """Return the number of images on a device in one call: fewer of larger images."""
    return max(1, min(MOST_IMAGES, MOST_VALUES // (MOST_SAMPLES * math.prod(spec.shape))))


def regroup(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Join and cut batches of any sizes to batches of `size`; the last has what is left."""
    waiting: list[Batch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch.images)
        if count >= size:
            joined, whole = _join(waiting), count - count % size
            for start in range(0, whole, size):
                yield Batch(*(array[start : start + size] for array in joined))
            waiting, count = [Batch(*(array[whole:] for array in joined))], count % size
    if count:
        yield _join(waiting)


def _join(batches: list[Batch]) -> Batch:
    return Batch(*(np.concatenate(arrays) for arrays in zip(*batches, strict=True)))


def read_readable(
    source: Source, part: slice | Sequence[int] = slice(None)
) -> Iterator[tuple[Batch, list[int]]]:
    """Read the images of a part of a source that can be read, and their indices; warn of others."""
    indices = iter(range(len(source))[part] if isinstance(part, slice) else part)
    for block in read_blocks(source, part):
        found = []
        for example, index in zip(block, itertools.islice(indices, len(block)), strict=True):
            if isinstance(example, BrokenImage):
                log.warning("left out a broken image: %s", example)
            else:
                found.append((*example, index))
        if found:
            images, labels, some = zip(*found, strict=True)
            yield Batch(np.stack(images), np.asarray(labels, np.int32)), list(some)


class Images:
    """The readable images of a source in order, as batches; it can be iterated over again.

    Args:
        source: The source.
        where: What it is called in messages and tables.
        numbers: The number that the model has for each of the source's classes, int32 [K]. None:
            that of the source.

    Attributes:
        indices: The indices in the source of the images that have been read.
        labels: Their classes, as the source numbers them.
    """

    def __init__(self, source: Source, where: str, numbers: np.ndarray | None = None):
        self.source, self.where = source, where
        self.indices: list[int] = []
        self.labels: list[int] = []
        self._numbers = np.arange(max(1, source.spec.classes)) if numbers is None else numbers

    def __iter__(self) -> Iterator[Batch]:
        self.indices, self.labels = [], []
        for batch, indices in read_readable(self.source):
            self.indices += indices
            self.labels += batch.labels.tolist()
            yield Batch(batch.images, self._numbers[batch.labels].astype(np.int32))
        if not self.indices:
            raise UsageError(f"{self.where}: not one image can be read")

    def take(self, places: Iterable[int]) -> np.ndarray:
        """Read the images at some places among those that have been read, uint8 [n, H, W, C]."""
        examples = self.source.read([self.indices[place] for place in places])
        images = [example[0] for example in examples if not isinstance(example, BrokenImage)]
        return np.array(images, np.uint8).reshape(-1, *self.source.spec.shape)

    def names(self) -> list[str]:
        """Return the names of the images that have been read."""
        return [self.source.name(index) for index in self.indices]

    def class_names(self) -> list[str]:
        """Return the name of the class of each image that has been read, or "" without classes."""
        names = [str(name) for name in self.source.class_names] or [""]
        return [names[label] for label in self.labels]


def open_images(trained: Trained, data: AnyData, split: str | None) -> Images:
    """Open the images of a model, or others, resized to what it was trained on; see `open_data`.

    Raises:
        UsageError: There are no such data, or the model is conditional and does not know their
            classes.
    """
    recipe, spec = trained.recipe, trained.spec
    data = None if data is None else name_of(data)
    source = open_data(recipe, spec, data, split)
    options = recipe.data_options
    default = options.for_test.split if data is None else "train"
    where = f"{split or default} of {data or recipe.data}"
    numbers = None
    if data is not None and is_conditional(recipe, spec):
        numbers = class_numbers(source, where, trained.class_names)
    return Images(source, where, numbers)
