"""Files of every format, and archives, damaged at random: each is read, or named in one line."""

import io
import json
import random
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from genjax.data.batches import read_all
from genjax.data.broken import BrokenImage
from genjax.data.source import DataOptions, ManySizes
from genjax.data.sources import File, FileSource, open_source
from genjax.types import UsageError

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's, of odd metadata

# Endings, with how Pillow writes each.
FORMATS = {
    **{e: {} for e in ("png", "gif", "bmp", "ppm", "webp", "avif", "jp2", "tga", "ico", "pcx")},
    **{e: {} for e in ("sgi", "qoi", "dds", "jpg", "tif")},
    "jfif": {"format": "JPEG", "progressive": True},
    "jpeg": {"format": "MPO", "save_all": True},
    "apng": {"format": "PNG", "save_all": True},
    "tiff": {"format": "TIFF", "compression": "tiff_lzw"},
    "dib": {"format": "DIB"},
}
FAST = 60
TRIES = 10_000


def _picture(seed):
    smooth = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8))
    return smooth.resize((16, 12), Image.Resampling.BICUBIC)


def _encode(ending, exif=b""):
    buffer, how = io.BytesIO(), dict(FORMATS[ending])
    if how.get("save_all"):
        how["append_images"] = [_picture(1)]
    if exif and ending in ("png", "jpg", "webp", "avif", "apng", "jfif"):
        how["exif"] = exif
    _picture(0).save(buffer, how.pop("format", Image.registered_extensions()[f".{ending}"]), **how)
    return buffer.getvalue()


def _exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a camera"
    return exif.tobytes()


FILES = {ending: _encode(ending, _exif()) for ending in FORMATS}


def _zip(method):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for i in range(4):
            archive.writestr(f"{'ab'[i % 2]}/{i}.png", _encode("png"))
        labels = [[f"{'ab'[i % 2]}/{i}.png", i % 2] for i in range(4)]
        archive.writestr("dataset.json", json.dumps({"labels": labels}))
    return buffer.getvalue()


METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
ZIPS = [_zip(method) for method in METHODS]


@st.composite
def damaged(draw, files):
    """Draw a file of which bytes are flipped, replaced, cut off or out, put in, or swapped."""
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 4))):
        if not data:
            break
        kind = draw(st.sampled_from(["flip", "byte", "cut", "out", "in", "swap", "zero"]))
        # Most of what matters stands at the beginning, and in an archive at the end.
        near = draw(st.sampled_from([64, len(data)]))
        at = min(draw(st.integers(0, near - 1)), len(data) - 1)
        at = len(data) - 1 - at if draw(st.booleans()) else at
        size = draw(st.integers(1, 16))
        if kind == "flip":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte":
            data[at] = draw(st.sampled_from([0, 1, 127, 128, 255]))
        elif kind == "cut":
            del data[at:]
        elif kind == "out":
            del data[at : at + size]
        elif kind == "in":
            data[at:at] = random.Random(size).randbytes(size)
        elif kind == "zero":
            data[at : at + size] = bytes(len(data[at : at + size]))
        else:
            other = draw(st.integers(0, len(data) - 1))
            first, second = bytes(data[at : at + size]), bytes(data[other : other + size])
            data[at : at + size], data[other : other + size] = second, first
    return bytes(data)


def _check(examples, shape):
    for example in examples:
        if isinstance(example, BrokenImage):
            assert str(example).isprintable()
            assert len(str(example)) < 500
        else:
            assert example[0].shape == shape
            assert example[0].dtype == np.uint8


def _check_image(data):
    file = [File("a.png", len(data))]
    options = DataOptions(size=(8, 6), channels=3)
    _check(FileSource(file, lambda place: data, "d", options).read([0]), (8, 6, 3))
    try:
        source = FileSource(file, lambda place: data, "d", DataOptions())
    except UsageError as error:
        assert str(error).isprintable()
        assert "not one of 1 images can be read: a.png: " in str(error)
    else:
        _check(source.read([0]), source.spec.shape)


def _check_zip(data, folder):
    path = folder / "a.zip"
    path.write_bytes(data)
    try:
        source = open_source(str(path), DataOptions())
    except ManySizes:
        source = open_source(str(path), DataOptions(size=(8, 8)))
    except UsageError as error:
        assert str(error).isprintable()
        assert str(path) in str(error)
        return
    _check(source.read(range(len(source))), source.spec.shape)
    assert all(line.isprintable() for line in source.notes)
    source.contents(True)


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch):
    """Refuse pictures of more than two million pixels, which damaged headers speak of."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)


def _property(tries):
    return settings(
        max_examples=tries,
        deadline=None,
        derandomize=True,  # so that a gate that passed passes again
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@given(damaged(list(FILES.values())))
@_property(FAST)
def test_a_damaged_image_is_read_or_named(data):
    _check_image(data)


@given(damaged(ZIPS))
@_property(FAST)
def test_a_damaged_archive_is_read_or_named(tmp_path_factory, data):
    _check_zip(data, tmp_path_factory.getbasetemp())


@pytest.mark.exhaustive
@given(damaged(list(FILES.values())))
@_property(TRIES)
@pytest.mark.timeout(3600)
def test_ten_thousand_damaged_images(data):
    _check_image(data)


@pytest.mark.exhaustive
@given(damaged(ZIPS))
@_property(TRIES)
@pytest.mark.timeout(3600)
def test_ten_thousand_damaged_archives(tmp_path_factory, data):
    _check_zip(data, tmp_path_factory.getbasetemp())


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(), each),
    )
)
@_property(FAST)
def test_any_json_in_place_of_labels_is_taken_or_refused(content):
    png = FILES["png"]
    for whole in (content, {"labels": content}, {"labels": [["a.png", content], ["b.png", 1]]}):
        text = json.dumps(whole).encode()
        files = [File("a.png", 1), File("b.png", 1), File("dataset.json", len(text))]
        try:
            source = FileSource(files, [png, png, text].__getitem__, "d", DataOptions())
        except UsageError as error:
            assert str(error).isprintable()
            assert "d/dataset.json" in str(error)
        else:
            _check(source.read([0, 1]), source.spec.shape)


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_is_read(tmp_path, ending):
    (tmp_path / f"a.{ending}").write_bytes(FILES[ending])
    images, _, broken = read_all(open_source(f"folder:{tmp_path}", DataOptions()))
    assert not broken
    turned = ending in ("png", "jpg", "webp", "avif", "apng", "jfif")
    expected = np.asarray(_picture(0))
    expected = np.rot90(expected, -1) if turned else expected
    assert np.abs(images[0].astype(int) - expected).mean() < 12  # some lose a little
