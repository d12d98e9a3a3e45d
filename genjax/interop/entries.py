"""A family's mapping is a table of entries; this walks it, in both directions."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from genjax.types import UsageError

Array = np.ndarray


class Entry(NamedTuple):
    """One tensor: their name and shape, our path, and how its layout goes across."""

    name: str
    shape: tuple[int, ...]
    path: tuple[str, ...]
    to_ours: Callable[[Array], Array]
    to_theirs: Callable[[Array], Array]


def dense_kernel(name: str, path: tuple[str, ...], rows: np.ndarray, columns: np.ndarray) -> Entry:
    """A Linear's weight; `rows` and `columns`: where our inputs and outputs are in theirs."""
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
    """A Linear layer; see `dense_kernel`."""
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
    """A convolution's weight; ours is [KH, KW, I, O].

    Args:
        name: Theirs, without `.weight`.
        path: Of our layer.
        shape: Ours.
        transposed: Of a ConvTranspose2d, [I, O, KH, KW], else of a Conv2d, [O, I, KH, KW].
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
    """An array that is the same in both."""
    return Entry(name, shape, path, lambda array: array, lambda array: array)


def check_entries(wanted: Mapping[str, tuple[int, ...]], arrays: Mapping[str, Array]) -> None:
    """Raise a `UsageError` that lists what is missing, unknown or of another shape."""
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
    """Our variables from their arrays.

    Raises:
        UsageError: An entry is missing, unknown, or of another shape; the message lists them all.
    """
    entries = list(entries)
    check_entries({entry.name: entry.shape for entry in entries}, arrays)
    return unflatten_dict({e.path: e.to_ours(np.asarray(arrays[e.name])) for e in entries})


def dump_entries(entries: Iterable[Entry], variables: Mapping[str, Any]) -> dict[str, Array]:
    """Their arrays from our variables: the inverse of `load_entries`."""
    flat = flatten_dict(variables)
    return {e.name: e.to_theirs(np.asarray(flat[e.path])) for e in entries}
