"""Metrics by a classifier: the Inception Score of samples, their classes, and its own errors."""

import numpy as np

from genjax.metrics.shapes import check_shape
from genjax.types import UsageError


def inception_score(logits: np.ndarray, splits: int = 10) -> tuple[float, float]:
    """Compute the Inception Score, `exp(E KL(p(y|x) || p(y)))` (Salimans et al. 2016, section 4).

    Args:
        logits: A classifier's logits of the samples, [N, K].
        splits: Number of consecutive parts of the samples, with a score for each.

    Returns:
        The mean and standard deviation of the parts' scores, which are from 1 to K.

    Raises:
        UsageError: There are more splits than samples, or the logits are not [N, K].
    """
    from scipy.special import log_softmax, logsumexp  # a fifth of a second to import

    check_shape("logits", logits, ("N", "K"))
    if not 1 <= splits <= len(logits):
        raise UsageError(f"splits = {splits}: should be from 1 to {len(logits)}")
    scores = []
    for part in np.array_split(np.asarray(logits, np.float64), splits):
        log_p = log_softmax(part, axis=1)
        p = np.exp(log_p)
        log_marginal = logsumexp(log_p, axis=0) - np.log(len(part))
        scores.append(np.exp((p * (log_p - log_marginal)).sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def class_coverage(fake: np.ndarray, real: np.ndarray, classes: int) -> tuple[int, float]:
    """Count the classes of the samples, and compare their frequencies with the data's.

    Args:
        fake: Class of each sample, by a classifier, [N].
        real: Class of each image of the data, [M].
        classes: Number of classes.

    Returns:
        The number of classes with a sample (the modes of Srivastava et al. 2017, section 4), and
        `KL(samples || data)` of the class frequencies in nats; infinite if a sample has a class
        that the data do not have.

    Raises:
        UsageError: The classes are not [N] and [M], or one is not from 0 to `classes` - 1.
    """
    for name, labels in (("fake", fake), ("real", real)):
        check_shape(name, labels, ("N",))
        low, high = np.min(labels), np.max(labels)
        if not 0 <= low <= high < classes:
            raise UsageError(f"{name}: classes {low} to {high}; wanted from 0 to {classes - 1}")
    shares = [np.bincount(labels, minlength=classes) / len(labels) for labels in (fake, real)]
    p, q = (share[shares[0] > 0] for share in shares)
    with np.errstate(divide="ignore"):
        return len(p), float((p * np.log(p / q)).sum())


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Compute the expected calibration error of a classifier (Guo et al. 2017, equation 3).

    Images are put into bins of equal width by the probability of their likeliest class; the error
    is the mean over images of `|accuracy - mean probability|` of their bin.

    Args:
        probabilities: The classes' probabilities for each image, [N, K].
        labels: The true classes, [N].
        bins: Number of bins of [0, 1].

    Returns:
        From 0 to 1.

    Raises:
        UsageError: The probabilities are not [N, K], or the labels not [N].
    """
    check_shape("probabilities", probabilities, ("N", "K"))
    check_shape("labels", labels, (len(probabilities),))
    confidence = probabilities.max(axis=1)
    place = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1).astype(int)
    excess = (probabilities.argmax(axis=1) == labels) - confidence
    return float(np.abs(np.bincount(place, weights=excess)).sum() / len(labels))
