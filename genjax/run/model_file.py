"""Model files: the weights of a trained model in a .safetensors, with all that is known of it.

The arrays are those of a state, by their paths in it. The file's metadata hold, as JSON, the `Card`
and the SHA-256 of card and arrays, because a .safetensors has no checksum of its own.
"""

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any

import jax
import ml_dtypes
import numpy as np
from etils import epath
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from genjax.data.names import some
from genjax.data.paths import is_remote, local_copy, to_path
from genjax.run.checkpoint import write_atomically
from genjax.run.recipe import Recipe, as_object, from_json, to_json
from genjax.run.records import to_strict_json
from genjax.steps.state import named_leaves
from genjax.types import ImageSpec, State, UsageError, checked, describe

SUFFIX = ".safetensors"
# The version of the card, which increases when its fields change. The name of the card in the
# metadata, of which there is one, because several have another order each time; and of the digest.
FORMAT = 1
CARD, DIGEST = "genjax", "sha256"


@checked
class Card:
    """What is known of a trained model, besides its weights."""

    recipe: Recipe
    """The recipe that it was trained by."""
    spec: ImageSpec
    """The shape of its images."""
    class_names: tuple[str, ...]
    """Names of the classes, in the order of their numbers."""
    step: Annotated[int, Field(ge=0)]
    """The step of its weights."""
    origin: str
    """What it comes from: a run by its name, or the files that were imported."""
    images: int | None = None
    """Number of images that it was trained on, if known."""
    data_digest: str | None = None
    """The digest of these, if known."""
    quality: dict[str, float | None] = dataclasses.field(default_factory=dict)
    """Its metrics in training."""
    evaluation: dict[str, Any] | None = None
    """Its latest result of `genjax evaluate`, if there is one."""
    minutes: float | None = None
    """Minutes of training, if known."""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    """Versions of Python and packages in training."""
    license: str | None = None
    """The licence of the weights."""
    is_whole: bool = False
    """Whether the file holds all that training needs, and not only what samples need."""


def is_model_file(path: str | Path | epath.Path) -> bool:
    """Return whether a path is that of a model file, by its name, and not of a folder."""
    path = to_path(path)
    return path.suffix == SUFFIX and not path.is_dir()


def output_path(output: str | Path, *suffixes: str) -> epath.Path:
    """Return the path of a file that is to be written, with one of these endings.

    Raises:
        UsageError: It has another ending, or its folder does not exist.
    """
    path = to_path(output)
    if path.suffix not in suffixes:
        raise UsageError(f"output {path}: should end in {' or '.join(suffixes)}")
    if not is_remote(path) and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise UsageError(f"output {path}: wanted a file in a folder that exists")
    return path


def digest_of(state: State) -> str:
    """Return the SHA-256 of the names and values of a state's leaves."""
    return _digest({}, {name: np.asarray(leaf) for name, leaf in named_leaves(state).items()})


def write_model(output: Path | epath.Path, card: Card, state: State, dtype: str | None) -> None:
    """Write a model file, whole or not at all.

    Args:
        output: The file.
        card: What is known of the model.
        state: Its state: the whole one, or `state.for_sampling()`.
        dtype: The type, such as "float16", that floating-point arrays are stored in. None: theirs.

    Raises:
        UsageError: A weight is too large for the type.
    """
    arrays = {}
    for name, leaf in named_leaves(state).items():
        array = np.asarray(leaf)
        if dtype is not None and np.issubdtype(array.dtype, np.floating):
            with np.errstate(over="ignore"):
                stored = array.astype(dtype)
            if not np.isfinite(stored).all():
                raise UsageError(f"dtype = {dtype}: {name} has values that are too large for it")
            array = stored
        arrays[name] = np.asarray(array, order="C")
    known = dataclasses.asdict(card) | {"recipe": to_json(card.recipe)}
    values = json.loads(to_strict_json({"format": FORMAT} | known))
    text = json.dumps({DIGEST: _digest(values, arrays)} | values)
    write_atomically(output, save(arrays, {CARD: text}))


def _digest(card: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(card, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
    return digest.hexdigest()


def read_card(path: str | Path | epath.Path) -> Card:
    """Read the card of a model file, without its arrays.

    Raises:
        UsageError: There is no such file, or it is damaged, of another program, or newer.
    """
    return _read(path, with_arrays=False)[0]


def read_arrays(path: str | Path | epath.Path) -> tuple[Card, dict[str, np.ndarray]]:
    """Read the card and the arrays of a model file, and verify its digest.

    Raises:
        UsageError: There is no such file, or it is damaged, of another program, or newer.
    """
    return _read(path, with_arrays=True)


def _read(path: str | Path | epath.Path, with_arrays: bool) -> tuple[Card, dict[str, np.ndarray]]:
    path = to_path(path)
    try:
        with local_copy(path) as copy, safe_open(copy, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = file.keys() if with_arrays and CARD in metadata else ()
            arrays = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError as error:
        raise UsageError(f"no model file {path}") from error
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{path} is damaged, or no model file: {reason:.200}") from error
    if CARD not in metadata:
        raise UsageError(
            f"{path} is a file of another program: wanted one of `genjax export`; weights of other "
            "programs: genjax import"
        )
    values = _values(path, metadata[CARD])  # of a newer version the digest may be another
    digest = values.pop(DIGEST, None)
    if with_arrays and digest != _digest(values, arrays):
        raise UsageError(f"{path} is damaged: its content is not that of its digest")
    values.pop("format")
    return _to_card(path, values), arrays


def _values(path: epath.Path, text: str) -> dict[str, Any]:
    try:
        values = as_object("the card", json.loads(text))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is damaged: its card cannot be read: {error!r:.200}") from error
    if (found := values.get("format")) != FORMAT:
        raise UsageError(
            f"{path}: its card has format {found!r:.20}, and this version of genjax reads "
            f"{FORMAT}: wanted the version that wrote it, or a newer one"
        )
    return values


def _to_card(path: epath.Path, values: dict[str, Any]) -> Card:
    try:
        return Card(**values | {"recipe": from_json(values.get("recipe"))})
    except (UsageError, ValidationError) as error:
        raise UsageError(f"{path}: {describe(error)}") from error
    except TypeError as error:
        raise UsageError(f"{path}: its card cannot be read: {error!r:.200}") from error


def to_state(path: str | Path, arrays: dict[str, np.ndarray], like: State) -> State:
    """Put arrays in their places of a state.

    Args:
        path: The file that they come from, for messages.
        arrays: The arrays by name.
        like: The state's structure, shapes and types; stored types may be shorter.

    Raises:
        UsageError: An array is missing, unknown, or has another shape or type.
    """
    wanted = named_leaves(like)
    problems = [f"{name} is missing" for name in wanted if name not in arrays]
    problems += [f"{name} is unknown" for name in arrays if name not in wanted]
    for name, leaf in wanted.items():
        found = arrays.get(name)
        if found is not None and (found.shape, _kind(found)) != (leaf.shape, _kind(leaf)):
            problems.append(
                f"{name} is {found.dtype} {list(found.shape)}, not {leaf.dtype} {list(leaf.shape)}"
            )
    if problems:
        raise UsageError(f"{path}: its arrays do not fit its config: {some(problems)}")
    leaves = [jax.numpy.asarray(arrays[name].astype(leaf.dtype)) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _kind(array: Any) -> str:
    """Return the kind of an array's type, of which a shorter one may be stored."""
    is_float = array.dtype == ml_dtypes.bfloat16 or np.issubdtype(array.dtype, np.floating)
    return "float" if is_float else str(array.dtype)


def count(arrays: Any) -> int:
    """Return the number of values in a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(arrays))
