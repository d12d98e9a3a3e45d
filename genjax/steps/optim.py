"""Optimizers from configs."""

from typing import Annotated, Self

import optax
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from genjax.types import CHECKED


@dataclass(frozen=True, config=CHECKED)
class AdamConfig:
    """The config of Adam (Kingma and Ba 2015, algorithm 1)."""

    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Adam's step size."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Decay of Adam's first moment."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of Adam's second moment."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Number added to the root of Adam's second moment."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the step size rises linearly from 0."""
    decay_steps: Annotated[int, Field(ge=0)] = 0
    """Step at which the step size, falling linearly since the warm-up, is 0; 0 for no decay."""

    clip_norm: Annotated[float, Field(ge=0)] = 0.0
    """Norm to which larger gradients are scaled down (Pascanu et al. 2013); 0 for no clipping."""

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if 0 < self.decay_steps <= self.warmup_steps:
            raise ValueError(
                f"decay_steps = {self.decay_steps}: should be 0 or more than warmup_steps = "
                f"{self.warmup_steps}"
            )
        return self


def adam(config: AdamConfig) -> optax.GradientTransformation:
    """Return the optimizer that `config` describes."""
    rate: optax.ScalarOrSchedule = config.learning_rate
    if config.warmup_steps or config.decay_steps:
        falling = config.decay_steps - config.warmup_steps
        last = (
            optax.linear_schedule(rate, 0.0, falling)
            if config.decay_steps
            else optax.constant_schedule(rate)
        )
        # Not from 0, so that the first step already changes the parameters.
        first = optax.linear_schedule(rate / (config.warmup_steps + 1), rate, config.warmup_steps)
        rate = optax.join_schedules([first, last], [config.warmup_steps])
    optimizer = optax.adam(rate, config.beta1, config.beta2, config.epsilon)
    if config.clip_norm:
        return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    return optimizer


@dataclass(frozen=True, config=CHECKED)
class RMSPropConfig:
    """The config of RMSProp (Tieleman and Hinton 2012)."""

    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    """RMSProp's step size."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the mean of squared gradients."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Number added to the root of that mean."""


def rmsprop(config: RMSPropConfig) -> optax.GradientTransformation:
    """Return the optimizer that `config` describes."""
    return optax.rmsprop(config.learning_rate, config.decay, config.epsilon, eps_in_sqrt=False)
