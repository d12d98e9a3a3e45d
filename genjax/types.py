"""What every room shares: image shapes, batches, and the contract of a family.

A family is a frozen config and pure functions. Data, loop, sharding, checkpoints and command line
know no family by name: they call these functions.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

# Every config is checked on construction; unknown fields and non-finite numbers are refused.
CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False)


class UsageError(ValueError):
    """A mistake of the caller's. The message names the thing, its value and what is accepted."""


@dataclasses.dataclass(frozen=True)
class ImageSpec:
    """Shape of one image, and the number of classes.

    Attributes:
        height: Rows in pixels.
        width: Columns in pixels.
        channels: 1 (gray) or 3 (RGB).
        classes: Number of classes; 0 when the data has no labels.
    """

    height: int
    width: int
    channels: int
    classes: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.height, self.width, self.channels


class Batch(NamedTuple):
    """Images as they are stored, uint8 [B, H, W, C], and labels, int32 [B] (0 without classes)."""

    images: jax.Array | np.ndarray
    labels: jax.Array | np.ndarray


@dataclass(frozen=True, config=CHECKED)
class Config:
    """Base of every family's config: frozen, hashable, checked on construction."""


# One pytree that holds all that training changes; it has a `step` (int32 scalar, steps taken).
State = Any


class MaskedMetric(NamedTuple):
    """A metric that not every step measures; where `measured`, bool [], is false it is left out."""

    value: jax.Array
    mask: jax.Array


# Scalars by name: float32 [], or `MaskedMetric` ones.
Metrics = dict[str, Any]


class Likelihood(NamedTuple):
    """How likely a model finds images, in nats.

    Attributes:
        nll: Negative log-likelihood of each image, or its upper bound, [B].
        elbo: The evidence lower bound of each, [B]; None where `nll` is exact.
    """

    nll: jax.Array
    elbo: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Family:
    """The contract of a family of models.

    Attributes:
        config: The class of its config, in which each default stands once.
        init: `init(config, key, spec) -> state`.
        step: `step(config, state, batch, key) -> (state, metrics)`, pure, written for the global
            batch: it can be jitted, scanned, sharded, and mapped over replicas of the batch axis.
        sample: `sample(config, state, key, labels) -> images`, float32 [n, H, W, C] in [-1, 1], one
            for each label, int32 [n], whose class only a conditional model reads; with
            `temperature`, `truncation` or `truncation_cutoff` as further arguments where the model
            has them.
        paper: Whose model this is.
        decode: `decode(config, state, latents, labels) -> images`, of latents [n, Z] and labels
            int32 [n], which only a conditional model reads; None where latents are no vectors.
        encode: `encode(config, state, batch, key) -> latents`, [B, Z]; None without an encoder.
        evaluate: `evaluate(config, state, batch, key, samples) -> Likelihood`; `samples` is how
            many importance samples estimate it, None for as many as training takes. None without a
            likelihood.
        importance_samples: How many of them its papers report.
        health: `health(config, state, batch) -> dict` of arrays, signs of numerical trouble of
            which the largest are the worst; None where none is known.
        style: `style(config, state, latents, labels, truncation=None, truncation_cutoff=None) ->
            styles`, [n, L, W], one for each of L layers from the coarsest; None without styles.
        synthesize: `synthesize(config, state, styles) -> images`, by always the same noise.
        prepare: `prepare(config, state, key) -> state` for samples, called once before them, with
            the further arguments of `sample`; None where a state is ready as it is.
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
