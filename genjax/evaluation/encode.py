"""The latents of images."""

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from genjax.evaluation.images import OfImages, open_images, over_images
from genjax.figures.latents import encoder
from genjax.figures.output import save_arrays
from genjax.run.options import Data, check_seed
from genjax.run.recipe import Recipe
from genjax.run.trained import Checkpoint, Model, load


class Latents(NamedTuple):
    """The latents of N images.

    Attributes:
        latents: float32 [N, Z].
        labels: Their classes, int32 [N]; 0 without classes.
        names: Their names, of files or with their numbers.
        class_names: The name of each class.
    """

    latents: np.ndarray
    labels: np.ndarray
    names: list[str]
    class_names: list[str]


@functools.lru_cache(maxsize=8)
def _of_images(recipe: Recipe) -> OfImages:
    return over_images(encoder(recipe))


def encode(
    run: Model,
    data: Data = None,
    split: str | None = None,
    seed: int = 0,
    checkpoint: Checkpoint = "best",
) -> Latents:
    """Map images to their latents: a VAE's means of q(z|x), a flow's or diffusion's z.

    Args:
        run: The run folder, of a family with an encoder.
        data: The images; see `genjax score`. None: the run's test split or, without one, its
            training data.
        split: The split of `data`. None: `train`, which is all images of a folder without splits.
        seed: Seed of a VAE's binarization of the images.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.

    Returns:
        The latents, labels and names.

    Raises:
        UsageError: There is no run, no such good checkpoint, no encoder or no such data, or a
            conditional model has no such classes.
    """
    check_seed(seed)
    trained = load(run, checkpoint)
    of_images = _of_images(trained.recipe)
    images = open_images(trained, data, split)
    latents = np.concatenate(list(of_images(trained.state, images, jax.random.key(seed))))
    labels = np.asarray(images.labels, np.int32)
    return Latents(latents, labels, images.names(), [str(n) for n in images.source.class_names])


def save(found: Latents, output: Path) -> None:
    """Write the latents to a .npz, an array for each attribute."""
    texts = {name: np.array(getattr(found, name), str) for name in ("names", "class_names")}
    save_arrays(output, found._asdict() | texts)
