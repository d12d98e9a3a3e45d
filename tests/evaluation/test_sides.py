"""Tests of fidelity metrics on samples made from real digits, for which the answer is known."""

import collections

import numpy as np
import pytest

from genjax import evaluation
from genjax.data.batches import read_all
from genjax.data.source import DataOptions
from genjax.data.sources import open_source
from genjax.evaluation.distances import class_distances, distances, memorization
from genjax.evaluation.features import measure
from genjax.metrics.classifier import Extractor, train_classifier
from genjax.metrics.frechet import frechet_distance_error
from genjax.types import Batch

TRAIN, TEST = DataOptions(split="train[:80%]"), DataOptions(split="train[80%:]")


def known(net, images, labels=None):
    """Return what is known of images, in two batches."""
    labels = np.zeros(len(images), int) if labels is None else labels
    half = len(images) // 2
    parts = slice(0, half), slice(half, None)
    return measure(net, (Batch(images[part], labels[part]) for part in parts), len(images))


@pytest.fixture(scope="module")
def judged():
    """Compute the metrics of each kind of samples."""
    source = open_source("digits", TRAIN)
    train, labels, _ = read_all(source)
    test, test_labels, _ = read_all(open_source("digits", TEST))
    extractor = Extractor(source.spec, train_classifier(source, TRAIN, steps=100))
    rng = np.random.default_rng(0)
    blurred = (train.astype(float) + np.roll(train, 1, 1) + np.roll(train, 1, 2)) / 3
    kinds = {
        "real": test[rng.permutation(360)],
        "train": train[:360],
        "blurred": blurred[:360].astype(np.uint8),
        "one class": train[labels == 3][:130],
        "noise": rng.integers(0, 256, (360, 8, 8, 1), np.uint8),
    }
    real, seen = known(extractor, test, test_labels), known(extractor, train, labels)
    others = seen.take(rng.permutation(len(seen))[:360])
    return {
        name: distances(fake, real, others) | memorization(fake, real, seen)[0]
        for name, fake in ((name, known(extractor, x)) for name, x in kinds.items())
    }


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

    _, found = memorization(known(net, samples), known(net, test), known(net, train))
    assert found.suspects.shape == (8,) and found.neighbours.shape == (8, 7)
    assert set(found.suspects[:3]) == {3, 11, 17}
    assert {*zip(found.suspects[:3], found.neighbours[:3, 0], strict=True)} == {
        (3, 50),
        (11, 0),
        (17, 7),
    }


def _pixels(images):
    """A feature net whose features are pixels, and whose class is that of the first pixel."""
    return images.reshape(len(images), -1).astype(np.float32), 9 * np.eye(4)[images[:, 0, 0, 0] % 4]


def test_a_class_that_no_test_image_has_is_no_error():
    """Divergence is infinite, and of test images that are trained on there is no memorization."""
    rng = np.random.default_rng(0)
    samples, test = (rng.integers(0, 256, (20, 4, 4, 1), np.uint8) for _ in range(2))
    samples[:, 0, 0, 0], test[:, 0, 0, 0] = np.arange(20) % 3, 0
    fake, real = known(_pixels, samples), known(_pixels, test)
    metrics = distances(fake, real)
    assert metrics["classes"] == 3 and metrics.pop("class_kl") == np.inf
    assert np.all(np.isfinite(list(metrics.values())))
    assert np.isnan(memorization(fake, real, real)[0]["memorization"])


def test_the_floor_is_not_beaten_by_a_perfect_model(monkeypatch):
    """Twenty models that draw from the data's distribution are around their floors, within the
    stated error: distance and floor have one each, of the same size."""
    monkeypatch.setattr(evaluation.distances, "frechet_distance_error", frechet_distance_error)
    rng = np.random.default_rng(0)

    def drawn():
        return rng.normal(128, 30, (100, 3, 3, 1)).clip(0, 255).astype(np.uint8)

    gaps = collections.defaultdict(list)
    for _ in range(20):
        fake, real, others = (known(_pixels, drawn()) for _ in range(3))
        found = evaluation.distances.distances(fake, real, others)
        for name in ("frechet_distance", "kernel_distance"):
            gap = found[name] - found[f"{name}_floor"]
            gaps[name].append(gap / found[f"{name}_error"] / 2**0.5)
    for each in gaps.values():
        assert abs(np.mean(each)) < 0.5
        assert 0.2 < np.std(each) < 1.1


def test_each_class_is_compared_with_as_many_of_its_own():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 3, 3, 1), np.uint8)
    labels = np.repeat([0, 1, 2], [30, 20, 10])
    real = known(_pixels, images, labels)
    samples = images.copy()
    samples[labels == 1] = 0  # the model fails at one class
    found = class_distances(known(_pixels, samples, labels), real, classes=4, seed=0)
    assert {label: each["images"] for label, each in found.items()} == {0: 30, 1: 20, 2: 10}
    assert found[0]["frechet_distance"] == pytest.approx(0, abs=1e-6)
    assert found[0]["precision"] == 1 and found[1]["precision"] == 0
    assert found[1]["frechet_distance"] > 1000
