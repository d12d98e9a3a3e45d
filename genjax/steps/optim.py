"""Optimizers from configs."""

from typing import Annotated

import optax
from pydantic import Field
from pydantic.dataclasses import dataclass

from genjax.types import CHECKED


@dataclass(frozen=True, config=CHECKED)
class AdamConfig:
    """Adam (Kingma and Ba 2015, algorithm 1)."""

    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Adam's step size."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Decay of Adam's first moment."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of Adam's second moment."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of Adam's second moment."""
    decay_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the step size falls to 0 on a line; 0: it stays."""


def adam(config: AdamConfig) -> optax.GradientTransformation:
    """The optimizer that `config` describes."""
    rate: optax.ScalarOrSchedule = config.learning_rate
    if config.decay_steps:
        rate = optax.linear_schedule(rate, 0.0, config.decay_steps)
    return optax.adam(rate, config.beta1, config.beta2, config.epsilon)


@dataclass(frozen=True, config=CHECKED)
class RMSPropConfig:
    """RMSProp (Tieleman and Hinton 2012)."""

    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    """RMSProp's step size."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the mean of squared gradients."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of that mean."""


def rmsprop(config: RMSPropConfig) -> optax.GradientTransformation:
    """The optimizer that `config` describes."""
    return optax.rmsprop(config.learning_rate, config.decay, config.epsilon, eps_in_sqrt=False)
