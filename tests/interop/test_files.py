"""Tests of reading files that PyTorch has written, and of refusing harmful files."""

import pickle
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from genjax.interop.files import read_arrays
from genjax.types import UsageError

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.mark.parametrize("name", ["torch_zip", "torch_legacy"])
def test_a_state_dict_of_pytorch(name):
    """The file was written by `torch.save` of PyTorch 2.13; there is one of each format."""
    arrays = read_arrays(GOLDENS / f"{name}.pth")
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = {
        "transposed": base.T,
        "row": base[1],
        "half": np.array([0.5, -2], np.float16),
        "bfloat16": np.array([1.5, 3], ml_dtypes.bfloat16),
        "count": np.array(7),
        "empty": np.zeros((0, 3), np.float32),
        "parameter": np.ones(2, np.float32),
        "flags": np.array([True, False]),
    }
    assert list(arrays) == list(expected)
    for key, value in expected.items():
        assert arrays[key].dtype == value.dtype
        np.testing.assert_array_equal(arrays[key], value)
        assert arrays[key].flags.writeable


def test_safetensors_and_npz(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([1, 2], np.int32)}
    save_file(arrays, tmp_path / "x.safetensors")
    np.savez(tmp_path / "x.npz", **arrays)
    for name in ("x.safetensors", "x.npz"):
        found = read_arrays(tmp_path / name)
        assert found.keys() == arrays.keys()
        for key, value in arrays.items():
            np.testing.assert_array_equal(found[key], value)


class _Harm:
    def __init__(self, function, *arguments):
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


def _archive(path, pickled, storages=None):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        for key, data in (storages or {}).items():
            archive.writestr(f"x/data/{key}", data)
    return path


def test_nothing_in_a_file_is_run(tmp_path):
    touched = tmp_path / "touched"
    harm = pickle.dumps({"a": _Harm(Path.touch, touched)})
    path = _archive(tmp_path / "x.pth", harm)
    with pytest.raises(UsageError, match="is refused: only tensors are read"):
        read_arrays(path)
    path.write_bytes(harm)
    with pytest.raises(UsageError, match="is refused"):
        read_arrays(path)
    assert not touched.exists()
    np.savez(tmp_path / "x.npz", a=np.array([_Harm(Path.touch, touched)]))
    with pytest.raises(UsageError, match="allow_pickle=False"):
        read_arrays(tmp_path / "x.npz")
    assert not touched.exists()


def _tensor(count, offset, shape, strides):
    """Pickle `{"a": tensor}` over a storage of `count` floats, as PyTorch spells it."""
    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    )
    storage += b"J" + struct.pack("<i", count) + b"tQ"

    def integers(values):
        return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"

    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"J" + struct.pack("<i", offset)
    call += integers(shape) + integers(strides) + b"\x89NtR"
    return b"\x80\x02}X\x01\x00\x00\x00a" + call + b"s."


def test_a_tensor_reads_nothing_outside_of_its_storage(tmp_path):
    data = np.arange(6, dtype=np.float32).tobytes()
    path = tmp_path / "x.pth"
    found = read_arrays(_archive(path, _tensor(6, 1, (2, 2), (2, 1)), {"0": data}))
    np.testing.assert_array_equal(found["a"], [[1, 2], [3, 4]])
    for offset, shape, strides in (
        (3, (2, 2), (2, 1)),
        (0, (7,), (1,)),
        (-1, (2,), (1,)),
        (5, (2,), (-1,)),
    ):
        _archive(path, _tensor(6, offset, shape, strides), {"0": data})
        with pytest.raises(UsageError, match="a tensor of"):
            read_arrays(path)
    _archive(path, _tensor(7, 0, (7,), (1,)), {"0": data})
    with pytest.raises(UsageError, match=r"x\.pth cannot be read"):
        read_arrays(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no file"):
        read_arrays(tmp_path / "none.pth")
    for name in ("x.pth", "x.safetensors", "x.npz"):
        (tmp_path / name).write_bytes(b"neither this nor that")
        with pytest.raises(UsageError, match=rf"{name} cannot be read"):
            read_arrays(tmp_path / name)
    whole = (GOLDENS / "torch_legacy.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[:-5])
    with pytest.raises(UsageError, match=r"cut\.pth cannot be read"):
        read_arrays(tmp_path / "cut.pth")
    with pytest.raises(UsageError, match="holds no state dict"):
        read_arrays(_archive(tmp_path / "list.pth", pickle.dumps([1])))
    with pytest.raises(UsageError, match="holds more than arrays: epoch"):
        read_arrays(_archive(tmp_path / "more.pth", pickle.dumps({"epoch": 3})))
