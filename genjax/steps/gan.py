"""What GANs share whose networks see a noise vector or images, and labels."""

from collections.abc import Callable
from typing import Annotated, Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from pydantic import Field, model_validator

from genjax.nn.batch import batch_noise
from genjax.objectives.adversarial import AdversarialLoss
from genjax.objectives.penalties import Critic, gradient_penalty, perturb, r1_penalty
from genjax.steps.diagnostics import discriminator_metrics
from genjax.steps.state import GanState, Player
from genjax.steps.update import GradientConfig, apply_network, update_player
from genjax.types import Batch, ImageSpec, MaskedMetric, Metrics, checked, images_of

# The penalties' metrics, and their weights.
PENALTIES = {"r1_penalty": "r1_gamma", "r2_penalty": "r2_gamma", "dragan_penalty": "dragan_weight"}


@checked
class PenaltyConfig(GradientConfig):
    """The config of penalties on D's gradient with respect to the images that it sees."""

    r1_gamma: Annotated[float, Field(ge=0)] = 0.0
    """Weight of R1, `gamma / 2 |grad D(x)|^2` at real images (Mescheder et al. 2018); 0 for
    none."""
    r2_gamma: Annotated[float, Field(ge=0)] = 0.0
    """Weight of R2, the same at generated images; 0 for none. R1 and R2 go well with the
    relativistic loss (Huang et al. 2024)."""
    dragan_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of DRAGAN's penalty, `(|grad D| - 1)^2` around real images (its paper: 10); 0 for
    none."""
    penalty_interval: Annotated[int, Field(gt=0)] = 1
    """Steps of D from one of these penalties to the next, which weighs that many times as much."""

    @model_validator(mode="after")
    def _has_penalties(self) -> Self:
        names = PENALTIES.values()
        if self.penalty_interval > 1 and not any(getattr(self, name) for name in names):
            raise ValueError(
                f"penalty_interval = {self.penalty_interval}: should be 1 without "
                f"{', '.join(names)}"
            )
        return self


def gradient_penalties(
    config: PenaltyConfig,
    step: jax.Array,
    critic: Critic,
    images: tuple[jax.Array, jax.Array],
    noise: tuple[jax.Array | None, jax.Array],
) -> tuple[jax.Array, Metrics]:
    """Compute the penalties that are asked for, where they are due.

    Args:
        config: The weights, and the interval.
        step: Number of steps taken before this one, [].
        critic: D, from images [B, H, W, C] to logits [B], that treats each image on its own.
        images: Real and generated images, [B, H, W, C] each.
        noise: For DRAGAN a PRNG key, and the standard deviation of the real images, [].

    Returns:
        What to add to the loss, [], and the metrics `r1_penalty`, `r2_penalty` and
        `dragan_penalty`, without their weights; of no meaning where not due: see `mask_penalties`.
    """
    real, fake = images
    key, std = noise

    def dragan() -> jax.Array:
        assert key is not None
        points = perturb(real, std, batch_noise(key, real.shape, jax.random.uniform))
        return gradient_penalty(critic, points)

    functions = {
        "r1_penalty": lambda: r1_penalty(critic, real),
        "r2_penalty": lambda: r1_penalty(critic, fake),
        "dragan_penalty": dragan,
    }
    weights = {name: getattr(config, field) for name, field in PENALTIES.items()}
    weights = {name: weight for name, weight in weights.items() if weight}

    def compute() -> dict[str, jax.Array]:
        return {name: jnp.mean(functions[name]()) for name in weights}

    def skip() -> dict[str, jax.Array]:
        return {name: jnp.zeros(()) for name in weights}

    if config.penalty_interval == 1 or not weights:
        found = compute()
    else:
        found = jax.lax.cond(step % config.penalty_interval == 0, compute, skip)
    total = sum((weights[name] * found[name] for name in weights), jnp.zeros(()))
    return config.penalty_interval * total, found


def mask_penalties(config: PenaltyConfig, step: jax.Array, metrics: Metrics) -> Metrics:
    """Mask the metrics of `gradient_penalties` at steps at which they are not due."""
    if config.penalty_interval == 1:
        return metrics
    is_due = step % config.penalty_interval == 0
    return {
        name: MaskedMetric(value, is_due) if name in PENALTIES else value
        for name, value in metrics.items()
    }


def game_metrics(
    loss: AdversarialLoss,
    real_logits: jax.Array,
    fake_logits: jax.Array,
    real: jax.Array,
    fake: jax.Array,
) -> tuple[jax.Array, Metrics]:
    """Compute D's mean loss, [], and the metrics `d_loss` and those of `discriminator_metrics`.

    Of a relativistic loss these are of the differences in each pair: `d_real` is the mean
    probability that D gives to the right answer, and `d_fake` that of the wrong one.
    """
    mean = jnp.mean(loss.discriminator_loss(real_logits, fake_logits))
    if loss.is_relativistic:
        real_logits, fake_logits = real_logits - fake_logits, fake_logits - real_logits
    return mean, {"d_loss": mean, **discriminator_metrics(real_logits, fake_logits, real, fake)}


def create_gan_state(
    generator: Player, discriminator: Player, spec: ImageSpec, has_ema: bool
) -> GanState:
    """Return the state at step 0 of two players, with a moving average of G if `has_ema`."""
    ema = jax.tree.map(jnp.copy, generator.variables) if has_ema else None
    return GanState(jnp.zeros((), jnp.int32), generator, discriminator, spec, ema)


def init_networks(
    networks: tuple[nn.Module, nn.Module],
    key: jax.Array,
    latent_size: int,
    spec: ImageSpec,
    conditional: bool,
) -> dict[str, Any]:
    """Return the initial variables of both networks, `{"generator": ..., "discriminator": ...}`.

    Args:
        networks: G and D, `network(x, labels, train)`, with x [B, latent_size] or [B, H, W, C].
        key: The PRNG key of the weights.
        latent_size: Size of the noise vector.
        spec: The shape of the images.
        conditional: Whether the networks see labels, int32 [B], or None.
    """
    generator, discriminator = networks
    generator_key, discriminator_key = jax.random.split(key)
    labels = jnp.zeros(1, jnp.int32) if conditional else None
    z, images = jnp.zeros((1, latent_size)), jnp.zeros((1, *spec.shape))
    return {
        "generator": generator.init(generator_key, z, labels, train=False),
        "discriminator": discriminator.init(discriminator_key, images, labels, train=False),
    }


def real_images(batch: Batch, spec: ImageSpec) -> jax.Array:
    """Return a batch's uint8 images as float32 [B, H, W, C] in [-1, 1]; see `types.images_of`."""
    return images_of(batch, spec).astype(jnp.float32) / 127.5 - 1


def decode(
    networks: tuple[nn.Module, nn.Module],
    state: GanState,
    latents: jax.Array,
    labels: jax.Array | None,
) -> jax.Array:
    """Map latents to images, by the moving average of G if there is one, and running statistics.

    Args:
        networks: G and D, as in `init_networks`.
        state: The state.
        latents: [n, latent_size].
        labels: int32 [n] if conditional, else None.

    Returns:
        float32 [n, H, W, C] in [-1, 1].
    """
    generator, _ = networks
    images: Any = generator.apply(state.sampling_variables, latents, labels, train=False)
    return jnp.clip(images, -1, 1)  # not all end in a tanh


def update_generator(
    networks: tuple[nn.Module, nn.Module],
    adversarial_loss: AdversarialLoss,
    state: GanState,
    batch: tuple[jax.Array, jax.Array | None, jax.Array | None],
    optimizer: optax.GradientTransformation,
    config: GradientConfig,
    penalty: Callable[[Any], jax.Array] | None = None,
    augment: Callable[[jax.Array], jax.Array] = lambda images: images,
) -> tuple[Player, Metrics]:
    """Take one step of G against the state's discriminator.

    Args:
        networks: G and D, as in `init_networks`.
        adversarial_loss: The losses of both players.
        state: The state before the step.
        batch: Noise, [B, latent_size]; labels, int32 [B] or None; and the real images with those
            labels, [B, H, W, C], which only a relativistic loss looks at, or None.
        optimizer: G's optimizer.
        config: The model's config.
        penalty: Function from G's parameters to a penalty that is added to the loss; None for none.
        augment: Function from images to what D sees of them.

    Returns:
        G after the step, and the metrics `g_loss`, without the penalty, and `g_grad_norm`.
    """
    generator, discriminator = networks
    opponent = state.discriminator
    z, labels, real = batch
    batch = (z, labels, real if adversarial_loss.is_relativistic else None)

    def loss_fn(params: Any, carried: Any, part: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
        z, labels, real = part

        def logits(images: jax.Array) -> jax.Array:
            seen = augment(images)
            return apply_network(
                discriminator, opponent.params, opponent.collections, seen, labels
            )[0]

        fake, carried = apply_network(generator, params, carried, z, labels)
        pair = (logits(real), logits(fake)) if real is not None else (logits(fake),)
        loss = jnp.mean(adversarial_loss.generator_loss(*pair))
        total = loss if penalty is None else loss + penalty(params)
        return total, (carried, {"g_loss": loss})

    return update_player(loss_fn, state.generator, batch, optimizer, config, "g_grad_norm")
