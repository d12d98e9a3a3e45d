"""Data as values: arrays, data sets with `len` and `[]`, and files of arrays.

A value has no path. So a run that is made from one keeps its digest, `value:DIGEST`, under which it
is found as long as it exists in this process; elsewhere it has to be given again.
"""

import collections
import weakref
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from genjax.data.broken import BrokenImage, cause_of, first_line
from genjax.data.digest import digest_of
from genjax.data.images import converted_mode, to_array, upright_size
from genjax.data.names import some
from genjax.data.paths import is_remote
from genjax.data.source import (
    RESAMPLE,
    ArraySource,
    DataOptions,
    Derived,
    Example,
    ManySizes,
    MissingData,
    Source,
    Unnamed,
    fingerprints,
    fit_array,
    other_size,
    sampled,
    with_labels,
)
from genjax.types import MAX_SIDE, ImageSpec, UsageError

VALUE = "value"
# The endings of files of arrays.
ARRAYS = (".npz", ".npy")
# Arrays of no more bytes than this are read whole for their digest.
DIGESTED_BYTES = 2**31
# What images, labels and splits are called in an .npz: here, in Keras' files, and in MedMNIST's.
LABEL_NAMES = {"images": "labels", "arr_0": "arr_1", "x": "y"}
SPLIT_NAMES = {"train": ("{}", "{}_train", "train_{}")} | {
    split: (f"{{}}_{split}", f"{split}_{{}}") for split in ("val", "test")
}

_given: weakref.WeakValueDictionary[str, Source] = weakref.WeakValueDictionary()


def name_of(data: str | Source) -> str:
    """Return the name by which `open_source` finds data: a string itself, or a value's digest.

    Raises:
        UsageError: It is neither a string nor a source.
    """
    if isinstance(data, str):
        return data
    if not all(hasattr(data, name) for name in ("spec", "read", "contents", "__len__")):
        raise UsageError(
            f"data = {type(data).__name__}: wanted a string such as 'folder:PATH', or a source: "
            "genjax.data.arrays(images, labels) of arrays, genjax.data.indexed(dataset) of a data "
            "set with len and []"
        )
    name = f"{VALUE}:{digest_of(data.contents(False))}"
    _given[name] = data
    return name


def is_value(data: str) -> bool:
    """Return whether a name is that of data that were given as a value."""
    return data.startswith(f"{VALUE}:")


def find(name: str) -> Source:
    """Return the data of a name from `name_of`.

    Raises:
        MissingData: They have not been given in this process, or are gone.
    """
    try:
        return _given[name]
    except KeyError:
        raise MissingData(
            f"data = {name}: were given in Python, and have to be given again, as data=..."
        ) from None


class _WholeArray(ArraySource):
    """A source of images in one array, uint8 [N, H, W, C], whose digest is of all of them."""

    def contents(self, full: bool) -> dict[str, str]:
        """Return a fingerprint of the images; see `Source.contents`."""
        return super().contents(full or self.nbytes <= DIGESTED_BYTES)


def arrays(images: Any, labels: Any = None, class_names: Sequence[str] = ()) -> Source:
    """Make a source of images in an array.

    Args:
        images: uint8 [N, H, W], or [N, H, W, C] with C 1 (gray) or 3 (RGB). It is not copied.
        labels: Numbers of classes from 0, or names of classes, [N]. None: no classes.
        class_names: The names of the classes, in the order of their numbers. Empty: the numbers, or
            the names among the labels in alphabetical order.

    Returns:
        The source, as `train`, `resume` and `evaluate` take it as `data`.

    Raises:
        UsageError: The arrays have other types or shapes, or labels without a class.
    """
    array = checked_images("images", images)
    if labels is None:
        if len(class_names):
            raise UsageError("class_names: are those of labels, which there are none of")
        return _WholeArray(array, np.zeros(len(array), np.int32), (), DataOptions())
    numbers, names = _classes(np.asarray(labels), class_names)
    if len(numbers) != len(array):
        raise UsageError(f"labels: {len(numbers):,}, and there are {len(array):,} images")
    return _WholeArray(array, numbers, names, DataOptions())


def checked_images(where: str, images: Any) -> np.ndarray:
    """Return images as an array [N, H, W, C].

    Raises:
        UsageError: They are no such images.
    """
    array = np.asarray(images)
    is_one = array.ndim == 3 and array.shape[2] in (1, 3)  # or gray images of so few columns
    shaped = array[..., None] if array.ndim == 3 and not is_one else array
    if shaped.ndim == 4 and len(shaped) and shaped.dtype == np.uint8 and shaped.shape[3] in (1, 3):
        if max(shaped.shape[1:3]) > MAX_SIDE or not min(shaped.shape[1:3]):
            raise UsageError(f"{where}: sides of 1 to {MAX_SIDE} pixels are read")
        return shaped
    hint = "; a single image is images[None]" if is_one else ""
    if shaped.ndim == 4 and shaped.shape[3] not in (1, 3) and shaped.shape[1] in (1, 3):
        hint = "; channels come last: images.transpose(0, 2, 3, 1)"
    elif array.dtype != np.uint8 and array.dtype.kind in "fiub" and array.size:
        low, high = array.min(), array.max()
        scaled = "images"
        if array.dtype.kind in "fb":
            scaled = "(images + 1) / 2 * 255" if -1 <= low < 0 and high <= 1 else "images"
            scaled = "images * 255" if low >= 0 and high <= 1 else scaled
        hint = f"; its values are {low:.4g} to {high:.4g}: np.uint8(np.round({scaled}))"
    raise UsageError(
        f"{where}: has {array.dtype} {list(array.shape)}; wanted images uint8 [N, H, W] or "
        f"[N, H, W, C], C 1 or 3{hint}"
    )


def _classes(labels: np.ndarray, class_names: Sequence[str]) -> tuple[np.ndarray, Sequence[str]]:
    """Return the numbers of classes int32 [N], and the names of all classes."""
    names = [class_names] if isinstance(class_names, str) else [str(each) for each in class_names]
    if len(set(names)) < len(names) or isinstance(class_names, str):
        raise UsageError(f"class_names: {some(names)}: wanted a list of different names")
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim == 1 and labels.dtype.kind in "US":
        names = names or [str(name) for name in np.unique(labels).tolist()]
        number = {name: i for i, name in enumerate(names)}
        if unknown := sorted({str(label) for label in labels} - number.keys()):
            raise UsageError(f"labels: {unknown[0]!r} is none of class_names")
        return np.array([number[str(label)] for label in labels], np.int32), names
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise UsageError(
            f"labels: has {labels.dtype} {list(labels.shape)}; wanted numbers from 0, or names, [N]"
        )
    last = int(labels.max(initial=0))
    names = names or [str(i) for i in range(last + 1)]
    if labels.min(initial=0) < 0 or last >= len(names):
        raise UsageError(
            f"labels: from {labels.min(initial=0)} to {last}, wanted 0 to {len(names) - 1}, the "
            "numbers of the classes"
        )
    return labels.astype(np.int32), names


class IndexedSource(Unnamed):
    """A source of the examples of a data set with `len` and `[]`; see `indexed`.

    Attributes:
        sizes: How many images of a sample have which (height, width).
    """

    def __init__(self, dataset: Any, image: str | int, label: str | int | None):
        if isinstance(dataset, Mapping):
            raise UsageError("the data set is a dict: of arrays, give them to genjax.data.arrays")
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise UsageError(
                f"the data set, {type(dataset).__name__}, has no len and []: of what can only be "
                "iterated over, take list(dataset)"
            )
        self._dataset, self._image, self._label = dataset, image, label
        count = len(dataset)
        if not count:
            raise UsageError("the data set has no images")
        pictures = [self._picture(place) for place in sampled(count)]
        self.sizes = collections.Counter(upright_size(each) for each in pictures)
        is_gray = all(converted_mode(each.mode) == "L" for each in pictures)
        (height, width), _ = self.sizes.most_common(1)[0]
        numbers, self.class_names = self._labels()
        self.labels = numbers
        spec = ImageSpec(height, width, 1 if is_gray else 3, len(self.class_names))
        self.spec = with_labels(spec, numbers)

    def __len__(self) -> int:
        return len(self._dataset)

    def contents(self, full: bool) -> dict[str, str]:
        """Return a fingerprint of the images; see `Source.contents`."""
        return fingerprints(self, full)

    def read(self, indices: Sequence[int]) -> list[Example | BrokenImage]:
        """Read the examples at `indices`, each of its own size; see `Source.read`."""
        return [self._read_one(int(index)) for index in indices]

    def _read_one(self, index: int) -> Example | BrokenImage:
        try:
            picture = self._picture(index)
            shape = (*upright_size(picture), self.spec.channels)
            return to_array(picture, shape, "crop", RESAMPLE), int(self.labels[index])
        except Exception as error:  # of every class, as data sets and decoders raise them
            return BrokenImage(self.name(index), cause_of(error))

    def _get(self, index: int, key: str | int) -> Any:
        try:
            example = self._dataset[index]
        except Exception as error:  # of every class, as data sets and decoders raise them
            raise UsageError(f"example {index}: {cause_of(error)}") from error
        if isinstance(example, Mapping):
            if key in example:
                return example[key]
            raise UsageError(f"{key!r} is none of an example's: {', '.join(map(str, example))}")
        if isinstance(example, (tuple, list)):
            place = {"image": 0, "label": 1}.get(str(key), key)
            if isinstance(place, int) and place < len(example):
                return example[place]
            raise UsageError(f"{key!r} is none of the {len(example)} parts of an example: give 0")
        if str(key) == "image":
            return example
        raise UsageError(f"an example has no {key!r}: it is a {type(example).__name__}; label=None")

    def _picture(self, index: int) -> Image.Image:
        found = self._get(index, self._image)
        if isinstance(found, Image.Image):
            return found
        where = f"image {index} of the data set, which is wanted without a transform"
        (array,) = checked_images(where, np.asarray(found)[None])
        return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)

    def _labels(self) -> tuple[np.ndarray, Sequence[str]]:
        """Return the numbers of classes and their names, from columns if the data set has them."""
        count, label = len(self), self._label
        if label is None:
            return np.zeros(count, np.int32), ()
        columns, dataset = getattr(self._dataset, "column_names", ()), self._dataset
        names = getattr(dataset, "classes", None)  # of torchvision
        if label in (columns or ()):
            feature = dataset.features[label]
            names, found = getattr(feature, "names", None), dataset[:][label]
        elif len(targets := getattr(dataset, "targets", ())) == count and label == "label":
            found = targets
        else:
            found = [self._get(index, label) for index in range(count)]
        return _classes(np.asarray(found), names or ())


def indexed(dataset: Any, image: str | int = "image", label: str | int | None = "label") -> Source:
    """Make a source of a data set with `len` and `[]`, such as those of Hugging Face and PyTorch.

    Args:
        dataset: Its examples are dicts, tuples, or images alone. An image is one of PIL, or uint8
            [H, W] or [H, W, C]; of a data set of torchvision take it without a transform.
        image: The key of an example's image; of a tuple its place, by default 0.
        label: Likewise of its class, a number or a name; of a tuple by default 1. None: no classes.

    Returns:
        The source, as `train`, `resume` and `evaluate` take it as `data`.

    Raises:
        UsageError: It has no examples, or none with such an image or label.
    """
    return IndexedSource(dataset, image, label)


class Fitted(Derived):
    """A source whose images have the size and channels that options ask for.

    Args:
        source: The source.
        options: The options.
        where: The name of the source in messages.

    Raises:
        ManySizes: Its images have several sizes, and the options none.
    """

    def __init__(self, source: Source, options: DataOptions, where: str):
        super().__init__(source)
        self._fit, self._resized = options.fit, options.height_width is not None
        if isinstance(source, IndexedSource) and len(source.sizes) > 1 and not self._resized:
            common = ", ".join(f"{h}x{w}" for (h, w), _ in source.sizes.most_common(3))
            raise ManySizes(f"{where} has images of several sizes (such as {common}): give --size")
        height, width = options.height_width or source.spec.shape[:2]
        channels = options.channels or source.spec.channels
        spec = ImageSpec(height, width, channels, source.spec.classes)
        self.spec = with_labels(spec, source.labels)

    def read(self, indices: Sequence[int]) -> list[Example | BrokenImage]:
        """Read the examples at `indices`; see `Source.read`."""
        examples = zip(indices, self.source.read(indices), strict=True)
        return [self._fitted(index, example) for index, example in examples]

    def _fitted(self, index: int, example: Example | BrokenImage) -> Example | BrokenImage:
        if isinstance(example, BrokenImage):
            return example
        image, label = example
        if image.shape[:2] != self.spec.shape[:2] and not self._resized:
            cause = other_size(image.shape[:2], self.spec.shape[:2])
            return BrokenImage(self.name(index), cause)
        return fit_array(image, self.spec, self._fit), label


def open_arrays(path: epath.Path, split: str) -> Source:
    """Open the images of an .npy, or the images and labels of a split of an .npz.

    Raises:
        UsageError: There is no such split, or no file, or it cannot be read.
    """
    if not path.is_file():
        raise MissingData(f"no file {path}")
    try:
        if path.suffix.lower() == ".npy":
            if split != "train":
                raise UsageError(f"{path} has no split {split!r}: wanted 'train'")
            if not is_remote(path):
                return arrays(checked_images(str(path), np.load(path, mmap_mode="r")))
            with path.open("rb") as file:
                return arrays(checked_images(str(path), np.load(file)))
        with path.open("rb") as file, np.load(file) as found:
            names = list(found)
            by_split = _splits(names)
            if split not in by_split:
                _refuse_split(path, split, names, list(by_split))
            image, label = by_split[split]
            classes = [str(n) for n in found["class_names"]] if "class_names" in names else ()
            images = checked_images(f"{path}, {image}", found[image])
            return arrays(images, found[label] if label else None, classes)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: cannot be read as arrays: {error}".splitlines()[0]) from error


def _splits(names: Sequence[str]) -> dict[str, tuple[str, str | None]]:
    """Find the names of images and labels by split: `images`, `x_train`, `test_images`, ..."""
    found: dict[str, tuple[str, str | None]] = {}
    for image, label in LABEL_NAMES.items():
        for split, forms in SPLIT_NAMES.items():
            for one, other in ((form.format(image), form.format(label)) for form in forms):
                if one in names:
                    found.setdefault(split, (one, other if other in names else None))
    return found


def _refuse_split(
    path: epath.Path, split: str, names: Sequence[str], splits: Sequence[str]
) -> None:
    if splits:
        raise UsageError(
            f"{path} has no split {split!r}: wanted {' or '.join(map(repr, splits))}, or a slice "
            "in percent such as 'train[:80%]'"
        )
    raise UsageError(
        f"{path}: has the arrays {', '.join(names) or 'none'}; wanted images (and labels), or "
        "x_train (and y_train), or train_images (and train_labels)"
    )


def open_hub(name: str, split: str) -> Source:
    """Open a split of a data set of Hugging Face: on the hub, or a folder or parquet file on disk.

    Raises:
        UsageError: `datasets` is not installed, it cannot open it, or it has no images.
    """
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            f"hf:{name}: needs Hugging Face's library: pip install datasets"
        ) from error
    folder = epath.Path(name)
    try:
        if not name:
            raise UsageError("wanted a name or a path")
        if folder.suffix == ".parquet":
            found = datasets.load_dataset("parquet", data_files=name, split=split)
        elif (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():
            found = datasets.load_from_disk(name)
            if isinstance(found, Mapping):
                if split not in found:
                    raise UsageError(f"it has no split {split!r}: wanted {' or '.join(found)}")
                found = found[split]
            elif split != "train":
                raise UsageError(f"it has no split {split!r}: wanted 'train'")
        else:
            path, _, config = name.partition(":")
            found = datasets.load_dataset(path, config or None, split=split)
    except Exception as error:  # of every class, of its builders, of the network and of files
        raise UsageError(f"hf:{name} cannot be opened: {first_line(error):.300}") from error
    kinds = {key: type(feature).__name__ for key, feature in found.features.items()}
    images = [key for key, kind in kinds.items() if kind == "Image"]
    if not images:
        raise UsageError(f"hf:{name} has no image: its columns are {', '.join(kinds)}")
    labels = [key for key, kind in kinds.items() if kind == "ClassLabel"]
    label = "label" if "label" in kinds else labels[0] if labels else None
    return IndexedSource(found, images[0], label)
