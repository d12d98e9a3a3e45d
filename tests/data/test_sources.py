import io
import json
import zipfile

import numpy as np
import pytest
import requests
from PIL import Image

from genjax.data import sources
from genjax.data.batches import read_all
from genjax.data.broken import BrokenImage
from genjax.data.source import DataOptions, ManySizes
from genjax.data.sources import File, FileSource, absolute, open_source
from genjax.types import ImageSpec, UsageError


def _png(value, size=(6, 4), mode="L"):
    buffer = io.BytesIO()
    Image.new(mode, size, value).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Write two classes of 6x4 gray images whose value is 10 times their number."""
    for i in range(6):
        path = tmp_path / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(_png(10 * i))
    return tmp_path


def _values(source):
    images, labels, broken = read_all(source)
    assert not broken
    return images[:, 0, 0, 0].tolist(), labels.tolist()


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    source = open_source("digits", DataOptions())
    images, labels, _ = read_all(source)
    assert source.spec == ImageSpec(8, 8, 1, 10)
    assert list(source.class_names) == [str(i) for i in range(10)]
    digits = load_digits()
    np.testing.assert_array_equal(images[..., 0], np.round(digits.images * 255 / 16))
    np.testing.assert_array_equal(labels, digits.target)


def test_digits_resized_and_in_colour():
    source = open_source("digits", DataOptions(size=(12, 20), channels=3, fit="stretch"))
    assert source.spec == ImageSpec(12, 20, 3, 10)
    image, _ = source.read([0])[0]
    assert image.shape == (12, 20, 3)
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


def test_stacked_images_are_three_of_the_source():
    gray, stacked = (
        open_source("digits", DataOptions()),
        open_source("stacked:digits", DataOptions()),
    )
    assert len(stacked) == len(gray)
    empty = tuple(sorted(set(range(1000)) - set(read_all(stacked)[1].tolist())))
    assert stacked.spec == ImageSpec(8, 8, 3, 1000, empty)
    assert 100 < len(empty) < 200  # of 1,797 draws from 1,000 classes
    assert stacked.class_names[407] == "407"
    singles, digits, _ = read_all(gray)
    images, labels, _ = read_all(stacked)
    kinds = {image.tobytes(): digit for image, digit in zip(singles, digits, strict=True)}
    for image, label in zip(images[:50], labels[:50], strict=True):
        channels = [kinds[np.ascontiguousarray(image[..., c]).tobytes()] for c in range(3)]
        assert label == int("".join(map(str, channels)))
    assert len(np.unique(labels)) > 800
    # An image does not depend on those that are read with it.
    np.testing.assert_array_equal(stacked.read([7])[0][0], images[7])
    with pytest.raises(UsageError, match="stacked:digits: only gray images stack"):
        open_source("stacked:digits", DataOptions(channels=3))
    with pytest.raises(UsageError, match="'stacked:' is unknown"):
        open_source("stacked:", DataOptions())


def test_a_stack_with_a_broken_image_is_broken(folder):
    (folder / "cat/0.png").write_bytes(b"no image")
    options = DataOptions(size=(4, 6), channels=1)
    read = open_source(f"stacked:folder:{folder}", options).read(range(6))
    good = [example for example in read if not isinstance(example, BrokenImage)]
    assert 0 < len(good) < 6
    assert absolute("stacked:folder:x") == f"stacked:{absolute('folder:x')}"


def test_a_border_is_black_and_comes_after_the_size():
    source = open_source("digits", DataOptions(size=(8, 8), border=2))
    assert source.spec == ImageSpec(12, 12, 1, 10)
    (image, label), *_ = source.read([5])
    (inside, same), *_ = open_source("digits", DataOptions()).read([5])
    assert (image.shape, label) == ((12, 12, 1), same)
    np.testing.assert_array_equal(image[2:-2, 2:-2], inside)
    assert image.sum() == inside.sum() > 0


def test_a_broken_image_stays_broken_within_a_border(folder):
    (folder / "cat" / "6.png").write_bytes(_png(1)[:40])
    source = open_source(f"folder:{folder}", DataOptions(size=(4, 6), channels=1, border=1))
    read = source.read(range(len(source)))
    assert [isinstance(example, BrokenImage) for example in read].count(True) == 1


def test_folder_takes_labels_from_sub_folders(folder):
    source = open_source(f"folder:{folder}", DataOptions())
    assert source.spec == ImageSpec(4, 6, 1, 2)
    assert list(source.class_names) == ["cat", "dog"]
    assert _values(source) == ([0, 20, 40, 10, 30, 50], [0, 0, 0, 1, 1, 1])


def test_prepared_data_in_a_bucket_are_refused():
    with pytest.raises(UsageError, match=r"data_dir = gs://b/tfds: .* gcloud storage cp"):
        open_source("tfds:mnist", DataOptions(data_dir="gs://b/tfds"))


def test_zip_is_the_same_as_the_folder(folder):
    archive = folder / "all.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*.png")):
            file.write(path, path.relative_to(folder))
    for data in (str(archive), f"folder:{archive}"):
        source = open_source(data, DataOptions())
        assert _values(source) == ([0, 20, 40, 10, 30, 50], [0, 0, 0, 1, 1, 1])


def test_dataset_json_gives_labels(folder):
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    labels = [[name, i % 4] for i, name in enumerate(names)]
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    source = open_source(f"folder:{folder}", DataOptions())
    assert source.spec.classes == 4
    assert _values(source)[1] == [0, 1, 2, 3, 0, 1]
    (folder / "dataset.json").write_text(json.dumps({"labels": labels[1:]}))
    with pytest.raises(UsageError, match=r"no label for 1 images: cat/0\.png"):
        open_source(f"folder:{folder}", DataOptions())
    (folder / "dataset.json").write_text("{}")
    with pytest.raises(UsageError, match="labels"):
        open_source(f"folder:{folder}", DataOptions())


def test_one_folder_has_no_labels(tmp_path):
    (tmp_path / "a.png").write_bytes(_png(1))
    assert open_source(f"folder:{tmp_path}", DataOptions()).spec.classes == 0


def test_colour_in_one_image_makes_all_rgb(folder):
    (folder / "cat" / "9.png").write_bytes(_png((1, 2, 3), mode="RGB"))
    source = open_source(f"folder:{folder}", DataOptions())
    assert source.spec.channels == 3
    assert source.read([3])[0][0][0, 0].tolist() == [1, 2, 3]


def test_many_sizes_need_a_size(folder):
    (folder / "cat" / "9.png").write_bytes(_png(1, size=(5, 5)))
    with pytest.raises(ManySizes, match="--size"):
        open_source(f"folder:{folder}", DataOptions())
    assert open_source(f"folder:{folder}", DataOptions(size=(4, 6))).spec.shape == (4, 6, 1)


@pytest.mark.parametrize("content", [b"junk", b"", _png(3)[:40], _png(3)[:-27]])
def test_a_broken_image_is_named(folder, content):
    (folder / "dog" / "5.png").write_bytes(content)
    source = open_source(f"folder:{folder}", DataOptions())
    examples = source.read(range(6))
    assert isinstance(examples[5], BrokenImage)
    assert str(examples[5]).startswith("dog/5.png: ")
    assert sum(isinstance(e, BrokenImage) for e in examples) == 1


def test_a_damaged_member_of_a_zip_is_named(folder):
    archive = folder / "all.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for i in range(2):
            file.writestr(f"{i}.png", _png(i))
    data = bytearray(archive.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 255
    archive.write_bytes(data)
    examples = open_source(str(archive), DataOptions()).read([0, 1])
    assert [isinstance(e, BrokenImage) for e in examples] == [True, False]
    assert str(examples[0]).startswith("0.png: ")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("cifar", "unknown: wanted digits, tfds:NAME, hf:NAME, folder:PATH"),
        ("folder:", "unknown"),
        ("folder:/no/such/place", "no folder /no/such/place"),
        ("/no/such.zip", "no file /no/such.zip"),
        ("tfds:no_such_data_set", "knows no data set 'no_such_data_set'"),
    ],
)
def test_unknown_data_are_refused(data, message):
    with pytest.raises(UsageError, match=message):
        open_source(data, DataOptions())


def test_a_folder_without_images_and_a_bad_zip_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(UsageError, match=r"holds no images.*\.png"):
        open_source(f"folder:{tmp_path}", DataOptions())
    (tmp_path / "a.zip").write_bytes(b"not a zip")
    with pytest.raises(UsageError, match="zip archive"):
        open_source(str(tmp_path / "a.zip"), DataOptions())


@pytest.mark.parametrize("size", [(0,), (1, 2, 3), (4, -1)])
def test_bad_sizes_are_refused(size):
    with pytest.raises(ValueError, match="HEIGHT"):
        DataOptions(size=size)


def test_paths_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("folder:cats") == f"folder:{tmp_path}/cats"
    assert absolute("cats.zip") == f"{tmp_path}/cats.zip"
    assert absolute("tfds:mnist") == "tfds:mnist"
    assert absolute("digits") == "digits"


def test_tfds_mnist_is_mnist(shared):
    import gzip

    options = DataOptions(data_dir=str(shared / "data/tfds"), split="test")
    source = open_source("tfds:mnist", options)
    assert source.spec == ImageSpec(28, 28, 1, 10)
    assert len(source) == 10_000
    images, labels, _ = read_all(source)
    raw = {}
    for kind, header in (("images-idx3", 16), ("labels-idx1", 8)):
        path = shared / f"data/mnist/t10k-{kind}-ubyte.gz"
        raw[kind] = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8)[header:]
    # tensorflow-datasets shuffles when it prepares: compare as sets of (label, pixels).
    theirs = zip(raw["labels-idx1"], raw["images-idx3"].reshape(-1, 784), strict=True)
    ours = zip(labels, images.reshape(-1, 784), strict=True)
    assert {(int(k), v.tobytes()) for k, v in ours} == {(int(k), v.tobytes()) for k, v in theirs}


def test_tfds_that_cannot_be_downloaded_say_so_at_once_and_leave_nothing(tmp_path, monkeypatch):
    for scheme in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")  # where nobody listens
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    root = tmp_path / "tfds"
    options = DataOptions(data_dir=str(root))
    with pytest.raises(UsageError, match=r"tfds:cifar10 is not in .*toronto.edu cannot be reached"):
        open_source("tfds:cifar10", options)
    assert not root.exists()
    with pytest.raises(UsageError, match=r"could not be downloaded"):  # without a list of hosts
        open_source("tfds:imagenet2012_fewshot", options)

    # A connection that is lost later, where there are other data.
    monkeypatch.setattr("requests.head", lambda url, timeout: requests.Response())
    monkeypatch.setattr("tensorflow_datasets.core.download.downloader.MAX_RETRIES", 0)
    (root / "downloads").mkdir(parents=True)
    (root / "downloads/mine").mkdir()
    with pytest.raises(UsageError, match=r"tfds:cifar10 is not in .* could not be downloaded"):
        open_source("tfds:cifar10", options)
    assert [path.name for path in root.rglob("*")] == ["downloads", "mine"]
    (root / "downloads/manual").mkdir()
    (root / "downloads/manual/cifar-10-binary.tar.gz").touch()
    monkeypatch.setattr("requests.head", None)
    with pytest.raises(UsageError, match=r"tfds:cifar10 is not in .* could not be downloaded"):
        open_source("tfds:cifar10", options)


def test_tfds_split_that_is_not_there(shared):
    options = DataOptions(data_dir=str(shared / "data/tfds"), split="trian")
    with pytest.raises(UsageError, match="no split 'trian'; it has train, test"):
        open_source("tfds:mnist", options)


def test_cifar10_zip(shared):
    source = open_source(str(shared / "data/cifar10/test.zip"), DataOptions(size=(32,), channels=3))
    assert source.spec == ImageSpec(32, 32, 3, 10)
    assert len(source) == 10_000
    assert list(source.class_names)[:3] == ["airplane", "automobile", "bird"]
    image, label = source.read([9_999])[0]
    assert image.shape == (32, 32, 3)
    assert label == 9


def test_slices_of_data_without_splits_are_disjoint_and_mixed():
    whole = open_source("digits", DataOptions())
    first, rest = (
        open_source("digits", DataOptions(split=s)) for s in ("train[:80%]", "train[80%:]")
    )
    assert (len(first), len(rest)) == (1437, 360)
    assert first.spec == whole.spec
    seen = [
        {(image.tobytes(), label) for image, label in source.read(range(len(source)))}
        for source in (first, rest, whole)
    ]
    assert seen[0] | seen[1] == seen[2]
    labels = [label for _, label in rest.read(range(360))]
    assert min(np.bincount(labels)) > 20
    middle = open_source("digits", DataOptions(split="train[10%:20%]"))
    assert len(middle) == 1797 * 20 // 100 - 1797 * 10 // 100


@pytest.mark.parametrize("split", ["test", "train[80%]", "train[50%:50%]", "train[:0%]", ""])
def test_a_split_that_is_not_there_is_refused(split):
    with pytest.raises(UsageError, match="digits has no split"):
        open_source("digits", DataOptions(split=split))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_the_data_say_how_many_bits_16_bit_files_use(tmp_path, ending):
    for most in (4095, 65535, 255):
        folder = tmp_path / str(most)
        folder.mkdir()
        for i in range(3):
            values = np.linspace(0, most >> i, 24).astype(np.uint16).reshape(4, 6)
            Image.fromarray(values).save(folder / f"{i}.{ending}")
        source = open_source(f"folder:{folder}", DataOptions())
        images, _, _ = read_all(source)
        assert images.max(axis=(1, 2, 3)).tolist() == [255, 127, 63]  # one scale for all
        is_said = f"end at {most} of 65535" in "".join(source.notes)
        assert is_said == (most < 65535)
    dark = DataOptions(bit_depth=16)
    images, _, _ = read_all(open_source(f"folder:{tmp_path}/4095", dark))
    assert images.max() == 15
    small = DataOptions(bit_depth=8)
    _, _, broken = read_all(open_source(f"folder:{tmp_path}/4095", small))
    assert broken[0] == f"0.{ending}: values of 12 bits, more than 8: give --bit-depth 12"
    assert len(broken) == 3


def _counted_files(contents):
    """Return arguments of a `FileSource`, with lists of the files read whole and by their heads."""
    whole, heads = [], []
    files = [File(f"{i:03}.jpg", len(content)) for i, content in enumerate(contents)]

    def read(place):
        whole.append(place)
        return contents[place]

    def head(place):
        heads.append(place)
        return contents[place][: sources.HEAD_BYTES]

    return files, read, head, whole, heads


def _noise(size, mode="RGB", ending="JPEG"):
    buffer = io.BytesIO()
    shape = (size[1], size[0], 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    Image.fromarray(noise).convert(mode).save(buffer, ending, quality=95)
    return buffer.getvalue()


@pytest.mark.parametrize("ending", ["JPEG", "PNG", "WEBP", "BMP"])
def test_only_headers_are_read_on_opening(ending, monkeypatch):
    monkeypatch.setattr(sources, "HEAD_BYTES", 1024)
    contents = [_noise((40, 24), ending=ending)] * 6
    assert len(contents[0]) > 1024
    files, read, head, whole, heads = _counted_files(contents)
    source = FileSource(files, read, "d", DataOptions(), head=head)
    assert source.spec == ImageSpec(24, 40, 3)
    assert set(heads) == set(range(6))
    assert not whole or ending == "WEBP"  # which Pillow opens only as a whole


def test_of_many_files_the_headers_of_a_sample_are_read(monkeypatch):
    monkeypatch.setattr(sources, "SCANNED_FILES", 5)
    monkeypatch.setattr(sources, "DEPTH_IMAGES", 1)
    contents = [_noise((40, 24))] * 60
    files, read, head, whole, heads = _counted_files(contents)
    source = FileSource(files, read, "d", DataOptions(), head=head)
    chosen = sorted(set(heads))
    assert len(heads) <= 6 and not whole
    assert source.sizes.total() == 5
    assert "sizes and colours are those of 5 of 60 images" in source.notes
    again = _counted_files(contents)
    FileSource(*again[:2], "d", DataOptions(), head=again[2])
    assert sorted(set(again[4])) == chosen  # always the same ones
    odd = next(i for i in range(60) if i not in chosen)
    contents[odd] = _noise((40, 20))
    source = FileSource(files, read, "d", DataOptions(), head=head)
    examples = source.read(range(60))
    assert [i for i, example in enumerate(examples) if isinstance(example, BrokenImage)] == [odd]
    assert str(examples[odd]) == (
        f"{odd:03}.jpg: 20x40 pixels, and others have 24x40: --size scales all"
    )


def test_headers_in_folders_and_archives_are_those_of_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "HEAD_BYTES", 1024)
    (tmp_path / "d").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(3):
        with Image.open(io.BytesIO(_noise((40, 24)))) as image:
            image.save(tmp_path / "d" / f"{i}.jpg", exif=exif)
    with zipfile.ZipFile(tmp_path / "d.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(3):
            archive.write(tmp_path / "d" / f"{i}.jpg", f"{i}.jpg")
    for data in (f"folder:{tmp_path}/d", f"{tmp_path}/d.zip"):
        source = open_source(data, DataOptions())
        assert source.spec == ImageSpec(40, 24, 3)
        assert not read_all(source)[2]
