"""Metrics of samples against held-out images: fidelity, diversity, classes, sharpness, copies."""

import math
from typing import NamedTuple

import numpy as np

from genjax.metrics.classes import class_coverage, inception_score
from genjax.metrics.features import FeatureNet
from genjax.metrics.frechet import Moments, frechet_distance, frechet_distance_error
from genjax.metrics.kernel import kernel_distance
from genjax.metrics.neighbours import NEAREST_K, ROUNDING, prdc
from genjax.metrics.sharpness import sharpness
from genjax.types import Batch

# The fewest test images: one and its neighbours.
MIN_IMAGES = NEAREST_K + 1

# Number of parts of the samples, each with an Inception Score.
SPLITS = 10

# Rows of the figure of neighbours, and training images in each.
SUSPECTS, NEIGHBOURS = 8, 7

Metrics = dict[str, float]


class Fidelity(NamedTuple):
    """Metrics of samples, and the samples that may be copies.

    Attributes:
        metrics: The metrics; see `fidelity`.
        suspects: Indices of the samples that lie nearest to a training image, [8].
        neighbours: Indices of the training images nearest to each of them, nearest first, [8, 7].
    """

    metrics: Metrics
    suspects: np.ndarray
    neighbours: np.ndarray


def fidelity(
    extractor: FeatureNet, samples: np.ndarray, test: Batch, train: np.ndarray, seed: int
) -> Fidelity:
    """Compute all metrics that compare samples with images in an extractor's features.

    Args:
        extractor: The feature net.
        samples: The samples, uint8 [N, H, W, C].
        test: Held-out images uint8 [M, H, W, C] and their labels [M].
        train: Training images, uint8 [K, H, W, C].
        seed: Seed of subsets and resamplings.

    Returns:
        Possible copies, and the metrics below. All but `classes`, `class_kl` and the floors have
        their standard error as `..._error`.
        `frechet_distance`, `kernel_distance`: distances from samples to test images; `..._floor` is
        the distance of as many training images instead of samples.
        `precision`, `recall`, `density`, `coverage`: see `metrics.neighbours`.
        `inception_score`: by the extractor, with its error over ten splits.
        `classes`, `class_kl`: the number of classes of the samples, and the KL divergence of their
        frequencies from those of the test images, in nats.
        `diversity`, `sharpness`: the mean distance of two samples' features, and the variance of
        the Laplacian, both divided by those of the test images.
        `memorization`: the mean distance of samples to the nearest training image, divided by that
        of test images; far below 1 the samples are copies.
        The last three are NaN where the divisor is 0: of test images without detail, of test images
        that are all the same, and of test images that are trained on. `class_kl` is infinite if a
        sample has a class that no test image has.
    """
    held_out = np.asarray(test.images)
    fake, fake_logits = extractor(samples)
    real, real_logits = extractor(held_out)
    seen, _ = extractor(train)
    rng = np.random.default_rng(seed)
    as_many = seen[rng.permutation(len(seen))[: len(fake)]]

    moments = Moments.of(real)
    metrics: Metrics = {
        "frechet_distance": frechet_distance(Moments.of(fake), moments),
        "frechet_distance_error": frechet_distance_error(fake, real, rng),
        "frechet_distance_floor": frechet_distance(Moments.of(as_many), moments),
    }
    metrics["kernel_distance"], metrics["kernel_distance_error"] = kernel_distance(
        fake, real, seed=seed
    )
    metrics["kernel_distance_floor"], _ = kernel_distance(as_many, real, seed=seed)
    metrics |= prdc(real, fake)._asdict()
    score, spread = inception_score(fake_logits, min(SPLITS, len(fake)))
    metrics |= {"inception_score": score, "inception_score_error": spread / SPLITS**0.5}
    names = fake_logits.argmax(axis=1), real_logits.argmax(axis=1)
    classes, divergence = class_coverage(*names, fake_logits.shape[1])
    metrics |= {"classes": classes, "class_kl": divergence}
    metrics |= _ratio("sharpness", sharpness(samples), sharpness(held_out))
    size = np.linalg.norm(real, axis=1).mean()
    metrics |= _ratio("diversity", _gaps(fake, rng), _gaps(real, rng), size)
    from sklearn.neighbors import NearestNeighbors  # a second to import

    index = NearestNeighbors(algorithm="brute").fit(seen)
    distances, nearest = index.kneighbors(fake, min(NEIGHBOURS, len(seen)))
    expected, _ = index.kneighbors(real, 1)
    metrics |= _ratio("memorization", distances[:, 0], expected, size)
    suspects = np.argsort(distances[:, 0], kind="stable")[:SUSPECTS]
    return Fidelity(metrics, suspects, nearest[suspects])


def _gaps(features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the distance of each example [N, D] to a random other one, [N]."""
    order = rng.permutation(len(features))
    gaps: np.ndarray = np.linalg.norm(features[order] - features[np.roll(order, 1)], axis=1)
    return gaps


def _ratio(name: str, values: np.ndarray, reference: np.ndarray, size: float = 0.0) -> Metrics:
    """Return the ratio of two means, values over reference, and its standard error.

    Both are NaN if the reference is 0 up to the rounding of features of norm `size`.
    """
    above, below = values.mean(), reference.mean()
    if below <= ROUNDING * size:
        return {name: math.nan, f"{name}_error": math.nan}
    errors = [x.std() / len(x) ** 0.5 for x in (values, reference)]
    error = np.hypot(errors[0] / below, errors[1] * above / below**2)
    return {name: float(above / below), f"{name}_error": float(error)}
