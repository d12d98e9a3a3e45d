"""Evaluation of a trained model: the quality of its samples, and the likelihood of test images."""

import dataclasses
import functools
import logging
import math
import time
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from PIL import Image

from genjax.data.batches import read_all
from genjax.data.digest import fingerprint
from genjax.data.sources import DataOptions
from genjax.evaluation.extractor import ExtractorKind, create_extractor, weights_path
from genjax.evaluation.fidelity import MIN_IMAGES, fidelity
from genjax.evaluation.likelihood import health, likelihood
from genjax.figures.grid import grid, to_png
from genjax.figures.latents import paths
from genjax.figures.sample import (
    SampleOptions,
    check_memory,
    is_conditional,
    sample_options,
    sample_state,
)
from genjax.figures.styles import perceptual_path_length
from genjax.metrics.features import FeatureNet
from genjax.run.checkpoint import write_atomically
from genjax.run.folder import RunFolder
from genjax.run.options import N, Run, check_seed
from genjax.run.recipe import Recipe
from genjax.run.records import append_line
from genjax.run.states import Checkpoint, load_state, open_split
from genjax.types import Batch, ImageSpec, State, UsageError

log = logging.getLogger("genjax")

# The least number of samples, for a covariance and five neighbours.
MIN_SAMPLES = 10
# The number of values reported for each sign of health, the worst first.
MAX_HEALTH_VALUES = 10
# Numbers of samples, of paths, and of images on a path in the figures.
FIGURE_SAMPLES, FIGURE_PATHS, FIGURE_STEPS = 64, 6, 10
# The largest number of pairs of styles for perceptual path lengths.
MAX_PATH_PAIRS = 2000


def _protocol(recipe: Recipe, test: Batch, seed: int) -> dict[str, Any]:
    """Return the part of the protocol that does not depend on what is measured."""
    options = recipe.data_options
    names = ("likelihood", "binarization", "bits", "dequantization")
    model = {name: getattr(recipe.model, name) for name in names if hasattr(recipe.model, name)}
    bare = without_border(np.asarray(test.images), options)
    arrays = bare, np.asarray(test.labels)
    return {
        "data": recipe.data,
        "split": options.for_test.split,
        "images": len(test.images),
        "content": fingerprint(np.ascontiguousarray(array).data for array in arrays),
        "shape": bare.shape[1:],
        "resized": {"fit": options.fit, "filter": "lanczos"} if options.size else None,
        "seed": seed,
        "model": model | ({"border": options.border} if options.border else {}),
    }


def _fidelity(
    recipe: Recipe,
    state: State,
    net: FeatureNet,
    n: int,
    sampling: SampleOptions,
    test: Batch,
    train: Batch,
    seed: int,
) -> tuple[dict[str, float], dict[str, Image.Image]]:
    """Compare `n` samples with the test images; return metrics and figures."""
    options, key = recipe.data_options, jax.random.key(seed)
    sample_key, path_key = jax.random.split(key)[0], jax.random.fold_in(key, 0)
    samples = sample_state(recipe, state, sample_key, n, sampling)
    fake, real, seen = (
        without_border(np.asarray(x), options) for x in (samples, test.images, train.images)
    )
    found = fidelity(net, fake, Batch(real, test.labels), seen, seed)
    metrics = found.metrics
    if recipe.functions.style is not None:
        crop = functools.partial(without_border, options=options)
        pairs = min(n, MAX_PATH_PAIRS)
        metrics |= perceptual_path_length(recipe, state, net, pairs, path_key, crop)
    rows = np.concatenate([fake[found.suspects][:, None], seen[found.neighbours]], axis=1)
    return metrics, {"neighbours": grid(rows), "samples": grid(fake[:FIGURE_SAMPLES])}


def _checked_draws(recipe: Recipe, spec: ImageSpec, n: int, draws: int | None) -> int:
    """Return the number of importance samples, by default the family's.

    Raises:
        UsageError: It or the number n of samples is impossible.
    """
    draws = recipe.functions.importance_samples if draws is None else draws
    for name, value, least in (("n", n, MIN_SAMPLES), ("importance_samples", draws, 1)):
        if value < least:
            raise UsageError(f"{name} = {value}: should be at least {least}")
    if draws >= 2**31:
        raise UsageError(f"importance_samples = {draws}: should be below {2**31}")
    check_memory(n, spec, f"n = {n}")
    return draws


def _images_for_features(recipe: Recipe, spec: ImageSpec, test: Batch) -> Batch:
    """Return the training images to compare with, which are the test images if there is no split.

    Raises:
        UsageError: There are too few of one or the other.
    """
    options = recipe.data_options
    train = test if options.test_split is None else _all_images(recipe, options, spec)
    for split, batch in ((options.for_test.split, test), (options.split, train)):
        if len(batch.images) < MIN_IMAGES:
            raise UsageError(
                f"{split} of {recipe.data} has {len(batch.images)} images; samples are compared "
                f"with at least {MIN_IMAGES}"
            )
    return train


def _default_extractor(recipe: Recipe, spec: ImageSpec, images: int) -> ExtractorKind | None:
    """Return the feature net if none is asked for, or None to measure the likelihood alone."""
    has_likelihood = recipe.functions.evaluate is not None
    if spec.classes > 1 and (images >= MIN_IMAGES or not has_likelihood):
        return "classifier"
    if not has_likelihood:
        raise UsageError(
            f"family {recipe.family!r} has no likelihood, and {recipe.data} no classes to train a "
            "feature net for: wanted --extractor inception"
        )
    if spec.classes > 1:
        log.warning("%d test images: too few to compare samples with", images)
    return None


def _feature_net(
    recipe: Recipe, extractor: ExtractorKind, weights: str | Path | None
) -> tuple[FeatureNet, dict[str, Any]]:
    """Create the feature net, which sees images without their border, and its protocol."""
    bare = dataclasses.replace(recipe.data_options, border=0)
    return create_extractor(extractor, recipe.data, bare, weights)


def evaluate(
    run: Run,
    n: Annotated[int, N] = 10_000,
    importance_samples: int | None = None,
    seed: int = 0,
    checkpoint: Checkpoint = "best",
    temperature: float | None = None,
    truncation: float | None = None,
    truncation_cutoff: int | None = None,
    extractor: ExtractorKind | None = None,
    weights: str | Path | None = None,
    data: str | None = None,
) -> dict[str, Any]:
    """Measure the quality of samples, and the likelihood of images of the run's `test_split`.

    Without a `test_split` the training images take its place; the protocol says so.

    Args:
        run: The run folder, whose `evaluations.jsonl` gets a line, and whose `figures` are drawn
            anew: samples, paths, and samples beside their nearest training images.
        n: Number of samples that are compared with images of the test split.
        importance_samples: Draws for the likelihood of each image: of the latents or, for a flow,
            of the noise within gray levels. None: as many as the family's papers take.
        seed: Seed of all draws.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.
        temperature: Temperature of the samples; see `genjax sample`.
        truncation: Truncation of the samples; see `genjax sample`.
        truncation_cutoff: Number of truncated layers; see `genjax sample`.
        extractor: The feature net: a classifier of the data set, trained when it is first asked
            for, or Inception, by which FID is defined. None: a classifier, if data have classes.
        weights: File with Inception's weights, a .pth or .safetensors. None: the published file in
            the cache folder.
        data: The run's data at another place. None: where they were in training.

    Returns:
        A dict, in which an undefined number is NaN or infinite (null in `evaluations.jsonl`), with
        `metrics`: with a feature net, those of `fidelity`, of images without their `border`; for a
        family with styles also `perceptual_path_length`. For a family with a likelihood `nll`, in
        nats an image, and `bits_per_dim`, of whole images, each with its standard error as
        `..._error`; if `nll` is a bound, also `elbo` and `active_units`.
        `protocol`: how they were measured; compare only evaluations of the same protocol.
        `health`: signs of numerical trouble, the largest values of each.
        `step` and `seconds`: the step of the checkpoint, and the time taken.

    Raises:
        UsageError: There is no run, no such good checkpoint or weights, or a number is impossible.
    """
    check_seed(seed)
    folder = RunFolder(run)
    config = folder.read_config()
    recipe, spec = config.recipe, config.spec
    draws = _checked_draws(recipe, spec, n, importance_samples)
    how = dict(temperature=temperature, truncation=truncation, truncation_cutoff=truncation_cutoff)
    sampling = sample_options(recipe, **how)
    weights_path(extractor, weights)  # before any work
    recipe, state, step = load_state(run, checkpoint, data)
    split = recipe.data_options.for_test
    test = _all_images(recipe, split, spec)
    extractor = extractor or _default_extractor(recipe, spec, len(test.images))
    log.info("%s images of %s, step %d of %s", f"{len(test.images):,}", split.split, step, run)
    start = time.monotonic()
    protocol = _protocol(recipe, test, seed)
    metrics: dict[str, float] = {}
    figures: dict[str, Image.Image] = {}
    if extractor is not None:
        train = _images_for_features(recipe, spec, test)
        net, protocol["extractor"] = _feature_net(recipe, extractor, weights)
        protocol |= {"samples": n, **how} | _labels_of_samples(recipe, spec)
        metrics, figures = _fidelity(recipe, state, net, n, sampling, test, train, seed)
    if recipe.functions.evaluate is not None:
        protocol["importance_samples"] = draws
        metrics |= likelihood(recipe, state, test, seed, draws)
    figures |= _interpolations(recipe, state, test, seed)
    signs, seconds = _worst(health(recipe, state, test)), round(time.monotonic() - start, 1)
    result = dict(metrics=metrics, protocol=protocol, health=signs, step=step, seconds=seconds)
    _record(folder, result, figures)
    return result


def _labels_of_samples(recipe: Recipe, spec: ImageSpec) -> dict[str, str]:
    """Return what a protocol says of the samples' labels: nothing if the model takes none."""
    if not is_conditional(recipe, spec):
        return {}
    return {"labels": "each class as often, whatever the data's shares"}


def _interpolations(recipe: Recipe, state: State, test: Batch, seed: int) -> dict[str, Image.Image]:
    """Draw paths in latent space, between the first test images where there is an encoder.

    Without latents, or with one image where two are needed, there is no figure.
    """
    needs_images = recipe.functions.encode is not None
    if recipe.functions.decode is None or (len(test.images) == 1 and needs_images):
        return {}
    count = max(1, min(FIGURE_PATHS, len(test.images) // 2))
    ends = Batch(*(array[: 2 * count] for array in test))
    key = jax.random.key(seed)
    images = paths(recipe, state, ends, count, FIGURE_STEPS, "spherical", key)
    return {"interpolations": grid(images)}


def _worst(signs: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """Return the `MAX_HEALTH_VALUES` largest of each sign of numerical trouble, the worst first."""
    return {
        name: np.sort(np.atleast_1d(values))[::-1][:MAX_HEALTH_VALUES].tolist()
        for name, values in signs.items()
    }


def _record(folder: RunFolder, result: dict[str, Any], figures: dict[str, Image.Image]) -> None:
    """Add a line to the run's evaluations, and replace its figures."""
    folder.figures.mkdir(exist_ok=True)
    for name, figure in figures.items():
        write_atomically(folder.figures / f"{name}.png", to_png(figure))
    undefined = [name for name, value in result["metrics"].items() if not math.isfinite(value)]
    if undefined:
        log.warning("not defined for these images, and null: %s", ", ".join(undefined))
    append_line(folder, folder.evaluations, result)
    folder.publish()


def without_border(images: np.ndarray, options: DataOptions) -> np.ndarray:
    """Cut `options.border` off images [N, H, W, C]."""
    inside = slice(options.border, -options.border or None)
    return images[:, inside, inside]


def _all_images(recipe: Recipe, options: DataOptions, spec: ImageSpec) -> Batch:
    """Read every image of a split.

    Raises:
        UsageError: The images do not have the shape of the run, `spec`.
    """
    source = open_split(recipe, options)
    if (source.spec.shape, source.spec.classes) != (spec.shape, spec.classes):
        raise UsageError(
            f"{options.split} of {recipe.data}: {source.spec}, and the run's data are {spec}; "
            "--data says where they are"
        )
    images, labels, broken = read_all(source)
    for line in broken:
        log.warning("left out a broken image: %s", line)
    if not len(images):
        raise UsageError(f"{options.split} of {recipe.data}: not one image can be read")
    return Batch(images, labels)
