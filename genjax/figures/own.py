"""Images of the user's own: files, folders and archives of images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from genjax.data.batches import read_all
from genjax.data.broken import cause_of
from genjax.data.images import decode, is_16_bit, needed_bits, to_array
from genjax.data.source import RESAMPLE
from genjax.data.sources import ENDINGS
from genjax.run.recipe import Recipe
from genjax.run.states import class_numbers, open_data
from genjax.types import Batch, ImageSpec, UsageError


def read_own(
    recipe: Recipe, spec: ImageSpec, paths: Sequence[str | Path], names: Sequence[str] | None = None
) -> Batch:
    """Read images as the training data were read: scaled, then with the border around them.

    Args:
        recipe: The recipe of the run.
        spec: The shape of its images.
        paths: Image files, folders of images, and .zip or prepared files.
        names: The names of the run's classes, of which each image must be. None: classes do not
            matter, and all are 0.

    Returns:
        The images, in the order of `paths` and, in a folder, of their names; and their classes.

    Raises:
        UsageError: A path is none of these, an image cannot be read, or its class is not known.
    """
    parts = [
        _read_many(recipe, spec, path, names)
        if path.is_dir() or path.suffix.lower() in ENDINGS
        else _read_one(recipe, spec, path, names)
        for path in map(Path, paths)
    ]
    return Batch(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def refuse_number(n: int | None, images: Sequence[str | Path]) -> None:
    """Raise a `UsageError` if a number of images is given beside the images themselves."""
    if images and n is not None:
        raise UsageError(f"n = {n}: is of the test split; of your own images all are taken")


def _read_many(recipe: Recipe, spec: ImageSpec, path: Path, names: Sequence[str] | None) -> Batch:
    source = open_data(recipe, spec, f"folder:{path}" if path.is_dir() else str(path), None)
    numbers = np.zeros(max(1, source.spec.classes), np.int32)
    if names is not None:
        numbers = class_numbers(source, f"images {path}", names)
    images, labels, broken = read_all(source)
    if broken:
        raise UsageError(f"images {path}: {broken[0]}")
    return Batch(images, numbers[labels])


def _read_one(recipe: Recipe, spec: ImageSpec, path: Path, names: Sequence[str] | None) -> Batch:
    options, data = recipe.data_options, b""
    border = options.border
    shape = spec.shape_within(border)

    def convert(image: Image.Image) -> np.ndarray:
        depth = options.bit_depth or (needed_bits(image) if is_16_bit(image) else 16)
        return to_array(image, shape, options.fit, RESAMPLE, depth)

    try:
        data = path.read_bytes()
        image = np.pad(decode(data, convert), ((border, border), (border, border), (0, 0)))
    except Exception as error:  # of every class, as decoders raise them
        raise UsageError(f"image {path}: {cause_of(error, data)}") from error
    if names is not None:
        raise UsageError(
            f"image {path}: its class is not known, and the model is conditional: wanted a folder "
            "or .zip with a folder for each class"
        )
    return Batch(image[None], np.zeros(1, np.int32))
