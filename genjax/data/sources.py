"""Sources: random access to labelled images, behind one interface.

    open_source("digits" | "tfds:NAME" | "folder:PATH" | "PATH.zip", options) -> Source
    open_source("stacked:DATA", options): three gray images of DATA as the channels of one

A PATH may be in a bucket, gs://BUCKET/PATH. Images are decoded when they are read; if no size is
given, their headers are read on opening.
"""

import collections
import contextlib
import dataclasses
import io
import itertools
import json
import logging
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Protocol, Self

import numpy as np
from etils import epath
from PIL import Image, UnidentifiedImageError
from pydantic import Field, field_validator
from pydantic.dataclasses import dataclass

from genjax.data.images import Fit, converted_mode, is_16_bit, needed_bits, to_array
from genjax.data.paths import files, is_remote, to_path
from genjax.types import CHECKED, ImageSpec, UsageError

log = logging.getLogger("genjax")

IMAGE_SUFFIXES = frozenset(
    [".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"]
)
# The number of images whose values say how many bits 16-bit files use.
DEPTH_IMAGES = 100
# The errors that Pillow and zipfile raise for a damaged file.
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, zipfile.BadZipFile, zlib.error)
RESAMPLE = Image.Resampling.LANCZOS
STACKED = "stacked"


@dataclass(frozen=True, config=CHECKED)
class DataOptions:
    """How a source is read."""

    data_dir: str | None = None
    """tfds: folder of prepared data sets; None for ~/tensorflow_datasets."""
    split: str = "train"
    """tfds: the split, in its notation ('train', 'train[:90%]', 'test'). Other data: 'train' for
    all images, or a slice in percent ('train[:80%]', 'train[80%:]') of a fixed random order."""
    test_split: str | None = None
    """Split for evaluation, of images that are not trained on ('test', 'train[80%:]')."""
    size: tuple[int, ...] = ()
    """HEIGHT, or HEIGHT WIDTH, to which images are resized; empty to keep their size, if it is the
    same for all."""
    fit: Fit = "crop"
    """What to do with an aspect ratio other than that of --size: cut out the centre (crop),
    stretch, or pad with black."""
    border: Annotated[int, Field(ge=0)] = 0
    """Black pixels to add on every side, after --size; 2 makes MNIST's 28x28 pixels 32x32."""
    channels: Literal[1, 3] | None = None
    """1 for gray, 3 for RGB; None for RGB if any image has colour, else gray."""
    bit_depth: Annotated[int, Field(ge=8, le=16)] | None = None
    """16-bit files: the number of bits of their values, of which the largest is white (12: 4095);
    None for the fewest that 100 of the images need. tfds: None for 16."""
    on_broken: Literal["refuse", "skip"] = "refuse"
    """folder, zip: whether an image that cannot be read ends the run (refuse), or is reported and
    left out (skip)."""
    resident_gib: Annotated[float, Field(ge=0)] = 2.0
    """Largest size in GiB, as uint8, of a data set that is kept on the device; larger ones are
    streamed."""

    @field_validator("size")
    @classmethod
    def _one_or_two(cls, size: tuple[int, ...]) -> tuple[int, ...]:
        if len(size) > 2 or any(n < 1 for n in size):
            raise ValueError("wanted HEIGHT or HEIGHT WIDTH, each at least 1")
        return size

    @property
    def for_test(self) -> Self:
        """Return options that read the test split, or the training split if there is no other."""
        return dataclasses.replace(self, split=self.test_split or self.split)

    @property
    def height_width(self) -> tuple[int, int] | None:
        """(height, width), or None for the images' own size."""
        return (self.size[0], self.size[-1]) if self.size else None


class ManySizes(UsageError):
    """The images have several sizes, and no size to resize them to was given."""


class MissingData(UsageError):
    """There is nothing at the path of the data."""


class BrokenImage(Exception):
    """An image that cannot be read; the message names it and says why."""


# (image, label): uint8 [H, W, C], and a number that is 0 without classes.
Example = tuple[np.ndarray, int]


class Source(Protocol):
    """Labelled images by index.

    Attributes:
        spec: Shape and number of classes of every image.
        class_names: Names of the classes, `spec.classes` of them.
    """

    spec: ImageSpec
    class_names: Sequence[str]

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> list[Example | BrokenImage]:
        """Read the examples at `indices`, with a `BrokenImage` for each that cannot be read.

        It takes many at once because some sources read ten at the cost of two. Several threads may
        call it.
        """
        ...


class Subset:
    """Some of the images of a source."""

    def __init__(self, source: Source, indices: np.ndarray):
        self.spec, self.class_names = source.spec, source.class_names
        self._source, self._indices = source, indices

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, indices: Sequence[int]) -> list[Example | BrokenImage]:
        """Read the examples at `indices`; see `Source.read`."""
        return self._source.read([int(self._indices[i]) for i in indices])


def _with_border(spec: ImageSpec, border: int) -> ImageSpec:
    height, width = spec.height + 2 * border, spec.width + 2 * border
    return dataclasses.replace(spec, height=height, width=width)


class Bordered:
    """A source with black pixels around its images."""

    def __init__(self, source: Source, border: int):
        self.spec = _with_border(source.spec, border)
        self.class_names = source.class_names
        self._source, self._margins = source, ((border, border), (border, border), (0, 0))

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: Sequence[int]) -> list[Example | BrokenImage]:
        """Read the examples at `indices`; see `Source.read`."""
        return [
            example
            if isinstance(example, BrokenImage)
            else (np.pad(example[0], self._margins), example[1])
            for example in self._source.read(indices)
        ]


class Stacked:
    """A source that stacks three gray images of another as the channels of one.

    On MNIST this is Stacked MNIST (Metz et al. 2016, appendix), whose 1,000 classes count the modes
    that a model covers. It has as many images as the other source; the three images of each are
    drawn once, from a fixed seed.

    Args:
        source: A source of gray images.
        where: The name of that source in error messages.

    Raises:
        UsageError: The images of the source have colours.
    """

    def __init__(self, source: Source, where: str):
        if source.spec.channels != 1:
            raise UsageError(f"{where}: only gray images stack, and these have colours")
        names = list(source.class_names)
        self.class_names: Sequence[str] = [
            "".join(triple) for triple in itertools.product(names, repeat=3)
        ]
        self.spec = dataclasses.replace(source.spec, channels=3, classes=len(self.class_names))
        self._source, self._classes = source, len(names)
        self._triples = np.random.default_rng(0).integers(len(source), size=(len(source), 3))

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: Sequence[int]) -> list[Example | BrokenImage]:
        """Read the examples at `indices`; see `Source.read`."""
        examples = self._source.read(self._triples[list(indices)].ravel().tolist())
        return [self._stack(examples[i : i + 3]) for i in range(0, len(examples), 3)]

    def _stack(self, triple: Sequence[Example | BrokenImage]) -> Example | BrokenImage:
        images, label = [], 0
        for example in triple:
            if isinstance(example, BrokenImage):
                return example
            images.append(example[0])
            label = label * self._classes + example[1]
        return np.concatenate(images, axis=-1), label


class ArraySource:
    """A source of images in one array, uint8 [N, H, W, C]."""

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str],
        options: DataOptions,
    ):
        self._images, self._labels, self._fit = images, labels, options.fit
        height, width = options.height_width or images.shape[1:3]
        channels = options.channels or images.shape[3]
        self.class_names = class_names
        self.spec = ImageSpec(height, width, channels, len(class_names))

    def __len__(self) -> int:
        return len(self._images)

    def read(self, indices: Sequence[int]) -> list[Example | BrokenImage]:
        """Read the examples at `indices`; see `Source.read`."""
        return [
            (fit_array(self._images[i], self.spec, self._fit), int(self._labels[i]))
            for i in indices
        ]


class TfdsSource:
    """A split of a tensorflow-datasets image data set, read without TensorFlow."""

    def __init__(self, name: str, options: DataOptions):
        source, features = _open_tfds(name, options)
        self._source, self._fit = source, options.fit
        self._bit_depth = options.bit_depth or 16
        self._image_key, self.spec, self.class_names = _read_features(name, features, options)

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: Sequence[int]) -> list[Example | BrokenImage]:
        """Read the examples at `indices`; see `Source.read`."""
        return [
            (
                fit_array(record[self._image_key], self.spec, self._fit, self._bit_depth),
                int(record["label"]) if self.class_names else 0,
            )
            for record in self._source.__getitems__([int(i) for i in indices])
        ]


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


class FileSource:
    """The image files of a folder or a zip archive.

    Labels come from `dataset.json` at the root (`{"labels": [[NAME, CLASS], ...]}`, CLASS a number
    from 0) if there is one, else from the sub-folders, sorted by name, if there are two or more.
    """

    def __init__(
        self, names: Sequence[str], read: Callable[[str], bytes], where: str, options: DataOptions
    ):
        is_image = [PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES for name in names]
        self._names = sorted(itertools.compress(names, is_image))
        if not self._names:
            known = " ".join(sorted(IMAGE_SUFFIXES))
            raise UsageError(f"{where} holds no images; looked for files that end in {known}")
        self._read, self._fit, self._where = read, options.fit, where
        self.class_names: Sequence[str]
        if "dataset.json" in names:
            self._labels, self.class_names = self._labels_from_json(read("dataset.json"))
        else:
            self._labels, self.class_names = _labels_from_folders(self._names)
        self.sizes: collections.Counter[tuple[int, int]] = collections.Counter()
        self.modes: collections.Counter[str] = collections.Counter()
        if not (options.height_width and options.channels):
            self._scan()
        channels = options.channels or (
            1 if all(converted_mode(m) == "L" for m in self.modes) else 3
        )
        height, width = options.height_width or self._common_size()
        self.spec = ImageSpec(height, width, channels, len(self.class_names))
        self._bit_depth = options.bit_depth or self._find_bit_depth()

    def _find_bit_depth(self) -> int:
        """Return the fewest bits that the 16-bit images of a sample need; 16 if there is none."""
        needed = 0
        for name in self._names[:: math.ceil(len(self._names) / DEPTH_IMAGES)]:
            with (
                contextlib.suppress(*UNREADABLE),
                Image.open(io.BytesIO(self._read(name))) as image,
            ):
                if is_16_bit(image):
                    needed = max(needed, needed_bits(image))
        if 0 < needed < 16:
            log.info(
                "%s: values of 16-bit files end at %d of 65535, which is white; --bit-depth %d",
                self._where,
                2**needed - 1,
                needed,
            )
        return min(needed or 16, 16)

    def _scan(self) -> None:
        """Count sizes and modes from the headers, ignoring broken ones, which fail when read."""

        def header(name: str) -> tuple[tuple[int, int], str] | None:
            try:
                with Image.open(io.BytesIO(self._read(name))) as image:
                    mode = "RGBA" if image.mode == "P" else image.mode
                    # Images with EXIF orientations 5 to 8 are stored lying on their side.
                    sideways = image.getexif().get(0x0112, 1) >= 5
                    return (image.size if sideways else image.size[::-1]), mode
            except UNREADABLE:
                return None

        headers = [h for h in map(header, self._names) if h]
        self.sizes.update(size for size, _ in headers)
        self.modes.update(mode for _, mode in headers)

    def _common_size(self) -> tuple[int, int]:
        if len(self.sizes) == 1:
            return next(iter(self.sizes))
        if not self.sizes:
            raise UsageError(f"{self._where}: not one of {len(self._names)} images can be read")
        common = ", ".join(f"{h}x{w}" for (h, w), _ in self.sizes.most_common(3))
        raise ManySizes(
            f"{self._where} has images of {len(self.sizes)} sizes (such as {common}): "
            "give --size HEIGHT [WIDTH]"
        )

    def _labels_from_json(self, text: bytes) -> tuple[list[int], list[str]]:
        where = f"{self._where}/dataset.json"
        try:
            pairs = json.loads(text)["labels"]
            if pairs is None:
                return [0] * len(self._names), []
            by_name = {name.replace("\\", "/"): label for name, label in pairs}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f'{where}: wanted {{"labels": [[NAME, CLASS], ...]}}') from error
        missing = [name for name in self._names if name not in by_name]
        if missing:
            raise UsageError(f"{where} has no label for {len(missing)} images: {missing[0]}, ...")
        labels = [by_name[name] for name in self._names]
        bad = [label for label in labels if type(label) is not int or label < 0]
        if bad:
            raise UsageError(f"{where}: a class is a whole number from 0, not {bad[0]!r}")
        return labels, [str(c) for c in range(max(labels) + 1)]

    def __len__(self) -> int:
        return len(self._names)

    def read(self, indices: Sequence[int]) -> list[Example | BrokenImage]:
        """Read the examples at `indices`; see `Source.read`."""
        return [self._read_one(self._names[i], self._labels[i]) for i in indices]

    def _read_one(self, name: str, label: int) -> Example | BrokenImage:
        try:
            with Image.open(io.BytesIO(self._read(name))) as image:
                array = to_array(image, self.spec.shape, self._fit, RESAMPLE, self._bit_depth)
                return array, label
        except UNREADABLE as error:
            reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
            return BrokenImage(f"{name}: {reason or type(error).__name__}")


def fit_array(image: np.ndarray, spec: ImageSpec, fit: Fit, bit_depth: int = 16) -> np.ndarray:
    """Convert an image, uint8 or uint16 of `bit_depth` bits, [H, W, C], to uint8 `spec.shape`."""
    if image.dtype == np.uint16:
        image = np.minimum(image >> (bit_depth - 8), 255).astype(np.uint8)
    if image.shape == spec.shape:
        return image
    channels = image.shape[-1]
    pixels = Image.fromarray(image[..., 0] if channels == 1 else image)
    return to_array(pixels, spec.shape, fit, RESAMPLE)


def open_source(data: str, options: DataOptions) -> Source:
    """Open the source that `data` names.

    Args:
        data: `digits`, `tfds:NAME`, `folder:PATH`, or the path of a .zip (`folder:` may stand
            before it); or `stacked:` and one of these.
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
        return _with_border(spec, options.border)
    path = to_path(name if kind == "folder" else data)
    is_files = kind == "folder" or (kind != STACKED and path.suffix.lower() == ".zip")
    if is_files and options.height_width and not path.exists():
        spec = ImageSpec(*options.height_width, options.channels or 3)
        return _with_border(spec, options.border)
    return open_source(data, options).spec


def _open(data: str, options: DataOptions) -> Source:
    kind, _, name = data.partition(":")
    if kind == STACKED and name:
        return Stacked(_open(name, options), data)
    if kind == "tfds" and name:
        return TfdsSource(name, options)  # it takes the split itself
    path = to_path(name if kind == "folder" else data)
    if data == "digits":
        source: Source = _open_digits(options)
    elif path.suffix.lower() == ".zip":
        source = _open_zip(path, options)
    elif kind == "folder" and name:
        source = _open_folder(path, options)
    else:
        raise UsageError(
            f"data {data!r} is unknown: wanted digits, tfds:NAME, folder:PATH or PATH.zip, or "
            "stacked: and one of these"
        )
    return source if options.split == "train" else _part(source, options.split, data)


def _part(source: Source, split: str, data: str) -> Source:
    """Return a slice of a source that has no splits of its own.

    The slice is of a fixed random order, because folders are sorted by class.
    """
    match = re.fullmatch(r"train\[(?:(\d+)%)?:(?:(\d+)%)?\]", split)
    start, stop = (int(match[1] or 0), int(match[2] or 100)) if match else (0, 0)
    first, last = (len(source) * percent // 100 for percent in (start, min(stop, 100)))
    if first >= last:
        raise UsageError(
            f"{data} has no split {split!r}: wanted 'train', or a slice in percent such as "
            "'train[:80%]' or 'train[80%:]'"
        )
    return Subset(source, np.random.default_rng(0).permutation(len(source))[first:last])


def absolute(data: str) -> str:
    """Make the path in `data` absolute, so that a run can be resumed from any folder."""
    kind, _, name = data.partition(":")
    if kind == STACKED:
        return f"{STACKED}:{absolute(name)}"
    if is_remote(data):
        return data
    if kind == "folder" and name:
        return f"folder:{Path(name).expanduser().resolve()}"
    return str(Path(data).expanduser().resolve()) if data.lower().endswith(".zip") else data


def _open_digits(options: DataOptions) -> Source:
    from sklearn.datasets import load_digits

    digits = load_digits()
    # The 17 gray levels, 0 to 16, are spread over 0 to 255.
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    return ArraySource(images, digits.target, [str(d) for d in digits.target_names], options)


def _open_folder(path: epath.Path, options: DataOptions) -> Source:
    if not path.is_dir():
        raise MissingData(f"no folder {path}")
    names = [each.relative_to(path).as_posix() for each in files(path)]
    return FileSource(names, lambda name: (path / name).read_bytes(), str(path), options)


def _open_zip(path: epath.Path, options: DataOptions) -> Source:
    if not path.is_file():
        raise MissingData(f"no file {path}")
    try:
        archive = zipfile.ZipFile(path.open("rb") if is_remote(path) else path)
    except (zipfile.BadZipFile, OSError) as error:
        raise UsageError(f"{path} cannot be read as a zip archive: {error}") from error
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    return FileSource(names, archive.read, str(path), options)


def _labels_from_folders(names: Iterable[str]) -> tuple[list[int], list[str]]:
    folders = [str(PurePosixPath(name).parent) for name in names]
    classes = sorted(set(folders))
    if len(classes) < 2:
        return [0] * len(folders), []
    index = {name: i for i, name in enumerate(classes)}
    return [index[folder] for folder in folders], classes


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
            f"tfds:{name} cannot be opened ({_first_line(error)}); {_by_hand(name, options)}"
        ) from error


def _by_hand(name: str, options: DataOptions) -> str:
    """Return instructions to prepare a data set that cannot be prepared here."""
    return (
        f"prepare it where there is a network: pip install tensorflow, then "
        f"tfds build {name} --file_format=array_record"
        + (f" --data_dir={options.data_dir}" if options.data_dir else "")
    )


def _open_tfds(name: str, options: DataOptions) -> tuple[Any, Any]:
    """Open a split's data source and its features, downloading what is missing."""
    builder, by_hand = _tfds_builder(name, options), _by_hand(name, options)
    if not builder.is_prepared():
        try:
            builder.download_and_prepare(file_format="array_record")
        except Exception as error:  # downloaders and a missing TensorFlow raise errors of all kinds
            raise UsageError(
                f"tfds:{name} is not in {builder.data_path} and could not be downloaded and "
                f"prepared here ({_first_line(error)}); {by_hand}"
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


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
