"""Folders and archives as people have them: what is data, and what the classes are."""

import io
import json
import os
import unicodedata
import zipfile

import numpy as np
import pytest
from PIL import Image

from genjax.console import printable
from genjax.data.batches import read_all
from genjax.data.names import SYSTEM, canonical, left_out
from genjax.data.source import DataOptions
from genjax.data.sources import open_source
from genjax.types import UsageError


def _png(value=0):
    buffer = io.BytesIO()
    Image.new("L", (4, 4), value).save(buffer, "PNG")
    return buffer.getvalue()


def _write(root, *names, content=None):
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_png(i) if content is None else content)
    return f"folder:{root}"


def _zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return str(path)


def _classes(source):
    """Return the names of the images of each class."""
    names = list(source.class_names) or ["none"]
    found = {str(name): [] for name in names}
    for i, label in enumerate(source.labels):
        found[str(names[label])].append(source.name(i))
    return found


def _note(source, start):
    (note,) = [note for note in source.notes if start in note]
    return note


@pytest.mark.parametrize(
    "name",
    [
        *("__MACOSX/a/._x.png", "a/._x.png", "a/.ipynb_checkpoints/x-checkpoint.png", ".DS_Store"),
        *(".thumbnails/x.png", "a/.@__thumb/x.png", "@eaDir/x.png/SYNOPHOTO_THUMB.png", "a/Icon\r"),
        *("$RECYCLE.BIN/x.png", "System Volume Information/x.png", "a/Thumbs.db", "DESKTOP.INI"),
        *(".Trash-1000/files/x.png", "lost+found/x.png", ".git/x.png", "a/.~lock.x.png#"),
        *(".dropbox.cache/x.png", ".tmp.drivedownload/x.png", "#recycle/x.png", "found.000/x.png"),
        *("a/x.png~", "a/~$x.png", "a/#x.png#", "a/x.png.part", "a/x.png.crdownload", "a/x.tmp"),
        *("~syncthing~x.png.tmp", "__pycache__/x.png", "LOST.DIR/x.png", ".nfs0001.png"),
    ],
)
def test_what_a_system_left_behind_is_not_data(name):
    assert left_out(name) == SYSTEM


@pytest.mark.parametrize(
    "name", ["a/x.png", "a.b/x (1).JPG", "x.jfif", "Trash/x.avif", "a/x.jp2", "~a/thumbs/x.png"]
)
def test_what_a_person_named_is_data(name):
    assert left_out(name) is None


def test_a_name_is_one_however_it_is_written():
    for name in ("a/é.png", "a\\é.png", "./a//é.png", "/a/b/../é.png", "a/./é.png"):
        for form in ("NFC", "NFD"):
            assert canonical(unicodedata.normalize(form, name)) == "a/é.png"
    assert printable("a\n\udcff") == "a\\n\\udcff"


def test_what_is_left_out_is_counted(tmp_path):
    names = "a/1.png", "b/1.png", "a/.DS_Store", "b/Thumbs.db", "a/x.heic", "x.heic", "notes"
    data = _write(tmp_path, *names)
    source = open_source(data, DataOptions())
    assert _classes(source) == {"a": ["a/1.png"], "b": ["b/1.png"]}
    assert _note(source, "left out") == (
        "files left out: 2 that a system or program keeps for itself; "
        "3 of other kinds: .heic (2), no ending (1)"
    )
    _write(tmp_path / "none", "x.heic", ".y.png")
    with pytest.raises(UsageError, match=r"holds no images \(.*1 of other kinds: \.heic"):
        open_source(f"folder:{tmp_path}/none", DataOptions())


def test_the_zip_of_a_mac_and_that_of_windows(tmp_path):
    mac = {"p/a/1.png": _png(), "p/b/1.png": _png(), "__MACOSX/p/a/._1.png": b"\0\5\x16\7"}
    source = open_source(_zip(tmp_path / "mac.zip", mac), DataOptions())
    assert _classes(source) == {"a": ["p/a/1.png"], "b": ["p/b/1.png"]}
    windows = {"a\\1.png": _png(), "b\\1.png": _png(), "b\\": b""}
    for separator in ("\\", "/"):
        labels = [[f"a{separator}1.png", 7], [f"b{separator}1.png", 9]]
        for more in ({}, {"dataset.json": json.dumps({"labels": labels})}):
            source = open_source(_zip(tmp_path / "win.zip", windows | more), DataOptions())
            assert source.labels.tolist() == [0, 1]
            assert list(source.class_names) == (["7", "9"] if more else ["a", "b"])
            assert not read_all(source)[2]


def test_names_in_a_zip_without_a_flag_for_utf_8(tmp_path):
    path = tmp_path / "a.zip"
    _zip(path, {"café/1.png": _png(), "thé/1.png": _png()})
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\3\4", 7), (b"PK\1\2", 9)):
        at = -1
        while (at := data.find(mark, at + 1)) >= 0:
            data[at + offset] &= ~8
    path.write_bytes(data)
    assert list(open_source(str(path), DataOptions()).class_names) == ["café", "thé"]


def test_of_members_of_one_name_the_last_counts(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        for value in (1, 2):
            archive.writestr("x.png", _png(value))
    assert read_all(open_source(str(path), DataOptions()))[0].max() == 2


def test_of_members_that_mean_one_file_the_last_counts(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for value, name in enumerate(("a/x.png", "./a/x.png", "a\\x.png", "/a//x.png"), start=1):
            archive.writestr(name, _png(value))
    images, _, _ = read_all(open_source(str(path), DataOptions()))
    assert images.max(axis=(1, 2, 3)).tolist() == [4]


def test_links_are_followed_once(tmp_path):
    root, other = tmp_path / "d", tmp_path / "other"
    _write(root, "a/1.png", "b/1.png")
    _write(other, "2.png")
    (root / "self").symlink_to(".")
    (root / "a/up").symlink_to("..")
    (root / "a/above").symlink_to(tmp_path)
    (root / "a/again").symlink_to(root / "b")
    (root / "c").symlink_to(other)
    (other / "back").symlink_to(root)
    (root / "b/gone.png").symlink_to("nowhere.png")
    (root / "b/ring.png").symlink_to("ring.png")
    os.mkfifo(root / "b/pipe.png")
    (root / "b/folder.png").mkdir()
    source = open_source(f"folder:{root}", DataOptions())
    names = [source.name(i) for i in range(len(source))]
    assert names == ["a/1.png", "b/1.png", "b/gone.png", "b/ring.png", "c/2.png"]
    assert _note(source, "links not followed").endswith(": a/above, a/again, a/up and 2 more")
    broken = read_all(source)[2]
    assert broken[0] == "b/gone.png: is no longer there, or a link to nothing"
    assert broken[1].startswith("b/ring.png: ")


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    data = _write(tmp_path, "a/1.png", "b/1.png")
    scandir = os.scandir

    def refuse(path):
        if path.endswith("b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UsageError, match=r"/b cannot be listed: Permission denied"):
        open_source(data, DataOptions())


def test_a_common_folder_is_no_part_of_the_classes(tmp_path):
    data = _write(tmp_path, "set/v1/cat/images/1.png", "set/v1/dog/images/1.png")
    assert list(open_source(data, DataOptions()).class_names) == ["cat", "dog"]
    labels = {"labels": [["cat/images/1.png", 1], ["set/v1/dog/images/1.png", 0]]}
    (tmp_path / "set/v1/dataset.json").write_text(json.dumps(labels))
    assert open_source(data, DataOptions()).labels.tolist() == [1, 0]
    (tmp_path / "set/v1/dataset.json").write_text('{"labels": null}')
    assert not open_source(data, DataOptions()).class_names
    assert open_source(data, DataOptions(class_by="folder")).spec.classes == 2


def test_train_and_val_are_splits(tmp_path):
    names = [
        f"{s}/{k}/{i}.png"
        for s, n in (("train", 3), ("validation", 1))
        for k in "ab"
        for i in range(n)
    ]
    data = _write(tmp_path, *names, "train/c/0.png", "masks/0.png")
    source = open_source(data, DataOptions())
    assert (len(source), list(source.class_names)) == (7, ["a", "b", "c"])
    assert "train (7): --split train, validation (2): --split val" in _note(source, "splits")
    assert _note(source, "left out") == "left out beside them: masks (1)"
    val = open_source(data, DataOptions(test_split="val").for_test)
    assert _classes(val) == {"a": ["validation/a/0.png"], "b": ["validation/b/0.png"], "c": []}
    assert (val.spec.classes, val.spec.empty_classes) == (3, (2,))
    assert "no image of class c" in val.notes
    assert len(open_source(data, DataOptions(split="train+val"))) == 9
    assert len(open_source(data, DataOptions(split="train[:50%]"))) == 3
    with pytest.raises(UsageError, match="has no split 'test': wanted 'train' or 'val'"):
        open_source(data, DataOptions(split="test"))


def test_splits_are_found_in_a_folder_that_has_images_beside_it(tmp_path):
    data = _write(tmp_path, *(f"set/{s}/{k}/{s}.png" for s in ("train", "val") for k in "ab"))
    _write(tmp_path, "preview.png")
    source = open_source(data, DataOptions())
    assert _classes(source) == {"a": ["set/train/a/train.png"], "b": ["set/train/b/train.png"]}
    assert _note(source, "left out beside them").endswith(": 1 images in no folder")
    assert len(open_source(data, DataOptions(split="val"))) == 2
    labels = {"labels": [[f"{s}/{k}/{s}.png", k + k] for s in ("train", "val") for k in "ab"]}
    (tmp_path / "set/dataset.json").write_text(json.dumps(labels))
    assert list(open_source(data, DataOptions()).class_names) == ["aa", "bb"]


def test_folders_that_are_called_like_one_split_are_classes(tmp_path):
    data = _write(tmp_path, "train/1.png", "bus/1.png", "car/1.png")
    assert list(open_source(data, DataOptions()).class_names) == ["bus", "car", "train"]


def test_an_unlabelled_test_folder_does_not_take_the_classes_away(tmp_path):
    data = _write(tmp_path, "train/a/1.png", "train/b/1.png", *(f"test/{i}.png" for i in range(9)))
    assert open_source(data, DataOptions()).spec.classes == 2
    with pytest.raises(UsageError, match=r"no images in 'test': .*beside the class folders"):
        open_source(data, DataOptions(split="test"))
    assert len(open_source(data, DataOptions(split="test", class_by="none"))) == 9


def test_images_beside_the_class_folders_are_named(tmp_path):
    data = _write(tmp_path, "a/1.png", "a/2.png", "b/1.png", "stray.png")
    source = open_source(data, DataOptions())
    assert _classes(source) == {"a": ["a/1.png", "a/2.png"], "b": ["b/1.png"]}
    assert _note(source, "stray").startswith("stray.png lies beside the class folders")
    assert len(open_source(data, DataOptions(class_by="none"))) == 4
    _write(tmp_path, *(f"{i}.png" for i in range(9)))
    source = open_source(data, DataOptions())
    assert (source.spec.classes, len(source)) == (0, 13)
    assert "most images" in _note(source, "no classes")


def test_shards_are_no_classes(tmp_path):
    data = _write(tmp_path / "s", *(f"{i // 4:05d}/img{i:08d}.png" for i in range(12)))
    source = open_source(data, DataOptions())
    assert source.spec.classes == 0
    assert _note(source, "00000, 00001, 00002").endswith("--class-by folder makes them classes")
    assert open_source(data, DataOptions(class_by="folder")).spec.classes == 3
    data = _write(tmp_path / "n", "images_001/images/7.png", "images_002/images/3.png")
    assert open_source(data, DataOptions()).spec.classes == 0
    for i, names in enumerate((["000/0.png", "001/0.png"], ["0/1.png", "1/2.png"])):
        assert open_source(_write(tmp_path / str(i), *names), DataOptions()).spec.classes == 2


def test_class_by(tmp_path):
    data = _write(tmp_path, "cat/x/cat_001.png", "cat/y/dog.12.png", "dog/big_dog (3).png")
    by = {by: list(open_source(data, DataOptions(class_by=by)).class_names) for by in
          ("folder", "top", "prefix", "none")}  # fmt: skip
    assert by == {
        "folder": ["cat/x", "cat/y", "dog"],
        "top": ["cat", "dog"],
        "prefix": ["big_dog", "cat", "dog"],
        "none": [],
    }
    assert "--class-by top" in _note(open_source(data, DataOptions()), "lie in others")
    flat = _write(tmp_path / "flat", *(f"{k}{i}.png" for k in ("cat", "dog") for i in range(9)))
    source = open_source(flat, DataOptions())
    assert source.spec.classes == 0
    assert _note(source, "begin with cat (9), dog (9)").endswith("makes classes of that")


def test_folders_that_are_numbers_are_in_the_order_of_numbers(tmp_path):
    data = _write(tmp_path, *(f"{i}/x.png" for i in range(12)))
    assert list(open_source(data, DataOptions()).class_names) == [str(i) for i in range(12)]


def _labelled(tmp_path, labels):
    _write(tmp_path, "a/0.png", "a/1.png", "b/0.png")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    return open_source(f"folder:{tmp_path}", DataOptions())


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        ([1, 2, 1], ["1", "2"]),
        ([20230101, 20230102, 10**20], ["20230101", "20230102", "1" + "0" * 20]),
        (["cat", "dog", "ant"], ["ant", "cat", "dog"]),
        ([2.0, 10, -1], ["-1", "2", "10"]),
        ([3, "cat", 3], ["3", "cat"]),
        ([None, None, None], []),
        ([5, 5, 5], []),
    ],
)
def test_labels_are_numbered_from_0_and_keep_their_names(tmp_path, classes, names):
    images = ["a/0.png", "a/1.png", "b/0.png"]
    source = _labelled(tmp_path, [list(pair) for pair in zip(images, classes, strict=True)])
    assert (source.spec.classes, list(source.class_names)) == (len(names), names)
    if names:
        given = [str(int(c)) if isinstance(c, float) else str(c) for c in classes]
        assert [names[label] for label in source.labels] == given
    assert source.spec.empty_classes == ()


@pytest.mark.parametrize(
    "write",
    [
        lambda name: f"./{name}",
        lambda name: name.replace("/", "\\"),
        lambda name: name.upper(),
        lambda name: f"photos/{name}",
    ],
)
def test_labels_find_images_whose_names_are_written_otherwise(tmp_path, write):
    names = ["a/0.png", "a/1.png", "b/0.png"]
    source = _labelled(tmp_path, {write(name): i for i, name in enumerate(names)})
    assert source.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([["a/0.png", 0], ["a\\0.png", 1]], r"a/0\.png has two classes, 0 and 1"),
        ([["a/0.png", 1, 0, 0]], r"a/0\.png should have one class.*not 3: \[1, 0, 0\]"),
        ([["a/0.png", [0, 1]]], r"a/0\.png should have one class, .*not '\[0, 1\]'"),
        ([["a/0.png", 0.5]], r"a/0\.png should have one class, .*not '0\.5'"),
        ([["a/0.png", float("nan")]], r"a/0\.png should have one class, .*not 'nan'"),
        ([["a/0.png", ""]], r"a/0\.png should have one class"),
        ([["a/0.png"]], r"a/0\.png should have one class.*not 0"),
        ([["a/0.png", 0], ["a/1.png", None], ["b/0.png", 1]], r"1 images have null .*: a/1\.png"),
        ([["a/0.png", 0]], r"no label for 2 images: a/1\.png, b/0\.png"),
        ([7], "7 is no entry: wanted"),
        ("text", r'wanted \{"labels"'),
    ],
)
def test_contradictions_are_named(tmp_path, entries, message):
    with pytest.raises(UsageError, match=r"dataset\.json.*" + message):
        _labelled(tmp_path, entries)


def test_a_class_without_images_is_named(tmp_path):
    entries = [["a/0.png", 0], ["a/1.png", 0], ["b/0.png", 2], ["gone.png", 1]]
    source = _labelled(tmp_path, entries)
    assert (source.spec.classes, list(source.class_names)) == (2, ["0", "2"])
    assert "has a class without any image here, left out: 1" in _note(source, "without any")


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe\xff", b"[" * 100_000, b"{}", b"[]", b"1"])
def test_a_damaged_dataset_json_is_refused_in_one_line(tmp_path, text):
    _write(tmp_path, "a/0.png")
    (tmp_path / "dataset.json").write_bytes(text)
    with pytest.raises(UsageError, match=r"dataset\.json: ") as caught:
        open_source(f"folder:{tmp_path}", DataOptions())
    assert str(caught.value).isprintable()


def test_a_split_knows_the_classes_of_which_it_has_no_image(tmp_path):
    data = _write(tmp_path, *(f"{k}/{i}.png" for k in "abc" for i in range(4)))
    source = open_source(data, DataOptions(split="train[:9%]"))
    assert len(source) == 1
    assert set(source.spec.empty_classes) == {0, 1, 2} - {int(source.labels[0])}
    np.testing.assert_array_equal(read_all(source)[1], source.labels)


@pytest.mark.parametrize(
    ("make", "message"),
    [("mkdir", "did you mean folder:"), ("touch", "only a .zip is read: unpack others")],
)
def test_a_path_that_is_no_data_says_what_was_meant(tmp_path, make, message):
    getattr(tmp_path / "x.tar", make)()
    with pytest.raises(UsageError, match=message):
        open_source(str(tmp_path / "x.tar"), DataOptions())


def test_a_folder_without_a_path_is_not_taken_for_the_current_one():
    with pytest.raises(UsageError, match="'folder:' is unknown") as error:
        open_source("folder:", DataOptions())
    assert "did you mean" not in str(error.value)
