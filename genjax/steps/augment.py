"""Augmentation of what a discriminator sees, with a probability that may adapt itself.

With few images a discriminator learns them by heart. The probability of the augmentations follows
how sure it is of real images (Karras et al. 2020b, arXiv:2006.06676, section 3.1).
"""

import dataclasses
from typing import Annotated, Any, Literal, Self

import flax.struct
import jax
import jax.numpy as jnp
from pydantic import Field, model_validator

from genjax.nn.augment import OperationName, ada, augmented
from genjax.objectives.adversarial import AdversarialLoss
from genjax.steps.state import GanState
from genjax.steps.update import GradientConfig
from genjax.types import Metrics, State, checked

# Steps between updates of the probability (Karras et al. 2020b, appendix B).
ADAPT_INTERVAL = 4


@checked
class AugmentConfig(GradientConfig):
    """The config of the augmentation of what a discriminator sees."""

    augment: Literal["none", "ada", "fixed", "diff"] = "none"
    """Augmentation of what D sees, for few images: none, with an adaptive or a fixed probability,
    or DiffAugment (Zhao et al. 2020)."""
    augment_operations: tuple[OperationName, ...] = ("blit", "geometric", "color")
    """ada, fixed: the augmentations."""
    augment_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """ada, fixed: the probability of each augmentation; with ada, at the beginning."""
    ada_target: Annotated[float, Field(gt=-1, lt=1)] = 0.6
    """ada: the mean sign of D's logits of real images to aim at."""
    ada_images: Annotated[int, Field(gt=0)] = 500_000
    """ada: the fewest images in which the probability can rise from 0 to 1."""

    @model_validator(mode="after")
    def _has_a_probability(self) -> Self:
        if self.augment == "fixed" and not self.augment_p:
            raise ValueError("augment = fixed: should have an augment_p of more than 0")
        if self.augment_p and self.augment not in ("ada", "fixed"):
            raise ValueError(
                f"augment_p = {self.augment_p}: should be 0 with augment = {self.augment}; "
                "ada and fixed have a probability"
            )
        return self


@flax.struct.dataclass
class AugmentedState(GanState):
    """A `GanState` with what augmentation with a probability tracks, each float32 [].

    Attributes:
        augment_p: The probability of augmentations.
        real_sign: The sum of `real_sign` over the steps since that probability was adapted.
    """

    augment_p: Any = 0.0
    real_sign: Any = 0.0


def with_probability(config: AugmentConfig, state: GanState) -> GanState:
    """Return the state at step 0, as an `AugmentedState` if the augmentation has a probability."""
    if config.augment not in ("ada", "fixed"):
        return state
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    p, sign = jnp.full((), config.augment_p), jnp.zeros(())
    return AugmentedState(**fields, augment_p=p, real_sign=sign)


def augment_images(
    config: AugmentConfig, state: State, key: jax.Array | None, images: jax.Array
) -> jax.Array:
    """Return what a discriminator sees of images, [B, H, W, C].

    With `ada` and `fixed` the state has the fields of an `AugmentedState`. The key is None at most
    with `none`.
    """
    if config.augment in ("none", "diff"):
        return augmented(config.augment, key, images)
    assert key is not None
    return ada(key, images, state.augment_p, config.augment_operations)


def real_sign(
    config: AugmentConfig, loss: AdversarialLoss, real_logits: jax.Array, fake_logits: jax.Array
) -> Metrics:
    """Return, with `ada`, the metric that decides: the mean sign of the logits [B] of real images.

    It is near 1 when D knows them by heart (equation 1). With a relativistic loss, whose logits
    have no sign of their own, it is that of a pair's difference.
    """
    if config.augment != "ada":
        return {}
    logits = real_logits - fake_logits if loss.is_relativistic else real_logits
    return {"real_sign": jnp.mean(jnp.sign(logits))}


def adapt(
    p: jax.Array, real_sign: jax.Array, target: float, images: int | jax.Array, images_to_one: int
) -> jax.Array:
    """Adapt the probability of augmentations (Karras et al. 2020b, section 3.1).

    Args:
        p: The probability before, [].
        real_sign: Mean sign of D's logits of real images since the last update, [].
        target: Above this mean sign D overfits and p grows; below it p falls.
        images: Number of images seen since the last update.
        images_to_one: Number of images in which p can rise from 0 to 1.

    Returns:
        The new probability, [], at least 0.
    """
    return jnp.maximum(p + jnp.sign(real_sign - target) * images / images_to_one, 0)


def adapt_probability(
    config: AugmentConfig, state: State, metrics: Metrics, images: int
) -> tuple[State, Metrics]:
    """Adapt the probability with `ada`, every `ADAPT_INTERVAL` steps.

    Args:
        config: The model's config.
        state: The state, with the `step` before this one.
        metrics: Metrics of D's step; with `ada`, among them `real_sign`, the mean sign of the
            logits of real images.
        images: Number of images in the global batch.

    Returns:
        The state, and with `ada` the metric `augment_p`.
    """
    if config.augment != "ada":
        return state, {}
    is_due = (state.step + 1) % ADAPT_INTERVAL == 0
    signs = state.real_sign + metrics["real_sign"]
    sign = signs / ADAPT_INTERVAL
    seen = images * ADAPT_INTERVAL
    p = adapt(state.augment_p, sign, config.ada_target, seen, config.ada_images)
    state = dataclasses.replace(
        state,
        augment_p=jnp.where(is_due, p, state.augment_p),
        real_sign=jnp.where(is_due, 0, signs),
    )
    return state, {"augment_p": state.augment_p}
