"""Fidelity against diversity of samples, over an option of how they are drawn."""

import csv
import io
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import jax
import numpy as np

from genjax.evaluation.distances import SPLITS
from genjax.evaluation.evaluate import (
    compared_size,
    drawing_seconds,
    feature_net,
    measure_samples,
    open_as_trained,
    real_sides,
)
from genjax.evaluation.extractor import ExtractorKind, weights_path
from genjax.figures.sample import accepts, sample_options
from genjax.metrics.classes import inception_score
from genjax.metrics.frechet import frechet_distance
from genjax.metrics.neighbours import prdc
from genjax.run.checkpoint import write_atomically
from genjax.run.options import AnyData, N, check_choice, check_seed
from genjax.run.recipe import Recipe
from genjax.run.trained import Checkpoint, Model, load
from genjax.types import UsageError

log = logging.getLogger("genjax")

Option = Literal["truncation", "temperature", "sampling_steps", "guidance"]
FACTORS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0)
VALUES: dict[Option, tuple[float, ...]] = {
    "truncation": FACTORS,
    "temperature": FACTORS,
    "sampling_steps": (1, 2, 5, 10, 20, 50),
    "guidance": (1, 1.5, 2, 3, 5),
}
SHOWN = ("precision", "recall", "density", "coverage")

Row = dict[str, float]


def tradeoff(
    run: Model,
    values: Sequence[float] | None = None,
    option: Option | None = None,
    n: Annotated[int, N] = 2000,
    seed: int = 0,
    checkpoint: Checkpoint = "best",
    extractor: ExtractorKind = "classifier",
    weights: str | Path | None = None,
    data: AnyData = None,
) -> list[Row]:
    """Measure fidelity and diversity of samples, and what they cost, over an option of theirs.

    See Brock et al. 2019, figure 17.

    Args:
        run: The run folder, of a family with such an option.
        values: The option's values. None: some from small to large.
        option: The option, as of `genjax sample`. None: the first that the family has.
        n: Number of samples for each value, and of test images to compare them with, at most as
            many as there are.
        seed: Seed of the latents.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.
        extractor: The feature net; see `genjax evaluate`.
        weights: File with Inception's weights; see `genjax evaluate`.
        data: The run's data at another place. None: where they were in training.

    Returns:
        A row for each value: the option by its name, `frechet_distance`, `inception_score`,
        `precision`, `recall`, `density`, `coverage`, and `seconds`, the time to draw 1,000 images.

    Raises:
        UsageError: There is no run, its family has no such option, or a number is impossible.
    """
    check_seed(seed)
    weights_path(extractor, weights)  # before any work
    trained = load(run, checkpoint, data)
    recipe, state = trained.recipe, trained.state
    name = _option(recipe, option)
    values = VALUES[name] if values is None else values
    if n < SPLITS or not values:
        raise UsageError(f"n = {n}, values = {values}: should be at least {SPLITS}, and one value")
    samplings = [sample_options(recipe, **{name: value}) for value in values]
    test = open_as_trained(recipe, recipe.data_options.for_test, state.spec)
    n = min(n, compared_size(recipe, None, len(test)))
    net, identity = feature_net(recipe, extractor, weights)
    real = real_sides(recipe, state.spec, net, identity, n, seed).real
    moments = real.moments
    log.info("%s samples for each %s, %s", f"{n:,}", name, trained)
    rows = []
    for value, sampling in zip(values, samplings, strict=True):
        fake = measure_samples(recipe, state, net, jax.random.key(seed), n, sampling)
        row = {
            name: value,
            "frechet_distance": frechet_distance(fake.moments, moments),
            "inception_score": inception_score(fake.logits, SPLITS)[0],
        }
        found = prdc(real.features, fake.features)
        row |= {each: getattr(found, each) for each in SHOWN}
        row["seconds"] = drawing_seconds(recipe, state, sampling)
        rows.append(row)
        log.info("  ".join(f"{each} {number:.3g}" for each, number in row.items()))
    return rows


def _option(recipe: Recipe, option: Option | None) -> Option:
    """Return the option, or the first that the model has.

    Raises:
        UsageError: The family has no such option.
    """
    if option is not None:
        check_choice("option", option, Option)
        if not accepts(recipe.functions, option):
            sample_options(recipe, **{option: VALUES[option][0]})  # raises, and names who has it
        return option
    for name in VALUES:
        if accepts(recipe.functions, name):
            return name
    raise UsageError(f"family {recipe.family!r} has no {', '.join(VALUES)}")


def save(rows: Sequence[Row], output: Path) -> None:
    """Write the curves to a .png, and the rows to a .csv beside it."""
    write_atomically(output, to_figure(rows))
    write_atomically(output.with_suffix(".csv"), to_csv(rows).encode())


def to_csv(rows: Sequence[Row]) -> str:
    """Format the rows as CSV, a line for each value; numbers that are not finite are empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: value if math.isfinite(value) else "" for name, value in row.items()} for row in rows
    )
    return buffer.getvalue()


def to_figure(rows: Sequence[Row]) -> bytes:
    """Plot precision over recall, and Inception Score over Frechet distance, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    (name, *_) = rows[0]
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (x, y) in enumerate(
        (("recall", "precision"), ("frechet_distance", "inception_score")), start=1
    ):
        points = np.array([(row[x], row[y]) for row in rows])
        labels = [x.replace("_", " "), y.replace("_", " ")]
        axes = figure.add_subplot(1, 2, place, xlabel=labels[0], ylabel=labels[1])
        axes.plot(*points.T, marker=".")
        for point, row in zip(points, rows, strict=True):
            axes.annotate(f"{row[name]:g}", point, textcoords="offset points", xytext=(4, 4))
        axes.grid(alpha=0.3)
    figure.suptitle(f"at each point its {name}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return buffer.getvalue()
