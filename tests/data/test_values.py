import gc

import datasets
import numpy as np
import pytest
from PIL import Image

import genjax.data
from genjax.data.broken import BrokenImage
from genjax.data.digest import digest_of
from genjax.data.source import DataOptions
from genjax.data.sources import MissingData, absolute, open_source
from genjax.data.values import name_of
from genjax.types import ImageSpec, UsageError

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (20, 6, 5), np.uint8)
COLOUR = RNG.integers(0, 256, (20, 6, 5, 3), np.uint8)
LABELS = np.arange(20) % 4


def _read(source):
    return [np.stack(part) for part in zip(*source.read(range(len(source))), strict=True)]


def _assert_holds(source, images, labels, names):
    found = _read(source)
    np.testing.assert_array_equal(found[0], images.reshape(found[0].shape))
    np.testing.assert_array_equal(found[1], labels)
    assert [str(name) for name in source.class_names] == names


def test_arrays_are_data():
    gray = genjax.data.arrays(GRAY, LABELS)
    assert gray.spec == ImageSpec(6, 5, 1, 4)
    _assert_holds(gray, GRAY, LABELS, ["0", "1", "2", "3"])
    assert genjax.data.arrays(COLOUR).spec == ImageSpec(6, 5, 3)
    named = genjax.data.arrays(GRAY, LABELS[:, None], ["a", "b", "c", "d", "e"])
    assert named.spec == ImageSpec(6, 5, 1, 5, (4,))
    letters = np.array(["w", "x", "y", "z"])[LABELS]
    _assert_holds(genjax.data.arrays(GRAY, letters), GRAY, LABELS, ["w", "x", "y", "z"])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            GRAY / 255.0,
            None,
            r"float64 \[20, 6, 5\].*are 0 to 1: np.uint8\(np.round\(images \* 255",
        ),
        (GRAY / 127.5 - 1, None, r"np.uint8\(np.round\(\(images \+ 1\) / 2 \* 255\)\)"),
        (COLOUR.transpose(0, 3, 1, 2), None, r"channels come last: images.transpose\(0, 2, 3, 1\)"),
        (GRAY[0], None, r"uint8 \[6, 5\]; wanted"),
        (COLOUR[0], None, r"uint8 \[6, 5, 3\].*; a single image is images\[None\]"),
        (GRAY[:0], None, "wanted images uint8"),
        ([1, "a"], None, "wanted images uint8"),
        (GRAY, LABELS[:5], "labels: 5, and there are 20 images"),
        (GRAY, LABELS / 2, "wanted numbers from 0, or names"),
        (GRAY, LABELS - 1, "labels: from -1 to 2"),
    ],
)
def test_other_arrays_are_refused(images, labels, message):
    with pytest.raises(UsageError, match=message):
        genjax.data.arrays(images, labels)


def test_a_label_without_a_class_is_refused():
    with pytest.raises(UsageError, match=r"labels: from 0 to 3, wanted 0 to 1"):
        genjax.data.arrays(GRAY, LABELS, ["a", "b"])
    with pytest.raises(UsageError, match=r"'b' is none of class_names"):
        genjax.data.arrays(GRAY, ["a", "b"] * 10, ["a", "c"])
    with pytest.raises(UsageError, match=r"class_names: are those of labels"):
        genjax.data.arrays(GRAY, class_names=["a"])
    for names in (["a", "b", "a", "d"], "abcd"):
        with pytest.raises(UsageError, match=r"class_names: .*wanted a list of different names"):
            genjax.data.arrays(GRAY, LABELS, names)


class Torch:
    """A data set as torchvision's are."""

    classes = ("w", "x", "y", "z")
    targets = LABELS.tolist()

    def __len__(self):
        return len(GRAY)

    def __getitem__(self, index):
        return Image.fromarray(GRAY[index]), self.targets[index]


def test_what_has_len_and_items_is_data():
    names = ["w", "x", "y", "z"]
    _assert_holds(genjax.data.indexed(Torch()), GRAY, LABELS, names)
    pairs = list(zip(COLOUR, LABELS.tolist(), strict=True))
    _assert_holds(genjax.data.indexed(pairs), COLOUR, LABELS, ["0", "1", "2", "3"])
    other = [(label, image) for image, label in pairs]
    _assert_holds(genjax.data.indexed(other, 1, 0), COLOUR, LABELS, ["0", "1", "2", "3"])
    _assert_holds(genjax.data.indexed(list(GRAY), label=None), GRAY, LABELS * 0, [])
    dicts = [{"digit": image, "kind": names[label]} for image, label in pairs]
    _assert_holds(genjax.data.indexed(dicts, "digit", "kind"), COLOUR, LABELS, names)


class Gone(list):
    def __getitem__(self, index):
        raise OSError("no such disk")


def test_an_item_that_is_no_image_is_named():
    with pytest.raises(UsageError, match=r"'image' is none of an example's: picture"):
        genjax.data.indexed([{"picture": GRAY[0]}])
    with pytest.raises(UsageError, match=r"image 0 .*without a transform: has float64 \[1, 6, 5\]"):
        genjax.data.indexed([(GRAY[0] / 255, 0)])
    with pytest.raises(UsageError, match=r"has no images"):
        genjax.data.indexed([])
    with pytest.raises(UsageError, match=r"generator, has no len and \[\]: .*take list"):
        genjax.data.indexed(image for image in GRAY)
    with pytest.raises(UsageError, match=r"is a dict: .*genjax.data.arrays"):
        genjax.data.indexed({"image": GRAY})
    with pytest.raises(UsageError, match=r"example 0: .*no such disk"):
        genjax.data.indexed(Gone(GRAY))
    source = genjax.data.indexed([GRAY[0]] * 2 + [None] + [GRAY[0]] * 300, label=None)
    assert isinstance(source.read([2])[0], BrokenImage)


def test_images_of_several_sizes_want_one():
    source = genjax.data.indexed([GRAY[0], GRAY[0], GRAY[0][:5]], label=None)
    name = name_of(source)
    with pytest.raises(UsageError, match=r"several sizes \(such as 6x5, 5x5\): give --size"):
        open_source(name, DataOptions())
    found = open_source(name, DataOptions(size=(8,), channels=3, border=1))
    assert found.spec.shape == (10, 10, 3)
    assert {image.shape for image, _ in found.read(range(3))} == {(10, 10, 3)}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Make a folder of parquet files with two splits, and one of `save_to_disk`."""
    folder = tmp_path_factory.mktemp("hub")
    features = datasets.Features(
        {"picture": datasets.Image(), "digit": datasets.ClassLabel(names=["w", "x", "y", "z"])}
    )

    def rows(part):
        images = [Image.fromarray(image) for image in GRAY[part]]
        return datasets.Dataset.from_dict(
            {"picture": images, "digit": LABELS[part].tolist()}, features=features
        )

    splits = datasets.DatasetDict({"train": rows(slice(15)), "test": rows(slice(15, None))})
    for name, split in splits.items():
        (folder / "parquet/data").mkdir(parents=True, exist_ok=True)
        split.to_parquet(folder / f"parquet/data/{name}-00000-of-00001.parquet")
    splits.save_to_disk(folder / "saved")
    return folder


@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_data_sets_of_hugging_face_are_data(hub, kind, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    data = f"hf:{hub / kind}"
    names = ["w", "x", "y", "z"]
    _assert_holds(open_source(data, DataOptions()), GRAY[:15], LABELS[:15], names)
    test = open_source(data, DataOptions(split="test"))
    _assert_holds(test, GRAY[15:], LABELS[15:], names)
    assert len(open_source(data, DataOptions(split="train[:40%]"))) == 6
    with pytest.raises(UsageError, match=f"hf:.*{kind} cannot be opened: "):
        open_source(data, DataOptions(split="valid"))
    if kind == "parquet":
        file = hub / "parquet/data/test-00000-of-00001.parquet"
        _assert_holds(open_source(f"hf:{file}", DataOptions()), GRAY[15:], LABELS[15:], names)
    with pytest.raises(UsageError, match="wanted a name or a path"):
        open_source("hf:", DataOptions())
    monkeypatch.chdir(hub)
    assert absolute(f"hf:{kind}") == data


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("images", "labels"), ["train"]),
        (("x_train", "y_train", "x_test", "y_test"), ["train", "test"]),
        (("train_images", "train_labels", "val_images", "val_labels"), ["train", "val"]),
    ],
)
def test_files_of_arrays_are_data(tmp_path, names, splits):
    path = tmp_path / "data.npz"
    parts = [GRAY[:15], LABELS[:15], GRAY[15:], LABELS[15:]]
    np.savez(path, **dict(zip(names, parts, strict=False)))
    for i, split in enumerate(splits):
        source = open_source(str(path), DataOptions(split=split))
        classes = [str(k) for k in range(parts[2 * i + 1].max() + 1)]
        _assert_holds(source, *parts[2 * i : 2 * i + 2], classes)
    with pytest.raises(UsageError, match=f"no split 'tset': wanted '{splits[0]}'"):
        open_source(str(path), DataOptions(split="tset"))


def test_a_file_that_holds_no_images_is_named(tmp_path):
    np.save(tmp_path / "a.npy", GRAY)
    _assert_holds(open_source(str(tmp_path / "a.npy"), DataOptions()), GRAY, LABELS * 0, [])
    np.savez(tmp_path / "b.npz", weights=GRAY)
    with pytest.raises(UsageError, match=r"b.npz: has the arrays weights; wanted images"):
        open_source(str(tmp_path / "b.npz"), DataOptions())
    np.save(tmp_path / "c.npy", np.array([{}], object))
    with pytest.raises(UsageError, match=r"c.npy: cannot be read as arrays: .*Python objects"):
        open_source(str(tmp_path / "c.npy"), DataOptions())
    (tmp_path / "d.npz").write_bytes(b"no archive")
    with pytest.raises(UsageError, match=r"d.npz: cannot be read as arrays"):
        open_source(str(tmp_path / "d.npz"), DataOptions())
    with pytest.raises(UsageError, match=r"no file .*e.npy"):
        open_source(str(tmp_path / "e.npy"), DataOptions())


def test_a_value_is_found_by_what_it_holds_as_long_as_it_exists(tmp_path):
    source = genjax.data.arrays(GRAY.copy(), LABELS)
    name = name_of(source)
    np.savez(tmp_path / "same.npz", images=GRAY, labels=LABELS)
    same = open_source(str(tmp_path / "same.npz"), DataOptions(size=(3,), split="train[:50%]"))
    assert name == f"value:{digest_of(same.contents(False))}"
    changed = GRAY.copy()
    changed[13, 0, 0] ^= 1  # of every image, not of a sample
    assert name_of(genjax.data.arrays(changed, LABELS)) != name
    assert name_of(genjax.data.arrays(GRAY, LABELS[::-1])) != name
    assert len(open_source(name, DataOptions(split="train[:50%]"))) == 10
    with pytest.raises(UsageError, match=r"no split 'test'"):
        open_source(name, DataOptions(split="test"))
    del source
    gc.collect()
    with pytest.raises(MissingData, match=r"were given in Python, and have to be given again"):
        open_source(name, DataOptions())
    with pytest.raises(UsageError, match=r"data = ndarray: wanted a string .* genjax.data.arrays"):
        name_of(GRAY)
