import logging
import time

import numpy as np
import pytest

from genjax.data import batches
from genjax.data.batches import (
    FEED_INDICES,
    Resident,
    Streamed,
    batch_indices,
    open_batches,
    read_blocks,
    read_some,
)
from genjax.data.broken import BrokenImage
from genjax.data.source import ArraySource, DataOptions
from genjax.types import UsageError

OPTIONS = DataOptions()
STREAM = DataOptions(resident_gib=0)


def _source(count=10, options=OPTIONS):
    images = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1) * np.ones((1, 2, 2, 1), np.uint8)
    return ArraySource(images, np.arange(count) % 3, ["a", "b", "c"], options)


class _WithBroken:
    """A source like `_source()`, with broken images."""

    def __init__(self, broken=(4,)):
        self._source, self._broken = _source(), broken
        self.spec, self.class_names = self._source.spec, self._source.class_names

    def __len__(self):
        return len(self._source)

    def read(self, indices):
        examples = self._source.read(indices)
        return [
            BrokenImage(f"{i}.png", "cut short") if i in self._broken else e
            for i, e in zip(indices, examples, strict=True)
        ]


def test_each_epoch_holds_every_image_once():
    order = np.concatenate([batch_indices(0, step, 4, 10) for step in range(10)])
    for epoch in order.reshape(4, 10):
        assert sorted(epoch) == list(range(10))
    assert not np.array_equal(order[:10], order[10:20])


def test_order_is_a_function_of_seed_and_step():
    np.testing.assert_array_equal(batch_indices(3, 7, 4, 10), batch_indices(3, 7, 4, 10))
    assert not np.array_equal(batch_indices(3, 7, 8, 100), batch_indices(4, 7, 8, 100))
    assert not np.array_equal(batch_indices(3, 7, 8, 100), batch_indices(3, 8, 8, 100))


@pytest.mark.parametrize(("batch_size", "count"), [(4, 10), (25, 10), (10, 10), (3, 100)])
def test_steps_in_a_row_are_the_steps_one_by_one(batch_size, count):
    one_by_one = [batch_indices(0, step, batch_size, count) for step in range(5, 20)]
    assert {len(indices) for indices in one_by_one} == {batch_size}
    in_a_row = batch_indices(0, 5, batch_size, count, steps=15)
    np.testing.assert_array_equal(in_a_row, np.concatenate(one_by_one))


def test_a_call_covers_no_more_steps_than_their_indices_fit_in_memory():
    images, labels = np.zeros((4, 2, 2, 1), np.uint8), np.zeros(4, np.int32)
    for batch_size in (2, 2**20, 2**27):
        batches = Resident(images, labels, batch_size, 0)
        assert batches.max_steps * min(batch_size, FEED_INDICES) == FEED_INDICES


def test_a_batch_may_be_larger_than_the_data():
    assert set(np.bincount(batch_indices(0, 0, 25, 10))) == {2, 3}


def test_resident_and_streamed_give_the_same_batches():
    resident = open_batches(_source(), 4, 0, OPTIONS)
    streamed = open_batches(_source(), 4, 0, STREAM)
    assert isinstance(resident, Resident)
    assert isinstance(streamed, Streamed)
    # Steps are read in order, then from an earlier one, as after a resume.
    for first, steps in ((0, 3), (3, 2), (1, 4)):
        stacked = streamed.feed(first, steps)
        for item, images, labels in zip(
            resident.feed(first, steps), stacked.images, stacked.labels, strict=True
        ):
            batch = resident.select(resident.arrays, item)
            np.testing.assert_array_equal(batch.images, images)
            np.testing.assert_array_equal(batch.labels, labels)


@pytest.mark.parametrize("options", [OPTIONS, STREAM], ids=["resident", "streamed"])
def test_a_broken_image_is_refused_by_name(options):
    with pytest.raises(UsageError, match=r"4\.png: cut short.*--on-broken skip"):
        open_batches(_WithBroken(), 10, 0, options).feed(0, 1)


@pytest.mark.parametrize("gib", [1.0, 0.0], ids=["resident", "streamed"])
def test_a_broken_image_is_skipped_and_reported(gib, caplog):
    options = DataOptions(on_broken="skip", resident_gib=gib)
    with caplog.at_level(logging.WARNING, logger="genjax"):
        batches = open_batches(_WithBroken(), 10, 0, options)
        batch = batches.select(batches.arrays, batches.feed(0, 3))
    seen = np.asarray(batch.images)[..., 0, 0, 0].ravel().tolist()
    assert seen
    assert 4 not in seen
    assert caplog.text.count("4.png: cut short") == 1


@pytest.mark.parametrize("gib", [1.0, 0.0], ids=["resident", "streamed"])
def test_nothing_but_broken_images(gib):
    options = DataOptions(on_broken="skip", resident_gib=gib)
    with pytest.raises(UsageError, match="not one"):
        open_batches(_WithBroken(broken=range(10)), 4, 0, options).feed(0, 1)


def test_images_that_cannot_be_read_are_replaced_by_the_next():
    whole, broken = _source(), _WithBroken((0, 3, 4, 7))
    for seed in range(5):
        order = [i for i in np.random.default_rng(seed).permutation(10) if i not in (0, 3, 4, 7)]
        for n in (1, 5, 6, 9):
            found = read_some(broken, n, seed).images[:, 0, 0, 0].tolist()
            assert found == order[:n]
        assert len(read_some(whole, 4, seed).images) == 4
    with pytest.raises(UsageError, match="not one of 10 images"):
        read_some(_WithBroken(range(10)), 3, 0)


def test_few_blocks_are_read_ahead(monkeypatch):
    monkeypatch.setattr(batches, "READ_BYTES", 12)  # three images of 2x2
    source, started = _source(200), []
    read = source.read
    monkeypatch.setattr(
        source, "read", lambda indices: started.append(len(indices)) or read(indices)
    )
    blocks = read_blocks(source, slice(20, None))
    first = next(blocks)
    time.sleep(0.3)  # in which the threads would go on
    assert len(started) <= 2 * batches.THREADS + 1
    examples = [*first, *(example for block in blocks for example in block)]
    assert [int(image[0, 0, 0]) for image, _ in examples] == list(range(20, 200))
    assert started == [3] * 60
