import numpy as np
import pytest

from genjax.data.batches import read_all
from genjax.data.source import DataOptions
from genjax.data.sources import open_source
from genjax.metrics.classifier import FEATURES, Extractor, train_classifier
from genjax.types import ImageSpec, UsageError

TRAIN = DataOptions(split="train[:80%]")


@pytest.fixture(scope="module")
def trained():
    return train_classifier(open_source("digits", TRAIN), TRAIN, steps=150)


def test_it_tells_held_out_digits_apart(trained):
    extractor = Extractor(ImageSpec(8, 8, 1, 10), trained)
    test = open_source("digits", DataOptions(split="train[80%:]"))
    assert extractor.accuracy(test) > 0.93
    images, _, _ = read_all(test)
    features, logits = extractor(images[:7])
    assert features.shape == (7, FEATURES)
    assert logits.shape == (7, 10)
    assert features.dtype == logits.dtype == np.float32
    # Features do not depend on the other images of a batch.
    np.testing.assert_allclose(extractor(images)[0][:7], features, rtol=1e-4, atol=1e-5)


def test_a_seed_gives_the_same_classifier():
    source = open_source("digits", TRAIN)
    one, same, other = (train_classifier(source, TRAIN, steps=3, seed=seed) for seed in (0, 0, 1))
    assert one == same != other


def test_what_does_not_fit_is_refused(trained, tmp_path):
    with pytest.raises(UsageError, match="needs data with classes"):
        Extractor(ImageSpec(8, 8, 1), trained)
    with pytest.raises(UsageError, match="no variables of the classifier"):
        Extractor(ImageSpec(8, 8, 1, 10), b"\x80")
    with pytest.raises(UsageError, match=r"images of \(9, 8, 1\)"):
        Extractor(ImageSpec(8, 8, 1, 10), trained)(np.zeros((2, 9, 8, 1), np.uint8))
