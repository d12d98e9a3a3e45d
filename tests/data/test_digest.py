import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from genjax.data import sources
from genjax.data.digest import change, digest_of, pack, unpack
from genjax.data.source import DataOptions
from genjax.data.sources import open_source


def _save(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), value).save(path, "BMP")  # of one size, whatever its pixels


@pytest.fixture
def folder(tmp_path):
    for i in range(6):
        _save(tmp_path / "d" / "ab"[i % 2] / f"{i}.bmp", i)
    return tmp_path / "d"


def _contents(data, full=False, **options):
    return open_source(str(data), DataOptions(**options)).contents(full)


def test_the_same_files_elsewhere_are_the_same(folder):
    shutil.copytree(folder, folder.parent / "copy")
    before, now = (_contents(f"folder:{folder.parent / name}") for name in ("d", "copy"))
    assert digest_of(before) == digest_of(now)
    assert change(before, now) is None
    assert unpack(pack(before)) == before


def test_what_came_went_and_changed_is_named(folder):
    before = _contents(f"folder:{folder}")
    _save(folder / "a/new.bmp", 9)
    (folder / "b/1.bmp").unlink()
    _save(folder / "a/0.bmp", 200)
    now = _contents(f"folder:{folder}")
    assert digest_of(before) != digest_of(now)
    assert str(change(before, now)) == (
        "1 came (a/new.bmp), 1 went (b/1.bmp), 1 changed in content or class (a/0.bmp)"
    )


def test_another_class_is_a_change(folder):
    before = _contents(f"folder:{folder}")
    (folder / "dataset.json").write_text('{"labels": {"a/0.bmp": 1, "b/1.bmp": 0, "a/2.bmp": 0, '
                                         '"b/3.bmp": 1, "a/4.bmp": 0, "b/5.bmp": 1}}')  # fmt: skip
    assert len(change(before, _contents(f"folder:{folder}")).changed) == 6


def test_a_sample_of_the_files_is_read_or_all_of_them(folder, monkeypatch):
    monkeypatch.setattr(sources, "SAMPLED_FILES", 2)
    before, full = (_contents(f"folder:{folder}", each) for each in (False, True))
    read = [name for name, line in before.items() if not line.endswith(" ")]
    assert len(read) == 2
    assert change(before, full) is None  # as far as is known
    for path in folder.rglob("*.bmp"):
        _save(path, 99)
    assert change(before, _contents(f"folder:{folder}")).changed == sorted(read)
    assert len(change(full, _contents(f"folder:{folder}", True)).changed) == 6


def test_an_archive_has_checksums_of_all_its_files(folder, monkeypatch):
    monkeypatch.setattr(sources, "SAMPLED_FILES", 0)
    found = []
    for value in (1, 2):
        _save(folder / "b/5.bmp", value)
        with zipfile.ZipFile(folder.parent / "d.zip", "w") as archive:
            for path in sorted(folder.rglob("*.bmp")):
                archive.write(path, path.relative_to(folder))
        found.append(_contents(folder.parent / "d.zip"))
    assert change(*found).changed == ["b/5.bmp"]


def test_the_parts_of_a_source_have_its_digest(folder):
    whole = _contents(f"folder:{folder}")
    assert _contents(f"folder:{folder}", split="train[:50%]", border=2) == whole
    assert _contents(f"stacked:folder:{folder}") == whole


def test_arrays_have_a_digest():
    one, same = (_contents("digits") for _ in range(2))
    assert one == same
    assert one["images"].startswith("1797 - ")
    source = open_source("digits", DataOptions())
    source._images = np.asarray(source._images).copy()
    source._images[0] ^= 1
    assert change(one, source.contents(False)).changed == ["images"]
