"""Sets of images as an evaluation sees them: features, logits, labels and sharpness, not pixels.

Images stream through the feature net a few at a time, over all devices of this process and all
processes of a run. Those of a data set are kept in the cache folder, as its classifier is.
"""

import dataclasses
import hashlib
import io
import itertools
import json
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from genjax.data.batches import READ_BLOCK, READ_BYTES, exchange, share
from genjax.data.digest import digest_of, fingerprint
from genjax.data.processes import all_gather, is_first
from genjax.data.source import DataOptions, Source
from genjax.evaluation.extractor import cache_folder
from genjax.evaluation.images import read_readable, regroup
from genjax.metrics.features import FeatureNet
from genjax.metrics.frechet import Moments
from genjax.metrics.sharpness import sharpness
from genjax.run.checkpoint import write_atomically
from genjax.types import Batch, UsageError

log = logging.getLogger("genjax")

# Features of more than these bytes are made anew each time, not kept.
MAX_KEPT_BYTES = 2**31
# Rows that are written at once.
KEPT_BLOCK = 4096
# The options on which it depends what an image looks like, and which images there are.
OPTIONS = ("split", "size", "fit", "border", "channels", "class_by", "bit_depth", "on_broken")

# A function from a shape to a float32 array of it, in memory or in a file.
Allocate = Callable[[tuple[int, int]], np.ndarray]


class FeatureSet(NamedTuple):
    """What is known of N images.

    Attributes:
        features: Features, float32 [N, D].
        logits: Logits of the feature net, float32 [N, K].
        labels: The images' own labels, int32 [N].
        sharpness: See `metrics.sharpness`, float64 [N].
    """

    features: np.ndarray
    logits: np.ndarray
    labels: np.ndarray
    sharpness: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Self:
        """Return the set of some of the images."""
        return type(self)(*(array[rows] for array in self))

    @property
    def moments(self) -> Moments:
        """The moments of the features."""
        return Moments.of(self.features)


def _empty(shape: tuple[int, int]) -> np.ndarray:
    return np.empty(shape, np.float32)


def measure(
    net: FeatureNet, batches: Iterable[Batch], count: int, allocate: Allocate = _empty
) -> FeatureSet:
    """Compute what is known of images, a few at a time.

    Args:
        net: The feature net.
        batches: The images uint8 [B, H, W, C], and their labels.
        count: The number of images, or more.
        allocate: Function that makes the array for features and logits, [count, D + K].
    """
    table, labels = np.empty((0, 0), np.float32), np.empty(count, np.int32)
    sharp, size, rows = np.empty(count), 0, 0
    for images, some in in_blocks(batches):
        # Every call has the same size, so that one compiled program is enough.
        padding = [(0, max(0, size - len(images))), *[(0, 0)] * (images.ndim - 1)]
        features, logits = net(np.pad(images, padding))
        if not rows:
            table, size = allocate((count, features.shape[1] + logits.shape[1])), len(images)
            width = features.shape[1]
        here = slice(rows, rows + len(images))
        table[here, :width], table[here, width:] = features[: len(images)], logits[: len(images)]
        labels[here], sharp[here] = some, sharpness(np.asarray(images))
        rows += len(images)
    if not rows:
        return FeatureSet(table, table, labels[:0], sharp[:0])
    return FeatureSet(table[:rows, :width], table[:rows, width:], labels[:rows], sharp[:rows])


def in_blocks(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Join and cut batches to the number of images that are held at once."""
    batches = iter(batches)
    first = next(batches, None)
    if first is not None:
        yield from regroup(itertools.chain([first], batches), block_size(first.images.shape[1:]))


def block_size(shape: tuple[int, ...]) -> int:
    """Return how many images of a shape are held at once."""
    return max(1, min(READ_BLOCK, READ_BYTES // int(np.prod(shape))))


def over_processes(own: FeatureSet) -> FeatureSet:
    """Concatenate the sets of all processes of a run."""
    counts = all_gather(np.array(len(own)))
    if len(counts) == 1:
        return own
    return FeatureSet(*(exchange(np.asarray(array), counts) for array in own))


class About(NamedTuple):
    """What a protocol says of images: their number, and a fingerprint of pixels and labels."""

    images: int
    content: str


class DataFeatures(NamedTuple):
    """What is known of the images of a source that can be read.

    Attributes:
        images: Their features, logits, labels and sharpness.
        indices: Their indices in the source, int64 [N].
        content: Their number, and a fingerprint of their pixels and labels.
    """

    images: FeatureSet
    indices: np.ndarray
    content: About


class Content:
    """What is known of images while they are read; the same in whatever parts that happens."""

    def __init__(self) -> None:
        self._digests: list[bytes] = []

    def add(self, batch: Batch) -> None:
        """Add images."""
        for image, label in zip(*batch, strict=True):
            parts = np.ascontiguousarray(image).data, np.asarray(label, np.int32).data
            self._digests.append(bytes.fromhex(fingerprint(parts)))

    def gather(self) -> About:
        """Return what is known of the images of all processes."""
        own = np.frombuffer(b"".join(self._digests), np.uint8).reshape(-1, 8)
        found = exchange(own, all_gather(np.array(len(own))))
        return About(len(found), fingerprint([found.data]))


def data_features(
    net: FeatureNet, identity: Mapping[str, Any], source: Source, options: DataOptions
) -> DataFeatures:
    """Compute what is known of a source's images, or take it from the cache folder.

    It is kept under a digest of the content of the data, how they are read, and the feature net.
    All processes of a run call this together.

    Args:
        net: The feature net, which sees images without their border.
        identity: The net's identity, from `create_extractor`.
        source: The images.
        options: How they are read.

    Raises:
        UsageError: Not one image can be read.
    """
    settings = {
        "content": digest_of(source.contents(options.digest == "full")),
        "options": {name: getattr(options, name) for name in OPTIONS},
        "spec": dataclasses.asdict(source.spec),
        "extractor": dict(identity),
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_folder() / "features" / f"{key}.npy"
    kept = _read_kept(path)
    if all_gather(np.array(kept is not None)).all() and kept is not None:
        return kept
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        table = Path(folder) / "table.npy"

        def allocate(shape: tuple[int, int]) -> np.ndarray:
            return np.lib.format.open_memmap(table, mode="w+", dtype=np.float32, shape=shape)

        content, indices = Content(), list[int]()

        def batches() -> Iterator[Batch]:
            for batch, some in read_readable(source, part):
                bare = Batch(without_border(batch.images, options), batch.labels)
                content.add(bare)
                indices.extend(some)
                yield bare

        part = share(len(source))
        own = measure(net, batches(), len(range(len(source))[part]), allocate)
        images = over_processes(own)
        if not len(images):
            raise UsageError(f"{options.split}: not one image can be read")
        rows = exchange(np.asarray(indices), all_gather(np.array(len(indices))))
        found = DataFeatures(images, rows, content.gather())
        if is_first() and images.features.nbytes + images.logits.nbytes <= MAX_KEPT_BYTES:
            _keep(path, found)
        return found


def _keep(path: Path, found: DataFeatures) -> None:
    """Write features and logits to a .npy, which is mapped when read, and the rest beside it."""
    images = found.images
    shape = len(images), images.features.shape[1] + images.logits.shape[1]
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        table = np.lib.format.open_memmap(Path(folder) / path.name, "w+", np.float32, shape)
        for start in range(0, len(table), KEPT_BLOCK):
            some = slice(start, start + KEPT_BLOCK)
            np.concatenate([images.features[some], images.logits[some]], 1, out=table[some])
        table.flush()
        os.replace(Path(folder) / path.name, path)
    rest = {"width": images.features.shape[1], "labels": images.labels, "indices": found.indices}
    about = rest | {"sharpness": images.sharpness, "content": found.content.content}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, sha256=_sha256(path), **about)
    write_atomically(path.with_suffix(".npz"), buffer.getvalue())


def _read_kept(path: Path) -> DataFeatures | None:
    """Return what `_keep` wrote; None if it is not there or damaged."""
    if not path.is_file() or not path.with_suffix(".npz").is_file():
        return None
    try:
        with np.load(path.with_suffix(".npz")) as file:
            about = dict(file)
        if str(about["sha256"]) == _sha256(path):
            table, width = np.load(path, mmap_mode="r"), int(about["width"])
            rest = about["labels"], about["sharpness"]
            images = FeatureSet(table[:, :width], table[:, width:], *rest)
            content = About(len(images), str(about["content"]))
            return DataFeatures(images, about["indices"], content)
    except (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile):
        pass
    log.warning("%s is damaged: it is made anew", path)
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def without_border(images: jax.Array | np.ndarray, options: DataOptions) -> np.ndarray:
    """Cut `options.border` off images [N, H, W, C]."""
    inside = slice(options.border, -options.border or None)
    return np.asarray(images)[:, inside, inside]
