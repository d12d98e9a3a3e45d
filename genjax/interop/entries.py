"""Conversion of arrays by a table of entries, in both directions.

In all of `interop`, *theirs* is the other implementation, which is PyTorch's, and *ours* is genjax:
a state dict of names on their side, nested dicts of arrays on ours.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from genjax.data.names import some
from genjax.types import ImageSpec, State, UsageError

Array = np.ndarray
# What the names of a GAN's players begin with.
PLAYERS = ("G.", "D.")


class Entry(NamedTuple):
    """One tensor of a conversion.

    Attributes:
        name: Their name.
        shape: Their shape.
        path: Our path.
        to_ours: Function from their array to ours.
        to_theirs: Function from our array to theirs.
    """

    name: str
    shape: tuple[int, ...]
    path: tuple[str, ...]
    to_ours: Callable[[Array], Array]
    to_theirs: Callable[[Array], Array]


def dense_kernel(name: str, path: tuple[str, ...], rows: np.ndarray, columns: np.ndarray) -> Entry:
    """Return the entry of a Linear's weight: [I, O] here, [O, I] in PyTorch.

    `rows` [I] and `columns` [O] hold the index of each of our inputs and outputs in theirs.
    """
    to_rows, to_columns = np.argsort(rows), np.argsort(columns)
    return Entry(
        f"{name}.weight",
        (len(columns), len(rows)),
        (*path, "kernel"),
        lambda weight: weight.T[np.ix_(rows, columns)],
        lambda kernel: kernel[np.ix_(to_rows, to_columns)].T,
    )


def linear(
    name: str, path: tuple[str, ...], rows: np.ndarray, columns: np.ndarray
) -> Iterator[Entry]:
    """Iterate over the entries of a Linear layer, weight and bias [O]; see `dense_kernel`."""
    to_columns = np.argsort(columns)
    yield dense_kernel(name, path, rows, columns)
    yield Entry(
        f"{name}.bias",
        (len(columns),),
        (*path, "bias"),
        lambda bias: bias[columns],
        lambda bias: bias[to_columns],
    )


def conv_kernel(
    name: str, path: tuple[str, ...], shape: tuple[int, int, int, int], transposed: bool = False
) -> Entry:
    """Return the entry of a convolution's weight, which is [KH, KW, I, O] here.

    Args:
        name: Their name, without `.weight`.
        path: The path of our layer.
        shape: Our shape.
        transposed: Whether theirs is a ConvTranspose2d, [I, O, KH, KW], not a Conv2d,
            [O, I, KH, KW].
    """
    there = (2, 3, 0, 1) if transposed else (3, 2, 0, 1)
    back = np.argsort(there)
    return Entry(
        f"{name}.weight",
        tuple(shape[axis] for axis in there),
        (*path, "kernel"),
        lambda weight: weight.transpose(back),
        lambda kernel: kernel.transpose(there),
    )


def same(name: str, path: tuple[str, ...], shape: tuple[int, ...]) -> Entry:
    """Return the entry of an array that is the same in both."""
    return Entry(name, shape, path, lambda array: array, lambda array: array)


def check_entries(wanted: Mapping[str, tuple[int, ...]], arrays: Mapping[str, Array]) -> None:
    """Raise a `UsageError` that sums up what is missing, unknown or misshapen, if anything is."""
    problems = {
        "missing": [f"{name} {shape}" for name, shape in wanted.items() if name not in arrays],
        "unknown": [name for name in arrays if name not in wanted],
        "misshapen": [
            f"{name} {np.shape(arrays[name])}, wanted {shape}"
            for name, shape in wanted.items()
            if name in arrays and np.shape(arrays[name]) != shape
        ],
    }
    parts = [f"{len(found)} {kind}: {some(found)}" for kind, found in problems.items() if found]
    if parts:
        raise UsageError("these parameters do not fit the config: " + "; ".join(parts))


def load_entries(entries: Iterable[Entry], arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Convert PyTorch's arrays, by name, to nested dicts of genjax's arrays.

    A file may lack one of a GAN's players: where names begin with `G.` or `D.`, entries of the
    other do not count.

    Raises:
        UsageError: An entry is missing, unknown or misshapen; the message sums them up.
    """
    entries = list(entries)
    found = {name[:2] for name in arrays if name.startswith(PLAYERS)}
    if found:
        entries = [e for e in entries if e.name[:2] in found or not e.name.startswith(PLAYERS)]
    check_entries({entry.name: entry.shape for entry in entries}, arrays)
    return unflatten_dict({e.path: e.to_ours(np.asarray(arrays[e.name])) for e in entries})


def dump_entries(entries: Iterable[Entry], variables: Mapping[str, Any]) -> dict[str, Array]:
    """Convert nested dicts of arrays to PyTorch's arrays by name: the inverse of `load_entries`.

    What is left out of the outermost dict, such as a GAN's D, is left out of the arrays.
    """
    flat = flatten_dict(variables)
    return {
        e.name: e.to_theirs(np.asarray(flat[e.path])) for e in entries if e.path[0] in variables
    }


class Format(NamedTuple):
    """How the state dicts of one implementation become a family's model.

    Attributes:
        infer: `infer(arrays, options) -> (config, spec)`: the model, by the shapes of its arrays
            and, where these do not say it, by options.
        load: `load(config, spec, arrays) -> variables`.
        dump: `dump(config, spec, variables) -> arrays`, the inverse.
        to_state: `to_state(config, spec, variables) -> state` at step 0.
        options: The names of the options. Those that are not given are as in the config.
        unsaid: What else the arrays do not say, and how it is here.
        said_by: The option that says it, if there is one.
        is_gan: Whether names begin with `G.` and `D.`, and D may be missing.
    """

    infer: Callable[[Mapping[str, Array], Mapping[str, Any]], tuple[Any, ImageSpec]]
    load: Callable[[Any, ImageSpec, Mapping[str, Array]], Any]
    dump: Callable[[Any, ImageSpec, Any], dict[str, Array]]
    to_state: Callable[[Any, ImageSpec, Any], State]
    options: tuple[str, ...] = ()
    unsaid: str = ""
    said_by: str = ""
    is_gan: bool = True


def to_gan_state(
    from_variables: Callable[[Any, ImageSpec, dict[str, Any]], State],
) -> Callable[[Any, ImageSpec, Mapping[str, Any]], State]:
    """Return a format's `to_state` of a GAN, in whose variables D may be missing."""

    def to_state(config: Any, spec: ImageSpec, variables: Mapping[str, Any]) -> State:
        return from_variables(config, spec, {"discriminator": {"params": {}}, **variables})

    return to_state


def has_discriminator(arrays: Iterable[str]) -> bool:
    """Return whether any of these names is one of D."""
    return any(name.startswith("D.") for name in arrays)


def shape_of(arrays: Mapping[str, Array], name: str, rank: int) -> tuple[int, ...]:
    """Return the shape of an array from which sizes are inferred.

    Raises:
        UsageError: There is no such array, it has another rank, or it is empty.
    """
    if name not in arrays:
        raise UsageError(f"there is no {name} among {len(arrays)} arrays: {some(list(arrays))}")
    shape = np.shape(arrays[name])
    if len(shape) != rank or 0 in shape:
        raise UsageError(f"{name} has shape {shape}: wanted {rank} dimensions")
    return shape


def numbers(names: Iterable[str], pattern: str) -> list[int]:
    """Return the numbers that a pattern's group matches in names, each once, in order."""
    found = (re.match(pattern, name) for name in names)
    return sorted({int(match[1]) for match in found if match})


def flat_images(values: int, options: Mapping[str, Any], classes: int = 0) -> ImageSpec:
    """Return the shape of images of `values` values: of the option `size`, or else square.

    Raises:
        UsageError: No images of 1 or 3 channels have that many.
    """
    size = options.get("size")
    if values == 1:
        raise UsageError("G draws one number: are these arrays of D? Those of G come first")
    for channels in (1, 3):
        side = math.isqrt(values // channels)
        height, width = size or (side, side)
        if side and height * width * channels == values:
            return ImageSpec(height, width, channels, classes)
    if size:
        raise UsageError(f"size = {size[0]} {size[1]}: the arrays are of images of {values} values")
    raise UsageError(f"images of {values} values are not square: say --size HEIGHT WIDTH")


def class_count(options: Mapping[str, Any], found: int | None) -> int:
    """Return the number of classes, which arrays say, or else the option `classes`.

    Raises:
        UsageError: They say different numbers, or could mean another thing.
    """
    given: int | None = options.get("classes")
    if found is not None and (found < 0 or given not in (None, found)):
        raise UsageError(f"classes = {given}: the arrays of D are for {found}")
    if found == 2 and given is None:  # a D of colors beside a G of gray values looks the same
        raise UsageError(
            "D sees 2 channels more than G draws: if they are classes, say --classes 2"
        )
    return given or 0 if found is None else found
