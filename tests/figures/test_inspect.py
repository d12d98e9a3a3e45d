import numpy as np
import pytest
from PIL import Image

import genjax
from genjax import DataOptions
from genjax.figures.inspect import inspect
from genjax.figures.sample import cyclic_labels, grid_labels
from genjax.models.dcgan import DcganConfig
from genjax.models.gan import GanConfig
from genjax.types import ImageSpec


def _save(path, value, size=(8, 8), dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, dtype)).save(path)


def _lines(data, tmp_path, **options):
    lines = [line.split(None, 1) for line in
             inspect(data, DataOptions(**options), tmp_path / "grid.png").splitlines()]  # fmt: skip
    return {name: [text for other, text in lines if other == name] for name, _ in lines}


@pytest.fixture
def folder(tmp_path):
    for i in range(6):
        _save(tmp_path / "d" / ("cat" if i < 4 else "dog") / f"{i}.png", 10 + i)
    return tmp_path / "d"


def test_what_a_training_would_see(folder, tmp_path):
    (folder / "cat/.DS_Store").write_bytes(b"x")
    (folder / "cat/x.heic").write_bytes(b"x")
    (folder / "stray.png").write_bytes(b"x")
    for i in range(12):
        (folder / f"dog/bad{i:02d}.png").write_bytes(b"")
    (folder / "dog/junk.png").write_bytes(b"junk")
    found = _lines(f"folder:{folder}", tmp_path)
    assert found["images"] == ["6, and 13 broken"]
    assert found["classes"] == ["2: cat (4), dog (2)"]
    assert found["values"] == ["from 10 to 15, on average 12.5"]
    assert found["--size"] == ["8 is the largest power of two that nine in ten have"]
    causes = found["broken"]
    assert causes[0].startswith("dog/bad00.png, dog/bad01.png, ")
    assert causes[0].endswith("dog/bad09.png and 2 more: is empty")
    assert causes[1] == "dog/junk.png: not an image of a known format"
    assert any("1 that a system" in note and ".heic (1)" in note for note in found["note"])
    assert any(note.startswith("stray.png lies beside") for note in found["note"])
    assert "copies" not in found


def test_copies_are_found_by_their_pixels(folder, tmp_path):
    _save(folder / "dog/copy.bmp", 10)
    _save(folder / "cat/copy.tif", 11)
    copies = _lines(f"folder:{folder}", tmp_path)["copies"]
    assert copies == [
        "2 images have the pixels of another: cat/0.png = dog/copy.bmp, cat/1.png = cat/copy.tif",
        "1 of them in two classes: cat/0.png = dog/copy.bmp",
    ]


def test_it_obeys_the_options(folder, tmp_path):
    found = _lines(f"folder:{folder}", tmp_path, split="train[:50%]", size=(4,), class_by="none")
    assert found["images"] == ["3, and 0 broken"]
    assert found["size"] == ["4 x 4, 1 channel"]
    assert found["classes"] == ["none"]
    assert "--size" not in found
    empty = _lines(f"folder:{folder}", tmp_path, split="train[:17%]")["classes"]
    assert empty in (["2: cat (1); without an image: dog"], ["2: dog (1); without an image: cat"])


def test_the_size_that_fits(folder, tmp_path):
    for i in range(14):
        _save(folder / f"cat/large{i}.png", i, (70, 90))
    found = _lines(f"folder:{folder}", tmp_path)
    assert found["--size"] == [
        "give --size, as the images have several; 8 is the largest power of two that nine in ten "
        "have"
    ]
    for i in range(60):
        _save(folder / f"cat/more{i}.png", i, (70, 90))
    (line,) = _lines(f"folder:{folder}", tmp_path)["--size"]
    assert line.endswith("64 is the largest power of two that nine in ten have; "
                         "6 smaller ones would be enlarged")  # fmt: skip


def test_the_grid_has_a_row_for_each_class_with_its_name(folder, tmp_path):
    _lines(f"folder:{folder}", tmp_path)
    picture = np.asarray(Image.open(tmp_path / "grid.png").convert("L"))
    height, width = picture.shape
    margin = int((picture[0] != 0).argmax())
    assert margin > 8
    names = picture[:, :margin]
    assert (names[: height // 2] > 128).any()
    assert (names[height // 2 :] > 128).any()
    cell = (width - margin) // 8
    rows = picture[height // 4, margin:], picture[3 * height // 4, margin:]
    assert [row[cell // 2 :: cell].tolist()[:5] for row in rows] == [
        [10, 11, 12, 13, 0],
        [14, 15, 0, 0, 0],
    ]
    inspect(f"folder:{folder}", DataOptions(), tmp_path / "grid.npy")
    assert np.load(tmp_path / "grid.npy").shape == (6, 8, 8, 1)


def test_the_digest_is_that_of_a_run(folder, tmp_path):
    first = _lines(f"folder:{folder}", tmp_path)["data"]
    _save(folder / "cat/0.png", 99)
    assert _lines(f"folder:{folder}", tmp_path)["data"] != first


def test_classes_without_images_are_not_drawn():
    spec = ImageSpec(8, 8, 1, 4, (0, 2))
    state = type("State", (), {"spec": spec})
    assert cyclic_labels(state, 5).tolist() == [1, 3, 1, 3, 1]
    recipe = genjax.Recipe(family="dcgan", model=DcganConfig(conditional=True))
    labels, columns = grid_labels(recipe, spec)
    assert (labels.tolist(), columns) == ([1] * 8 + [3] * 8, 8)
    state.spec = ImageSpec(8, 8, 1)
    assert cyclic_labels(state, 3).tolist() == [0, 0, 0]
    assert grid_labels(genjax.Recipe(family="gan", model=GanConfig()), spec) == (64, None)
