"""The types that all of genjax shares: image shapes, batches, and the contract of a family.

A family is a frozen config and a few pure functions. The data, the training loop, sharding,
checkpoints and the command line know no family by name: they call these functions.
"""

import ast
import contextlib
import dataclasses
import functools
import inspect
import itertools
import textwrap
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, Self, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

# Characters of a wrong value that a message shows.
MOST_SHOWN = 100
T = TypeVar("T")


class UsageError(ValueError):
    """A mistake by the caller. Its message names the thing, its value and what is accepted."""


class _Docs:
    """The docstring of a config with those of its fields, which are read when it is asked for."""

    def __init__(self, text: str):
        self._text = text

    def __get__(self, instance: object, owner: type) -> str:
        if "Attributes:" in self._text or not (docs := field_docs(owner)):
            return self._text
        lines = [f"    {name}: {' '.join(text.split())}" for name, text in docs.items()]
        return "\n".join([self._text.rstrip(), "", "Attributes:", *lines, ""])


def field_docs(cls: type) -> dict[str, str]:
    """Return the docstrings below the fields of a class and of those that it derives from."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        with contextlib.suppress(OSError, TypeError, SyntaxError):  # of a notebook, or built in
            (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            assert isinstance(body, ast.ClassDef)
            for field, text in itertools.pairwise(body.body):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    found[ast.unparse(field.target)] = str(ast.literal_eval(text.value))
    return found


@dataclass_transform(frozen_default=True)
def checked(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose fields are checked when it is constructed.

    Unknown fields, values of another type, and numbers that are not finite raise a `UsageError`.
    """
    settings = ConfigDict(extra="forbid", allow_inf_nan=False)
    made: Any = dataclass(cls, frozen=True, config=settings)
    init, names = made.__init__, [field.name for field in dataclasses.fields(made)]

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **fields: Any) -> None:
        if unknown := sorted(fields.keys() - set(names)):
            known = ", ".join(names)
            raise UsageError(f"{cls.__name__} has no {', '.join(unknown)}: wanted {known}")
        try:  # messages name the fields, also of arguments that are given by their places
            init(self, *args[len(names) :], **dict(zip(names, args, strict=False)), **fields)
        except ValidationError as error:
            raise UsageError(describe(error)) from error

    made.__init__ = __init__
    made.__doc__ = _Docs(made.__doc__ or "")
    result: type[T] = made
    return result


def describe(error: Exception) -> str:
    """Return the message of a failed check of a config, on one line."""
    if not isinstance(error, ValidationError):
        return str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"
    lines = []
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        message = message.replace("Input should be", "should be")
        if not field:  # a check of several fields, which the message names
            lines.append(message)
        elif item["type"] == "missing":
            lines.append(f"{field} is missing")
        else:
            lines.append(f"{field} = {shown(item['input'])}: {message}")
    return "; ".join(lines)


def shown(value: Any) -> str:
    """Return the text of a value that may be of any length."""
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


# More than any image has rows or columns, or any data set classes; a file that says more lies.
MAX_SIDE = 2**15  # of an image, in pixels
Pixels = Annotated[int, Field(gt=0, le=MAX_SIDE)]
Classes = Annotated[int, Field(ge=0, le=2**20)]


@checked
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

    def __str__(self) -> str:
        classes = f", {self.classes} classes" if self.classes else ""
        return f"{self.height}x{self.width}x{self.channels} pixels{classes}"

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


@checked
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
        elbo: The evidence lower bound of each image, [B]; None where `nll` is exact, or the
            bound itself.
    """

    nll: jax.Array
    elbo: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Family:
    """The contract of a family of models.

    Attributes:
        config: The class of its config, which holds each default once.
        init: `init(config, key, spec) -> state`. A state is a pytree whose `step`, int32 [], counts
            the steps taken, whose `spec` is static, and whose `weights`, `with_weights` and
            `for_sampling` say what a model file holds: a `GanState` or `DensityState` of
            `genjax.steps.state`, or one that is like them.
        step: `step(config, state, batch, key) -> (state, metrics)`, pure, written for the global
            batch: it can be jitted, scanned, sharded, and mapped over replicas of the batch axis.
        sample: `sample(config, state, key, labels) -> images`, float32 [n, H, W, C] in [-1, 1], one
            for each label, int32 [n]. An unconditional model uses the number of labels only, as
            `labels.shape[0]`: in an exported program it is no number yet.
            Models that have them take `temperature`, `truncation`, `truncation_cutoff`, `guidance`,
            or the static `sampler` and `sampling_steps`, as further arguments.
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
