"""The interface of sources of images, how they are read, and sources made of others."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Annotated, Literal, Protocol, Self

import numpy as np
from PIL import Image
from pydantic import Field, field_validator

from genjax.data.broken import BrokenImage
from genjax.data.digest import fingerprint
from genjax.data.images import Fit, to_array
from genjax.data.labels import ClassBy
from genjax.types import MAX_SIDE, ImageSpec, UsageError, checked

# The number of images whose content a digest reads, unless it is to be full.
SAMPLED_IMAGES = 100
RESAMPLE = Image.Resampling.LANCZOS


@checked
class DataOptions:
    """How a source is read."""

    data_dir: str | None = None
    """tfds: folder of prepared data sets; None for ~/tensorflow_datasets."""
    split: str = "train"
    """tfds: the split, in its notation ('train', 'train[:90%]', 'test'). Other data: 'train' for
    all images, or a slice in percent ('train[:80%]', 'train[80%:]') of a fixed random order; if
    there are folders train/ and val/ or test/, the split of that name, or several ('train+val')."""
    test_split: str | None = None
    """Split for evaluation, of images that are not trained on ('test', 'train[80%:]')."""
    size: tuple[int, ...] = ()
    """HEIGHT, or HEIGHT WIDTH, to which images are resized; empty to keep their size, if it is the
    same for all."""
    fit: Fit = "crop"
    """What to do with an aspect ratio other than that of --size: cut out the centre (crop),
    stretch, or pad with black."""
    border: Annotated[int, Field(ge=0, le=MAX_SIDE)] = 0
    """Black pixels to add on every side, after --size; 2 makes MNIST's 28x28 pixels 32x32."""
    channels: Literal[1, 3] | None = None
    """1 for gray, 3 for RGB; None for RGB if any image has colour, else gray."""
    class_by: ClassBy = "auto"
    """folder, zip: what the classes are: those of a dataset.json, else the folders that hold the
    images (auto), the folders in any case (folder), the first folder of each (top), the beginning
    of the file name, as in cat_001.png (prefix), or none."""
    digest: Literal["sample", "full"] = "sample"
    """How much is read for the digest of the data: all names and sizes and 1,000 of the files
    (sample), or every byte (full)."""
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
        if len(size) > 2 or any(not 1 <= n <= MAX_SIDE for n in size):
            raise ValueError(f"wanted HEIGHT or HEIGHT WIDTH, each from 1 to {MAX_SIDE}")
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

    @property
    def labels(self) -> np.ndarray | None:
        """The label of each image, int32 [N]; None if they are known only when read."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What was left out, and what was taken for a class, a line each."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Return the name of an image."""
        ...

    def read(self, indices: Sequence[int]) -> list[Example | BrokenImage]:
        """Read the examples at `indices`, with a `BrokenImage` for each that cannot be read.

        It takes many at once because some sources read ten at the cost of two. Several threads may
        call it.
        """
        ...

    def contents(self, full: bool) -> dict[str, str]:
        """Return size, class and a fingerprint of the whole data set, whatever part this is.

        For files there is an entry for each. The fingerprint is empty for those that are not read
        because `full` is false.
        """
        ...


class Derived:
    """A source made of the images of another, `source`."""

    def __init__(self, source: Source):
        self.spec, self.class_names = source.spec, source.class_names
        self.labels: np.ndarray | None = source.labels
        self.notes = source.notes
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        """Return the name of an image."""
        return self.source.name(index)

    def contents(self, full: bool) -> dict[str, str]:
        """Return what is in the other source; see `Source.contents`."""
        return self.source.contents(full)


def with_labels(spec: ImageSpec, labels: np.ndarray | None) -> ImageSpec:
    """Set `spec.empty_classes` to those that no label names."""
    if labels is None:
        return dataclasses.replace(spec, empty_classes=())
    empty = np.setdiff1d(np.arange(spec.classes), labels)
    return dataclasses.replace(spec, empty_classes=tuple(empty.tolist()))


class Subset(Derived):
    """Some of the images of a source."""

    def __init__(self, source: Source, indices: np.ndarray):
        super().__init__(source)
        self._indices = indices
        if source.labels is not None:
            self.labels = source.labels[indices]
        self.spec = with_labels(source.spec, self.labels)

    def __len__(self) -> int:
        return len(self._indices)

    def name(self, index: int) -> str:
        """Return the name of an image."""
        return self.source.name(int(self._indices[index]))

    def read(self, indices: Sequence[int]) -> list[Example | BrokenImage]:
        """Read the examples at `indices`; see `Source.read`."""
        return self.source.read([int(self._indices[i]) for i in indices])


def with_border(spec: ImageSpec, border: int) -> ImageSpec:
    """Add `border` pixels on every side to a shape."""
    height, width = spec.height + 2 * border, spec.width + 2 * border
    return dataclasses.replace(spec, height=height, width=width)


class Bordered(Derived):
    """A source with black pixels around its images."""

    def __init__(self, source: Source, border: int):
        super().__init__(source)
        self.spec = with_border(source.spec, border)
        self._margins = (border, border), (border, border), (0, 0)

    def read(self, indices: Sequence[int]) -> list[Example | BrokenImage]:
        """Read the examples at `indices`; see `Source.read`."""
        return [
            example
            if isinstance(example, BrokenImage)
            else (np.pad(example[0], self._margins), example[1])
            for example in self.source.read(indices)
        ]


class Stacked(Derived):
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
        super().__init__(source)
        names = list(source.class_names)
        self.class_names = ["".join(triple) for triple in itertools.product(names, repeat=3)]
        self._classes = len(names)
        self._triples = np.random.default_rng(0).integers(len(source), size=(len(source), 3))
        if source.labels is not None:
            self.labels = source.labels[self._triples] @ [len(names) ** 2, len(names), 1]
        spec = dataclasses.replace(source.spec, channels=3, classes=len(self.class_names))
        self.spec = with_labels(spec, self.labels)

    def name(self, index: int) -> str:
        """Return the names of the three images."""
        return " + ".join(self.source.name(int(i)) for i in self._triples[index])

    def read(self, indices: Sequence[int]) -> list[Example | BrokenImage]:
        """Read the examples at `indices`; see `Source.read`."""
        examples = self.source.read(self._triples[list(indices)].ravel().tolist())
        return [self._stack(examples[i : i + 3]) for i in range(0, len(examples), 3)]

    def _stack(self, triple: Sequence[Example | BrokenImage]) -> Example | BrokenImage:
        images, label = [], 0
        for example in triple:
            if isinstance(example, BrokenImage):
                return example
            images.append(example[0])
            label = label * self._classes + example[1]
        return np.concatenate(images, axis=-1), label


class Unnamed:
    """Images of a source that have numbers for names."""

    spec: ImageSpec
    class_names: Sequence[str]
    notes: Sequence[str] = ()

    def name(self, index: int) -> str:
        """Return the name of an image."""
        return f"image {index}"


def sampled(count: int) -> list[int]:
    """Return the indices of up to `SAMPLED_IMAGES` of `count` images, spread over all."""
    chosen = np.linspace(0, count - 1, min(count, SAMPLED_IMAGES)).astype(int)
    found: list[int] = np.unique(chosen).tolist()
    return found


def other_size(found: Sequence[int], wanted: Sequence[int]) -> str:
    """Say that an image has another (height, width) than the others."""
    (height, width), (common, other) = found, wanted
    return f"{height}x{width} pixels, and others have {common}x{other}: --size scales all"


def fingerprints(source: Source, full: bool) -> dict[str, str]:
    """Return `Source.contents` as one entry, which reads some images or all."""
    indices = list(range(len(source))) if full else sampled(len(source))
    examples = (e for e in source.read(indices) if not isinstance(e, BrokenImage))
    read = fingerprint(image.tobytes() + str(label).encode() for image, label in examples)
    return {"images": f"{len(source)} - {read}"}


class ArraySource(Unnamed):
    """A source of images in one array, uint8 [N, H, W, C]."""

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str],
        options: DataOptions,
    ):
        self._images, self._fit, self.nbytes = images, options.fit, images.nbytes
        height, width = options.height_width or images.shape[1:3]
        channels = options.channels or images.shape[3]
        self.class_names = class_names
        self.labels = np.asarray(labels, np.int32)
        spec = ImageSpec(height, width, channels, len(class_names))
        self.spec = with_labels(spec, self.labels)

    def __len__(self) -> int:
        return len(self._images)

    def contents(self, full: bool) -> dict[str, str]:
        """Return a fingerprint of the images; see `Source.contents`."""
        return fingerprints(self, full)

    def read(self, indices: Sequence[int]) -> list[Example | BrokenImage]:
        """Read the examples at `indices`; see `Source.read`."""
        return [
            (fit_array(self._images[i], self.spec, self._fit), int(self.labels[i])) for i in indices
        ]


def fit_array(image: np.ndarray, spec: ImageSpec, fit: Fit, bit_depth: int = 16) -> np.ndarray:
    """Convert an image, uint8 or uint16 of `bit_depth` bits, [H, W, C], to uint8 `spec.shape`."""
    if image.dtype == np.uint16:
        image = np.minimum(image >> (bit_depth - 8), 255).astype(np.uint8)
    if image.shape == spec.shape:
        return image
    channels = image.shape[-1]
    pixels = Image.fromarray(image[..., 0] if channels == 1 else image)
    return to_array(pixels, spec.shape, fit, RESAMPLE)
