"""Distances of features between MNIST's images and images that are disturbed more and more.

    python experiments/studies/frechet.py --data-dir DIR

10,000 images of each kind against 10,000 other training images, in the features of the classifier
that `genjax evaluate` uses; with standard errors. Two minutes on 2 CPU cores.
"""

import argparse
import logging
from collections.abc import Iterator

import numpy as np
from scipy.ndimage import gaussian_filter

from genjax.data.batches import read_all
from genjax.data.source import DataOptions
from genjax.data.sources import open_source
from genjax.evaluation.extractor import create_extractor
from genjax.metrics.frechet import Moments, frechet_distance, frechet_distance_error
from genjax.metrics.kernel import kernel_distance
from genjax.metrics.neighbours import prdc

COUNT = 10_000


def kinds(
    images: np.ndarray, labels: np.ndarray, rest: np.ndarray, test: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Return names and images, uint8 [10,000, H, W, C]; single classes are drawn from `rest`."""
    rng = np.random.default_rng(0)
    yield "other training images", images
    yield "test images", test
    for sigma in (0.5, 1, 2):
        yield f"blurred, sigma {sigma} pixels", gaussian_filter(images, (0, sigma, sigma, 0))
    noise = rng.integers(0, 256, images.shape)
    for share in (0.1, 0.25, 0.5, 1):
        mixed = (1 - share) * images + share * noise
        yield f"{share:.0%} noise", np.round(mixed).astype(np.uint8)
    for classes in (9, 5, 1):
        chosen = rng.choice(np.flatnonzero(labels < classes), COUNT)
        yield f"{classes} of 10 classes", rest[chosen]


def main() -> None:
    """Print a row for each kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="where tensorflow-datasets has, or will have, MNIST")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = DataOptions(data_dir=args.data_dir, test_split="test")
    net, identity = create_extractor("classifier", "tfds:mnist", options)
    images, labels, _ = read_all(open_source("tfds:mnist", options))
    test, _, _ = read_all(open_source("tfds:mnist", options.for_test))
    reference, _ = net(images[:COUNT])
    rest, rest_labels = images[2 * COUNT :], labels[2 * COUNT :]
    print(identity)
    print("| images | Frechet distance | kernel distance | precision | recall |")
    print("|---|---|---|---|---|")
    for name, each in kinds(images[COUNT : 2 * COUNT], rest_labels, rest, test):
        features, _ = net(each)
        distance = frechet_distance(Moments.of(features), Moments.of(reference))
        error = frechet_distance_error(features, reference, np.random.default_rng(0))
        kernel, kernel_error = kernel_distance(features, reference)
        found = prdc(reference, features)
        print(
            f"| {name} | {distance:.2f} +- {error:.2f} | {kernel:.3f} +- {kernel_error:.3f} | "
            f"{found.precision:.2f} | {found.recall:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
