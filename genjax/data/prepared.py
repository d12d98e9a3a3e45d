"""The file that `genjax prepare` writes: decoded images in one array_record.

Its records are the images, uint8 [H, W, C] without a header, then their names, their labels, what
the data held, and last an object that says what the file is. Each record has a checksum.
"""

import dataclasses
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError

from genjax.console import printable
from genjax.data.digest import pack, unpack
from genjax.types import ImageSpec, UsageError, checked

SUFFIX = ".array_record"
# The version of the file; it increases when an older reader would misread it.
FORMAT = 1
# The records after the images.
TAIL = 4


@checked
class About:
    """What a prepared file says of itself.

    Attributes:
        data: The data that it was made of.
        digest: Their digest.
        options: The options that decided what the images are, those of the default left out.
        spec: Shape and number of classes of each image.
        class_names: Names of the classes.
        splits: The number of images of each split; they follow each other.
        format: The version of the file.
    """

    data: str
    digest: str
    options: dict[str, Any]
    spec: ImageSpec
    class_names: tuple[str, ...]
    splits: dict[str, Annotated[int, Field(gt=0)]]
    format: int = FORMAT

    @property
    def images(self) -> int:
        """Number of images of all splits."""
        return sum(self.splits.values())


def to_bytes(about: About) -> bytes:
    """Write what a file says of itself as JSON."""
    return json.dumps(dataclasses.asdict(about)).encode()


def from_bytes(data: bytes) -> About:
    """Read what `to_bytes` wrote.

    Raises:
        ValueError: It is something else.
    """
    return About(**json.loads(data))


class PreparedFile:
    """A prepared file that was opened; several threads may read it.

    Args:
        path: A local file.

    Raises:
        UsageError: It is damaged or no prepared file.

    Attributes:
        about: What it says of itself.
        labels: The label of each image, int32 [N].
    """

    def __init__(self, path: str | os.PathLike[str]):
        from array_record.python.array_record_module import ArrayRecordReader

        self._path = os.fspath(path)
        try:
            self._reader = ArrayRecordReader(self._path, "readahead_buffer_size:0")
            count = self._reader.num_records()
            if not self._reader.ok() or count < TAIL:
                raise ValueError(f"{count} records")
            (last,) = self._reader.read([count - 1])
            self.about = from_bytes(last)
        except (RuntimeError, ValueError, TypeError, ValidationError) as error:
            raise UsageError(
                f"{printable(self._path)} is no file of genjax prepare, or damaged or cut short"
            ) from error
        if self.about.format != FORMAT:
            raise UsageError(
                f"{self._path} is of another version of genjax (format {self.about.format}, not "
                f"{FORMAT}): prepare it again"
            )
        labels = np.frombuffer(self._tail(1), np.int32)
        is_whole = len(labels) == self.about.images == count - TAIL
        if not is_whole or not 0 <= labels.min() <= labels.max() < max(1, self.about.spec.classes):
            raise UsageError(f"{self._path} is damaged: its labels do not fit its images")
        self.labels = labels

    def _tail(self, place: int) -> bytes:
        """Return one of the records after the images: names, labels, contents."""
        try:
            (found,) = self._reader.read([self.about.images + place])
        except RuntimeError as error:
            raise UsageError(f"{self._path} is damaged: {str(error)[:100]}") from error
        return found

    def names(self) -> list[str]:
        """Read the names of the images."""
        names: list[str] = json.loads(zlib.decompress(self._tail(0)))
        return names

    def contents(self) -> dict[str, str]:
        """Read what the data held that the file was made of; see `Source.contents`."""
        return unpack(self._tail(2))

    def read(self, rows: Sequence[int]) -> list[np.ndarray]:
        """Read images, uint8 [H, W, C].

        Raises:
            RuntimeError, ValueError: One is damaged.
        """
        shape = self.about.spec.shape
        return [np.frombuffer(r, np.uint8).reshape(shape) for r in self._reader.read(list(rows))]


class PreparedWriter:
    """A writer of a prepared file, which can be read only after `close`."""

    def __init__(self, path: str | os.PathLike[str]):
        from array_record.python.array_record_module import ArrayRecordWriter

        # A record a chunk, so that an image is read alone; decoded pictures hardly compress.
        self._writer = ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
        self._path = path

    def write(self, image: bytes) -> None:
        """Append an image."""
        self._writer.write(image)

    def close(
        self, names: Sequence[str], labels: np.ndarray, contents: Mapping[str, str], about: About
    ) -> None:
        """Append what goes with the images, and see to it that all is on the disk."""
        self.write(zlib.compress(json.dumps(names).encode()))
        self.write(labels.astype(np.int32).tobytes())
        self.write(pack(contents))
        self.write(to_bytes(about))
        self._writer.close()
        with open(self._path, "rb") as file:
            os.fsync(file.fileno())
