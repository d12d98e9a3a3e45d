import errno
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from genjax.data.source import DataOptions
from genjax.data.sources import open_source
from genjax.figures.output import check_output, save_images, save_single_images
from genjax.types import Batch, UsageError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 6, 4, 1), np.uint8)
LABELS = np.array([2, 0, 1, 0, 2], np.int32)


def _batches():
    return [Batch(IMAGES[:2], LABELS[:2]), Batch(IMAGES[2:], LABELS[2:])]


@pytest.mark.parametrize("name", ["out", "out.zip", "OUT.ZIP"])
def test_single_images_are_a_data_set_with_their_labels(tmp_path, name):
    save_single_images(_batches(), tmp_path / name, has_labels=True)
    data = str(tmp_path / name) if "." in name else f"folder:{tmp_path / name}"
    source = open_source(data, DataOptions())
    read = source.read(range(len(source)))
    np.testing.assert_array_equal(np.stack([image for image, _ in read]), IMAGES)
    assert [label for _, label in read] == LABELS.tolist()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_images_without_classes_have_null_for_labels(tmp_path):
    save_images(IMAGES, tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [*(f"0000000{i}.png" for i in range(5)), "dataset.json"]
    assert json.loads((tmp_path / "out/dataset.json").read_text()) == {"labels": None}
    save_images(IMAGES.repeat(3, axis=3), tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive, archive.open("00000004.png") as file:
        assert Image.open(file).mode == "RGB"


def test_images_that_are_cut_short_leave_nothing(tmp_path):
    def broken(error):
        yield _batches()[0]
        raise error

    for name in ("out", "out.zip"):
        with pytest.raises(KeyboardInterrupt):
            save_single_images(broken(KeyboardInterrupt()), tmp_path / name, has_labels=False)
        full = broken(OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(OSError, match="No space left") as error:
            save_single_images(full, tmp_path / name, has_labels=False)
        assert error.value.filename == str(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["grid.PNG", "grid.jpg", "grid.JPEG", "array.NPY"])
def test_endings_may_be_in_capitals(tmp_path, name):
    save_images(IMAGES, tmp_path / name)
    if name.endswith("NPY"):
        np.testing.assert_array_equal(np.load(tmp_path / name), IMAGES)
        return
    with Image.open(tmp_path / name) as grid:
        assert grid.format == ("PNG" if name.endswith("PNG") else "JPEG")


def test_rows_of_images_are_a_grid_or_a_video(tmp_path):
    rows = IMAGES[:4].reshape(2, 2, 6, 4, 1)
    save_images(rows, tmp_path / "rows.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), rows)
    save_images(rows, tmp_path / "rows.GIF")
    with Image.open(tmp_path / "rows.GIF") as video:
        assert video.n_frames == 2


def test_what_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").touch()
    (tmp_path / "empty").mkdir()
    check_output(tmp_path / "empty")
    for name, message in (
        ("full", "the folder is not empty"),
        ("none/out", "no folder"),
        ("out.tga", "should end in .png or .jpg"),
        ("out.gif", "should end in .png or .jpg"),
    ):
        with pytest.raises(UsageError, match=message):
            check_output(tmp_path / name)
