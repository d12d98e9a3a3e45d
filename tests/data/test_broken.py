"""What is said of files that cannot be read, and what is read in spite of its metadata."""

import io
import re
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from genjax.data import sources
from genjax.data.batches import read_all
from genjax.data.broken import BrokenImage
from genjax.data.source import DataOptions
from genjax.data.sources import open_source
from genjax.types import UsageError

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's, of odd metadata

PIXELS = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16


def _encode(pixels=PIXELS, kind="PNG", **how):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **how)
    return buffer.getvalue()


def _read(tmp_path, data, name="x.png", **options):
    (tmp_path / name).write_bytes(data)
    source = open_source(f"folder:{tmp_path}", DataOptions(**options))
    return source.read([0])[0]


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "is empty"),
        (bytes(100), "holds only zeros"),
        (b"junk", "not an image of a known format"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS .*git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC file, which is not read, or damaged"),
        (b"\0\5\x16\7\0\2\0\0", "a Mac's record"),
        (_encode()[:50], "damaged or cut short"),
        (_encode(kind="JPEG")[:-20], "damaged or cut short"),
        (_encode(kind="GIF")[:30], "damaged or cut short"),
    ],
)
def test_the_cause_is_in_the_users_words(tmp_path, data, cause):
    found = _read(tmp_path, data, size=(4,), channels=1)
    assert isinstance(found, BrokenImage)
    assert re.match(rf"x\.png: {cause}", str(found))
    if data == b"":
        with pytest.raises(UsageError, match=r"not one of 1 images can be read: x\.png: is empty"):
            open_source(f"folder:{tmp_path}", DataOptions())


def test_a_decompression_bomb_is_named(tmp_path):
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    found = _read(tmp_path, buffer.getvalue(), size=(4,))
    assert str(found).startswith("x.png: too many pixels, perhaps a decompression bomb")


def test_an_image_that_is_too_wide_is_named_or_scaled(tmp_path):
    data = _encode(np.full((1, 40_000), 7, np.uint8))
    with pytest.raises(UsageError, match=r"x\.png: 1x40000 pixels: more than 32768 a side; --size"):
        _read(tmp_path, data)
    assert _read(tmp_path, data, size=(4, 4))[0].shape == (4, 4, 1)


def test_a_file_of_more_bytes_than_an_image_has_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 50)
    found = _read(tmp_path, _encode(), size=(4,))
    assert re.match(r"x\.png: has \d+ bytes, and at most 50 are read", str(found))


def test_errors_of_the_system_are_named(tmp_path, monkeypatch):
    for error, words in (
        (PermissionError(13, "no"), "no permission to read it"),
        (MemoryError(), "needs more memory than there is"),
        (ValueError("x\ny\0"), "damaged or cut short (x y\\x00)"),
    ):

        def fail(*args, error=error, **kwargs):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(sources, "decode", fail)
            assert str(_read(tmp_path, b"", size=(4,), channels=1)) == f"x.png: {words}"


def _change_members(data, offset, value):
    changed = bytearray(data)
    for entry in re.finditer(b"PK\x01\x02", data):
        changed[entry.start() + offset] = value
    return bytes(changed)


@pytest.mark.parametrize(
    ("offset", "value", "cause"),
    [
        (10, 9, "packed by a method that is not read, such as Deflate64"),
        (8, 1, "encrypted: unpack the archive with its password first"),
        (16, 99, "damaged or cut short .*CRC"),
    ],
)
def test_members_that_cannot_be_unpacked_are_named(tmp_path, offset, value, cause):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i in range(2):
            archive.writestr(f"{i}.png", _encode())
    (tmp_path / "a.zip").write_bytes(_change_members(buffer.getvalue(), offset, value))
    source = open_source(str(tmp_path / "a.zip"), DataOptions(size=(4,), channels=1))
    broken = read_all(source)[2]
    assert [re.match(rf"{i}\.png: {cause}", line) is not None for i, line in enumerate(broken)]
    assert len(broken) == 2
    with pytest.raises(UsageError, match=rf"not one of 2 images can be read: 0\.png: {cause}"):
        open_source(str(tmp_path / "a.zip"), DataOptions())


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\3\4" + bytes(50), b"Rar!\x1a\7\0", None])
def test_an_archive_that_is_none_is_refused(tmp_path, data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("0.png", _encode())
    cut_short = buffer.getvalue()[:-30]
    (tmp_path / "a.zip").write_bytes(cut_short if data is None else data)
    with pytest.raises(UsageError, match=r"a\.zip cannot be read as a zip archive: damaged or cut"):
        open_source(str(tmp_path / "a.zip"), DataOptions())


def test_an_archive_of_a_later_version_is_refused(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("0.png", _encode())
    (tmp_path / "a.zip").write_bytes(_change_members(buffer.getvalue(), 6, 99))
    with pytest.raises(UsageError, match=r"a\.zip cannot be read as a zip archive: packed by a"):
        open_source(str(tmp_path / "a.zip"), DataOptions())


def _chunk(kind, content, crc=None):
    crc = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def _segment(kind, content):
    return b"\xff" + bytes([kind]) + struct.pack(">H", len(content) + 2) + content


@pytest.mark.parametrize(
    "chunk",
    [
        _chunk(b"tEXt", b"a\0b", crc=5),
        _chunk(b"zTXt", b"a\0\x09junk"),
        _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8))),
        _chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**8))),
        _chunk(b"eXIf", b"junk"),
        *(_chunk(kind, b"\0") for kind in (b"pHYs", b"gAMA", b"cHRM", b"acTL", b"fcTL", b"zzZz")),
    ],
)
def test_junk_in_the_metadata_of_a_png_is_ignored(tmp_path, chunk):
    data = _encode()
    found = _read(tmp_path, data[:33] + chunk + data[33:])
    assert not isinstance(found, BrokenImage)
    np.testing.assert_array_equal(found[0][..., 0], PIXELS)


@pytest.mark.parametrize(
    "segment",
    [
        _segment(0xE0, b"JFIF\0"),
        _segment(0xE1, b"Exif\0\0JUNKJUNKJUNK"),
        _segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff"),
        _segment(0xE2, b"ICC_PROFILE\0"),
        _segment(0xE2, b"MPF\0II*\0\x08\0\0\0\0\0"),
        _segment(0xED, b"Photoshop 3.0\0008BIM\x03\xed\0\0\0\0\0\x10abc"),
        _segment(0xEE, b"Adobe\0"),
        _segment(0xFE, b"\xff"),
    ],
)
def test_junk_in_the_metadata_of_a_jpeg_is_ignored(tmp_path, segment):
    data = _encode(kind="JPEG")
    found = _read(tmp_path, data[:2] + segment + data[2:], "x.jpg")
    assert not isinstance(found, BrokenImage)
    assert np.abs(found[0][..., 0].astype(int) - PIXELS).mean() < 8


@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"subsampling": 0, "comment": b"hi"}])
def test_a_jpeg_needs_all_its_pixels_but_no_end(tmp_path, how):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    data = _encode(pixels, "JPEG", quality=90, **how)
    whole = _read(tmp_path, data, "x.jpg")[0]
    for missing in range(1, 40):
        found = _read(tmp_path, data[:-missing], "x.jpg", size=(12, 16))
        if missing <= 2:
            np.testing.assert_array_equal(found[0], whole)
        else:
            assert re.match(r"x\.jpg: damaged or cut short", str(found)), missing


def test_a_progressive_jpeg_without_its_last_scans_is_cut_short(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    data = _encode(pixels, "JPEG", progressive=True)
    scans = [found.start() for found in re.finditer(b"\xff\xda", data)]
    assert len(scans) > 3
    for start in scans[1:]:
        found = _read(tmp_path, data[:start], "x.jpg", size=(12, 16))
        assert isinstance(found, BrokenImage)


def test_an_orientation_of_another_type_is_ignored(tmp_path):
    text = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\2\0\2\0\0\0006\0\0\0\0\0\0\0"
    for kind in ("JPEG", "PNG", "WEBP"):
        found = _read(tmp_path, _encode(PIXELS[:2], kind, exif=text))
        assert found[0].shape[:2] == (2, 4)


def test_good_orientation_outlives_junk_beside_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    data = _encode(PIXELS[:2], exif=exif)
    found = _read(tmp_path, data[:33] + _chunk(b"tEXt", b"a\0b", crc=5) + data[33:])
    np.testing.assert_array_equal(found[0][..., 0], np.rot90(PIXELS[:2], -1))


def test_a_tiff_that_lies_on_its_side(tmp_path):
    data = _encode(PIXELS[:2], "TIFF", tiffinfo={0x0112: 6})
    found = _read(tmp_path, data, "x.tif")
    np.testing.assert_array_equal(found[0][..., 0], np.rot90(PIXELS[:2], -1))
