"""Conversion of arrays by a table of entries, in both directions.

In all of `interop`, *theirs* is the other implementation, which is PyTorch's, and *ours* is genjax:
a state dict of names on their side, nested dicts of arrays on ours.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from genjax.types import UsageError

Array = np.ndarray


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
    """Raise a `UsageError` that lists what is missing, unknown or misshapen, if anything is."""
    problems = [f"missing {name} {shape}" for name, shape in wanted.items() if name not in arrays]
    problems += [f"unknown {name}" for name in arrays if name not in wanted]
    problems += [
        f"{name} has shape {np.shape(arrays[name])}, wanted {shape}"
        for name, shape in wanted.items()
        if name in arrays and np.shape(arrays[name]) != shape
    ]
    if problems:
        raise UsageError("these parameters do not fit the config: " + "; ".join(problems))


def load_entries(entries: Iterable[Entry], arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Convert PyTorch's arrays, by name, to nested dicts of genjax's arrays.

    Raises:
        UsageError: An entry is missing, unknown or misshapen; the message lists all such entries.
    """
    entries = list(entries)
    check_entries({entry.name: entry.shape for entry in entries}, arrays)
    return unflatten_dict({e.path: e.to_ours(np.asarray(arrays[e.name])) for e in entries})


def dump_entries(entries: Iterable[Entry], variables: Mapping[str, Any]) -> dict[str, Array]:
    """Convert nested dicts of arrays to PyTorch's arrays by name: the inverse of `load_entries`."""
    flat = flatten_dict(variables)
    return {e.name: e.to_theirs(np.asarray(flat[e.path])) for e in entries}
