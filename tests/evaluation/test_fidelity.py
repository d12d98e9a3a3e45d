"""Tests of fidelity metrics on samples made from real digits, for which the answer is known."""

import numpy as np
import pytest

from genjax.data.batches import read_all
from genjax.data.sources import DataOptions, open_source
from genjax.evaluation.fidelity import fidelity
from genjax.metrics.classifier import Extractor, train_classifier
from genjax.types import Batch

TRAIN, TEST = DataOptions(split="train[:80%]"), DataOptions(split="train[80%:]")


@pytest.fixture(scope="module")
def judged():
    """Compute the metrics of each kind of samples."""
    source = open_source("digits", TRAIN)
    train, labels, _ = read_all(source)
    test = Batch(*read_all(open_source("digits", TEST))[:2])
    extractor = Extractor(source.spec, train_classifier(source, TRAIN, steps=100))
    rng = np.random.default_rng(0)
    blurred = (train.astype(float) + np.roll(train, 1, 1) + np.roll(train, 1, 2)) / 3
    kinds = {
        "real": test.images[rng.permutation(360)],
        "train": train[:360],
        "blurred": blurred[:360].astype(np.uint8),
        "one class": train[labels == 3][:130],
        "noise": rng.integers(0, 256, (360, 8, 8, 1), np.uint8),
    }
    return {name: fidelity(extractor, x, test, train, seed=0).metrics for name, x in kinds.items()}


def test_distances_tell_what_is_worse(judged):
    for name in ("frechet_distance", "kernel_distance"):
        good, soft, single, noise = (
            judged[kind][name] for kind in ("train", "blurred", "one class", "noise")
        )
        assert 3 * good < min(soft, single, noise)
        assert good == pytest.approx(judged["train"][f"{name}_floor"], abs=0.5 * soft)
        assert 0 < judged["train"][f"{name}_error"] < soft
    assert abs(judged["real"]["frechet_distance"]) < 1e-6


def test_each_failure_shows_in_its_own_number(judged):
    single, soft, noise, copies = (
        judged[kind] for kind in ("one class", "blurred", "noise", "train")
    )
    assert single["precision"] > 0.6 > 0.3 > single["recall"]
    assert single["coverage"] < 0.3
    assert single["classes"] <= 4 and single["class_kl"] > 1
    assert copies["classes"] == 10 and copies["class_kl"] < 0.1
    assert single["inception_score"] < 2 < 7 < copies["inception_score"]
    assert soft["sharpness"] < 0.5 < 0.9 < copies["sharpness"] < 1.1
    assert noise["sharpness"] > 1.3
    assert single["diversity"] < 0.6 < 0.9 < copies["diversity"] < 1.1
    # Copies of training images; the test images, against which all is measured, are none.
    assert copies["memorization"] < 0.05
    assert judged["real"]["memorization"] == pytest.approx(1)


def test_the_suspects_are_the_copies():
    """Three of twenty samples are training images; each is its own nearest neighbour."""
    rng = np.random.default_rng(0)
    train = rng.integers(0, 200, (60, 4, 4, 1), np.uint8)
    samples, test = (rng.integers(0, 256, (20, 4, 4, 1), np.uint8) for _ in range(2))
    samples[[3, 11, 17]] = train[[50, 0, 7]]

    def net(images):
        return images.reshape(len(images), -1).astype(np.float32), np.eye(10)[
            np.arange(len(images)) % 10
        ]

    found = fidelity(net, samples, Batch(test, np.zeros(20, int)), train, seed=0)
    assert found.suspects.shape == (8,) and found.neighbours.shape == (8, 7)
    assert set(found.suspects[:3]) == {3, 11, 17}
    assert {*zip(found.suspects[:3], found.neighbours[:3, 0], strict=True)} == {
        (3, 50),
        (11, 0),
        (17, 7),
    }


def test_a_class_that_no_test_image_has_is_no_error():
    """Divergence is infinite, and of test images that are trained on there is no memorization."""
    rng = np.random.default_rng(0)
    samples, test = (rng.integers(0, 256, (20, 4, 4, 1), np.uint8) for _ in range(2))

    def net(images):
        classes = np.arange(len(images)) % 3 if images is samples else np.zeros(len(images), int)
        return images.reshape(len(images), -1).astype(np.float32), 9 * np.eye(4)[classes]

    metrics = fidelity(net, samples, Batch(test, np.zeros(20, int)), test, seed=0).metrics
    assert metrics["classes"] == 3 and metrics["class_kl"] == np.inf
    assert np.isnan(metrics["memorization"])
    others = {k: v for k, v in metrics.items() if k != "class_kl" and "memorization" not in k}
    assert np.all(np.isfinite(list(others.values())))
