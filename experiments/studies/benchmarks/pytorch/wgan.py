"""WGAN and WGAN-GP in plain PyTorch, as counterparts of `genjax.models.wgan`.

The networks are `mlp` and `dcgan`.
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
import torch
from torch import nn

from experiments.studies.benchmarks.pytorch import dcgan
from experiments.studies.benchmarks.pytorch.common import (
    DEVICE,
    NO_PENALTIES,
    Average,
    Counterpart,
    Optimizer,
    assert_losses_agree,
    compiler,
    draw_images,
    mixed,
    nchw,
    place,
    require,
    scaled,
    to_numpy,
)
from experiments.studies.benchmarks.pytorch.gan import mlp
from genjax.interop import wgan as interop
from genjax.models import wgan
from genjax.objectives.penalties import gradient_penalty, interpolate
from genjax.steps.update import apply_network
from genjax.types import ImageSpec, UsageError

CHECKED_IMAGES = 32
Config = wgan.WganConfig | wgan.WganGpConfig


def networks(config: Config, spec: ImageSpec) -> tuple[Any, Any]:
    """Return G and the critic, for images [B, C, H, W]."""
    if config.network == "mlp":
        pixels = math.prod(spec.shape)
        image = (spec.channels, spec.height, spec.width)
        end = [nn.Tanh(), nn.Unflatten(1, image)]
        sizes, slope = [config.latent_size, *config.generator.hidden_sizes], wgan.LEAKY_SLOPE
        generator = mlp([*sizes, pixels], slope, end)
        return generator, mlp([pixels, *config.critic.hidden_sizes, 1], slope, [])
    if config.network != "dcgan":
        raise UsageError(
            f"network = {config.network!r}: its PyTorch counterpart has 'mlp' and 'dcgan'"
        )
    pair = (
        dcgan.generator_network(config.latent_size, config.generator.features, spec),
        dcgan.discriminator_network(config.critic.features, spec, batch_norm=False),
    )
    for module in pair:
        dcgan.begin_as_the_paper(module)
    return pair


class Trainer:
    """The steps of both players."""

    def __init__(self, config: Config, generator: Any, critic: Any, compiled: bool):
        self._config, self._weights = config, list(critic.parameters())
        self._optimizers = (
            Optimizer(generator.parameters(), config.generator),
            Optimizer(critic.parameters(), config.critic),
        )
        self._average = Average(generator, config.ema_decay)
        self._generator, self._critic = map(compiler(compiled), (generator, critic))

    def generate(self, z: Any) -> Any:
        """Generate images from noise [B, Z]."""
        with mixed(self._config.dtype):
            flat = self._config.network == "mlp"
            images = self._generator(z if flat else z[:, :, None, None])
        return images.float()

    def value(self, images: Any) -> Any:
        """Return the critic's values, [B]."""
        with mixed(self._config.dtype):
            flat = self._config.network == "mlp"
            values = self._critic(images.flatten(1) if flat else images)
        return values.flatten().float()

    def critic_step(self, real: Any, fake: Any, alpha: Any) -> Any:
        """Take a step of the critic, with clipped weights or the gradient penalty."""
        loss = self.value(fake).mean() - self.value(real).mean()
        config = self._config
        if isinstance(config, wgan.WganGpConfig):
            alpha = alpha[:, None, None, None]
            points = (alpha * real + (1 - alpha) * fake).requires_grad_(True)
            total = self.value(points).sum()
            (grads,) = torch.autograd.grad(total, points, create_graph=True)
            penalty = (grads.flatten(1).norm(dim=1) - 1).square().mean()
            loss = loss + config.gradient_penalty_weight * penalty
        self._optimizers[1].minimize(loss)
        if isinstance(config, wgan.WganConfig):
            with torch.no_grad():
                torch._foreach_clamp_min_(self._weights, -config.weight_clip)
                torch._foreach_clamp_max_(self._weights, config.weight_clip)
        return loss

    def generator_step(self, z: Any) -> Any:
        """Take a step of the generator and of the moving average."""
        loss = -self.value(self.generate(z)).mean()
        self._optimizers[0].minimize(loss)
        self._average.update()
        return loss


def counterpart(config: Config, spec: ImageSpec, batch_size: int, compiled: bool) -> Counterpart:
    """Make the counterpart of an unconditional config."""
    require(config, loss="wasserstein", conditional=False, **NO_PENALTIES)
    generator, critic = map(place, networks(config, spec))
    trainer = Trainer(config, generator, critic, compiled)

    def noise() -> Any:
        return torch.randn(batch_size, config.latent_size, device=DEVICE)

    def step(index: int, images: Any, labels: Any) -> Any:
        del labels
        with torch.no_grad():
            fake = trainer.generate(noise())
        loss = trainer.critic_step(scaled(images), fake, torch.rand(batch_size, device=DEVICE))
        if (index + 1) % config.n_critic == 0:
            trainer.generator_step(noise())
        return loss

    return Counterpart(lambda: check(config, spec), step)


def check(config: Config, spec: ImageSpec) -> None:
    """Check the loss of a step of the critic, and of a step of G after it."""
    config = dataclasses.replace(config, dtype="float32")
    generator, critic = networks(config, spec)
    main = "" if config.network == "mlp" else "main."
    arrays = to_numpy(generator, f"G.{main}") | to_numpy(critic, f"D.{main}")
    state = wgan.from_variables(config, spec, interop.load(config, spec, arrays))
    rng = np.random.default_rng(1)
    real = draw_images(spec, CHECKED_IMAGES)
    z = rng.normal(size=(CHECKED_IMAGES, config.latent_size)).astype(np.float32)
    alpha = rng.uniform(size=CHECKED_IMAGES).astype(np.float32)

    @jax.jit
    def ours(state: Any, real: jax.Array, z: jax.Array, alpha: jax.Array) -> dict[str, Any]:
        generator, critic = wgan.networks(config, spec)
        player, params = state.generator, state.discriminator.params
        fake, _ = apply_network(generator, player.params, player.collections, z, None)

        def value(images: jax.Array) -> jax.Array:
            return apply_network(critic, params, {}, images, None)[0]

        loss = value(fake).mean() - value(real).mean()
        if isinstance(config, wgan.WganGpConfig):
            penalty = gradient_penalty(value, interpolate(real, fake, alpha)).mean()
            loss += config.gradient_penalty_weight * penalty
        _, g_metrics = wgan.generator_step(config, state, z, None)
        return {"d_loss": loss, "g_loss": g_metrics["g_loss"]}

    trainer = Trainer(config, generator, critic, compiled=False)
    noise = torch.from_numpy(z)
    with torch.no_grad():
        fake = trainer.generate(noise)
        g_loss = -trainer.value(fake).mean()
    d_loss = trainer.critic_step(nchw(real), fake, torch.from_numpy(alpha))
    assert_losses_agree(ours(state, real, z, alpha), {"d_loss": d_loss, "g_loss": g_loss})
