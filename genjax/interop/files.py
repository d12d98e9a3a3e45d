"""Reading arrays from the files of other libraries, without running any code in them."""

import collections
import math
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from genjax.types import UsageError

# Arrays take at most this many times the bytes of their file, or else fewer than `SMALL`; a file
# that says more would only fill the memory.
MOST_UNPACKED, SMALL = 20, 2**26
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
            return _read_npz(path)
        return _read_torch(path)
    except FileNotFoundError as error:
        raise UsageError(f"no file {path}") from error
    # A damaged pickle can fail in any of these ways.
    except (
        *(OSError, SafetensorError, zipfile.BadZipFile, pickle.UnpicklingError, EOFError),
        *(struct.error, ValueError, LookupError, TypeError, AttributeError, AssertionError),
        *(MemoryError, OverflowError, RuntimeError, zlib.error),
    ) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UsageError(f"{path} cannot be read: {reason:.300}") from error


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


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    if zipfile.is_zipfile(path):
        with _open_archive(path) as archive:
            values = _read_archive(archive)
    else:
        with path.open("rb") as file:
            values = _read_stream(file, path.stat().st_size)
    if not isinstance(values, Mapping):
        raise ValueError("it holds no state dict")
    if not all(isinstance(name, str) for name in values):  # the text of others may be endless
        raise ValueError("it holds names that are no texts")
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    if len(arrays) < len(values):
        others = [name for name in values if name not in arrays]
        raise ValueError(f"it holds more than arrays: {', '.join(others[:5])}")
    size = sum(array.nbytes for array in arrays.values())
    if size > _most(path):  # many tensors over one storage
        raise ValueError(f"it has {path.stat().st_size:,} bytes, and its tensors {size:,}")
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


def _load(file: IO[bytes], storage: Any) -> Any:
    """Unpickle, if no place of the memo is numbered higher than the pickle has bytes.

    The unpickler would make that many places.
    """
    begin = file.tell()
    for code, argument, position in pickletools.genops(file):
        if "PUT" in code.name and isinstance(argument, int) and argument > (position or 0):
            raise pickle.UnpicklingError(f"its memo has no place {argument}")
    file.seek(begin)
    return _Unpickler(file, storage).load()


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
        return _load(file, storage)


def _read_stream(file: IO[bytes], size: int) -> Any:
    """Read the older format: pickles of a magic number, version, system and tensors; storages."""

    def refuse(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        raise pickle.UnpicklingError(f"storage {key} where there should be none")

    def load() -> Any:
        return _load(file, refuse)

    if load() != MAGIC:
        raise ValueError("it is no file of PyTorch")
    load(), load()
    storages: dict[str, np.ndarray] = {}

    def storage(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        if count * dtype.itemsize > size:
            raise pickle.UnpicklingError(f"storage {key} of {count} values in {size} bytes")
        # Filled below, because the values come after the tensors that are views of them.
        return storages.setdefault(key, np.zeros(count, dtype))

    values = _load(file, storage)
    for key in load():
        array = storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count != len(array):
            raise ValueError(f"storage {key} of {count} values, and not {len(array)}")
        array[:] = np.frombuffer(file.read(array.nbytes), array.dtype, count)
    return values
