"""Sources: random access to labelled images, behind one interface.

    open_source("digits" | "tfds:NAME" | "hf:NAME" | "folder:PATH" | "PATH.zip" | "PATH.npz" |
        "PATH.npy" | "PATH.array_record", options)
    open_source("stacked:DATA", options): three gray images of DATA as the channels of one
    open_source("value:DIGEST", options): data that were given as a value; see `values`

A PATH may be gs://, s3:// or hf://. Images are decoded when they are read; if no size is
given, their headers are read on opening.
"""

import collections
import contextlib
import dataclasses
import functools
import importlib.util
import json
import math
import re
import shutil
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from etils import epath
from PIL import Image

from genjax.console import printable
from genjax.data.broken import BrokenImage, cause_of, first_line
from genjax.data.digest import by_digest, fingerprint
from genjax.data.images import (
    converted_mode,
    decode,
    is_16_bit,
    needed_bits,
    to_array,
    upright_size,
)
from genjax.data.labels import JSON, lay_out
from genjax.data.names import IMAGE_SUFFIXES, SYSTEM, canonical, left_out, some
from genjax.data.paths import is_remote, to_path, walk
from genjax.data.prepared import SUFFIX, PreparedFile
from genjax.data.source import (
    RESAMPLE,
    ArraySource,
    Bordered,
    DataOptions,
    Example,
    ManySizes,
    MissingData,
    Source,
    Stacked,
    Subset,
    Unnamed,
    fingerprints,
    fit_array,
    other_size,
    with_border,
    with_labels,
)
from genjax.data.values import ARRAYS, VALUE, Fitted, find, open_arrays, open_hub
from genjax.types import MAX_SIDE, ImageSpec, UsageError

# The largest file that is taken for an image, in bytes.
MAX_FILE_BYTES = 2**30
# What a digest reads unless it is to be full: this many files, of each so many bytes at both ends.
SAMPLED_FILES, SAMPLED_BYTES = 1000, 2**16
# The number of files whose headers are read for sizes and colours, and what of each is read first.
SCANNED_FILES, HEAD_BYTES = 10_000, 2**16
THREADS = 16  # for small reads, which wait for a disk or bucket
# Before a host that is asked for a data set counts as out of reach.
SECONDS_TO_ANSWER = 10
# The number of images whose values say how many bits 16-bit files use.
DEPTH_IMAGES = 100
STACKED, HUB = "stacked", "hf"
# The endings of files that are data.
ENDINGS = (".zip", SUFFIX, *ARRAYS)


class TfdsSource(Unnamed):
    """A split of a tensorflow-datasets image data set, read without TensorFlow."""

    labels = None  # they stand in the records

    def __init__(self, name: str, options: DataOptions):
        source, features = _open_tfds(name, options)
        self._source, self._fit = source, options.fit
        self._bit_depth = options.bit_depth or 16
        self._image_key, self.spec, self.class_names = _read_features(name, features, options)

    def __len__(self) -> int:
        return len(self._source)

    def contents(self, full: bool) -> dict[str, str]:
        """Return a fingerprint of the split's images; see `Source.contents`."""
        return fingerprints(self, full)

    def read(self, indices: Sequence[int]) -> list[Example | BrokenImage]:
        """Read the examples at `indices`; see `Source.read`."""
        return [
            (
                fit_array(record[self._image_key], self.spec, self._fit, self._bit_depth),
                int(record["label"]) if self.class_names else 0,
            )
            for record in self._source.__getitems__([int(i) for i in indices])
        ]


class PreparedSource:
    """Images that `genjax prepare` has decoded into a file.

    Args:
        path: The file, on this machine.
        options: How it is read; a split is one that it has, or several joined by `+`.

    Raises:
        UsageError: It is damaged or something else, or an option comes too late.
    """

    def __init__(self, path: epath.Path, options: DataOptions):
        if is_remote(path):
            raise UsageError(
                f"{path}: a prepared file is read from a disk; copy it to each machine"
            )
        if not path.is_file():
            raise MissingData(f"no file {path}")
        self._file, self._where, self._fit = PreparedFile(path), str(path), options.fit
        about = self._file.about
        if options.class_by != "auto" or options.bit_depth is not None:
            raise UsageError(
                f"{path} is prepared: give --class-by and --bit-depth to genjax prepare"
            )
        starts = dict(zip(about.splits, np.cumsum([0, *about.splits.values()]), strict=False))
        wanted = options.split.split("+")
        if not set(wanted) <= set(starts):
            raise UsageError(
                f"{path} has no split {options.split!r}: wanted {' or '.join(map(repr, starts))}"
            )
        rows = [starts[name] + np.arange(about.splits[name]) for name in wanted]
        self._rows = np.concatenate(rows)
        self.labels = self._file.labels[self._rows]
        self.class_names: Sequence[str] = about.class_names
        height, width = options.height_width or (about.spec.height, about.spec.width)
        channels = options.channels or about.spec.channels
        self.spec = with_labels(ImageSpec(height, width, channels, about.spec.classes), self.labels)
        self.notes = [f"prepared from {printable(about.data)}, digest {about.digest}"]

    @functools.cached_property
    def _names(self) -> list[str]:
        return self._file.names()

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        """Return the name that the image had."""
        return self._names[self._rows[index]]

    def read(self, indices: Sequence[int]) -> list[Example | BrokenImage]:
        """Read the examples at `indices`; see `Source.read`."""
        try:
            images = self._file.read([int(self._rows[i]) for i in indices])
        except (RuntimeError, ValueError) as error:  # it does not say which of them is damaged
            if len(indices) > 1:
                return [self.read([i])[0] for i in indices]
            return [BrokenImage(self.name(indices[0]), cause_of(error))]
        return [
            (fit_array(image, self.spec, self._fit), int(self.labels[i]))
            for i, image in zip(indices, images, strict=True)
        ]

    def contents(self, full: bool) -> dict[str, str]:
        """Return what was prepared, and how; see `Source.contents`."""
        del full  # the file says what was known when it was made
        how = json.dumps(self._file.about.options, sort_keys=True)
        return self._file.contents() | {f"prepared: {how}": "- - "}


def _read_features(
    name: str, features: Any, options: DataOptions
) -> tuple[str, ImageSpec, Sequence[str]]:
    """Return the key and shape of a tensorflow-datasets data set's images, and its class names."""
    image_key, image = _one_feature(features, "Image", f"tfds:{name}")
    label: Any = dict(features.items()).get("label")
    has_labels = getattr(label, "num_classes", None) is not None
    class_names: Sequence[str] = label.names if has_labels else []
    height, width, channels = image.shape
    if options.height_width:
        height, width = options.height_width
    if height is None or width is None:
        raise ManySizes(f"tfds:{name} has images of many sizes: give --size HEIGHT [WIDTH]")
    if np.dtype(image.np_dtype) not in (np.uint8, np.uint16):
        raise UsageError(f"tfds:{name} has {image.np_dtype} images; wanted uint8 or uint16")
    channels = options.channels or (1 if channels == 1 else 3)
    return image_key, ImageSpec(height, width, channels, len(class_names)), class_names


class File(NamedTuple):
    """A file of a folder or archive.

    Attributes:
        name: Its name, as the folder or archive writes it.
        size: Its size in bytes, unpacked; -1 if it cannot be known.
        checksum: That of its content, where an archive has one; else empty.
    """

    name: str
    size: int
    checksum: str = ""


class FileSource:
    """The image files of a folder or a zip archive.

    Args:
        files: All its files.
        read: Function from a file's place in `files` to its content.
        where: Its name in messages.
        options: How the images are read.
        left: Further notes on what was left out.
        head: Function from a file's place to its first `HEAD_BYTES`; None to read the whole.

    Raises:
        UsageError: It holds no images, or images of several sizes and no size is given, or its
            `dataset.json` cannot be used.

    Attributes:
        sizes: How many images have which (height, width), by their headers; of a large set, how
            many of a sample.
        modes: How many of them have which PIL mode.
    """

    def __init__(
        self,
        files: Sequence[File],
        read: Callable[[int], bytes],
        where: str,
        options: DataOptions,
        left: Sequence[str] = (),
        head: Callable[[int], bytes] | None = None,
    ):
        names = [canonical(file.name) for file in files]
        why = [left_out(name) for name in names]
        images = sorted(
            (i for i, reason in enumerate(why) if reason is None), key=lambda i: names[i]
        )
        tables = {
            name: functools.partial(read, i)
            for i, name in enumerate(names)
            if name.rpartition("/")[2] == JSON and why[i] != SYSTEM
        }
        reasons = collections.Counter(
            reason
            for name, reason in zip(names, why, strict=True)
            if reason is not None and name not in tables
        )
        left = [*left, *_left_out_note(reasons)]
        if not images:
            known = " ".join(sorted(IMAGE_SUFFIXES))
            found = f" ({'; '.join(left)})" if left else ""
            raise UsageError(
                f"{where} holds no images{found}; looked for files that end in {known}"
            )
        layout = lay_out([names[i] for i in images], tables, where, options.split, options.class_by)
        self._all, self._classes, self._names = [files[i] for i in images], layout.classes, names
        self._own = [images[i] for i in layout.images]
        if not self._own:
            raise UsageError(
                f"{where} has no images in {options.split!r}: {'; '.join(layout.notes)}"
            )
        self._files, self._read, self._images = files, read, images
        self._head = head or read
        self._fit, self._where = options.fit, where
        self.class_names: Sequence[str] = [printable(name) for name in layout.class_names]
        number = {name: label for label, name in enumerate(layout.class_names)}
        classes = [layout.classes[i] for i in layout.images]
        self.labels = np.array([number.get(c, 0) if c else 0 for c in classes], np.int32)
        self.notes = [*left, *layout.notes]
        self.sizes: collections.Counter[tuple[int, int]] = collections.Counter()
        self.modes: collections.Counter[str] = collections.Counter()
        self._broken: BrokenImage | None = None  # the first one, by the headers
        self._resized = options.height_width is not None
        if not (options.height_width and options.channels):
            self._scan()
        channels = options.channels or (
            1 if all(converted_mode(m) == "L" for m in self.modes) else 3
        )
        height, width = options.height_width or self._common_size()
        spec = ImageSpec(height, width, channels, len(self.class_names))
        self.spec = with_labels(spec, self.labels)
        self._bit_depth = options.bit_depth or self._find_bit_depth()

    def _find_bit_depth(self) -> int:
        """Return the fewest bits that the 16-bit images of a sample need; 16 if there is none.

        Those of all splits count, so that the splits have one scale.
        """

        def bits(image: Image.Image) -> int:
            return needed_bits(image) if is_16_bit(image) else 0

        needed = 0
        for place in self._images[:: math.ceil(len(self._images) / DEPTH_IMAGES)]:
            with contextlib.suppress(Exception):  # some formats need more, or the whole
                if not decode(self._head(place), is_16_bit):
                    continue
            with contextlib.suppress(Exception):  # of every class, for a broken image
                needed = max(needed, decode(self._bytes(place), bits))
        if 0 < needed < 16:
            self.notes.append(
                f"values of 16-bit files end at {2**needed - 1} of 65535, which is white: "
                f"--bit-depth {needed}"
            )
        return min(needed or 16, 16)

    def _scan(self) -> None:
        """Count sizes and modes from the headers, ignoring broken ones, which fail when read.

        Those of all splits count, so that the splits have one shape; of many files, those of a
        sample by name.
        """

        def header(place: int) -> tuple[tuple[int, int], str] | BrokenImage:
            data = b""

            def of(image: Image.Image) -> tuple[tuple[int, int], str]:
                return upright_size(image), "RGBA" if image.mode == "P" else image.mode

            try:
                with contextlib.suppress(Exception):  # some formats need more, or the whole
                    return decode(self._head(place), of)
                data = self._bytes(place)
                return decode(data, of)
            except Exception as error:  # of every class, as decoders raise them
                return BrokenImage(self._names[place], cause_of(error, data))

        places = self._images
        if len(places) > SCANNED_FILES:
            chosen = by_digest((self._names[place] for place in places), SCANNED_FILES)
            places = [place for place in places if self._names[place] in chosen]
            self.notes.append(
                f"sizes and colours are those of {len(places):,} of {len(self._images):,} images"
            )
        for place, found in zip(places, map(header, places), strict=True):
            if isinstance(found, BrokenImage):
                self._broken = self._broken or found
            elif max(found[0]) > MAX_SIDE and not self._resized:
                height, width = found[0]
                cause = f"{height}x{width} pixels: more than {MAX_SIDE} a side; --size scales it"
                self._broken = self._broken or BrokenImage(self._names[place], cause)
            else:
                self.sizes[found[0]] += 1
                self.modes[found[1]] += 1

    def _common_size(self) -> tuple[int, int]:
        if len(self.sizes) == 1:
            return next(iter(self.sizes))
        if not self.sizes:
            raise UsageError(
                f"{self._where}: not one of {len(self._images)} images can be read: {self._broken}"
            )
        common = ", ".join(f"{h}x{w}" for (h, w), _ in self.sizes.most_common(3))
        raise ManySizes(
            f"{self._where} has images of {len(self.sizes)} sizes (such as {common}): "
            "give --size HEIGHT [WIDTH]"
        )

    def __len__(self) -> int:
        return len(self._own)

    def name(self, index: int) -> str:
        """Return the name of an image."""
        return printable(self._names[self._own[index]])

    def _bytes(self, place: int) -> bytes:
        if (size := self._files[place].size) > MAX_FILE_BYTES:
            raise UsageError(f"has {size:,} bytes, and at most {MAX_FILE_BYTES:,} are read")
        return self._read(place)

    def read(self, indices: Sequence[int]) -> list[Example | BrokenImage]:
        """Read the examples at `indices`; see `Source.read`."""
        return [self._read_one(self._own[i], int(self.labels[i])) for i in indices]

    def _read_one(self, place: int, label: int) -> Example | BrokenImage:
        data = b""
        try:
            data = self._bytes(place)
            return decode(data, self._to_array), label
        except Exception as error:  # of every class, as decoders and archives raise them
            return BrokenImage(self._names[place], cause_of(error, data))

    def _to_array(self, image: Image.Image) -> np.ndarray:
        height, width, _ = self.spec.shape
        if not self._resized and (found := upright_size(image)) != (height, width):
            raise UsageError(other_size(found, (height, width)))
        return to_array(image, self.spec.shape, self._fit, RESAMPLE, self._bit_depth)

    def contents(self, full: bool) -> dict[str, str]:
        """Return size, class and fingerprint of each image, of all splits; see `Source.contents`.

        Checksums of an archive are taken for the fingerprints.
        """
        names = [self._files[place].name for place in self._images]
        chosen = set(names) if full else by_digest(names, SAMPLED_FILES)

        def read(place: int) -> str:
            try:
                data = self._bytes(place)
            except Exception:  # a file that cannot be read has no content
                return ""
            is_whole = full or len(data) <= 2 * SAMPLED_BYTES
            return fingerprint(
                [data] if is_whole else [data[:SAMPLED_BYTES], data[-SAMPLED_BYTES:]]
            )

        places = [
            place
            for name, place in zip(names, self._images, strict=True)
            if name in chosen and not self._files[place].checksum
        ]
        with ThreadPoolExecutor(THREADS) as pool:
            prints = dict(zip(places, pool.map(read, places), strict=True))
        return {
            name: f"{file.size} {known or '-'} {file.checksum or prints.get(place, '')}"
            for name, place, file, known in zip(
                names, self._images, self._all, self._classes, strict=True
            )
        }


def class_note(source: Source) -> list[str]:
    """Say how many images the classes have, if that is known before they are read."""
    if source.labels is None or not source.class_names:
        return []
    counts = np.bincount(source.labels, minlength=source.spec.classes)
    named = {str(name): int(n) for name, n in zip(source.class_names, counts, strict=True)}
    return [f"{source.spec.classes:,} classes: {list_counts(collections.Counter(named))}"]


def list_counts(counter: collections.Counter[str], most: int = 12) -> str:
    """List the most common entries with their counts."""
    text = ", ".join(f"{name} ({count:,})" for name, count in counter.most_common(most))
    return text + (f", and {len(counter) - most} more" if len(counter) > most else "")


def _left_out_note(reasons: collections.Counter[str]) -> list[str]:
    """Say how many files were left out, those of the system and the others by their endings."""
    parts = []
    if of_system := reasons.pop(SYSTEM, 0):
        parts.append(f"{of_system:,} that a system or program keeps for itself")
    if reasons:
        endings = ", ".join(f"{end or 'no ending'} ({n:,})" for end, n in reasons.most_common(8))
        parts.append(f"{reasons.total():,} of other kinds: {printable(endings)}")
    return [f"files left out: {'; '.join(parts)}"] if parts else []


def open_source(data: str, options: DataOptions) -> Source:
    """Open the source that `data` names.

    Args:
        data: `digits`, `tfds:NAME`, `hf:NAME_OR_PATH`, `folder:PATH`, or the path of a .zip, .npz,
            .npy, or of an .array_record that `genjax prepare` wrote (`folder:` may stand before
            it); `value:` and a digest for data that were given as a value; or `stacked:` and one of
            these.
        options: How the source is read.

    Raises:
        UsageError: The source is unknown, its path or data set is missing, or the options do not
            fit its images.
    """
    source = _open(data, options)
    return Bordered(source, options.border) if options.border else source


def expected_spec(data: str, options: DataOptions) -> ImageSpec:
    """Return the shape of the images that `data` names, if possible without reading any.

    Files that are not on this machine are assumed to have the size `options.size`, colours and no
    classes.

    Raises:
        UsageError: The shape cannot be known.
    """
    kind, _, name = data.partition(":")
    if kind == "tfds":
        features = _tfds_builder(name, options).info.features
        _, spec, _ = _read_features(name, features, options)
        return with_border(spec, options.border)
    path = to_path(name if kind == "folder" else data)
    is_files = kind == "folder" or (kind != STACKED and path.suffix.lower() in ENDINGS)
    if is_files and options.height_width and not path.exists():
        spec = ImageSpec(*options.height_width, options.channels or 3)
        return with_border(spec, options.border)
    return open_source(data, options).spec


def _open(data: str, options: DataOptions) -> Source:
    kind, _, name = data.partition(":")
    source: Source
    if kind == STACKED and name:
        return Stacked(_open(name, options), data)
    if kind == "tfds" and name:
        return TfdsSource(name, options)  # it takes the split itself
    split, first, last = _read_split(options.split, data)
    of_split = dataclasses.replace(options, split=split)
    is_of_hub = kind == HUB and not name.startswith("//")  # that is a path
    path = to_path("." if is_of_hub else name if kind == "folder" else data)
    if data == "digits" or kind == VALUE:
        if split != "train":
            raise _no_split(data, options.split)
        source = Fitted(find(data), options, data) if kind == VALUE else _open_digits(options)
    elif is_of_hub:
        source = Fitted(open_hub(name, split), options, data)
    elif path.suffix.lower() in ARRAYS:
        source = Fitted(open_arrays(path, split), options, data)
    elif path.suffix.lower() == ".zip":
        source = _open_zip(path, of_split)
    elif path.suffix.lower() == SUFFIX:
        source = PreparedSource(path, of_split)
    elif kind == "folder" and name:
        source = _open_folder(path, of_split)
    else:
        hint = ""
        if kind != "folder" and path.is_dir():
            hint = f"; did you mean folder:{data}?"
        elif path.is_file():
            hint = "; of archives, only a .zip is read: unpack others into a folder"
        raise UsageError(
            f"data {data!r} is unknown: wanted digits, tfds:NAME, hf:NAME, folder:PATH, PATH.zip, "
            f".npz or .npy, a prepared PATH{SUFFIX}, or stacked: and one of these{hint}"
        )
    if (first, last) == (0, 100):
        return source
    start, stop = (len(source) * percent // 100 for percent in (first, last))
    if start >= stop:
        raise _no_split(data, options.split)
    # The slice is of a fixed random order, because folders are sorted by class.
    return Subset(source, np.random.default_rng(0).permutation(len(source))[start:stop])


def _read_split(split: str, data: str) -> tuple[str, int, int]:
    """Read the split of data without splits of their own; return its name and the percents."""
    match = re.fullmatch(r"([a-z+]+)(?:\[(?:(\d{1,3})%)?:(?:(\d{1,3})%)?\])?", split)
    if match is None:
        raise _no_split(data, split)
    return match[1], int(match[2] or 0), min(100, int(match[3] or 100))


def _no_split(data: str, split: str) -> UsageError:
    return UsageError(
        f"{data} has no split {split!r}: wanted 'train', or a slice in percent such as "
        "'train[:80%]' or 'train[80%:]'"
    )


def absolute(data: str) -> str:
    """Make the path in `data` absolute, so that a run can be resumed from any folder."""
    kind, _, name = data.partition(":")
    if kind == STACKED:
        return f"{STACKED}:{absolute(name)}"
    if is_remote(data):
        return data
    if kind == "folder" and name:
        return f"folder:{Path(name).expanduser().resolve()}"
    if kind == HUB and Path(name).expanduser().is_dir():
        return f"{HUB}:{Path(name).expanduser().resolve()}"
    return str(Path(data).expanduser().resolve()) if data.lower().endswith(ENDINGS) else data


def _open_digits(options: DataOptions) -> Source:
    # The file of scikit-learn without the package, which takes two seconds to import.
    package = importlib.util.find_spec("sklearn")
    assert package is not None and package.origin is not None
    file = Path(package.origin).with_name("datasets") / "data" / "digits.csv.gz"
    rows = np.loadtxt(file, dtype=np.uint8, delimiter=",")  # each of 64 pixels and the class
    # The 17 gray levels, 0 to 16, are spread over 0 to 255.
    images = np.round(rows[:, :64].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    return ArraySource(images, rows[:, 64].astype(np.int64), [str(d) for d in range(10)], options)


def _open_folder(path: epath.Path, options: DataOptions) -> Source:
    if not path.is_dir():
        raise MissingData(f"no folder {path}")
    found, not_followed = walk(path)
    files = [File(*each) for each in found]

    def head(place: int) -> bytes:
        with (path / files[place].name).open("rb") as file:
            return file.read(HEAD_BYTES)

    links = [f"links not followed, as what they lead to is read already: {some(not_followed)}"]
    return FileSource(
        files,
        lambda place: (path / files[place].name).read_bytes(),
        str(path),
        options,
        links if not_followed else [],
        head,
    )


def _open_zip(path: epath.Path, options: DataOptions) -> Source:
    if not path.is_file():
        raise MissingData(f"no file {path}")
    try:
        archive = zipfile.ZipFile(path.open("rb") if is_remote(path) else path)
    except Exception as error:  # of every class
        raise UsageError(f"{path} cannot be read as a zip archive: {cause_of(error)}") from error
    named = ((_member_name(member), member) for member in archive.infolist())
    # Of members that mean one file the last one counts, as for those who unpack it.
    by_file = {canonical(name): (name, m) for name, m in named if not name.endswith(("/", "\\"))}
    members = list(by_file.values())
    files = [File(name, m.file_size, f"{m.CRC:08x}") for name, m in members]

    def head(place: int) -> bytes:
        with archive.open(members[place][1]) as file:
            return file.read(HEAD_BYTES)

    return FileSource(
        files, lambda place: archive.read(members[place][1]), str(path), options, head=head
    )


def _member_name(member: zipfile.ZipInfo) -> str:
    """Return the name of an archive's member, in UTF-8 even where a flag for that is missing."""
    if not member.flag_bits & 0x800:
        try:
            return member.filename.encode("cp437").decode()
        except UnicodeError:
            pass
    return member.filename


def _one_feature(features: Any, kind: str, where: str) -> tuple[str, Any]:
    for key, feature in features.items():
        if type(feature).__name__ == kind:
            return key, feature
    raise UsageError(f"{where} has no image: its features are {', '.join(features)}")


def _tfds_builder(name: str, options: DataOptions) -> Any:
    import tensorflow_datasets as tfds

    if options.data_dir is not None and is_remote(options.data_dir):
        # Without TensorFlow, array_record reads only local files.
        raise UsageError(
            f"data_dir = {options.data_dir}: tensorflow-datasets are read from a disk; copy it to "
            f"each machine, gcloud storage cp --recursive {options.data_dir}/{name} DIR, and give "
            "--data-dir DIR"
        )
    try:
        return tfds.builder(name, data_dir=options.data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise UsageError(f"tensorflow-datasets knows no data set {name!r}") from error
    except Exception as error:
        raise UsageError(
            f"tfds:{name} cannot be opened ({first_line(error)}); {_by_hand(name, options)}"
        ) from error


def _by_hand(name: str, options: DataOptions) -> str:
    """Return instructions to prepare a data set that cannot be prepared here."""
    return (
        f"prepare it where there is a network: pip install tensorflow, then "
        f"tfds build {name} --file_format=array_record"
        + (f" --data_dir={options.data_dir}" if options.data_dir else "")
    )


def _check_reachable(builder: Any, by_hand: str) -> None:
    """Raise a `UsageError` if no host of a data set answers, which tfds would try for minutes."""
    import requests  # of tfds

    infos = builder.url_infos or {}
    urls = {urlsplit(url).hostname: url for url in infos if url.startswith("http")}
    downloads = _root(builder) / "downloads"
    notes = b"".join(note.read_bytes() for note in downloads.glob("*.INFO"))  # of what is there
    is_here = any(
        url.encode() in notes or (info.filename and (downloads / "manual" / info.filename).exists())
        for url, info in infos.items()
    )
    if not urls or is_here or builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        return
    for url in urls.values():
        with contextlib.suppress(requests.RequestException):
            requests.head(url, timeout=SECONDS_TO_ANSWER)
            return
    raise UsageError(
        f"tfds:{builder.name} is not in {builder.data_path}, and to download it "
        f"{', '.join(map(str, urls))} cannot be reached; {by_hand}"
    )


def _root(builder: Any) -> Path:
    """Return the folder of all tfds data, in which a data set's is NAME/[CONFIG/]VERSION."""
    return Path(builder.data_path).parents[builder.info.full_name.count("/")]


def _folders(root: Path) -> list[Path]:
    """Return the folders that tfds makes before it has anything to keep, the inner ones first."""
    return [*root.glob("downloads/*"), *root.glob("*"), root] if root.is_dir() else []


def _open_tfds(name: str, options: DataOptions) -> tuple[Any, Any]:
    """Open a split's data source and its features, downloading what is missing."""
    builder, by_hand = _tfds_builder(name, options), _by_hand(name, options)
    if not builder.is_prepared():
        _check_reachable(builder, by_hand)
        before = {*_folders(_root(builder))}
        try:
            builder.download_and_prepare(file_format="array_record")
        except Exception as error:  # downloaders and a missing TensorFlow raise errors of all kinds
            for path in _folders(_root(builder)):
                files = (each for each in path.rglob("*") if each.is_file())
                if path not in before and all(each.name == "metadata.json" for each in files):
                    shutil.rmtree(path, ignore_errors=True)
            raise UsageError(
                f"tfds:{name} is not in {builder.data_path} and could not be downloaded and "
                f"prepared here ({first_line(error)}); {by_hand}"
            ) from error
    try:
        return builder.as_data_source(split=options.split), builder.info.features
    except NotImplementedError as error:
        raise UsageError(
            f"tfds:{name} in {builder.data_path} is not in a random-access format; {by_hand}"
        ) from error
    except (ValueError, AssertionError) as error:
        splits = ", ".join(builder.info.splits)
        raise UsageError(f"tfds:{name} has no split {options.split!r}; it has {splits}") from error
