"""Optimizers from configs, and the schedules of their step sizes."""

from typing import Annotated, Literal, Self

import jax
import optax
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from genjax.types import CHECKED


@dataclass(frozen=True, config=CHECKED)
class OptimizerConfig:
    """The config of an optimizer, by default Adam, and of the schedule of its step size."""

    rule: Literal["adam", "adamw", "rmsprop"] = "adam"
    """How gradients become steps: Adam (Kingma and Ba 2015, algorithm 1), AdamW (Loshchilov and
    Hutter 2019) or RMSProp (Tieleman and Hinton 2012)."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Step size: the largest, if the schedule changes it."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Decay of the mean of gradients; RMSProp has no such mean."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the mean of squared gradients."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Number added to the root of that mean."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """adamw: times the step size, the fraction of itself that each parameter loses in a step."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the step size goes on after the warm-up: it stays (constant), or falls to 0 on a line
    (linear) or on half a cosine (cosine)."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Training steps over which the step size first rises linearly from 0."""
    decay_steps: Annotated[int, Field(ge=0)] = 0
    """linear, cosine: training step, counted from the beginning, at which the step size is 0."""
    clip_norm: Annotated[float, Field(ge=0)] = 0.0
    """Norm to which larger gradients are scaled down (Pascanu et al. 2013); 0 for no clipping."""

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
        if (self.rule == "adamw") != (self.weight_decay > 0):
            wanted = "more than 0, as 0.01," if self.rule == "adamw" else "0"
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
    size = step_size(config, step)
    if config.rule == "rmsprop":
        optimizer = optax.rmsprop(size, config.beta2, config.epsilon, eps_in_sqrt=False)
    elif config.rule == "adamw":
        optimizer = optax.adamw(
            size, config.beta1, config.beta2, config.epsilon, weight_decay=config.weight_decay
        )
    else:
        optimizer = optax.adam(size, config.beta1, config.beta2, config.epsilon)
    if config.clip_norm:
        return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    return optimizer
