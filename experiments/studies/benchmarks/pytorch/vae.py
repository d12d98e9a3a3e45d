"""The VAE in plain PyTorch, as a counterpart of `genjax.models.vae` with the network `mlp`."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from experiments.studies.benchmarks.pytorch.common import (
    DEVICE,
    Average,
    Counterpart,
    Optimizer,
    assert_losses_agree,
    compiler,
    mixed,
    place,
    require,
    to_numpy,
)
from genjax.interop.entries import Entry, linear, load_entries
from genjax.interop.gan import pixel_order
from genjax.models import vae
from genjax.types import Batch, ImageSpec

CHECKED_IMAGES = 32
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


class Vae(nn.Module):
    """The model, from flat images in [0, 1] and noise [samples, B, Z] to the loss."""

    def __init__(self, config: vae.VaeConfig, spec: ImageSpec):
        super().__init__()
        self.bound = config.bound
        pixels, activation = math.prod(spec.shape), ACTIVATIONS[config.activation]

        def hidden(before: int, sizes: tuple[int, ...]) -> Any:
            layers: list[Any] = []
            for size in sizes:
                layers += [nn.Linear(before, size), activation()]
                before = size
            return nn.Sequential(*layers)

        sizes = config.hidden_sizes
        self.encoder = hidden(pixels, sizes)
        self.mean = nn.Linear(sizes[-1], config.latent_size)
        self.log_var = nn.Linear(sizes[-1], config.latent_size)
        self.decoder = hidden(config.latent_size, sizes[::-1])
        self.output = nn.Linear(sizes[0], pixels)

    def forward(self, x: Any, noise: Any) -> Any:
        h = self.encoder(x)
        mean, log_var = self.mean(h).float(), self.log_var(h).float()
        z = mean + noise * torch.exp(0.5 * log_var)
        logits = self.output(self.decoder(z)).float()
        if self.bound == "elbo":
            fit = functional.binary_cross_entropy_with_logits(logits[0], x, reduction="sum")
            kl = -0.5 * torch.sum(1 + log_var - mean.square() - log_var.exp())
            return (fit + kl) / len(x)
        losses = functional.binary_cross_entropy_with_logits(
            logits, x.expand_as(logits), reduction="none"
        )
        log_ratio = 0.5 * (noise.square() - z.square() + log_var).sum(-1)
        log_weights = log_ratio - losses.sum(-1)
        return math.log(len(z)) - torch.logsumexp(log_weights, 0).mean()


def counterpart(
    config: vae.VaeConfig, spec: ImageSpec, batch_size: int, compiled: bool
) -> Counterpart:
    """Make the counterpart of an unconditional config with the ELBO of one sample, or IWAE."""
    require(
        config,
        network="mlp",
        likelihood="bernoulli",
        beta=1.0,
        free_bits=0.0,
        kl_warmup_steps=0,
        sticking_the_landing=False,
        conditional=False,
    )
    if config.bound == "elbo":
        require(config, samples=1)
    module = place(Vae(config, spec))
    adam = Optimizer(module.parameters(), config.optimizer)
    average = Average(module, config.ema_decay)
    forward = compiler(compiled)(module)

    def step(index: int, images: Any, labels: Any) -> Any:
        del index, labels
        x = images.flatten(1) / 255
        if config.binarization == "dynamic":
            x = (torch.rand_like(x) < x).float()
        with mixed(config.dtype):
            shape = (config.samples, batch_size, config.latent_size)
            loss = forward(x, torch.randn(shape, device=DEVICE))
        adam.minimize(loss)
        average.update()
        return loss

    return Counterpart(lambda: check(config, spec), step)


def _entries(config: vae.VaeConfig, spec: ImageSpec) -> Iterator[Entry]:
    orders = [pixel_order(spec), *(np.arange(size) for size in config.hidden_sizes)]
    latents, count = np.arange(config.latent_size), len(config.hidden_sizes)
    for i in range(count):
        yield from linear(f"encoder.{2 * i}", ("encoder", f"hidden_{i}"), orders[i], orders[i + 1])
    yield from linear("mean", ("encoder", "mean"), orders[-1], latents)
    yield from linear("log_var", ("encoder", "log_var"), orders[-1], latents)
    back = [latents, *orders[:0:-1]]
    for i in range(count):
        yield from linear(f"decoder.{2 * i}", ("decoder", f"hidden_{i}"), back[i], back[i + 1])
    yield from linear("output", ("decoder", "output"), back[-1], orders[0])


def check(config: vae.VaeConfig, spec: ImageSpec) -> None:
    """Check the loss of gray images, with the noise that ours draws."""
    config = dataclasses.replace(config, dtype="float32", binarization="none")
    module = Vae(config, spec)
    params = load_entries(_entries(config, spec), to_numpy(module))
    state = vae.from_params(config, spec, params)
    images = np.random.default_rng(0).integers(0, 256, (CHECKED_IMAGES, *spec.shape), np.uint8)
    key, size = jax.random.key(0), (CHECKED_IMAGES, config.latent_size)
    batch = Batch(images, np.zeros(CHECKED_IMAGES, np.int32))
    _, ours = jax.jit(vae.step, static_argnums=0)(config, state, batch, key)
    standard = vae.Normal(jax.numpy.zeros(size), jax.numpy.zeros(size))
    noise = np.array(vae.draw(standard, jax.random.split(key)[1], config.samples))
    flat = images.transpose(0, 3, 1, 2).reshape(CHECKED_IMAGES, -1).astype(np.float32) / 255
    loss = module(torch.from_numpy(flat), torch.from_numpy(noise))
    assert_losses_agree(ours, {"loss": loss})
