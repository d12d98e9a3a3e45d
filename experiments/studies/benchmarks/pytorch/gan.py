"""The MLP GAN in plain PyTorch, as a counterpart of `genjax.models.gan`."""

import dataclasses
import itertools
import math
from typing import Any

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional

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
from genjax.interop import gan as interop
from genjax.models import gan
from genjax.types import ImageSpec

CHECKED_IMAGES = 32


def mlp(sizes: list[int], slope: float, end: list[Any]) -> Any:
    """Return the layers Linear, LeakyReLU, ..., Linear, and a last module."""
    layers: list[Any] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.LeakyReLU(slope)]
    return nn.Sequential(*layers[:-1], *end)


def networks(config: gan.GanConfig, spec: ImageSpec) -> tuple[Any, Any]:
    """Return G, from z to flat images, and D, from these to logits."""
    pixels = math.prod(spec.shape)
    slope = gan.LEAKY_SLOPE
    sizes = [config.latent_size, *config.generator.hidden_sizes, pixels]
    generator = mlp(sizes, slope, [nn.Tanh()])
    return generator, mlp([pixels, *config.discriminator.hidden_sizes, 1], slope, [])


class PlayerSteps:
    """A step of each player, on images from the same noise, and of the moving average."""

    def __init__(self, config: Any, generator: Any, discriminator: Any, compiled: bool):
        self._adams = (
            Optimizer(generator.parameters(), config.generator),
            Optimizer(discriminator.parameters(), config.discriminator),
        )
        self._average = Average(generator, getattr(config, "ema_decay", 0.0))
        self._generator, self._discriminator = map(compiler(compiled), (generator, discriminator))
        self._dtype = config.dtype

    def __call__(self, real: Any, z: Any) -> tuple[Any, Any]:
        ones, zeros = torch.ones(len(z), device=z.device), torch.zeros(len(z), device=z.device)
        loss = functional.binary_cross_entropy_with_logits
        g_adam, d_adam = self._adams
        with mixed(self._dtype):
            fake = self._generator(z)
            d_loss = loss(self._discriminator(real).flatten().float(), ones)
            d_loss = d_loss + loss(self._discriminator(fake.detach()).flatten().float(), zeros)
        d_adam.minimize(d_loss)
        with mixed(self._dtype):
            g_loss = loss(self._discriminator(fake).flatten().float(), ones)
        g_adam.minimize(g_loss)
        self._average.update()
        return d_loss, g_loss


def counterpart(
    config: gan.GanConfig, spec: ImageSpec, batch_size: int, compiled: bool
) -> Counterpart:
    """Make the counterpart of a config with the non-saturating loss."""
    require(config, loss="non_saturating", **NO_PENALTIES)
    generator, discriminator = map(place, networks(config, spec))
    take_steps = PlayerSteps(config, generator, discriminator, compiled)

    def step(index: int, images: Any, labels: Any) -> Any:
        del index, labels
        z = torch.randn(batch_size, config.latent_size, device=DEVICE)
        return take_steps(scaled(images).flatten(1), z)[0]

    return Counterpart(lambda: check(config, spec), step)


def check(config: gan.GanConfig, spec: ImageSpec) -> None:
    """Check the losses of a step of each player."""
    config = dataclasses.replace(config, dtype="float32")
    generator, discriminator = networks(config, spec)
    arrays = to_numpy(generator, "G.") | to_numpy(discriminator, "D.")
    real = draw_images(spec, CHECKED_IMAGES)
    shape = (CHECKED_IMAGES, config.latent_size)
    z = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    state = gan.from_params(config, spec, interop.load(config, spec, arrays))
    _, ours = jax.jit(gan.update_players, static_argnums=0)(config, state, real, z)
    take_steps = PlayerSteps(config, generator, discriminator, compiled=False)
    d_loss, g_loss = take_steps(nchw(real).flatten(1), torch.from_numpy(z))
    assert_losses_agree(ours, {"d_loss": d_loss, "g_loss": g_loss}, loose=["g_loss"])
