"""Glow in plain PyTorch, as a counterpart of `genjax.models.glow`."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from experiments.studies.benchmarks.pytorch.common import (
    Average,
    Counterpart,
    Optimizer,
    assert_losses_agree,
    compiler,
    mixed,
    nchw,
    place,
    require,
    to_numpy,
)
from genjax.interop import glow as interop
from genjax.models import glow
from genjax.objectives.likelihood import standard_normal_log_prob
from genjax.types import ImageSpec

CHECKED_IMAGES = 4


class ActNorm(nn.Module):
    """A gain and a shift of each channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Any) -> Any:
        log_det = x.shape[2] * x.shape[3] * self.scale.abs().log().sum()
        return self.scale * (x + self.loc), log_det


class InvConv(nn.Module):
    """A 1x1 convolution by its LU decomposition."""

    def __init__(self, channels: int):
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels))[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        scale = upper.diagonal()
        self.w_l, self.w_u = nn.Parameter(lower), nn.Parameter(upper.triu(1))
        self.w_s = nn.Parameter(scale.abs().log())
        self.register_buffer("w_p", permutation)
        self.register_buffer("s_sign", scale.sign())
        self.register_buffer("one", torch.eye(channels), persistent=False)

    def forward(self, x: Any) -> Any:
        lower = self.w_l.tril(-1) + self.one
        upper = self.w_u.triu(1) + torch.diag(self.s_sign * self.w_s.exp())
        weight = self.w_p @ lower @ upper
        log_det = x.shape[2] * x.shape[3] * self.w_s.sum()
        return functional.conv2d(x, weight[:, :, None, None]), log_det


class ZeroConv(nn.Module):
    """A 3x3 convolution that is 0 at first, on an image padded with 1."""

    def __init__(self, channels: int, features: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, features, 3)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)
        self.scale = nn.Parameter(torch.zeros(1, features, 1, 1))

    def forward(self, x: Any) -> Any:
        return self.conv(functional.pad(x, [1] * 4, value=1)) * torch.exp(3 * self.scale)


class Coupling(nn.Module):
    """An affine coupling."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(channels // 2, hidden, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(inplace=True),
            ZeroConv(hidden, channels),
        )
        for i in (0, 2):
            nn.init.normal_(self.net[i].weight, 0, 0.05)
            nn.init.zeros_(self.net[i].bias)

    def forward(self, x: Any) -> Any:
        a, b = x.chunk(2, 1)
        s, t = self.net(a).chunk(2, 1)
        scale = torch.sigmoid(s + 2)
        return torch.cat([a, (b + t) * scale], 1), scale.log().flatten(1).sum(1)


class Step(nn.Module):
    """Actnorm, 1x1 convolution, coupling."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.actnorm, self.invconv = ActNorm(channels), InvConv(channels)
        self.coupling = Coupling(channels, hidden)

    def forward(self, x: Any) -> Any:
        x, first = self.actnorm(x)
        x, second = self.invconv(x)
        x, third = self.coupling(x)
        return x, first + second + third


class Block(nn.Module):
    """A level: squeeze, steps, and half of the channels under their prior."""

    def __init__(self, channels: int, steps: int, hidden: int, is_last: bool):
        super().__init__()
        self.flows = nn.ModuleList(Step(4 * channels, hidden) for _ in range(steps))
        seen, features = (4 * channels, 8 * channels) if is_last else (2 * channels, 4 * channels)
        self.prior, self.is_last = ZeroConv(seen, features), is_last

    def forward(self, x: Any) -> Any:
        batch, channels, height, width = x.shape
        x = x.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
        x = x.reshape(batch, 4 * channels, height // 2, width // 2)
        total = 0
        for step in self.flows:
            x, log_det = step(x)
            total = total + log_det
        h, z = (torch.zeros_like(x), x) if self.is_last else x.chunk(2, 1)
        mean, log_sd = self.prior(h).chunk(2, 1)
        log_p = -0.5 * math.log(2 * math.pi) - log_sd - 0.5 * ((z - mean) / log_sd.exp()) ** 2
        return h, total, log_p.flatten(1).sum(1)


class Glow(nn.Module):
    """The model, from images in [-1/2, 1/2) to bits/dim of their gray levels, [B]."""

    def __init__(self, config: glow.GlowConfig, spec: ImageSpec):
        super().__init__()
        self.bits = config.bits
        self.blocks = nn.ModuleList(
            Block(
                spec.channels << i,
                config.steps_per_level,
                config.hidden_features,
                i == config.levels - 1,
            )
            for i in range(config.levels)
        )

    def forward(self, x: Any) -> Any:
        dimensions, log_px = x[0].numel(), 0
        for block in self.blocks:
            x, log_det, log_p = block(x)
            log_px = log_px + log_det + log_p
        return self.bits - log_px / (dimensions * math.log(2))


def counterpart(
    config: glow.GlowConfig, spec: ImageSpec, batch_size: int, compiled: bool
) -> Counterpart:
    """Make the counterpart of an unconditional config with affine couplings and LU convolutions.

    Activations are stored, whatever `reversible` says; actnorms begin as the identity.
    """
    del batch_size
    require(
        config,
        coupling="affine",
        permutation="lu",
        checkerboard_steps=0,
        dequantization="uniform",
        conditional=False,
    )
    model = place(Glow(config, spec))
    adam = Optimizer(model.parameters(), config.optimizer)
    average = Average(model, config.ema_decay)
    forward = compiler(compiled)(model)

    def step(index: int, images: Any, labels: Any) -> Any:
        del index, labels
        noise = torch.rand(images.shape, device=images.device)
        with mixed(config.dtype):
            levels = images // 2 ** (8 - config.bits)
            loss = forward((levels + noise) / 2**config.bits - 0.5).mean()
        adam.minimize(loss)
        average.update()
        return loss

    return Counterpart(lambda: check(config, spec), step)


def check(config: glow.GlowConfig, spec: ImageSpec) -> None:
    """Check the bits/dim of a batch, with weights moved a little from the initial ones."""
    config = dataclasses.replace(config, dtype="float32")
    model = Glow(config, spec)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    variables = interop.load(config, spec, to_numpy(model))
    shape = (CHECKED_IMAGES, *spec.shape)
    x = np.random.default_rng(0).uniform(-0.5, 0.5, shape).astype(np.float32)

    @jax.jit
    def ours(params: Any, x: jax.Array) -> jax.Array:
        bijection = glow.flow(config, spec, variables._replace(params=params), None)
        zs, log_det = bijection.forward(x)
        flat = jnp.concatenate([z.reshape(len(z), -1) for z in zs], axis=1)
        terms = glow.Terms(standard_normal_log_prob(flat), log_det, 0.0)
        return jnp.mean(terms.nll(config, spec)) / (x[0].size * math.log(2))

    loss = model(nchw(x)).mean()
    assert_losses_agree({"loss": ours(variables.params, x)}, {"loss": loss}, loose=["loss"])
