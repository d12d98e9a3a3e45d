"""How far samples are from the training data, at each save: what picks the best checkpoint."""

import math

import jax
import numpy as np

from genjax.data.source import Source
from genjax.evaluation.evaluate import feature_net, measure_samples, sample_labels
from genjax.evaluation.features import data_features
from genjax.figures.sample import sample_state
from genjax.metrics.energy import energy_distance, nearest_ratio
from genjax.metrics.frechet import frechet_distance
from genjax.metrics.watch import ENERGY_DISTANCE, FRECHET_DISTANCE, PIXEL_MEMORIZATION
from genjax.run.recipe import MOST_JUDGED, Recipe
from genjax.types import State

# Number of samples, and of images, for the distance of pixels.
QUALITY_IMAGES = 1000


def _pixel_metrics(samples: jax.Array, images: jax.Array) -> dict[str, jax.Array]:
    """Compute the metrics of pixels in one program, which computes their distances once."""
    x, y = samples / 127.5, images / 127.5
    found = {ENERGY_DISTANCE: energy_distance(x, y)}
    if len(images) > 1:
        found[PIXEL_MEMORIZATION] = nearest_ratio(x, y)
    return found


class SampleQuality:
    """Distances from samples to the training data, lower is better.

    The energy distance is measured of images up to 64 pixels, and where it picks the best
    checkpoint, and with it how near samples are to training images; the Frechet distance where it
    does. Its feature net, and the features of the data, are made first, which takes a while if they
    are not in the cache folder.

    Args:
        recipe: The recipe.
        source: The training data.
        images: Random images of it, uint8 [1000, H, W, C].

    Raises:
        UsageError: There are no weights of the feature net.
    """

    def __init__(self, recipe: Recipe, source: Source, images: np.ndarray):
        self._recipe, self._images = recipe, images
        is_small = max(source.spec.shape[:2]) <= MOST_JUDGED
        self._has_energy = is_small or recipe.quality == ENERGY_DISTANCE
        self._pixels = jax.jit(_pixel_metrics)
        self._has_frechet = recipe.quality == FRECHET_DISTANCE
        if self._has_frechet:
            weights = recipe.quality_weights
            self._net, identity = feature_net(
                recipe, "classifier" if weights is None else "inception", weights
            )
            train = data_features(self._net, identity, source, recipe.data_options).images
            self._count, self._moments = len(train), train.moments
            self._labels = sample_labels(
                recipe, source.spec, "data", train, recipe.quality_samples, recipe.seed
            )

    def __call__(self, state: State, key: jax.Array) -> dict[str, float]:
        """Measure samples of a state; a covariance of one training image is NaN."""
        metrics: dict[str, float] = {}
        if self._has_energy:
            samples = sample_state(self._recipe, state, key, QUALITY_IMAGES)
            found = {k: float(v) for k, v in self._pixels(samples, self._images).items()}
            # Images that all have a copy are no measure.
            metrics |= {k: v for k, v in found.items() if k != PIXEL_MEMORIZATION or v < math.inf}
        if self._has_frechet:
            fake = measure_samples(self._recipe, state, self._net, key, self._labels, {})
            distance = (
                frechet_distance(fake.moments, self._moments) if self._count > 1 else math.nan
            )
            metrics[FRECHET_DISTANCE] = distance
        return metrics
