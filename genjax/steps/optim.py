"""Optimizers from configs, and the schedules of their step sizes."""

import inspect
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, Self

import jax
import optax
import tyro
from pydantic import Field, field_validator, model_validator

from genjax.types import UsageError, checked

# Stands in the JSON of a recipe for an optimizer that was given in Python.
GIVEN = "given in Python"


class UnknownState(NamedTuple):
    """The state of an optimizer that is not known here: whatever a checkpoint has in its place."""


Rule = Literal[
    "adam",
    "adamw",
    "rmsprop",
    "adabelief",
    "adamax",
    "amsgrad",
    "lamb",
    "lion",
    "nadam",
    "nadamw",
    "radam",
    "sgd",
]
# The rules that have a weight decay by their nature, and those that may have one.
DECAY, MAY_DECAY = ("adamw", "nadamw"), ("lamb", "lion")


@checked
class OptimizerConfig:
    """The config of an optimizer, by default Adam, and of the schedule of its step size."""

    rule: Rule = "adam"
    """How gradients become steps, by its name in optax: Adam (Kingma and Ba 2015, algorithm 1),
    AdamW (Loshchilov and Hutter 2019), RMSProp (Tieleman and Hinton 2012), Lion (Chen et al. 2023)
    and so on."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Step size: the largest, if the schedule changes it."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Decay of the mean of gradients; sgd: its momentum; RMSProp has no such mean."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the mean of squared gradients."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Number added to the root of that mean."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """adamw, nadamw, lion, lamb: times the step size, the fraction of itself that each parameter
    loses in a step."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the step size goes on after the warm-up: it stays (constant), or falls to 0 on a line
    (linear) or on half a cosine (cosine)."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Training steps over which the step size first rises linearly from 0."""
    decay_steps: Annotated[int, Field(ge=0)] = 0
    """linear, cosine: training step, counted from the beginning, at which the step size is 0."""
    clip_norm: Annotated[float, Field(ge=0)] = 0.0
    """Norm to which larger gradients are scaled down (Pascanu et al. 2013); 0 for no clipping."""
    optax: Annotated[Any, tyro.conf.Suppress, tyro.conf.Fixed] = None
    """An `optax.GradientTransformation`, from Python, in place of all of the above; see
    `Recipe.with_optimizers`."""

    @field_validator("optax")
    @classmethod
    def _is_transformation(cls, given: Any) -> Any:
        if given not in (None, GIVEN) and not isinstance(given, optax.GradientTransformation):
            raise ValueError(f"wanted an optax.GradientTransformation, not {type(given).__name__}")
        return given

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        falls = self.schedule != "constant"
        if falls and self.decay_steps <= self.warmup_steps:
            raise ValueError(
                f"decay_steps = {self.decay_steps}: should be more than warmup_steps = "
                f"{self.warmup_steps} with schedule = {self.schedule}"
            )
        if self.decay_steps and not falls:
            raise ValueError(
                f"decay_steps = {self.decay_steps}: should be 0 with schedule = constant"
            )
        if self.rule not in MAY_DECAY and (self.rule in DECAY) != (self.weight_decay > 0):
            wanted = "more than 0, as 0.01," if self.rule in DECAY else "0"
            raise ValueError(
                f"weight_decay = {self.weight_decay}: should be {wanted} with rule = {self.rule}"
            )
        return self


def step_size(config: OptimizerConfig, step: jax.Array | int) -> jax.Array | float:
    """Return the step size of a training step, counted from 0.

    It does not depend on how many updates the player has had, which may be fewer than steps, as of
    a GAN's generator, or more, as with lazy penalties.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    falling = config.decay_steps - warmup
    after = optax.constant_schedule(peak)
    if config.schedule == "linear":
        after = optax.linear_schedule(peak, 0.0, falling)
    elif config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, falling)
    elif not warmup:
        return peak
    # Not from 0, so that the first step already changes the parameters.
    before = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([before, after], [warmup])(step)


def create_optimizer(
    config: OptimizerConfig, step: jax.Array | int
) -> optax.GradientTransformation:
    """Return the optimizer of a training step, counted from 0.

    Its state has the same structure at every step.
    """
    if config.optax == GIVEN:
        return optax.GradientTransformation(lambda params: UnknownState(), _refuse_update)
    if config.optax is not None:
        return config.optax
    size = step_size(config, step)
    if config.rule == "rmsprop":
        optimizer = optax.rmsprop(size, config.beta2, config.epsilon, eps_in_sqrt=False)
    else:
        rule = getattr(optax, config.rule)
        options = {
            "b1": config.beta1,
            "b2": config.beta2,
            "eps": config.epsilon,
            "weight_decay": config.weight_decay,
            "momentum": config.beta1,
        }
        known = inspect.signature(rule).parameters
        optimizer = rule(size, **{name: options[name] for name in options if name in known})
    if config.clip_norm:
        return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    return optimizer


def _refuse_update(*_: Any) -> Any:
    raise UsageError("an optimizer was given in Python, and has to be given again")


def optimizers_of(model: Any) -> Iterator[tuple[str, OptimizerConfig]]:
    """Give the optimizers of a family's config, each with the name of its field."""
    for name, value in vars(model).items():
        if isinstance(value, OptimizerConfig):
            yield name, value
