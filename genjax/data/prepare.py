"""The work of `genjax prepare`: decoding a data set once, into a file that streams fast.

Images go as rows of one size into a file in a folder beside the output, each with a checksum, so
that work that was stopped in any way goes on after the last whole row. At the end the rows become
the records of the output, which gets its name when it is complete.
"""

import contextlib
import dataclasses
import errno
import itertools
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import filelock
import numpy as np
import tyro

from genjax.data.batches import read_blocks
from genjax.data.broken import BrokenImage
from genjax.data.digest import digest_of
from genjax.data.prepared import SUFFIX, About, PreparedFile, PreparedWriter, from_bytes, to_bytes
from genjax.data.source import DataOptions, Source
from genjax.data.sources import absolute, open_source
from genjax.types import UsageError

log = logging.getLogger("genjax")

# Options that do not decide what the images are.
HOW = ("data_dir", "digest", "on_broken", "resident_gib")
# The label of a broken image, which is left out at the end.
BROKEN = -1
# Bytes for the names and other things that go with each image, at most.
BESIDE = 500


def prepare(
    data: tyro.conf.Positional[str],
    output: Annotated[str | Path, tyro.conf.arg(aliases=["-o"])],
    options: Annotated[DataOptions, tyro.conf.arg(name="")] = DataOptions(),  # noqa: B008 - frozen
) -> str:
    """Decode a data set once, into a file that streams several times as fast: `--data FILE`.

    After Ctrl-C or a crash the same command goes on where it stopped. While it works it needs twice
    the space of the file.

    Args:
        data: digits, tfds:NAME, folder:PATH, or the path of a .zip.
        output: The file, which ends in .array_record. Beside it, FILE.part holds unfinished work.
        options: How the data are read. The images of `split` are the split train of the file, those
            of `test_split` its split test.

    Returns:
        A line with the number of images, their shape and the size of the file.

    Raises:
        UsageError: The data cannot be read, an image is broken and `on_broken` is `refuse`, the
            output exists or cannot be written, or unfinished work is of other data or options.
        OSError: The disk is full.
        KeyboardInterrupt: It was stopped; the message says how far it came.
    """
    output = Path(output)
    _check_output(output)
    sources = {"train": open_source(data, options)}
    if options.test_split:
        sources["test"] = open_source(data, options.for_test)
    contents = sources["train"].contents(options.digest == "full")
    about = _describe(absolute(data), options, sources, digest_of(contents))
    if output.exists():
        if not _is_same(PreparedFile(output).about, about):
            raise UsageError(f"{output} exists, and is of other data or options: delete it first")
        return f"{output} is there already, of these data and options"
    part = Path(f"{output}.part")
    _refuse_small_disk(output, part, about)
    with _locked(part), _explaining(output):
        _check_begun(part, about)
        with _Rows(part / "rows", about) as rows:
            _decode(sources.values(), rows, options.on_broken == "skip")
            names = [s.name(i) for s in sources.values() for i in range(len(s))]
            sizes = [len(source) for source in sources.values()]
            _write(part / "complete", rows, about, names, sizes, contents)
        (part / "complete").replace(output)
        shutil.rmtree(part)
    images = PreparedFile(output).about.images
    gib = output.stat().st_size / 2**30
    return f"{output}: {images:,} images of {about.spec.shape}, {gib:.2f} GiB"


def _check_output(output: Path) -> None:
    if output.suffix.lower() != SUFFIX:
        raise UsageError(f"output {output}: should end in {SUFFIX}")
    if not output.absolute().parent.is_dir():
        raise UsageError(f"output {output}: no folder {output.absolute().parent}")
    if output.is_dir():
        raise UsageError(f"output {output} is a folder")


def _describe(data: str, options: DataOptions, sources: dict[str, Source], digest: str) -> About:
    """Return what the file will say of itself if no image is broken."""
    first, defaults = next(iter(sources.values())), dataclasses.asdict(DataOptions())
    given = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(options).items()
        if name not in HOW and value != defaults[name]
    }
    spec = dataclasses.replace(first.spec, empty_classes=())
    splits = {name: len(source) for name, source in sources.items()}
    return About(data, digest, given, spec, tuple(map(str, first.class_names)), splits)


def _is_same(a: About, b: About) -> bool:
    """Return whether two files are of the same images, from wherever and however many."""

    def identity(about: About) -> Any:
        return about.digest, about.options, about.spec, about.class_names, about.splits.keys()

    return identity(a) == identity(b)


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[None]:
    """Make the folder of unfinished work, and let one process work there."""
    part.mkdir(exist_ok=True)
    lock = filelock.FileLock(part / "lock", timeout=0)
    try:
        with lock:
            yield
    except filelock.Timeout as error:
        raise UsageError(f"another process works in {part}") from error


@contextlib.contextmanager
def _explaining(output: Path) -> Iterator[None]:
    """Say what goes on where a disk is full, or after Ctrl-C."""
    goes_on = "the same command goes on"
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; {goes_on} with {output}") from None
    except (OSError, RuntimeError) as error:  # the writer of records raises the latter
        number = error.errno if isinstance(error, OSError) else errno.EIO
        text = os.strerror(number or errno.EIO) if isinstance(error, OSError) else str(error)[:200]
        raise OSError(number, f"{text}; when that is mended {goes_on}", str(output)) from error


def _check_begun(part: Path, about: About) -> None:
    """Begin a folder of unfinished work, or refuse one of other data or options."""
    path = part / "about.json"
    try:
        begun = from_bytes(path.read_bytes())
    except FileNotFoundError:
        path.write_bytes(to_bytes(about))
        return
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} cannot be read: delete {part} to begin anew") from error
    if not _is_same(begun, about) or begun.splits != about.splits:
        what = "other options" if begun.digest == about.digest else "other data or options"
        raise UsageError(
            f"{part} was begun from {what} (of {begun.data}, {json.dumps(begun.options)}): delete "
            "it to begin anew, or give another --output"
        )


class _Rows:
    """The file of rows: image, label and checksum, in the order of the sources.

    Attributes:
        done: The number of rows that are there.
    """

    def __init__(self, path: Path, about: About):
        self._image_bytes = int(np.prod(about.spec.shape))
        self._size = self._image_bytes + 8
        path.touch()
        self._file = path.open("r+b")
        self.done = min(about.images, path.stat().st_size // self._size)
        while self.done and self._read(self.done - 1) is None:  # a power cut leaves zeros
            self.done -= 1
        self._file.truncate(self.done * self._size)
        self._file.seek(0, os.SEEK_END)

    def __enter__(self) -> "_Rows":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def append(self, image: np.ndarray | None, label: int) -> None:
        """Append a row; zeros if there is no image."""
        content = (image.tobytes() if image is not None else bytes(self._image_bytes)) + int(
            label
        ).to_bytes(4, "little", signed=True)
        self._file.write(content + zlib.crc32(content).to_bytes(4, "little"))
        self.done += 1

    def _read(self, row: int) -> tuple[bytes, int] | None:
        """Return the image and label of a row, None if it is damaged."""
        self._file.seek(row * self._size)
        found = self._file.read(self._size)
        if zlib.crc32(found[:-4]) != int.from_bytes(found[-4:], "little"):
            return None
        label = int.from_bytes(found[-8:-4], "little", signed=True)
        return found[: self._image_bytes], label

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        """Iterate over the images and labels.

        Raises:
            UsageError: A row is damaged.
        """
        self._file.flush()
        for row in range(self.done):
            found = self._read(row)
            if found is None:
                raise UsageError(f"{self._file.name} is damaged: delete its folder to begin anew")
            yield found


def _refuse_small_disk(output: Path, part: Path, about: About) -> None:
    """Raise a `UsageError` if the disk has no room for the rows to come and the output."""
    rows = part / "rows"
    done = rows.stat().st_size if rows.exists() else 0
    needed = 2 * about.images * (int(np.prod(about.spec.shape)) + BESIDE) - done + 2**17
    free = shutil.disk_usage(output.absolute().parent).free
    if needed > free:
        raise UsageError(
            f"output {output}: needs {needed / 2**30:,.2f} GiB while it is written, and the disk "
            f"has {free / 2**30:,.2f} GiB free"
        )


def _decode(sources: Iterable[Source], rows: _Rows, skip_broken: bool) -> None:
    """Append the images that are not among the rows yet.

    Raises:
        UsageError: An image is broken, and is not to be skipped.
    """
    begin = 0
    for source in sources:
        left = slice(max(0, rows.done - begin), None)
        begin += len(source)
        for example in itertools.chain.from_iterable(read_blocks(source, left)):
            if not isinstance(example, BrokenImage):
                rows.append(*example)
            elif skip_broken:
                log.warning("left out a broken image: %s", example)
                rows.append(None, BROKEN)
            else:
                raise UsageError(f"{example}; --on-broken skip leaves it out")


def _write(
    path: Path,
    rows: _Rows,
    about: About,
    names: Sequence[str],
    sizes: Sequence[int],
    contents: dict[str, str],
) -> None:
    """Write the file from the rows, without the broken images.

    Raises:
        UsageError: All images of a split are broken.
    """
    writer = PreparedWriter(path)
    labels = np.zeros(rows.done, np.int32)
    for i, (image, label) in enumerate(rows):
        labels[i] = label
        if label != BROKEN:
            writer.write(image)
    kept = labels != BROKEN
    counts = [int(part.sum()) for part in np.split(kept, np.cumsum(sizes)[:-1])]
    if not all(counts):
        raise UsageError(f"not one image of {about.data} can be read")
    splits = dict(zip(about.splits, counts, strict=True))
    about = dataclasses.replace(about, splits=splits)
    writer.close(list(itertools.compress(names, kept)), labels[kept], contents, about)
