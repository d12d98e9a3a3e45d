"""DCGAN in plain PyTorch, as a counterpart of `genjax.models.dcgan`."""

import dataclasses
from typing import Any

import jax
import numpy as np
import torch
from torch import nn

from experiments.studies.benchmarks.pytorch.common import (
    DEVICE,
    NO_PENALTIES,
    Counterpart,
    assert_losses_agree,
    draw_images,
    nchw,
    place,
    require,
    scaled,
    to_numpy,
)
from experiments.studies.benchmarks.pytorch.gan import PlayerSteps
from genjax.interop import dcgan as interop
from genjax.models import dcgan
from genjax.nn.resolution import base_resolution
from genjax.steps.update import apply_network
from genjax.types import ImageSpec

CHECKED_IMAGES = 32


def generator_network(latent_size: int, features: int, spec: ImageSpec) -> Any:
    """Return the generator of PyTorch's example, from noise [B, Z, 1, 1] to images."""
    halvings, size = base_resolution(spec)
    widths = [features << i for i in reversed(range(halvings))]
    layers: list[Any] = [nn.ConvTranspose2d(latent_size, widths[0], size, 1, 0, bias=False)]
    for before, after in zip(widths, [*widths[1:], spec.channels], strict=True):
        layers += [nn.BatchNorm2d(before), nn.ReLU(inplace=True)]
        layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
    return nn.Sequential(*layers, nn.Tanh())


def discriminator_network(features: int, spec: ImageSpec, batch_norm: bool) -> Any:
    """Return the discriminator, from images to logits [B, 1, 1, 1]; a critic has no batch norm."""
    halvings, size = base_resolution(spec)
    layers: list[Any] = []
    before = spec.channels
    for i in range(halvings):
        layers += [nn.Conv2d(before, features << i, 4, 2, 1, bias=not batch_norm)]
        layers += [nn.BatchNorm2d(features << i)] if batch_norm and i else []
        layers += [nn.LeakyReLU(0.2, inplace=True)]
        before = features << i
    return nn.Sequential(*layers, nn.Conv2d(before, 1, size, 1, 0, bias=False))


def begin_as_the_paper(module: Any) -> None:
    """Initialize weights from N(0, 0.02), as in the paper."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0, 0.02)


def networks(config: dcgan.DcganConfig, spec: ImageSpec) -> tuple[Any, Any]:
    """Return G and D."""
    pair = (
        generator_network(config.latent_size, config.generator.features, spec),
        discriminator_network(config.discriminator.features, spec, batch_norm=True),
    )
    for module in pair:
        begin_as_the_paper(module)
    return pair


def counterpart(
    config: dcgan.DcganConfig, spec: ImageSpec, batch_size: int, compiled: bool
) -> Counterpart:
    """Make the counterpart of an unconditional config, non-saturating and without penalty."""
    require(config, loss="non_saturating", conditional=False, **NO_PENALTIES)
    for player in (config.generator, config.discriminator):
        require(player, batch_norm=True)
    generator, discriminator = map(place, networks(config, spec))
    take_steps = PlayerSteps(config, generator, discriminator, compiled)

    def step(index: int, images: Any, labels: Any) -> Any:
        del index, labels
        z = torch.randn(batch_size, config.latent_size, device=DEVICE)
        return take_steps(scaled(images), z[:, :, None, None])[0]

    return Counterpart(lambda: check(config, spec), step)


def check(config: dcgan.DcganConfig, spec: ImageSpec) -> None:
    """Check the losses of a step of each player."""
    config = dataclasses.replace(config, dtype="float32")
    generator, discriminator = networks(config, spec)
    arrays = to_numpy(generator, "G.main.") | to_numpy(discriminator, "D.main.")
    state = dcgan.from_variables(config, spec, interop.load(config, spec, arrays))
    real = draw_images(spec, CHECKED_IMAGES)
    shape = (CHECKED_IMAGES, config.latent_size)
    z = np.random.default_rng(1).normal(size=shape).astype(np.float32)

    @jax.jit
    def ours(state: Any, real: jax.Array, z: jax.Array) -> dict[str, Any]:
        generator, _ = dcgan.networks(config, spec)
        player = state.generator
        fake, _ = apply_network(generator, player.params, player.collections, z, None)
        key = jax.random.key(0)
        state, d_metrics = dcgan.discriminator_step(config, state, real, fake, None, key)
        _, g_metrics = dcgan.generator_step(config, state, z, None)
        return {"d_loss": d_metrics["d_loss"], "g_loss": g_metrics["g_loss"]}

    take_steps = PlayerSteps(config, generator, discriminator, compiled=False)
    d_loss, g_loss = take_steps(nchw(real), torch.from_numpy(z)[:, :, None, None])
    theirs = {"d_loss": d_loss, "g_loss": g_loss}
    assert_losses_agree(ours(state, real, z), theirs, loose=["g_loss"])
