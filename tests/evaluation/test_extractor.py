import json
import threading
import time

import jax
import numpy as np
import pytest
from PIL import Image

import genjax
from genjax.data.source import DataOptions
from genjax.evaluation import extractor
from genjax.evaluation.extractor import cache_folder, create_extractor
from genjax.metrics import classifier

OPTIONS = DataOptions(split="train[:80%]", test_split="train[80%:]")


@pytest.fixture
def trainings(monkeypatch, tmp_path):
    """A cache folder of its own, and the list of the trainings of its classifiers."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = []

    def train(source, options, steps):
        found.append(steps)
        time.sleep(0.5)
        variables = classifier.initial_variables(source.spec, 0)
        return classifier.to_bytes(jax.tree.map(np.asarray, variables))

    monkeypatch.setattr(extractor, "train_classifier", train)
    return found


def _create():
    return create_extractor("classifier", "digits", OPTIONS)[1]


def test_two_that_want_a_classifier_at_once_train_it_once(trainings):
    identities = []
    threads = [threading.Thread(target=lambda: identities.append(_create())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trainings) == 1
    assert identities[0] == identities[1]


def test_a_classifier_no_better_than_chance_is_told(trainings, caplog):
    _create()
    assert "of digits is right on 8% of the images, no more than chance" in caplog.text


def _cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "cut": lambda path: _cut(path),
    "flipped": lambda path: _flip(path),
    "empty": lambda path: path.write_bytes(b""),
    "no accuracy": lambda path: path.with_suffix(".json").unlink(),
    "accuracy cut": lambda path: path.with_suffix(".json").write_text("{"),
    "accuracy is a list": lambda path: path.with_suffix(".json").write_text("[]"),
}


@pytest.mark.parametrize(
    "kind",
    [
        kind if kind in ("cut", "accuracy cut") else pytest.param(kind, marks=pytest.mark.slow)
        for kind in DAMAGE
    ],
)
def test_a_damaged_classifier_is_made_anew(trainings, kind, caplog):
    identity = _create()
    (path,) = (cache_folder() / "classifiers").glob("*.msgpack")
    DAMAGE[kind](path)
    assert _create() == identity
    assert len(trainings) == 2
    assert "is damaged: it is made anew" in caplog.text
    assert _create() == identity
    assert len(trainings) == 2
    assert json.loads(path.with_suffix(".json").read_text())["accuracy"] == identity["accuracy"]


def test_a_classifier_is_of_the_content_of_the_data(trainings, tmp_path):
    """Inverted pixels, and then two class folders that change places, are other data."""
    folder = tmp_path / "images"
    for i in range(4):
        path = folder / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 60 * i).save(path)

    def create():
        create_extractor("classifier", f"folder:{folder}", DataOptions())
        return len(trainings)

    assert create() == create() == 1
    for path in folder.rglob("*.png"):
        inverted = 255 - np.asarray(Image.open(path))
        Image.fromarray(inverted).save(path)
    assert create() == create() == 2
    for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
        (folder / old).rename(folder / new)
    assert create() == create() == 3


def test_an_unknown_extractor_is_refused_before_anything_else():
    message = "extractor = 'foo': wanted classifier or inception"
    for call in (
        lambda: create_extractor("foo", "digits", OPTIONS),
        lambda: genjax.tradeoff("no run", extractor="foo"),
    ):
        with pytest.raises(genjax.UsageError, match=message):
            call()


def test_an_empty_variable_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/genjax"


def test_a_cache_that_cannot_be_written_falls_back_with_one_line(trainings, monkeypatch, caplog):
    for home in ("/dev/null", "/proc/none", "~no_such_user_here/cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", home)
        caplog.clear()
        _create()
        _create()
        lines = [record for record in caplog.records if "cache" in record.getMessage()]
        assert [f"no cache can be kept in {home}" in line.getMessage() for line in lines] == [True]
