"""The likelihood of each image, and whether it tells one data set from another."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np

from genjax.evaluation.images import open_images
from genjax.evaluation.likelihood import importance_samples_of, likelihoods
from genjax.figures.grid import grid, to_png
from genjax.objectives.likelihood import bits_per_dim
from genjax.run.checkpoint import write_atomically
from genjax.run.options import Data, N, check_seed
from genjax.run.trained import Checkpoint, Model, load
from genjax.types import UsageError

Row = dict[str, Any]


class Scores(NamedTuple):
    """The likelihoods of images.

    Attributes:
        rows: For each image `data`, `name`, `label` (its class's name, or ""), `nll` in nats, and
            `bits_per_dim`; those of the first data set first.
        least_likely: The images of the first data set with the largest `nll`, that with the
            largest first, uint8 [n, H, W, C].
        auroc: The probability that an image of the second data set has a larger `nll` than one of
            the first, equal ones counting half; None without a second.
    """

    rows: list[Row]
    least_likely: np.ndarray
    auroc: float | None

    def __str__(self) -> str:
        return to_text(self)


def score(
    run: Model,
    data: Data = None,
    against: str | None = None,
    split: str | None = None,
    against_split: str | None = None,
    n: Annotated[int, N] = 64,
    importance_samples: int | None = None,
    seed: int = 0,
    checkpoint: Checkpoint = "best",
) -> Scores:
    """Compute the likelihood of each image, and list the least likely ones.

    A likelihood does not tell what is foreign: a model that was trained on detailed images gives
    simpler ones, such as blurred or empty ones, a larger likelihood than its own (Nalisnick et al.
    2019). `--against` shows it, with an AUROC below 1/2.

    Args:
        run: The run folder, of a family with a likelihood.
        data: The images: `digits`, `tfds:NAME`, `folder:PATH`, a .zip or a prepared file; they are
            resized to what the run was trained on. None: the run's test split or, without one, its
            training data.
        against: A second data set, likewise, to be told from the first by its smaller likelihood.
        split: The split of `data`. None: `train`, which is all images of a folder without splits.
        against_split: The split of `against`, likewise.
        n: Number of the least likely images that are shown.
        importance_samples: Draws for each image; see `genjax evaluate`. None: as many as the
            family's papers take.
        seed: Seed of all draws.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.

    Returns:
        The scores; printed, the mean of each data set, and the AUROC.

    Raises:
        UsageError: There is no run, no such good checkpoint, no likelihood, or no such data; a
            conditional model has no such classes; or a number is impossible.
    """
    check_seed(seed)
    if n < 1:
        raise UsageError(f"n = {n}: should be at least 1")
    if against is None and against_split is not None:
        raise UsageError(f"against_split = {against_split}: is of --against, which is not given")
    trained = load(run, checkpoint)
    recipe, state = trained.recipe, trained.state
    draws = importance_samples_of(recipe, importance_samples)
    sets = [open_images(trained, data, split)]
    if against is not None:
        sets.append(open_images(trained, against, against_split))
    key = jax.random.key(seed)
    found = [np.asarray(likelihoods(recipe, state, each, key, draws).nll) for each in sets]
    dimensions = math.prod(state.spec.shape)
    rows = [
        dict(data=images.where, name=name, label=label, nll=float(nll))
        | {"bits_per_dim": bits_per_dim(float(nll), dimensions)}
        for images, nlls in zip(sets, found, strict=True)
        for name, label, nll in zip(images.names(), images.class_names(), nlls, strict=True)
    ]
    least_likely = sets[0].take(np.argsort(-found[0], kind="stable")[:n])
    return Scores(rows, least_likely, auroc(*found) if against is not None else None)


def auroc(low: np.ndarray, high: np.ndarray) -> float:
    """Compute the probability that a value of `high` exceeds one of `low`, ties counting half.

    It is the area under the curve of true over false positives when values above a threshold are
    said to be of `high` (Fawcett 2006, section 7).
    """
    ordered = np.sort(low)
    below = [np.searchsorted(ordered, high, side) for side in ("left", "right")]
    return float(np.mean(np.add(*below), dtype=np.float64) / (2 * len(low)))


def to_text(scores: Scores) -> str:
    """Format the mean of each data set, and the AUROC."""
    lines = []
    for data in dict.fromkeys(row["data"] for row in scores.rows):
        own = [row for row in scores.rows if row["data"] == data]
        nll, bits = (np.mean([row[name] for row in own]) for name in ("nll", "bits_per_dim"))
        lines.append(f"{data}: {len(own):,} images, nll {nll:.4g} nats, {bits:.4g} bits/dim")
    if scores.auroc is not None:
        lines.append(f"AUROC {scores.auroc:.4f}, by the likelihood")
    return "\n".join(lines)


def to_csv(rows: Sequence[Row]) -> str:
    """Format rows as CSV, a line for each."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def save(scores: Scores, output: Path) -> None:
    """Write the rows to a .csv, and the least likely images to a .png beside it."""
    write_atomically(output, to_csv(scores.rows).encode())
    write_atomically(output.with_suffix(".png"), to_png(grid(scores.least_likely)))
