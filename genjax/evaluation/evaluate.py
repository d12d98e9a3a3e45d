"""Evaluation of a trained model: the quality of its samples, and the likelihood of test images."""

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np
from PIL import Image

from genjax.data.batches import share
from genjax.data.broken import BrokenImage
from genjax.data.processes import is_first
from genjax.data.source import DataOptions, Source
from genjax.evaluation.distances import (
    MIN_IMAGES,
    Copies,
    Metrics,
    class_distances,
    distances,
    memorization,
)
from genjax.evaluation.extractor import ExtractorKind, create_extractor, weights_path
from genjax.evaluation.features import (
    Content,
    DataFeatures,
    FeatureSet,
    data_features,
    measure,
    over_processes,
    without_border,
)
from genjax.evaluation.images import read_readable
from genjax.evaluation.likelihood import checked_draws, health, likelihood
from genjax.figures.grid import grid, to_png
from genjax.figures.latents import paths
from genjax.figures.sample import (
    CHUNK,
    SampleOptions,
    is_conditional,
    sample_batches,
    sample_options,
    sample_state,
)
from genjax.figures.styles import perceptual_path_length
from genjax.metrics.features import FeatureNet
from genjax.run.checkpoint import write_atomically
from genjax.run.folder import RunFolder
from genjax.run.options import AnyData, N, check_choice, check_seed
from genjax.run.recipe import Recipe
from genjax.run.records import append_line
from genjax.run.states import open_split
from genjax.run.trained import Checkpoint, Model, load
from genjax.samplers import Sampler
from genjax.types import Batch, ImageSpec, State, UsageError

log = logging.getLogger("genjax")

# The labels of samples: as in the training data, or of each class as many.
ClassShares = Literal["data", "even"]
# What the protocol says of how samples are drawn.
DRAWING = (
    *("sampler", "sampling_steps", "guidance"),
    *("temperature", "truncation", "truncation_cutoff"),
)
# The most samples if no number is asked for, the field's usual number.
MOST_SAMPLES = 50_000
# The time to draw 1,000 images above which it is told by that of fewer.
LONG_SECONDS = 5.0
# The number of values reported for each sign of health, the worst first.
MAX_HEALTH_VALUES = 10
# Numbers of images for signs of health, of samples, of paths, and of images on a path in figures.
FIRST_IMAGES, FIGURE_SAMPLES, FIGURE_PATHS, FIGURE_STEPS = 100, 64, 6, 10
# The largest number of pairs of styles for perceptual path lengths.
MAX_PATH_PAIRS = 2000


class Sides(NamedTuple):
    """The real images of an evaluation.

    Attributes:
        test: All images of the test split or, without one, of the training data.
        real: Those that samples are compared with.
        others: As many other ones, for the floors; None if there are not as many.
        train: The training images; the same as `test` if there is no test split.
    """

    test: DataFeatures
    real: FeatureSet
    others: FeatureSet | None
    train: DataFeatures


def _protocol(recipe: Recipe, spec: ImageSpec, seed: int) -> dict[str, Any]:
    """Return the part of the protocol that does not depend on what is measured."""
    options = recipe.data_options
    names = ("likelihood", "binarization", "bits", "dequantization", "ode_steps", "ode_tolerance")
    model = {name: getattr(recipe.model, name) for name in names if hasattr(recipe.model, name)}
    return {
        "data": recipe.data,
        "split": options.for_test.split,
        "shape": spec.shape_within(options.border),
        "resized": {"fit": options.fit, "filter": "lanczos"} if options.size else None,
        "seed": seed,
        "model": model | ({"border": options.border} if options.border else {}),
    }


def compared_size(recipe: Recipe, n: int | None, images: int) -> int:
    """Return how many samples are compared with as many real images.

    Args:
        recipe: The recipe, whose data may have a test split.
        n: The number asked for. None: all images up to 50,000; without a test split half of them,
            because the others are for the floors.
        images: The number of images of the test split.

    Raises:
        UsageError: There are too few images, or `n` is impossible.
    """
    split = f"{recipe.data_options.for_test.split} of {recipe.data}"
    if images < MIN_IMAGES:
        raise UsageError(
            f"{split} has {images} images; samples are compared with at least {MIN_IMAGES}"
        )
    if n is None:
        half = images if recipe.data_options.test_split else max(images // 2, MIN_IMAGES)
        return min(half, MOST_SAMPLES)
    if not MIN_IMAGES <= n <= images:
        raise UsageError(f"n = {n}: should be from {MIN_IMAGES} to {images}, the images of {split}")
    return n


def real_sides(
    recipe: Recipe,
    spec: ImageSpec,
    net: FeatureNet,
    identity: dict[str, Any],
    n: int | None,
    seed: int,
) -> Sides:
    """Choose the real images to compare samples with, of which there are `n`; see `compared_size`.

    Raises:
        UsageError: The data are not those of the run, or there are too few.
    """
    options = recipe.data_options
    test = data_features(
        net, identity, open_as_trained(recipe, options.for_test, spec), options.for_test
    )
    size = compared_size(recipe, n, len(test.images))
    order = np.random.default_rng(seed).permutation(len(test.images))
    real, rest = test.images.take(np.sort(order[:size])), order[size:]
    train, unseen = test, test.images.take(np.sort(rest[:size]))
    if options.test_split is not None:
        train = data_features(net, identity, open_as_trained(recipe, options, spec), options)
        order = np.random.default_rng(seed).permutation(len(train.images))
        unseen = train.images.take(np.sort(order[:size]))
    return Sides(test, real, unseen if len(unseen) == size else None, train)


def sample_labels(
    recipe: Recipe, spec: ImageSpec, shares: ClassShares, train: FeatureSet, n: int, seed: int
) -> np.ndarray | int:
    """Return the labels of `n` samples for `sample_batches`."""
    if shares == "even" or not is_conditional(recipe, spec):
        return n
    return np.resize(np.random.default_rng(seed).permutation(train.labels), n)


def measure_samples(
    recipe: Recipe,
    state: State,
    net: FeatureNet,
    key: jax.Array,
    labels: np.ndarray | int,
    sampling: SampleOptions,
) -> FeatureSet:
    """Draw samples over all devices and processes, and compute what is known of them."""
    count = labels if isinstance(labels, int) else len(labels)
    chunks = range(math.ceil(count / CHUNK))
    own = chunks[share(len(chunks))]
    batches = sample_batches(recipe, state, key, labels, sampling, own, spread=True)
    options = recipe.data_options
    bare = (Batch(without_border(images, options), some) for images, some in batches)
    found = measure(net, bare, len(own) * CHUNK)
    return over_processes(found)


def drawing_seconds(recipe: Recipe, state: State, sampling: SampleOptions) -> float:
    """Measure the time to draw 1,000 images on one device, or to draw a few if that is long."""

    def timed(count: int) -> float:
        start = time.monotonic()
        sample_state(recipe, state, jax.random.key(0), count, sampling)
        return (time.monotonic() - start) * 1000 / count

    timed(CHUNK)  # so that it is compiled
    of_few = timed(CHUNK)
    return of_few if of_few > LONG_SECONDS else timed(16 * CHUNK)


def _fidelity(
    recipe: Recipe,
    state: State,
    how: tuple[FeatureNet, dict[str, Any], SampleOptions],
    n: int | None,
    shares: ClassShares,
    class_names: Sequence[str],
    seed: int,
) -> tuple[dict[str, Any], dict[str, Image.Image]]:
    """Compare samples with real images.

    Args:
        recipe: The recipe of the run.
        state: The state.
        how: The feature net, its identity, and how samples are drawn.
        n: The number of images on each side; see `compared_size`.
        shares: The shares of classes.
        class_names: The classes, if each is to be compared alone too; otherwise empty.
        seed: Seed of all draws.

    Returns:
        `metrics`, `classes`, `seconds_per_1000`, and what the `protocol` says; and figures.
    """
    net, identity, sampling = how
    sides = real_sides(recipe, state.spec, net, identity, n, seed)
    size = len(sides.real)
    labels = sample_labels(recipe, state.spec, shares, sides.train.images, size, seed)
    # The second is the key of the likelihoods.
    sample_key, _, path_key = jax.random.split(jax.random.key(seed), 3)
    log.info("%s samples", f"{size:,}")
    fake = measure_samples(recipe, state, net, sample_key, labels, sampling)
    metrics: Metrics = distances(fake, sides.real, sides.others, seed)
    if sides.others is None:
        log.warning("no floors: there are no %s other images", f"{size:,}")

    def draw(indices: Sequence[int] | np.ndarray) -> np.ndarray:
        chunks = sorted({int(i) // CHUNK for i in indices})
        batches = sample_batches(recipe, state, sample_key, labels, sampling, chunks)
        drawn = dict(zip(chunks, (batch.images for batch in batches), strict=True))
        images = np.stack([drawn[int(i) // CHUNK][int(i) % CHUNK] for i in indices])
        return without_border(images, recipe.data_options)

    figures = {"samples": grid(draw(range(min(size, FIGURE_SAMPLES))))}
    if recipe.data_options.test_split is None:
        log.warning("no memorization, no neighbours: without test_split all images are trained on")
    else:
        ratio, copies = memorization(fake, sides.real, sides.train.images)
        metrics |= ratio
        near = _neighbours(recipe, state.spec, sides.train, copies)
        rows = np.concatenate([draw(copies.suspects)[:, None], near], axis=1)
        figures["neighbours"] = grid(rows)
    if recipe.functions.style is not None:
        crop = functools.partial(without_border, options=recipe.data_options)
        pairs = min(size, MAX_PATH_PAIRS)
        metrics |= perceptual_path_length(recipe, state, net, pairs, path_key, crop)
    protocol = {"extractor": identity, "samples": size} | sides.test.content._asdict()
    protocol |= {name: sampling.get(name, getattr(recipe.model, name, None)) for name in DRAWING}
    protocol |= {"labels": shares} if is_conditional(recipe, state.spec) else {}
    found: dict[str, Any] = {"metrics": metrics, "protocol": protocol}
    found["seconds_per_1000"] = round(drawing_seconds(recipe, state, sampling), 4)
    if class_names:
        numbers = class_distances(fake, sides.real, len(class_names), seed)
        found["classes"] = {str(class_names[i]): each for i, each in numbers.items()}
    return found, figures


def _neighbours(recipe: Recipe, spec: ImageSpec, train: DataFeatures, copies: Copies) -> np.ndarray:
    """Read the training images that are nearest to samples, uint8 [8, 7, H, W, C]."""
    source = open_as_trained(recipe, recipe.data_options, spec)
    read = source.read(train.indices[copies.neighbours.ravel()].tolist())
    black = np.zeros(spec.shape, np.uint8)  # for one that has become unreadable
    images = np.stack([black if isinstance(each, BrokenImage) else each[0] for each in read])
    images = without_border(images, recipe.data_options)
    return images.reshape(*copies.neighbours.shape, *images.shape[1:])


def _check_classes(recipe: Recipe, spec: ImageSpec, labels: ClassShares, per_class: bool) -> None:
    """Raise a `UsageError` if the classes of samples cannot be chosen so."""
    check_choice("labels", labels, ClassShares)
    if not is_conditional(recipe, spec) and (per_class or labels != "data"):
        option = "per_class" if per_class else f"labels = {labels}"
        raise UsageError(f"{option}: is of conditional models, and this is none")


def _check_likelihood_images(n: int | None, recipe: Recipe, images: int) -> None:
    """Raise a `UsageError` unless there are `n` test images."""
    if n is not None and not 1 <= n <= images:
        split = f"{recipe.data_options.for_test.split} of {recipe.data}"
        raise UsageError(
            f"likelihood_images = {n}: should be from 1 to {images}, the images of {split}"
        )


def _checked_extractor(
    extractor: ExtractorKind | None, recipe: Recipe, spec: ImageSpec, n: int | None, images: int
) -> ExtractorKind | None:
    """Return the feature net to compare `n` samples with, or None for the likelihood alone.

    Raises:
        UsageError: There is no such net, or there are too few images.
    """
    has_likelihood = recipe.functions.evaluate is not None
    if extractor is None and spec.classes > 1:
        if images < MIN_IMAGES and has_likelihood:
            log.warning("%d test images: too few to compare samples with", images)
            return None
        extractor = "classifier"
    if extractor is not None:
        compared_size(recipe, n, images)
    elif not has_likelihood:
        raise UsageError(
            f"family {recipe.family!r} has no likelihood, and {recipe.data} no classes to train a "
            "feature net for: wanted --extractor inception"
        )
    return extractor


def feature_net(
    recipe: Recipe, extractor: ExtractorKind, weights: str | Path | None
) -> tuple[FeatureNet, dict[str, Any]]:
    """Create the feature net, which sees images without their border, and its protocol."""
    bare = dataclasses.replace(recipe.data_options, border=0)
    return create_extractor(extractor, recipe.data, bare, weights)


def evaluate(
    run: Model,
    n: Annotated[int | None, N] = None,
    importance_samples: int | None = None,
    likelihood_images: int | None = None,
    seed: int = 0,
    checkpoint: Checkpoint = "best",
    temperature: float | None = None,
    truncation: float | None = None,
    truncation_cutoff: int | None = None,
    sampler: Sampler | None = None,
    sampling_steps: int | None = None,
    guidance: float | None = None,
    labels: ClassShares = "data",
    per_class: bool = False,
    extractor: ExtractorKind | None = None,
    weights: str | Path | None = None,
    data: AnyData = None,
) -> dict[str, Any]:
    """Measure the quality of samples, and the likelihood of images of the run's `test_split`.

    Without one the training images take its place. All devices of all processes that call this
    work. `evaluations.jsonl` gets a line, and the `figures` are drawn anew.

    Args:
        run: The run folder.
        n: Number of samples, and of real images. None: all up to 50,000 (without a split half).
        importance_samples: Draws of latents, or of noise within gray levels, for the likelihood of
            each image. None: as many as the family's papers take.
        likelihood_images: Number of test images, evenly spread, for the likelihood. None: all.
        seed: Seed of all draws.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.
        temperature: As of `genjax sample`.
        truncation: Likewise.
        truncation_cutoff: Likewise.
        sampler: Likewise.
        sampling_steps: Likewise.
        guidance: Likewise.
        labels: Classes of a conditional model's samples: as often as in the data, or evenly.
        per_class: Whether each class is compared alone too, for conditional models.
        extractor: The feature net: Inception, by which FID is defined, or a classifier of the data,
            trained when it is first asked for. None: this, if there are classes.
        weights: File with Inception's weights. None: the published file in the cache folder.
        data: The run's data at another place. None: where they were in training.

    Returns:
        A dict in which undefined numbers are NaN or infinite (null in `evaluations.jsonl`).
        `metrics`: with a feature net, those of `evaluation.distances` and, with a test split,
        `memorization`, and with styles `perceptual_path_length`, all without the `border`; of a
        likelihood `nll` (nats) and `bits_per_dim`, with standard errors as `..._error`, of a VAE's
        bound `elbo` and `active_units`. `classes`: with `per_class`, metrics of each. `protocol`:
        how all was measured. `health`: signs of trouble. `step`, `seconds`, `seconds_per_1000`.

    Raises:
        UsageError: There is no run, no such good checkpoint or weights, or a number is impossible.
    """
    check_seed(seed)
    trained = load(run, checkpoint, data)
    recipe, spec, state = trained.recipe, trained.spec, trained.state
    draws = checked_draws(importance_samples, recipe.functions.importance_samples)
    own = (sampler, sampling_steps, guidance, temperature, truncation, truncation_cutoff)
    sampling = sample_options(recipe, **dict(zip(DRAWING, own, strict=True)))
    _check_classes(recipe, spec, labels, per_class)
    weights_path(extractor, weights)  # before any work
    start, test = time.monotonic(), open_as_trained(recipe, recipe.data_options.for_test, spec)
    _check_likelihood_images(likelihood_images, recipe, len(test))
    extractor = _checked_extractor(extractor, recipe, spec, n, len(test))
    log.info("%d images of %s, %s", len(test), recipe.data_options.for_test.split, trained)
    result: dict[str, Any] = {"metrics": {}, "protocol": _protocol(recipe, spec, seed)}
    figures: dict[str, Image.Image] = {}
    if extractor is not None:
        drawing = *feature_net(recipe, extractor, weights), sampling
        each = test.class_names if per_class else ()
        found, figures = _fidelity(recipe, state, drawing, n, labels, each, seed)
        result |= found | {"protocol": result["protocol"] | found["protocol"]}
    _add_likelihood(result, recipe, state, test, seed, draws, likelihood_images)
    figures |= _look_at_first(result, recipe, state, test, seed)
    result |= {"step": trained.step, "seconds": round(time.monotonic() - start, 1)}
    _record(trained.folder, result, figures)
    return result


def _look_at_first(
    result: dict[str, Any], recipe: Recipe, state: State, test: Source, seed: int
) -> dict[str, Image.Image]:
    """Add signs of health, measured at the first test images; return paths between some of them."""
    first = next(read_readable(test, slice(0, FIRST_IMAGES)))[0]
    result["health"] = _worst(health(recipe, state, first))
    return _interpolations(recipe, state, first, seed)


def _add_likelihood(
    result: dict[str, Any],
    recipe: Recipe,
    state: State,
    test: Source,
    seed: int,
    draws: int,
    n: int | None,
) -> None:
    """Add the likelihood of `n` test images, or of all, to metrics and protocol, if it has one."""
    if recipe.functions.evaluate is None:
        return
    chosen = np.arange(n or len(test)) * len(test) // (n or len(test))
    own, content = share(len(chosen)), Content()
    batches = _read(recipe, test, chosen[own].tolist(), content)
    result["metrics"] |= likelihood(recipe, state, batches, seed, draws, own.start)
    result["protocol"]["importance_samples"] = draws
    if n is None:
        result["protocol"] |= content.gather()._asdict()
    else:
        result["protocol"]["likelihood_images"] = content.gather().images


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


def _record(
    folder: RunFolder | None, result: dict[str, Any], figures: dict[str, Image.Image]
) -> None:
    """Add a line to the evaluations of the run, if it is one, and replace its figures.

    The first of all processes does it.
    """
    if not is_first():
        return
    undefined = [name for name, value in result["metrics"].items() if not math.isfinite(value)]
    if undefined:
        log.warning("not defined for these images, and null: %s", ", ".join(undefined))
    if folder is None:
        return
    folder.figures.mkdir(exist_ok=True)
    for name, figure in figures.items():
        write_atomically(folder.figures / f"{name}.png", to_png(figure))
    append_line(folder, folder.evaluations, result)
    folder.publish()


def open_as_trained(recipe: Recipe, options: DataOptions, spec: ImageSpec) -> Source:
    """Open a split, with images as those of the run.

    Raises:
        UsageError: The images do not have the shape of the run, `spec`.
    """
    source = open_split(recipe, options)
    if (source.spec.shape, source.spec.classes) != (spec.shape, spec.classes):
        raise UsageError(
            f"{options.split} of {recipe.data}: {source.spec}, and the run's data are {spec}; "
            "--data says where they are"
        )
    return source


def _read(recipe: Recipe, source: Source, part: list[int], content: Content) -> Iterator[Batch]:
    """Read a part of a source, and add the images to its content."""
    for batch, _ in read_readable(source, part):
        content.add(Batch(without_border(batch.images, recipe.data_options), batch.labels))
        yield batch
