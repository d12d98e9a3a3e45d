"""The types that all of genjax shares: image shapes, batches, and the contract of a family.

A family is a frozen config and a few pure functions. The data, the training loop, sharding,
checkpoints and the command line know no family by name: they call these functions.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

# Every config is checked on construction; unknown fields and non-finite numbers are refused.
CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False)


class UsageError(ValueError):
    """A mistake by the caller. Its message names the thing, its value and what is accepted."""


# More than any image has rows or columns, or any data set classes; a file that says more lies.
MAX_SIDE = 2**15  # of an image, in pixels
Pixels = Annotated[int, Field(gt=0, le=MAX_SIDE)]
Classes = Annotated[int, Field(ge=0, le=2**20)]


@dataclass(frozen=True, config=CHECKED)
class ImageSpec:
    """Shape of one image, and the number of classes.

    Attributes:
        height: Rows in pixels.
        width: Columns in pixels.
        channels: 1 (gray) or 3 (RGB).
        classes: Number of classes; 0 when the data has no labels.
        empty_classes: Those that are known to have no image; never all of them.
    """

    height: Pixels
    width: Pixels
    channels: Annotated[int, Field(gt=0, le=2**20)]
    classes: Classes = 0
    empty_classes: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _has_a_class(self) -> Self:
        empty = self.empty_classes
        if empty and not (0 <= min(empty) <= max(empty) < self.classes > len(empty)):
            raise ValueError(f"empty_classes: should be some of {self.classes} classes, not all")
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.height, self.width, self.channels

    def shape_within(self, border: int) -> tuple[int, int, int]:
        """Return (height, width, channels) without `border` pixels on every side."""
        return self.height - 2 * border, self.width - 2 * border, self.channels


class Batch(NamedTuple):
    """A batch: images as stored, uint8 [B, H, W, C], and labels, int32 [B] (0 without classes)."""

    images: jax.Array | np.ndarray
    labels: jax.Array | np.ndarray


def images_of(batch: Batch, spec: ImageSpec) -> jax.Array:
    """Return a batch's images, uint8 [B, H, W, C], before a family scales them as it needs them.

    Raises:
        UsageError: They are of another type, such as floats that are scaled already, or shape.
    """
    images = jnp.asarray(batch.images)
    if images.dtype != jnp.uint8 or images.ndim != 4 or images.shape[1:] != spec.shape:
        wanted = ", ".join(map(str, ("B", *spec.shape)))
        raise UsageError(
            f"batch.images: {images.dtype} {list(images.shape)}; "
            f"wanted uint8 [{wanted}], of gray levels from 0 to 255, which a model scales itself"
        )
    return images


@dataclass(frozen=True, config=CHECKED)
class Config:
    """The base class of every family's config: frozen, hashable, checked on construction."""


# A pytree with everything that training changes; its `step`, int32 [], counts the steps taken.
State = Any


class MaskedMetric(NamedTuple):
    """A metric that only some steps compute.

    Attributes:
        value: float32 []; of no meaning where `mask` is false.
        mask: bool []; whether this step computed it. Means over steps leave the others out.
    """

    value: jax.Array
    mask: jax.Array


# Scalars by name: float32 [], or a `MaskedMetric`.
Metrics = dict[str, Any]


class Likelihood(NamedTuple):
    """The likelihood of images under a model, in nats.

    Attributes:
        nll: The negative log-likelihood of each image, or an upper bound of it, [B].
        elbo: The evidence lower bound of each image, [B]; None where `nll` is exact.
    """

    nll: jax.Array
    elbo: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Family:
    """The contract of a family of models.

    Attributes:
        config: The class of its config, which holds each default once.
        init: `init(config, key, spec) -> state`.
        step: `step(config, state, batch, key) -> (state, metrics)`, pure, written for the global
            batch: it can be jitted, scanned, sharded, and mapped over replicas of the batch axis.
        sample: `sample(config, state, key, labels) -> images`, float32 [n, H, W, C] in [-1, 1], one
            for each label, int32 [n]. An unconditional model uses the number of labels only.
            Models that have them take `temperature`, `truncation` or `truncation_cutoff` as
            further arguments.
        paper: The authors and the year of its paper.
        decode: `decode(config, state, latents, labels) -> images`, from latents [n, Z] and labels
            int32 [n], which an unconditional model ignores; None where latents are not vectors.
            Without an encoder they are standard normal, and Z is the config's `latent_size`.
        encode: `encode(config, state, batch, key) -> latents`, [B, Z]; None without an encoder.
        evaluate: `evaluate(config, state, batch, key, samples) -> Likelihood`; `samples` is the
            number of importance samples, None for as many as training takes. None for a family
            without a likelihood.
        importance_samples: The number of importance samples that its papers report.
        health: `health(config, state, batch) -> dict` of arrays, each a sign of numerical trouble
            whose largest values are the worst; None where none is known.
        style: `style(config, state, latents, labels, truncation=None, truncation_cutoff=None) ->
            styles`, [n, L, W], one for each of L layers from the coarsest; None without styles.
        synthesize: `synthesize(config, state, styles) -> images`, always with the same noise.
        prepare: `prepare(config, state, key) -> state`, called before samples are drawn, with the
            further arguments of `sample`, and before latents are decoded; None where a state needs
            no preparation, as one with styles must not.
    """

    config: type[Config]
    init: Callable[[Any, jax.Array, ImageSpec], State]
    step: Callable[[Any, State, Batch, jax.Array], tuple[State, Metrics]]
    sample: Callable[..., jax.Array]
    paper: str
    decode: Callable[[Any, State, jax.Array, jax.Array], jax.Array] | None = None
    encode: Callable[[Any, State, Batch, jax.Array], jax.Array] | None = None
    evaluate: Callable[[Any, State, Batch, jax.Array, int | None], Likelihood] | None = None
    importance_samples: int = 1
    health: Callable[[Any, State, Batch], dict[str, jax.Array]] | None = None
    style: Callable[..., jax.Array] | None = None
    synthesize: Callable[[Any, State, jax.Array], jax.Array] | None = None
    prepare: Callable[..., State] | None = None
