"""Tests of reading files that PyTorch has written, and of refusing harmful files."""

import json
import pickle
import struct
import subprocess
import sys
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


def test_names_of_a_parallel_module_are_those_of_the_module(tmp_path):
    np.savez(tmp_path / "x.npz", **{"module.a": np.ones(2), "module.module.b": np.ones(3)})
    assert list(read_arrays(tmp_path / "x.npz")) == ["a", "module.b"]
    np.savez(tmp_path / "x.npz", **{"module.a": np.ones(2), "b": np.ones(3)})
    assert list(read_arrays(tmp_path / "x.npz")) == ["module.a", "b"]


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


def test_a_state_dict_among_others_is_chosen_by_its_key(tmp_path):
    data = np.arange(6, dtype=np.float32).tobytes()
    one = _tensor(6, 0, (2,), (1,))[2:-1]  # without its protocol and end
    pickled = b"\x80\x02}X\x05\x00\x00\x00g_ema" + one + b"sX\x04\x00\x00\x00argsK\x01s."
    path = _archive(tmp_path / "x.pth", pickled, {"0": data})
    with pytest.raises(UsageError, match=r"more than arrays: g_ema, args; key can choose g_ema$"):
        read_arrays(path)
    np.testing.assert_array_equal(read_arrays(path, "g_ema")["a"], [0, 1])
    with pytest.raises(UsageError, match="it has no key 'g': g_ema, args"):
        read_arrays(path, "g")
    with pytest.raises(UsageError, match="it holds no state dict"):
        read_arrays(path, "args")


def _pickled(content):
    """A pickle of dicts, whose one array is [0, 1]."""
    if content is None:
        return _tensor(6, 0, (2,), (1,))[9:-2]  # without its dict and key
    items = (
        b"X" + struct.pack("<I", len(k)) + k.encode() + _pickled(v) for k, v in content.items()
    )
    return b"}(" + b"".join(items) + b"u"


@pytest.mark.parametrize(
    ("content", "key", "known"),
    [
        ({"ema": {"shadow": {"a": None}}}, "ema.shadow", ()),
        ({"ema": {"shadow": {"a": None}}}, None, ("ema", "shadow")),
        ({"ema": {"shadow.a": None}, "x.y": {"b": None}}, "ema.shadow", ()),
        ({"module.a": None, "n_averaged": None}, None, ()),
        ({"_orig_mod.module.a": None}, None, ()),
        ({"model": {"module._orig_mod.a": None, "n_averaged": None}}, None, ("model",)),
    ],
    ids=str,
)
def test_state_dicts_in_dicts_and_wrapped_ones(tmp_path, content, key, known):
    data = np.arange(6, dtype=np.float32).tobytes()
    path = _archive(tmp_path / "x.pth", b"\x80\x02" + _pickled(content) + b".", {"0": data})
    found = read_arrays(path, key, known)
    assert list(found) == ["a"]
    np.testing.assert_array_equal(found["a"], [0, 1])


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
    with pytest.raises(UsageError, match=r"holds more than arrays: epoch$"):
        read_arrays(_archive(tmp_path / "more.pth", pickle.dumps({"epoch": 3})))
    with pytest.raises(UsageError, match="holds no arrays"):
        read_arrays(_archive(tmp_path / "none.pth", pickle.dumps({})))
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("<html>")
    for name in ("empty", "text"):
        with pytest.raises(UsageError, match=r"what torch.save wrote: .*empty, damaged, or of an"):
            read_arrays(tmp_path / f"{name}.pth")
    with pytest.raises(UsageError, match="is a folder: wanted a file"):
        read_arrays(tmp_path)


def _legacy(tensor, keys=b"]X\x01\x00\x00\x000a."):
    """A file of PyTorch's older format, with the pickle of a tensor."""
    parts = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {})]
    return b"".join([*parts, tensor, b"\x80\x02" + keys])


def _deflated(path, pickled, size):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("x/data.pkl", pickled)
        with archive.open("x/data/0", "w") as file:
            for _ in range(size // 2**20):
                file.write(bytes(2**20))


def _many(path):
    """A state dict of 2000 tensors, each of the whole of one storage of 4 MiB."""
    whole = _tensor(2**20, 0, (2**20,), (1,))[9:-2]
    items = (b"X\x04\x00\x00\x00%04d" % i + whole for i in range(2000))
    _archive(path, b"\x80\x02}(" + b"".join(items) + b"u.", {"0": bytes(2**22)})


def _npz(path, shape, data=b"", kind=zipfile.ZIP_STORED):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    with zipfile.ZipFile(path, "w", kind, compresslevel=1) as archive:
        length = struct.pack("<H", len(header))
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + length + header + data)


def _safetensors(path, shape, offsets, length=None):
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()
    path.write_bytes(struct.pack("<Q", length or len(header)) + header + bytes(8))


def _pair(count):
    return _tensor(count, 0, (2,), (1,))


# A tuple that holds the one before it twice, 60 times over, and one a million deep.
TWICE = b")q\x00" + b"h\x00h\x00\x86q\x00" * 60
DEEP = b")" + b"\x85" * 10**6
ORDERED = b"ccollections\nOrderedDict\n"


def _storage(kind, key):
    """A pickle that asks for a storage of this kind and key."""
    return b"\x80\x02(" + kind + b"ctorch\nFloatStorage\n" + key + b"NK\x01tQ."


FAR = b"\x80\x02}r\xff\xff\xff\x7fX\x01\x00\x00\x00aK\x01s."  # the last place of a memo of 2**31
BOMBS = {
    "deflated.pth": lambda path: _deflated(path, _pair(2**26), 2**28),
    "deflated.npz": lambda path: _npz(path, (2**26,), bytes(2**28), zipfile.ZIP_DEFLATED),
    "broadcast.pth": lambda path: _archive(
        path, _tensor(1, 0, (2**30, 2**9), (0, 0)), {"0": bytes(4)}
    ),
    "many.pth": _many,
    "storage.pth": lambda path: path.write_bytes(_legacy(_pair(2**31 - 1))),
    "memo.pth": lambda path: _archive(path, FAR),
    "old_memo.pth": lambda path: path.write_bytes(_legacy(FAR)),
    "bytes.pth": lambda path: _archive(path, b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"."),
    "bytearray.pth": lambda path: _archive(path, b"\x80\x05\x96" + struct.pack("<Q", 2**29) + b"."),
    "marks.pth": lambda path: _archive(path, b"(" * 10**6 + b"."),
    "name.pth": lambda path: _archive(path, b"\x80\x02})" + b"q\x00h\x00\x86" * 9 + b"K\x01s."),
    "key.pth": lambda path: _archive(path, b"\x80\x02}" + TWICE + b"K\x01s."),
    "keys.pth": lambda path: _archive(path, b"\x80\x02}(" + TWICE + b"K\x01u."),
    "deep.pth": lambda path: _archive(path, b"\x80\x02}" + DEEP + b"K\x01s."),
    "dict.pth": lambda path: _archive(path, b"\x80\x02(" + TWICE + b"K\x01d."),
    "set.pth": lambda path: _archive(path, b"\x80\x04\x8f(" + TWICE + b"\x90."),
    "frozen.pth": lambda path: _archive(path, b"\x80\x04(" + TWICE + b"\x91."),
    "pairs.pth": lambda path: _archive(
        path, b"\x80\x02" + ORDERED + b"]" + TWICE + b"K\x01\x86a\x85R."
    ),
    "state.pth": lambda path: _archive(path, b"\x80\x02" + ORDERED + b")R}" + TWICE + b"K\x01sb."),
    "storage_kind.pth": lambda path: _archive(path, _storage(TWICE, b"X\x01\x00\x00\x000")),
    "storage_key.pth": lambda path: _archive(
        path, _storage(b"X\x07\x00\x00\x00storage", TWICE), {"0": bytes(4)}
    ),
    "old_keys.pth": lambda path: path.write_bytes(_legacy(_pair(2), b"]" + TWICE + b"a.")),
    "shape.pth": lambda path: _archive(
        path, _tensor(6, 0, (10**9,), (1,)).replace(b"t(J", b")\x85t(J", 1), {"0": bytes(24)}
    ),
    "terabytes.npz": lambda path: _npz(path, (2**40,)),
    "overflow.npz": lambda path: _npz(path, (2**62, 2**62)),
    "terabytes.safetensors": lambda path: _safetensors(path, [2**40], [0, 2**42]),
    "overflow.safetensors": lambda path: _safetensors(path, [2**62, 4], [0, 8]),
    "outside.safetensors": lambda path: _safetensors(path, [2], [8, 16]),
    "backwards.safetensors": lambda path: _safetensors(path, [2], [8, 0]),
    "header.safetensors": lambda path: _safetensors(path, [2], [0, 8], length=2**40),
}

# Reads the files of its arguments in 2 GiB of address space, and prints how that went.
READ = """
import resource, sys
from genjax.interop.files import read_arrays
from genjax.types import UsageError
resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
def peak():
    # Not `ru_maxrss`, which begins with that of the process that started this one.
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0])
before = peak()
for path in sys.argv[1:]:
    try:
        print("read", {name: array.shape for name, array in read_arrays(path).items()})
    except UsageError as error:
        print(error)
print((peak() - before) // 1024)
"""


def test_a_file_that_would_fill_the_memory_is_refused_in_one_line(tmp_path):
    paths = [tmp_path / name for name in BOMBS]
    for path in paths:
        BOMBS[path.name](path)
    found = subprocess.run(
        [sys.executable, "-c", READ, *paths], capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stderr
    *lines, mib = found.stdout.splitlines()
    assert len(lines) == len(paths), found.stdout
    for path, line in zip(paths, lines, strict=True):
        assert line.startswith(f"{path} cannot be read as "), line
        assert len(line) < 500
    assert int(mib) < 100


def test_what_packs_well_is_read(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(10**6), b=np.ones(3))
    assert read_arrays(tmp_path / "x.npz")["a"].shape == (10**6,)
