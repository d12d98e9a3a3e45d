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


def adam(config: AdamConfig) -> optax.GradientTransformation:
    """The optimizer that `config` describes."""
    return optax.adam(config.learning_rate, config.beta1, config.beta2, config.epsilon)
