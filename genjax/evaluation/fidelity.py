"""Comparison of any two sets of images: samples of a run, files, data sets, stored statistics."""

import dataclasses
import io
import json
import logging
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeGuard

import jax
import numpy as np
import tyro

from genjax.data.paths import is_remote
from genjax.data.source import DataOptions, Source
from genjax.data.sources import STACKED, absolute, open_source
from genjax.data.values import checked_images, name_of
from genjax.evaluation.distances import MIN_IMAGES, distances
from genjax.evaluation.evaluate import (
    MOST_SAMPLES,
    feature_net,
    measure_samples,
    open_as_trained,
    sample_labels,
)
from genjax.evaluation.extractor import ExtractorKind, create_extractor, weights_path
from genjax.evaluation.features import FeatureSet, block_size, data_features, measure
from genjax.figures.output import check_file
from genjax.figures.sample import is_conditional
from genjax.metrics.features import FeatureNet
from genjax.metrics.frechet import Moments, frechet_distance
from genjax.run.checkpoint import write_atomically
from genjax.run.options import AnyPath, Flat, N, check_seed
from genjax.run.recipe import Recipe
from genjax.run.trained import Checkpoint, Result, Trained, is_trained, load, path_of
from genjax.types import Batch, UsageError

Images = Annotated[
    str | Path | Result | Trained | Source | np.ndarray,
    tyro.conf.Positional,
    tyro.conf.arg(constructor=str, metavar="IMAGES"),
]
# The same, with data by their name and models loaded.
Named = str | Path | Trained | np.ndarray
# What names of data begin with that are no paths by themselves.
DATA = ("folder:", "tfds:", f"{STACKED}:")


log = logging.getLogger("genjax")


class Statistics(NamedTuple):
    """Statistics of a set of images, as tools for FID exchange them.

    Attributes:
        moments: The moments of the features.
        extractor: The identity of the feature net; None if the file does not say it.
    """

    moments: Moments
    extractor: dict[str, Any] | None


Side = Trained | np.ndarray | Source | Statistics


def fidelity(
    samples: Images,
    reference: Images,
    n: Annotated[int | None, N] = None,
    options: Annotated[DataOptions, Flat] = DataOptions(),  # noqa: B008 - frozen
    seed: int = 0,
    checkpoint: Checkpoint = "best",
    extractor: ExtractorKind | None = None,
    weights: str | Path | None = None,
    save_statistics: AnyPath = None,
) -> dict[str, Any]:
    """Compare any two sets of images by the features of a network.

    Each is a run folder or a model file (its samples), a folder of images, `digits`, `tfds:NAME`, a
    `.zip` or `.array_record`, a `.npy` or `.npz` of images, an array of them (uint8 [N, H, W] or
    [N, H, W, C]) or other data as a value (`genjax.data`), or a `.npz` with the statistics `mu` and
    `sigma` that tools for FID exchange.

    Args:
        samples: The samples.
        reference: The images that they are compared with.
        n: Number of images of each side, chosen by the seed. None: as many as both have, at most
            50,000.
        options: How data are read. Beside a run, by default as its test images are; other data
            than the run's with all of their training split.
        seed: Seed of all draws.
        checkpoint: That of a run; see `genjax evaluate`.
        extractor: The feature net. None: a classifier of the run's data or, without a run,
            of the reference or the samples, if these are data with classes. Inception
            for other images, and beside statistics that do not name their network.
        weights: File with Inception's weights; see `genjax evaluate`.
        save_statistics: File, a .npz, to write `mu` and `sigma` of all images of the reference to.

    Returns:
        A dict with `metrics`, those of `evaluation.distances`, with floors if the reference has
        twice as many images as are compared; against statistics only the `frechet_distance`. And
        with `protocol`, how they were measured.

    Raises:
        UsageError: There are no such images, they are too few, their shapes differ, or a file
            cannot be read or written.
    """
    check_seed(seed)
    weights_path(extractor, weights)  # before any work
    if save_statistics is not None:
        check_file(Path(save_statistics), ".npz")
    given = [_named(images, checkpoint) for images in (samples, reference)]
    models = [each for each in given if isinstance(each, Trained)]
    how = [_as_a_run(models[0].recipe, each, options) if models else options for each in given]
    sides = [_open(*each) for each in zip(given, how, strict=True)]
    _check_shapes(sides)
    n = _size(sides, n)
    stored = [side for side in sides if isinstance(side, Statistics)]
    if len(stored) == 2:
        return _of_statistics(stored[0], stored[1], _protocol(samples, reference, None, None, seed))
    net, identity = _feature_net(sides, given, options, extractor, weights)
    measured = [
        _measure(net, identity, side, each, n or MOST_SAMPLES, seed)
        for side, each in zip(sides, how, strict=True)
    ]
    if save_statistics is not None:
        _save_statistics(Path(save_statistics), measured[1].moments, identity)
    fake, real = measured
    if isinstance(fake, Statistics) or isinstance(real, Statistics):
        return _of_statistics(fake, real, _protocol(samples, reference, n, identity, seed))
    counts = [len(each) for each in (fake, real)]
    n = min(n or MOST_SAMPLES, *counts)  # fewer where files are broken
    if n < MIN_IMAGES:
        raise UsageError(f"{n} images can be read: wanted at least {MIN_IMAGES} on each side")
    chosen, others = _choose(real, n, seed)
    log.info("%s images of each side are compared, of %s and %s", *(f"{x:,}" for x in (n, *counts)))
    if others is None:
        log.info("no floor of these distances: it takes %s images of the reference", f"{2 * n:,}")
    compared, _ = _choose(fake, n, seed, in_order=isinstance(sides[0], Trained))
    metrics = distances(compared, chosen, others, seed)
    return {"metrics": metrics, "protocol": _protocol(samples, reference, n, identity, seed)}


def _protocol(
    samples: Images, reference: Images, n: int | None, identity: dict[str, Any] | None, seed: int
) -> dict[str, Any]:
    names = {"samples": _name(samples), "reference": _name(reference)}
    return {**names, "images": n, "extractor": identity, "seed": seed}


def _of_statistics(
    fake: FeatureSet | Statistics, real: FeatureSet | Statistics, protocol: dict[str, Any]
) -> dict[str, Any]:
    """Return what can be told of two sides of which statistics are all that is known of one."""
    found = [each.extractor for each in (fake, real) if isinstance(each, Statistics)]
    if len(found) == 2:
        if None not in found and found[0] != found[1]:
            raise UsageError(f"the statistics are of {found[0]} and of {found[1]}: wanted one")
        protocol = protocol | {"extractor": found[0] or found[1]}
    for each in (fake, real):
        if isinstance(each, FeatureSet):
            protocol = protocol | {"images": len(each)}
    distance = frechet_distance(fake.moments, real.moments)
    return {"metrics": {"frechet_distance": distance}, "protocol": protocol}


def _named(images: Images, checkpoint: Checkpoint) -> Named:
    """Return images, a folder of them or data as a value by their name, and a model loaded."""
    if isinstance(images, (Result, Trained)):
        return load(images, checkpoint)
    if isinstance(images, np.ndarray):
        return images
    if not isinstance(images, (str, Path)):
        return name_of(images)
    if str(images).startswith(DATA):  # its path, if it has one, follows
        return images
    path = path_of(images)
    if is_trained(path):
        return load(images, checkpoint)
    return f"folder:{path}" if path.is_dir() else images


def _as_a_run(recipe: Recipe, images: Named, options: DataOptions) -> DataOptions:
    """Return how data beside a run are read: as its test images, but all that are not its own.

    Options that are given, which are not the defaults, take the place of the run's.
    """
    found = dataclasses.replace(recipe.data_options.for_test, border=0)
    if not (isinstance(images, str) and absolute(images) == recipe.data):
        found = dataclasses.replace(found, split=DataOptions().split)
    given = {
        field.name: value
        for field in dataclasses.fields(options)
        if (value := getattr(options, field.name)) != getattr(DataOptions(), field.name)
    }
    return dataclasses.replace(found, **given)


def _is_source(side: Side) -> TypeGuard[Source]:
    return not isinstance(side, (Trained, np.ndarray, Statistics))


def _name(images: Images) -> str:
    if isinstance(images, np.ndarray):
        return "array"
    if isinstance(images, (str, Path, Result, Trained)):
        return str(path_of(images))
    return name_of(images)


def _open(images: Named, options: DataOptions) -> Side:
    """Open one side."""
    if isinstance(images, Trained):
        return images
    if isinstance(images, np.ndarray):
        return checked_images("the array", images)
    if str(images).endswith(".npz") and not str(images).startswith(DATA):
        statistics = None if is_remote(str(images)) else _read_statistics(Path(path_of(images)))
        if statistics is not None:
            return statistics
    return open_source(str(images), options)


def _read_statistics(path: Path) -> Statistics | None:
    """Read the statistics of a file; None if it has none.

    Raises:
        UsageError: It cannot be read.
    """
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file")
    try:
        with path.open("rb") as file, np.load(file) as found:
            if {"mu", "sigma"} <= set(found):
                return _checked_statistics(path, dict(found))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: cannot be read as arrays: {error}".splitlines()[0]) from error
    return None


def _checked_statistics(path: Path, arrays: dict[str, np.ndarray]) -> Statistics:
    mu, sigma = arrays["mu"], arrays["sigma"]
    numbers = all(np.issubdtype(each.dtype, np.floating) for each in (mu, sigma))
    if not numbers or mu.ndim != 1 or sigma.shape != 2 * mu.shape:
        raise UsageError(
            f"{path}: mu is {mu.dtype} {list(mu.shape)}, sigma {sigma.dtype} {list(sigma.shape)}; "
            "wanted floats [D] and [D, D]"
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise UsageError(f"{path}: not all numbers are finite")
    identity = json.loads(str(arrays["extractor"])) if "extractor" in arrays else None
    # The covariance is the scatter of two examples.
    return Statistics(Moments(2, mu.astype(np.float64), sigma.astype(np.float64)), identity)


def _save_statistics(path: Path, moments: Moments, identity: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    statistics = {"mu": moments.mean, "sigma": moments.covariance}
    np.savez(buffer, allow_pickle=False, extractor=json.dumps(identity), **statistics)
    write_atomically(path, buffer.getvalue())


def _shape(side: Side) -> tuple[int, ...] | None:
    """Return the shape of a side's images, without border; None if it is not known."""
    if isinstance(side, Statistics):
        return None
    if isinstance(side, np.ndarray):
        return side.shape[1:]
    border = side.recipe.data_options.border if isinstance(side, Trained) else 0
    return side.spec.shape_within(border)


def _check_shapes(sides: list[Side]) -> None:
    shapes = [shape for shape in map(_shape, sides) if shape is not None]
    if len(set(shapes)) > 1:
        raise UsageError(
            f"samples of {shapes[0]}, and a reference of {shapes[1]}: wanted one shape; --size and "
            "--channels say how data are read"
        )


def _size(sides: list[Side], n: int | None) -> int | None:
    """Return the number of images of each side; None if all that there are."""
    counts = [len(side) for side in sides if not isinstance(side, (Trained, Statistics))]
    most = min(counts, default=MOST_SAMPLES)
    if n is not None and not MIN_IMAGES <= n <= most:
        raise UsageError(f"n = {n}: should be from {MIN_IMAGES} to {most}")
    if most < MIN_IMAGES:
        raise UsageError(f"{most} images: wanted at least {MIN_IMAGES} on each side")
    if any(isinstance(side, Statistics) for side in sides):
        return n  # how many the statistics are of is not known
    return min(most, MOST_SAMPLES) if n is None else n


def _feature_net(
    sides: list[Side],
    given: Sequence[Any],
    options: DataOptions,
    extractor: ExtractorKind | None,
    weights: str | Path | None,
) -> tuple[FeatureNet, dict[str, Any]]:
    """Return the feature net and its identity, which is that of statistics that name theirs."""
    stored = [side for side in sides if isinstance(side, Statistics)]
    models = [side for side in sides if isinstance(side, Trained)]
    with_classes = [
        name
        for side, name in zip(sides[::-1], given[::-1], strict=True)
        if _is_source(side) and side.spec.classes > 1
    ]
    if extractor is None:
        has_classes = models[0].spec.classes > 1 if models else bool(with_classes)
        named = [side.extractor["kind"] if side.extractor else "inception" for side in stored]
        is_known = not named or named[0].startswith("classifier")
        if stored and is_known and not has_classes:
            raise UsageError(
                f"the statistics are of {stored[0].extractor}, a classifier: wanted a run, or the "
                "data that it was trained on, on the other side"
            )
        extractor = "classifier" if has_classes and is_known else "inception"
    if models:
        net, identity = feature_net(models[0].recipe, extractor, weights)
    elif extractor == "classifier" and not with_classes:
        raise UsageError(
            "no side has classes to train a classifier of: wanted --extractor inception"
        )
    else:
        data = str(with_classes[0]) if with_classes else ""
        net, identity = create_extractor(extractor, data, options, weights)
    for each in stored:
        if each.extractor not in (None, identity):
            raise UsageError(
                f"the statistics are of {each.extractor}, and the feature net is {identity}"
            )
    return net, identity


def _measure(
    net: FeatureNet,
    identity: dict[str, Any],
    side: Side,
    options: DataOptions,
    n: int,
    seed: int,
) -> FeatureSet | Statistics:
    """Return what is known of a side; of a model, of `n` samples."""
    if isinstance(side, Statistics):
        return side
    if isinstance(side, np.ndarray):
        return measure(net, _blocks(side), len(side))
    if not isinstance(side, Trained):
        return data_features(net, identity, side, options).images
    recipe, state = side.recipe, side.state
    labels: np.ndarray | int = n
    if is_conditional(recipe, state.spec):
        source = open_as_trained(recipe, recipe.data_options, state.spec)
        train = data_features(net, identity, source, recipe.data_options).images
        labels = sample_labels(recipe, state.spec, "data", train, n, seed)
    key = jax.random.split(jax.random.key(seed))[0]
    return measure_samples(recipe, state, net, key, labels, {})


def _blocks(images: np.ndarray) -> Iterator[Batch]:
    size = block_size(images.shape[1:])
    for start in range(0, len(images), size):
        some = np.asarray(images[start : start + size])
        yield Batch(some, np.zeros(len(some), np.int32))


def _choose(
    images: FeatureSet, n: int, seed: int, in_order: bool = True
) -> tuple[FeatureSet, FeatureSet | None]:
    """Return `n` images, and as many others; None if there are not as many.

    Files are often sorted by their class, which an Inception Score of parts of them would see.
    """
    order = np.random.default_rng(seed).permutation(len(images))
    rows = [np.sort(each) if in_order else each for each in (order[:n], order[n : 2 * n])]
    chosen, others = (images.take(each) for each in rows)
    return chosen, others if len(others) == n else None
