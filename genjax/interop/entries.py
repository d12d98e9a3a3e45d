"""A family's mapping is a table of entries; this walks it, in both directions."""

from collections.abc import Callable, Iterable, Mapping
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


def load_entries(entries: Iterable[Entry], arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Our variables from their arrays.

    Raises:
        UsageError: An entry is missing, unknown, or of another shape; the message lists them all.
    """
    entries = list(entries)
    wanted = {entry.name: entry.shape for entry in entries}
    problems = [f"missing {name} {shape}" for name, shape in wanted.items() if name not in arrays]
    problems += [f"unknown {name}" for name in arrays if name not in wanted]
    problems += [
        f"{name} has shape {np.shape(arrays[name])}, wanted {shape}"
        for name, shape in wanted.items()
        if name in arrays and np.shape(arrays[name]) != shape
    ]
    if problems:
        raise UsageError("these parameters do not fit the config: " + "; ".join(problems))
    return unflatten_dict({e.path: e.to_ours(np.asarray(arrays[e.name])) for e in entries})


def dump_entries(entries: Iterable[Entry], variables: Mapping[str, Any]) -> dict[str, Array]:
    """Their arrays from our variables: the inverse of `load_entries`."""
    flat = flatten_dict(variables)
    return {e.name: e.to_theirs(np.asarray(flat[e.path])) for e in entries}
