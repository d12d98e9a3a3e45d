"""Metrics of samples against real images: fidelity, diversity, classes, sharpness, copies."""

import math
from typing import NamedTuple

import numpy as np

from genjax.evaluation.features import FeatureSet
from genjax.metrics.classes import class_coverage, inception_score
from genjax.metrics.frechet import frechet_distance, frechet_distance_error
from genjax.metrics.kernel import kernel_distance
from genjax.metrics.neighbours import NEAREST_K, ROUNDING, prdc

# The fewest images of a side: one and its neighbours.
MIN_IMAGES = NEAREST_K + 1

# Number of parts of the samples, each with an Inception Score.
SPLITS = 10

# Rows of the figure of neighbours, and training images in each.
SUSPECTS, NEIGHBOURS = 8, 7

Metrics = dict[str, float]


class Copies(NamedTuple):
    """The samples that lie nearest to a training image.

    Attributes:
        suspects: Indices of the samples, [8].
        neighbours: Indices of the training images nearest to each of them, nearest first, [8, 7].
    """

    suspects: np.ndarray
    neighbours: np.ndarray


def distances(
    fake: FeatureSet, real: FeatureSet, others: FeatureSet | None = None, seed: int = 0
) -> Metrics:
    """Compute all metrics that compare samples with as many real images.

    Args:
        fake: The samples.
        real: The real images, as many.
        others: As many other real images, for the floors. None: there are no floors.
        seed: Seed of subsets and resamplings.

    Returns:
        The metrics below. All but `classes`, `class_kl` and the floors have their standard error as
        `..._error`.
        `frechet_distance`, `kernel_distance`: distances from samples to real images; `..._floor` is
        the distance of the other real images in their place.
        `precision`, `recall`, `density`, `coverage`: see `metrics.neighbours`.
        `inception_score`: by the logits, with its error over ten splits.
        `classes`, `class_kl`: the number of classes of the samples, and the KL divergence of their
        frequencies from those of the real images, in nats.
        `diversity`, `sharpness`: the mean distance of two samples' features, and the variance of
        the Laplacian, both divided by those of the real images.
        The last two are NaN where the divisor is 0: of real images without detail, or that are all
        the same. `class_kl` is infinite if a sample has a class that no real image has.
    """
    rng = np.random.default_rng(seed)
    moments = real.moments
    metrics: Metrics = {
        "frechet_distance": frechet_distance(fake.moments, moments),
        "frechet_distance_error": frechet_distance_error(fake.features, real.features, rng),
    }
    metrics["kernel_distance"], metrics["kernel_distance_error"] = kernel_distance(
        fake.features, real.features, seed=seed
    )
    if others is not None:
        metrics["frechet_distance_floor"] = frechet_distance(others.moments, moments)
        metrics["kernel_distance_floor"], _ = kernel_distance(
            others.features, real.features, seed=seed
        )
    metrics |= prdc(real.features, fake.features)._asdict()
    score, spread = inception_score(fake.logits, min(SPLITS, len(fake)))
    metrics |= {"inception_score": score, "inception_score_error": spread / SPLITS**0.5}
    names = fake.logits.argmax(axis=1), real.logits.argmax(axis=1)
    classes, divergence = class_coverage(*names, fake.logits.shape[1])
    metrics |= {"classes": classes, "class_kl": divergence}
    metrics |= _ratio("sharpness", fake.sharpness, real.sharpness)
    gaps = [_gaps(each.features, rng) for each in (fake, real)]
    return metrics | _ratio("diversity", gaps[0], gaps[1], _size(real))


def class_distances(
    fake: FeatureSet, real: FeatureSet, classes: int, seed: int
) -> dict[int, Metrics]:
    """Compute metrics of each class alone, between as many samples as real images of it.

    Args:
        fake: The samples, whose labels are the classes that they were drawn of.
        real: The real images.
        classes: The number of classes.
        seed: Seed of the choice of images.

    Returns:
        For each class with at least `MIN_IMAGES` of both: `images`, `frechet_distance` and
        `precision`.
    """
    rng = np.random.default_rng(seed)
    found = {}
    for label in range(classes):
        rows = [rng.permutation(np.flatnonzero(side.labels == label)) for side in (fake, real)]
        count = min(map(len, rows))
        if count >= MIN_IMAGES:
            a, b = (each.take(some[:count]) for each, some in zip((fake, real), rows, strict=True))
            distance = frechet_distance(a.moments, b.moments)
            precision = prdc(b.features, a.features).precision
            found[label] = {
                "images": count,
                "frechet_distance": distance,
                "precision": precision,
            }
    return found


def memorization(fake: FeatureSet, real: FeatureSet, seen: FeatureSet) -> tuple[Metrics, Copies]:
    """Measure whether samples are copies of the images that were trained on.

    Args:
        fake: The samples.
        real: Images that were not trained on.
        seen: Those that were.

    Returns:
        `memorization`, the mean distance of samples to the nearest training image, divided by that
        of images that were not trained on, with its error: far below 1 the samples are copies, NaN
        if the divisor is 0. And the samples that may be copies.
    """
    from sklearn.neighbors import NearestNeighbors  # a second to import

    index = NearestNeighbors(algorithm="brute").fit(seen.features)
    gaps, nearest = index.kneighbors(fake.features, min(NEIGHBOURS, len(seen)))
    expected, _ = index.kneighbors(real.features, 1)
    suspects = np.argsort(gaps[:, 0], kind="stable")[:SUSPECTS]
    ratio = _ratio("memorization", gaps[:, 0], expected, _size(real))
    return ratio, Copies(suspects, nearest[suspects])


def _size(images: FeatureSet) -> float:
    return float(np.linalg.norm(images.features, axis=1).mean())


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
