"""Reading arrays from the files of other libraries, without running any code in them."""

import collections
import math
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from genjax.types import UsageError

# The number at the beginning of PyTorch's older files, which are not zip archives.
MAGIC = 0x1950A86A20F9469CFC6C
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


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read the named arrays of a file.

    Args:
        path: A `.safetensors`, a `.npz`, or a state dict saved by `torch.save`, in its old or new
            format.

    Returns:
        The arrays by name, of any shapes [...], as in the file.

    Raises:
        UsageError: There is no such file, it is of another kind, or it holds more than arrays.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        return _read_torch(path)
    except FileNotFoundError as error:
        raise UsageError(f"no file {path}") from error
    # A damaged pickle can fail in any of these ways.
    except (
        *(OSError, SafetensorError, zipfile.BadZipFile, pickle.UnpicklingError, EOFError),
        *(struct.error, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    ) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            values = _read_archive(archive)
    else:
        with path.open("rb") as file:
            values = _read_stream(file)
    if not isinstance(values, Mapping):
        raise ValueError("it holds no state dict")
    arrays = {str(name): value for name, value in values.items() if isinstance(value, np.ndarray)}
    if len(arrays) < len(values):
        others = [str(name) for name in values if name not in arrays]
        raise ValueError(f"it holds more than arrays: {', '.join(others[:5])}")
    return {name: np.array(array) for name, array in arrays.items()}


class _Unpickler(pickle.Unpickler):
    """An unpickler of ordered dicts and tensors that refuses every other name."""

    def __init__(self, file: IO[bytes], storage: Any):
        super().__init__(file, encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
        }
        if module == "torch" and name in DTYPES:
            return np.dtype(DTYPES[name])
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"{module}.{name} is refused: only tensors are read")
        return known[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or any(view):
            raise pickle.UnpicklingError(f"unknown kind of storage {kind!r}")
        array: np.ndarray = self._storage(str(key), dtype, count)
        return array


def _tensor(
    storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *rest: Any
) -> np.ndarray:
    """Return a view of a storage, after checking that all of it lies inside."""
    del rest  # whether it requires a gradient, and its hooks
    last = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
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


def _read_stream(file: IO[bytes]) -> Any:
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
        # Filled below, because the values come after the tensors that are views of them.
        return storages.setdefault(key, np.zeros(count, dtype))

    values = _Unpickler(file, storage).load()
    for key in load():
        array = storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count != len(array):
            raise ValueError(f"storage {key} of {count} values, and not {len(array)}")
        array[:] = np.frombuffer(file.read(array.nbytes), array.dtype, count)
    return values
