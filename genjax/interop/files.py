"""Reading arrays from the files of other libraries, without running any code in them."""

import logging
import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar

import ml_dtypes
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from genjax.data.names import some
from genjax.types import UsageError

# Arrays take at most this many times the bytes of their file, or else fewer than `SMALL`; a file
# that says more would only fill the memory.
MOST_UNPACKED, SMALL = 20, 2**26
# What PyTorch's DataParallel and AveragedModel, and torch.compile put before each name; and the
# count of averaged states, which is beside those of an AveragedModel.
WRAPPERS, COUNT = ("module.", "_orig_mod."), "n_averaged"
# Dicts in dicts that are looked into for a state dict.
DEEPEST = 3
# The number at the beginning of PyTorch's older files, which are not zip archives.
MAGIC = 0x1950A86A20F9469CFC6C
# What a pickle does to make objects that a state dict does not hold, some of which hash others.
OTHER_OBJECTS = (
    *(pickle.DICT, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.OBJ, pickle.INST),
    *(pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4),
    *(pickle.BYTEARRAY8, pickle.NEXT_BUFFER),  # the first is filled with zeros before it is read
)
# What files are by their endings; and the shortest reason of an error that says anything.
KINDS, SHORTEST = {".safetensors": "a .safetensors", ".npz": "a .npz"}, 5
DTYPES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


log = logging.getLogger(__name__)


class HoldsCode(UsageError):
    """A pickle of objects other than dicts and tensors, which only their own code can read."""


class _Refused(pickle.UnpicklingError):
    pass


def read_arrays(
    path: str | Path, key: str | None = None, known: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Read the named arrays of a file.

    Args:
        path: A `.safetensors`, a `.npz`, or a state dict saved by `torch.save`, in its old or new
            format.
        key: For a file that holds a dict of state dicts and more, the name of the state dict in
            it, such as "g_ema", or "ema.shadow" for one in a dict; or what stands before its names,
            as in "g_ema.conv.weight". None: the first of `known` that there is, or else the file
            is a state dict.
        known: Names of state dicts in files, the better ones first.

    Returns:
        The arrays by name, of any shapes [...], as in the file; without the `module.` or
        `_orig_mod.` that PyTorch's DataParallel, AveragedModel and compile put before each.

    Raises:
        UsageError: There is no such file, it is of another kind, or it holds more than arrays;
            `HoldsCode` if that is other objects.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            values: Any = dict(load_file(path))
        elif path.suffix == ".npz":
            values = _read_npz(path)
        else:
            values = _read_torch(path)
        arrays = _only_arrays(path, _choose(path, values, key, known), is_chosen=key is not None)
    except FileNotFoundError as error:
        raise UsageError(f"no file {path}") from error
    except IsADirectoryError as error:
        raise UsageError(f"{path} is a folder: wanted a file") from error
    # A damaged pickle can fail in any of these ways.
    except (
        *(OSError, SafetensorError, zipfile.BadZipFile, pickle.UnpicklingError, EOFError),
        *(struct.error, ValueError, LookupError, TypeError, AttributeError, AssertionError),
        *(MemoryError, OverflowError, RuntimeError, zlib.error),
    ) as error:
        reason = str(error).partition("\n")[0]
        if len(reason) < SHORTEST:  # a key, or nothing
            reason = "empty, damaged, or of another kind"
        kind = HoldsCode if isinstance(error, _Refused) else UsageError
        what = KINDS.get(path.suffix, "what torch.save wrote")
        raise kind(f"{path} cannot be read as {what}: {reason:.300}") from error
    return _unwrapped(arrays)


def _unwrapped(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a module's arrays without what wrappers put before all names."""
    inner = {name: array for name, array in arrays.items() if name != COUNT}
    for wrapper in WRAPPERS:
        if inner and all(name.startswith(wrapper) for name in inner):
            return _unwrapped({name.removeprefix(wrapper): x for name, x in inner.items()})
    return arrays


def _most(path: Path) -> int:
    """Return how many bytes the arrays of a file may take."""
    return max(MOST_UNPACKED * path.stat().st_size, SMALL)


def _open_archive(path: Path) -> zipfile.ZipFile:
    """Open a zip archive whose files, unpacked, are not much larger than itself."""
    archive = zipfile.ZipFile(path)
    size = sum(info.file_size for info in archive.infolist())
    if size > _most(path):
        archive.close()
        raise ValueError(f"it has {path.stat().st_size:,} bytes, and unpacked {size:,}")
    return archive


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with _open_archive(path) as archive:
        for info in archive.infolist():
            with archive.open(info) as file:
                is_old = np.lib.format.read_magic(file) == (1, 0)
                versions = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
                shape, _, dtype = versions[not is_old](file)
                if math.prod(shape) * dtype.itemsize > info.file_size and not dtype.hasobject:
                    raise ValueError(f"{info.filename} of {shape} is larger than its file")
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _read_torch(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with _open_archive(path) as archive:
            return _read_archive(archive)
    with path.open("rb") as file:
        return _read_stream(file, path.stat().st_size)


def _choose(path: Path, values: Any, key: str | None, known: Sequence[str]) -> Any:
    """Return the part of a file's values under a key, and then under known names."""
    if key is not None:
        names = list(values) if isinstance(values, dict) else []
        found = _under(values, key)
        if found is None and key not in names:
            raise ValueError(f"it has no key {key!r}: {some(list(map(str, names)), 5)}")
        values = values[key] if found is None else found
    for _ in range(DEEPEST):  # a dict may hold itself
        name = next((name for name in known if _under(values, name) is not None), None)
        if name is None:
            break
        others = [str(k) for k, v in values.items() if k != name and isinstance(v, dict) and v]
        if others:
            log.info("%s: %s is taken, not %s (--key)", path, name, some(others, 5))
        values = _under(values, name)
    return values


def _under(values: Any, key: str) -> dict[str, Any] | None:
    """Return the dict that a dict holds under a key, or its items with `key.` before the name.

    A key `a.b` is also that of a dict b in a dict a.
    """
    if not isinstance(values, dict):
        return None
    found = values.get(key)
    if isinstance(found, dict):
        return found
    start = f"{key}."
    flat = {str(k).removeprefix(start): v for k, v in values.items() if str(k).startswith(start)}
    outer, _, inner = key.partition(".")
    return flat or (_under(values.get(outer), inner) if inner else None)


def _only_arrays(path: Path, values: Any, is_chosen: bool) -> dict[str, np.ndarray]:
    """Return the values if they are arrays by name, as arrays that can be written to."""
    if not isinstance(values, dict):
        raise ValueError("it holds no state dict")
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    if not values:
        raise ValueError("it holds no arrays")
    if len(arrays) < len(values):
        others = [str(name) for name in values if name not in arrays]
        dicts = [str(name) for name, value in values.items() if isinstance(value, dict)]
        choice = f"; key can choose {some(dicts, 5)}" if dicts and not is_chosen else ""
        raise ValueError(f"it holds more than arrays: {some(others, 5)}{choice}")
    size = sum(array.nbytes for array in arrays.values())
    if size > _most(path):  # many tensors over one storage
        raise ValueError(f"it has {path.stat().st_size:,} bytes, and its tensors {size:,}")
    return {_text(k): x if x.flags.writeable else np.array(x) for k, x in arrays.items()}


class _Unpickler(pickle._Unpickler):
    """An unpickler of dicts and tensors that refuses every other name, and keys of another kind.

    It is Python's own in Python, whose memo takes no more than the pickle says. Hashing a key would
    take forever where it is a tuple that holds another twice, and so on, and crash where it is
    nested deeply; so would the text of one.
    """

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: IO[bytes], storage: Any):
        super().__init__(file, encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): _dict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
        }
        if module == "torch" and name in DTYPES:
            return np.dtype(DTYPES[name])
        if (module, name) not in known:
            raise _Refused(f"{module}.{name} is refused: only tensors are read")
        return known[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or any(view):
            raise pickle.UnpicklingError("it has an unknown kind of storage")
        array: np.ndarray = self._storage(_text(key), dtype, count)
        return array

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1][_key(key)] = value

    def _set_items(self) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.stack[-1][_key(key)] = value

    def _leave_attributes(self) -> None:
        self.stack.pop()

    def _refuse(self) -> None:
        raise _Refused("it holds other objects than dicts and tensors")

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        **dict.fromkeys((code[0] for code in OTHER_OBJECTS), _refuse),
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.BUILD[0]: _leave_attributes,
    }


def _text(key: Any) -> str:
    if not isinstance(key, str):
        raise pickle.UnpicklingError("it holds names that are no texts")
    return key


def _key(key: Any) -> str | int:
    """Return the key of a dict; the state of an optimizer has numbers."""
    return key if isinstance(key, int) else _text(key)


def _dict(items: Iterable[tuple[Any, Any]] = ()) -> dict[str | int, Any]:
    return {_key(key): value for key, value in items}


def _tensor(
    storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *rest: Any
) -> np.ndarray:
    """Return a view of a storage, after checking that all of it lies inside."""
    del rest  # whether it requires a gradient, and its hooks
    if not all(isinstance(number, int) for number in (offset, *shape, *strides)):
        raise pickle.UnpicklingError("a tensor's shape has other entries than numbers")
    last = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if math.prod(shape) > max(len(storage), 1):
        raise pickle.UnpicklingError(f"a tensor of {shape} reaches out of its storage")
    if math.prod(shape) and not 0 <= offset <= offset + last < len(storage):
        raise pickle.UnpicklingError(f"a tensor of {shape} reaches out of its storage")
    if min((*shape, *strides, 0)) < 0:
        raise pickle.UnpicklingError(f"a tensor of shape {shape} and strides {strides}")
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


def _parameter(tensor: np.ndarray, *rest: Any) -> np.ndarray:
    del rest
    return tensor


def _read_archive(archive: zipfile.ZipFile) -> Any:
    """Read the newer format, a zip archive of one pickle and a file for each storage."""
    (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
    folder = pickled.removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.namelist():
        order = archive.read(f"{folder}byteorder")
        if order != b"little":
            raise ValueError(f"its byte order is {order!r}")
    storages: dict[str, np.ndarray] = {}

    def storage(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        if key not in storages:
            storages[key] = np.frombuffer(archive.read(f"{folder}data/{key}"), dtype, count)
        return storages[key]

    with archive.open(pickled) as file:
        return _Unpickler(file, storage).load()


def _read_stream(file: IO[bytes], size: int) -> Any:
    """Read the older format: pickles of a magic number, version, system and tensors; storages."""

    def refuse(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        raise pickle.UnpicklingError(f"storage {key} where there should be none")

    def load() -> Any:
        return _Unpickler(file, refuse).load()

    if load() != MAGIC:
        raise ValueError("it is no file of PyTorch")
    load(), load()
    storages: dict[str, np.ndarray] = {}

    def storage(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        if count * dtype.itemsize > size:
            raise pickle.UnpicklingError(f"storage {key} of {count} values in {size} bytes")
        # Filled below, because the values come after the tensors that are views of them.
        return storages.setdefault(key, np.zeros(count, dtype))

    values = _Unpickler(file, storage).load()
    for key in load():
        array = storages[_text(key)]
        (count,) = struct.unpack("<q", file.read(8))
        if count != len(array):
            raise ValueError(f"storage {key} of {count} values, and not {len(array)}")
        array[:] = np.frombuffer(file.read(array.nbytes), array.dtype, count)
    return values
