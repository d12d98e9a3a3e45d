"""The classes of images by Bayes' rule from a conditional model, beside a classifier's."""

import functools
import io
import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax.data.batches import read_blocks
from genjax.data.broken import BrokenImage
from genjax.evaluation.evaluate import feature_net
from genjax.evaluation.features import without_border
from genjax.evaluation.images import OfImages, open_images, over_images
from genjax.evaluation.likelihood import importance_samples_of
from genjax.evaluation.score import to_csv
from genjax.figures.grid import grid
from genjax.figures.sample import is_conditional
from genjax.metrics.classes import calibration_error
from genjax.run.checkpoint import write_atomically
from genjax.run.options import AnyData, check_seed
from genjax.run.recipe import Recipe
from genjax.run.states import open_split
from genjax.run.trained import Checkpoint, Model, load
from genjax.types import Batch, ImageSpec, State, UsageError

log = logging.getLogger("genjax")

# Importance samples for each image and class if none are asked for, of models with a bound.
IMPORTANCE_SAMPLES = 100
# The names of the two classifiers.
BAYES, TRAINED = "by Bayes", "classifier"
# Most wrong images of each that are shown, and those in a row.
MOST_WRONG, COLUMNS = 48, 8


class Classification(NamedTuple):
    """The classes of N images, by each of two classifiers.

    Attributes:
        metrics: For `by Bayes` and `classifier`: `accuracy`; `nll`, the mean negative logarithm of
            the true class's probability, in nats; the standard errors of both, `accuracy_error` and
            `nll_error`; `calibration_error`, in 15 bins; and `wrong`, the number of images that it
            gets wrong.
        log_probs: Their `log p(y|x)`, float64 [N, K] each.
        labels: The true classes, int32 [N].
        names: The images' names.
        class_names: The classes' names.
        wrong: For each, the first 48 images that it gets wrong, uint8 [n, H, W, C].
    """

    metrics: dict[str, dict[str, float]]
    log_probs: dict[str, np.ndarray]
    labels: np.ndarray
    names: list[str]
    class_names: list[str]
    wrong: dict[str, np.ndarray]

    def __str__(self) -> str:
        return to_text(self)


def classify(
    run: Model,
    importance_samples: int | None = None,
    seed: int = 0,
    checkpoint: Checkpoint = "best",
    data: AnyData = None,
) -> Classification:
    """Tell classes of test images by Bayes' rule, beside a classifier that was trained to do so.

    A conditional model has `p(x|y)`, a VAE as its importance-weighted bound, a flow exactly,
    diffusion as its `likelihood` says; with the training data's shares of the classes as `p(y)`,
    `p(y|x)` is in proportion to `p(x|y) p(y)`. The classifier is the feature net of `genjax
    evaluate`, trained on the same images. Ng and Jordan 2002 compare such pairs.

    Args:
        run: The run folder, of a conditional model with a likelihood.
        importance_samples: Draws for each image and class; see `genjax evaluate`. None: 100 of a
            VAE's latents, 1 of the noise of others.
        seed: Seed of all draws, which are the same for all classes of an image.
        checkpoint: The best by the run's quality metric, the latest, or that of a step.
        data: The run's data at another place. None: where they were in training.

    Returns:
        The classes of the images of the test split (or, without one, the training data) by both,
        and how good they are; printed, a table.

    Raises:
        UsageError: There is no run, no such good checkpoint, no likelihood, the model is not
            conditional, or a number is impossible.
    """
    from scipy.special import log_softmax  # a fifth of a second to import

    check_seed(seed)
    trained = load(run, checkpoint, data)
    recipe, state = trained.recipe, trained.state
    default = min(IMPORTANCE_SAMPLES, recipe.functions.importance_samples)
    draws = importance_samples_of(recipe, importance_samples, default)
    if not is_conditional(recipe, state.spec):
        raise UsageError(f"{trained.origin} is not conditional; --conditional trains one")
    images = open_images(trained, None, None)
    log_prior = _log_shares(recipe, state.spec)
    net, _ = feature_net(recipe, "classifier", None)
    log.info("%s images of %s, %s", f"{len(images.source):,}", images.where, trained)
    logits = [net(without_border(x, recipe.data_options))[1] for x, _ in images]
    parts = list(_by_class(recipe, draws)(state, images, jax.random.key(seed)))
    log_probs = {
        BAYES: bayes(np.concatenate(parts), log_prior),
        TRAINED: log_softmax(np.concatenate(logits).astype(np.float64), axis=1),
    }
    labels = np.asarray(images.labels, np.int32)
    wrong = {
        name: np.flatnonzero(each.argmax(axis=1) != labels) for name, each in log_probs.items()
    }
    return Classification(
        {name: _metrics(each, labels) for name, each in log_probs.items()},
        log_probs,
        labels,
        images.names(),
        [str(name) for name in images.source.class_names],
        {name: images.take(places[:MOST_WRONG]) for name, places in wrong.items()},
    )


@functools.lru_cache(maxsize=8)
def _by_class(recipe: Recipe, samples: int) -> OfImages:
    """Compile `log p(x|y)` of images for each class y, [B, K], with the same draws for all."""
    evaluate = recipe.functions.evaluate
    assert evaluate is not None

    def by_class(state: State, image: Batch, key: jax.Array) -> jax.Array:
        def log_prob(label: jax.Array) -> jax.Array:
            of_class = Batch(image.images, label[None])
            return -evaluate(recipe.model, state, of_class, key, samples).nll

        return jax.lax.map(log_prob, jnp.arange(state.spec.classes, dtype=jnp.int32)).T

    return over_images(by_class)


def bayes(log_likelihood: np.ndarray, log_prior: np.ndarray) -> np.ndarray:
    """Compute `log p(y|x)`, [N, K], from `log p(x|y)`, [N, K], and `log p(y)`, [K]."""
    from scipy.special import log_softmax  # a fifth of a second to import

    return log_softmax(log_likelihood.astype(np.float64) + log_prior, axis=1)


def _log_shares(recipe: Recipe, spec: ImageSpec) -> np.ndarray:
    """Return the logarithms of the classes' shares of the training data, [K]."""
    source = open_split(recipe, recipe.data_options, spec)
    labels = source.labels
    if labels is None:
        examples = (example for block in read_blocks(source) for example in block)
        labels = np.array([e[1] for e in examples if not isinstance(e, BrokenImage)])
    shares = np.bincount(labels, minlength=spec.classes) / len(labels)
    with np.errstate(divide="ignore"):
        return np.log(shares)


def _metrics(log_probs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    is_wrong = log_probs.argmax(axis=1) != labels
    nll = _nll(log_probs, labels)
    root = math.sqrt(len(labels))
    return {
        "accuracy": float(1 - np.mean(is_wrong)),
        "accuracy_error": float(np.std(is_wrong) / root),
        "nll": float(np.mean(nll)),
        "nll_error": float(np.std(nll) / root),
        "calibration_error": calibration_error(np.exp(log_probs), labels),
        "wrong": int(np.sum(is_wrong)),
    }


def _nll(log_probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the negative logarithm of the true class's probability, in nats, [N]."""
    found: np.ndarray = -log_probs[np.arange(len(labels)), labels]
    return found


def to_text(found: Classification) -> str:
    """Format a table with a row for each classifier."""
    count = len(found.labels)
    lines = [f"{'':12}{'accuracy':>18}{'nll, nats':>18}{'calibration error':>20}{'wrong':>8}"]
    for name, metrics in found.metrics.items():
        accuracy, nll = (
            f"{metrics[each]:9.4f} +- {metrics[f'{each}_error']:.4f}"
            for each in ("accuracy", "nll")
        )
        lines.append(
            f"{name:12}{accuracy:>18}{nll:>18}"
            f"{metrics['calibration_error']:20.4f}{metrics['wrong']:8} of {count:,}"
        )
    return "\n".join(lines)


def save(found: Classification, output: Path) -> None:
    """Draw the wrong images into a .png, and write each image's classes to a .csv beside it."""
    write_atomically(output, to_figure(found))
    write_atomically(output.with_suffix(".csv"), to_csv(_rows(found)).encode())


def _rows(found: Classification) -> list[dict[str, Any]]:
    rows = []
    for i, name in enumerate(found.names):
        row = {"name": name, "label": found.class_names[found.labels[i]]}
        for who, log_probs in found.log_probs.items():
            row[who] = found.class_names[log_probs[i].argmax()]
            row[f"probability {who}"] = f"{np.exp(log_probs[i].max()):.6g}"
            row[f"nll {who}"] = f"{-log_probs[i, found.labels[i]]:.6g}"
        rows.append(row)
    return rows


def to_figure(found: Classification) -> bytes:
    """Draw the images that each gets wrong, below each its class and the one it was taken for."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    most = max(len(images) for images in found.wrong.values())
    figure = Figure(figsize=(12, 1 + math.ceil(most / COLUMNS)), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (name, images) in enumerate(found.wrong.items(), start=1):
        count = int(found.metrics[name]["wrong"])
        shown = f", the first {len(images)}" if count > len(images) else ""
        axes = figure.add_subplot(1, 2, place, anchor="N")
        axes.set_title(f"{name}: {count} of {len(found.labels):,} wrong{shown}")
        axes.axis("off")
        if not count:
            continue
        margin = math.ceil(images.shape[1] / 3)  # for the text
        picture = grid(np.pad(images, ((0, 0), (0, margin), (0, 0), (0, 0))), COLUMNS)
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
        width, height = picture.width / COLUMNS, picture.height / math.ceil(len(images) / COLUMNS)
        predicted = found.log_probs[name].argmax(axis=1)
        for i, wrong in enumerate(np.flatnonzero(predicted != found.labels)[: len(images)]):
            true, taken = (found.class_names[each[wrong]] for each in (found.labels, predicted))
            corner = (i % COLUMNS + 0.05) * width, (i // COLUMNS + 0.95) * height
            axes.text(*corner, f"{true}: {taken}", color="white", va="bottom", fontsize=9)
    figure.suptitle("below each image: its class: the class that it was taken for", fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return buffer.getvalue()
