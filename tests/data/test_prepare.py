import errno
import io
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from genjax.data import prepare as module
from genjax.data.batches import Streamed, open_batches, read_all
from genjax.data.broken import BrokenImage
from genjax.data.digest import change, digest_of
from genjax.data.prepare import prepare
from genjax.data.source import DataOptions, ManySizes
from genjax.data.sources import absolute, expected_spec, open_source
from genjax.types import UsageError

COUNT = 40
OPTIONS = DataOptions(size=(16, 12))


def _png(value):
    buffer = io.BytesIO()
    Image.new("RGB", (24, 16 + value % 3), (value, 2 * value, 255 - value)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Write two classes of images of several sizes and colours."""
    for i in range(COUNT):
        path = tmp_path / "data" / ("cat", "dog")[i % 2] / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(_png(i))
    return tmp_path / "data"


@pytest.fixture
def data(folder):
    return f"folder:{folder}"


@pytest.fixture
def output(tmp_path):
    return tmp_path / "x.array_record"


def _same(one, other):
    assert one.spec == other.spec
    assert list(one.class_names) == list(other.class_names)
    assert [one.name(i) for i in range(len(one))] == [other.name(i) for i in range(len(other))]
    for a, b in zip(read_all(one), read_all(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_prepared_file_holds_what_the_data_hold(data, output):
    assert "40 images of (16, 12, 3)" in prepare(data, output, OPTIONS)
    found = open_source(str(output), DataOptions())
    _same(found, open_source(data, OPTIONS))
    assert found.spec.classes == 2
    for split in ("train[:70%]", "train[70%:]"):
        given = DataOptions(size=(16, 12), split=split)
        _same(open_source(str(output), DataOptions(split=split)), open_source(data, given))
    assert [path.name for path in output.parent.iterdir() if path.is_file()] == [output.name]
    assert f"prepared from {data}" in found.notes[0]
    assert absolute(str(output)) == str(output)
    assert expected_spec(str(output), DataOptions()) == found.spec
    assert "there already" in prepare(data, output, OPTIONS)


def test_a_test_split_goes_along(data, output):
    options = DataOptions(size=(8,), split="train[:60%]", test_split="train[60%:]", border=1)
    prepare(data, output, options)
    for split, given in (("train", options), ("test", options.for_test)):
        _same(open_source(str(output), DataOptions(split=split)), open_source(data, given))
    assert len(open_source(str(output), DataOptions(split="test+train"))) == COUNT
    with pytest.raises(UsageError, match=r"x\.array_record has no split 'val': .*'train' or 'tes"):
        open_source(str(output), DataOptions(split="val"))


def test_its_digest_says_what_was_prepared_and_how(data, output):
    contents = []
    for size in (8, 8, 16):
        output.unlink(missing_ok=True)
        prepare(data, output, DataOptions(size=(size,)))
        contents.append(open_source(str(output), DataOptions()).contents(False))
    assert digest_of(contents[0]) == digest_of(contents[1]) != digest_of(contents[2])
    of_data = open_source(data, OPTIONS).contents(False)
    assert str(change(of_data, contents[0])).startswith('1 came (prepared: {"size": [8]}), 0 went')


class _Stop:
    """Rows that raise an error after some were appended."""

    def __init__(self, monkeypatch, error, after):
        self.count, append = 0, module._Rows.append

        def counted(rows, *row):
            if self.count == after:
                raise error
            self.count += 1
            append(rows, *row)

        monkeypatch.setattr(module._Rows, "append", counted)


@pytest.mark.parametrize("tail", [b"", b"half a row", bytes(16 * 12 * 3 + 8)])
def test_it_goes_on_where_it_stopped(data, output, monkeypatch, tail):
    whole = output.with_name("whole.array_record")
    prepare(data, whole, OPTIONS)
    with monkeypatch.context() as patch:
        _Stop(patch, KeyboardInterrupt(), 15)
        with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
            prepare(data, output, OPTIONS)
    assert not output.exists()
    with (output.with_name("x.array_record.part") / "rows").open("ab") as rows:
        rows.write(tail)  # as a kill or a power cut leaves it
    rest = _Stop(monkeypatch, None, -1)
    prepare(data, output, OPTIONS)
    assert rest.count == COUNT - 15
    assert output.read_bytes() == whole.read_bytes()
    assert not output.with_name("x.array_record.part").exists()


def test_other_data_or_options_do_not_go_on(data, folder, output, monkeypatch):
    with monkeypatch.context() as patch:
        _Stop(patch, KeyboardInterrupt(), 15)
        with pytest.raises(KeyboardInterrupt):
            prepare(data, output, OPTIONS)
    with pytest.raises(UsageError, match=r"x\.array_record\.part was begun from other options"):
        prepare(data, output, DataOptions(size=(16, 12), fit="pad"))
    (folder / "cat/00.png").write_bytes(_png(77))
    with pytest.raises(UsageError, match=r"other data or options .*delete it to begin anew"):
        prepare(data, output, OPTIONS)
    (folder / "cat/00.png").write_bytes(_png(0))
    prepare(data, output, DataOptions(size=(16, 12), on_broken="skip"))
    with pytest.raises(UsageError, match=r"x\.array_record exists, and is of other"):
        prepare(data, output, DataOptions(size=(8,)))


def test_a_full_disk_is_told_before_and_amid_the_work(data, output, monkeypatch):
    with monkeypatch.context() as patch:
        small = SimpleNamespace(free=10_000)
        patch.setattr(module.shutil, "disk_usage", lambda path: small)
        with pytest.raises(UsageError, match=r"needs .* GiB while it is written, and the disk has"):
            prepare(data, output, OPTIONS)
    assert not output.with_name("x.array_record.part").exists()
    with monkeypatch.context() as patch:
        _Stop(patch, OSError(errno.ENOSPC, "full"), 3)
        with pytest.raises(OSError, match=r"No space left on device; .* the same command goes on"):
            prepare(data, output, OPTIONS)
    prepare(data, output, OPTIONS)


def test_broken_images_are_refused_or_left_out(data, folder, output):
    (folder / "dog/07.png").write_bytes(b"junk")
    with pytest.raises(UsageError, match=r"dog/07\.png: .*--on-broken skip"):
        prepare(data, output, OPTIONS)
    assert not output.exists()
    prepare(data, output, DataOptions(size=(16, 12), on_broken="skip"))
    found = open_source(str(output), DataOptions())
    assert len(found) == COUNT - 1
    assert "dog/07.png" not in [found.name(i) for i in range(len(found))]
    whole = open_source(data, OPTIONS)
    np.testing.assert_array_equal(read_all(found)[0], read_all(whole)[0])
    np.testing.assert_array_equal(read_all(found)[1], read_all(whole)[1])


def test_a_damaged_image_is_that_images_fault(data, output):
    prepare(data, output, OPTIONS)
    content = bytearray(output.read_bytes())
    image = read_all(open_source(data, OPTIONS))[0][5].tobytes()
    content[content.index(image) + 7] ^= 1
    output.write_bytes(content)
    found = open_source(str(output), DataOptions()).read(range(COUNT))
    broken = [i for i, example in enumerate(found) if isinstance(example, BrokenImage)]
    assert broken == [5]
    assert str(found[5]).startswith("cat/10.png: damaged")
    assert "\n" not in str(found[5])


def _not_prepared(output):
    from genjax.data.prepared import PreparedWriter

    writer = PreparedWriter(output)
    for _ in range(9):
        writer.write(b"x" * 100)
    writer._writer.close()
    return output.read_bytes()


def test_other_and_damaged_files_are_refused_in_a_line(data, output):
    prepare(data, output, OPTIONS)
    whole = output.read_bytes()
    cases = {
        "cut": whole[:-100],
        "half": whole[: len(whole) // 2],
        "empty": b"",
        "foreign": b"no records " * 10_000,
        "longer": whole + b"x",
        "other": _not_prepared(output),
        "about": whole.replace(b'"class_names"', b'"class_nemas"'),
        "zeros": bytes(len(whole)),
    }
    for name, content in cases.items():
        output.write_bytes(content)
        with pytest.raises(UsageError, match=r"x\.array_record is ") as error:
            open_source(str(output), DataOptions())
        assert str(error.value).isprintable(), name
    with pytest.raises(UsageError, match=r"no file .*y\.array_record"):
        open_source(str(output.with_name("y.array_record")), DataOptions())
    with pytest.raises(UsageError, match="copy it to each machine"):
        open_source("gs://bucket/x.array_record", DataOptions())


def test_options_that_come_late(data, output):
    prepare(data, output, OPTIONS)
    for options in (DataOptions(class_by="top"), DataOptions(bit_depth=12)):
        with pytest.raises(UsageError, match=r"x\.array_record is prepared: give --class-by"):
            open_source(str(output), options)
    small = open_source(str(output), DataOptions(size=(8, 6), channels=1, border=1))
    assert small.spec.shape == (10, 8, 1)
    assert small.read([3])[0][0].shape == (10, 8, 1)
    stacked = open_source(f"stacked:{output}", DataOptions(channels=1))
    assert stacked.spec.shape == (16, 12, 3)
    for wrong in ("x.npy", "no/x.array_record", "gs://b/x.array_record"):
        with pytest.raises(UsageError, match=r"^output .*(should end in|no folder)"):
            prepare(data, output.parent / wrong, OPTIONS)
    with pytest.raises(ManySizes, match="--size"):
        prepare(data, output.with_name("y.array_record"))


def test_batches_stream_from_it(data, output, monkeypatch):
    prepare(data, output, OPTIONS)
    source = open_source(str(output), DataOptions())
    resident = open_batches(source, 8, 0, DataOptions())
    streamed = open_batches(source, 8, 0, DataOptions(resident_gib=0))
    assert isinstance(streamed, Streamed)
    fed = streamed.feed(0, 12)
    for item, images, labels in zip(resident.feed(0, 12), fed.images, fed.labels, strict=True):
        batch = resident.select(resident.arrays, item)
        np.testing.assert_array_equal(batch.images, images)
        np.testing.assert_array_equal(batch.labels, labels)
    # Each of two processes reads its rows only.
    source = open_source(str(output), DataOptions())
    read, rows = source._file.read, []
    monkeypatch.setattr(source._file, "read", lambda each: rows.append(each) or read(each))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    parts = []
    for index in range(2):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        parts.append(Streamed(source, 8, 0, False)._read_batch(0))
    assert [len(each) for each in rows] == [4, 4]
    np.testing.assert_array_equal(np.concatenate([p.images for p in parts]), fed.images[0])


def test_arrays_can_be_prepared(output):
    options = DataOptions(size=(16,), split="train[:2%]")
    prepare("digits", output, options)
    _same(open_source(str(output), DataOptions()), open_source("digits", options))
    about = open_source(str(output), DataOptions())._file.about
    assert about.options == {"size": [16], "split": "train[:2%]"}
