"""Glow's whole training step beside the same network in eager PyTorch.

    pip install -e '.[bench]'
    python experiments/benchmarks/glow_pytorch.py

The small model of `glow_mnist` on 32x32 gray images, and the paper's of CIFAR-10 (L = 3, K = 32,
512 channels), float32, with Adam; images resident in both. Runs alternate in one process, so that a
change in the machine's speed meets both; genjax runs its steps in a compiled scan with all of its
metrics, as `genjax train` does, once with activations stored and once rebuilt. On a GPU PyTorch
uses channels_last and is also compiled.

First it is checked that both compute the same: from the same parameters and images, the loss of one
batch must agree.
"""

import argparse
import dataclasses
import math
import platform
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from side_by_side import genjax_runner, report
from torch import nn
from torch.nn import functional

from genjax.interop import glow as interop
from genjax.models import glow
from genjax.objectives.likelihood import standard_normal_log_prob
from genjax.types import ImageSpec

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RATE = 1e-4


class ActNorm(nn.Module):
    """Gain and shift of each channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Any) -> Any:
        log_det = x.shape[2] * x.shape[3] * self.scale.abs().log().sum()
        return self.scale * (x + self.loc), log_det


class InvConv(nn.Module):
    """1x1 convolution by its LU decomposition."""

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
    """3x3 convolution that begins at 0, on an image padded with 1."""

    def __init__(self, channels: int, features: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, features, 3)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)
        self.scale = nn.Parameter(torch.zeros(1, features, 1, 1))

    def forward(self, x: Any) -> Any:
        return self.conv(functional.pad(x, [1] * 4, value=1)) * torch.exp(3 * self.scale)


class Coupling(nn.Module):
    """Affine coupling."""

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
    """Images in [-1/2, 1/2) to bits/dim of 8-bit images, [B]."""

    def __init__(self, config: glow.GlowConfig, spec: ImageSpec):
        super().__init__()
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
        return 8 - log_px / (dimensions * math.log(2))


def pytorch_model(config: glow.GlowConfig, spec: ImageSpec) -> Any:
    """On its device, in the layout that is fast there."""
    layout = torch.channels_last if DEVICE == "cuda" else torch.contiguous_format
    return Glow(config, spec).to(DEVICE, memory_format=layout)


def check_same_loss(config: glow.GlowConfig, spec: ImageSpec) -> None:
    """Both give the same bits/dim from the same parameters and images."""
    model = pytorch_model(config, spec)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    arrays = {name: t.detach().cpu().numpy().copy() for name, t in model.state_dict().items()}
    variables = interop.load(config, spec, arrays)
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (4, *spec.shape)).astype(np.float32)

    @jax.jit
    def ours(params: Any, x: jax.Array) -> jax.Array:
        bijection = glow.flow(config, spec, variables._replace(params=params), None)
        zs, log_det = bijection.forward(x)
        flat = jnp.concatenate([z.reshape(len(z), -1) for z in zs], axis=1)
        terms = glow.Terms(standard_normal_log_prob(flat), log_det, 0.0)
        return terms.nll(config, spec) / (x[0].size * math.log(2))

    theirs = model(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).to(DEVICE))
    expected = theirs.detach().cpu().numpy()
    np.testing.assert_allclose(ours(variables.params, x), expected, rtol=1e-3)


def pytorch_runner(
    config: glow.GlowConfig, spec: ImageSpec, batch: int, steps: int, compiled: bool
) -> Callable[[], float]:
    """The same for PyTorch."""
    model = pytorch_model(config, spec)
    adam = torch.optim.Adam(model.parameters(), RATE)
    forward = torch.compile(model) if compiled else model
    shape = (1024, spec.channels, spec.height, spec.width)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=DEVICE)

    def timed() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            x = images[torch.randint(0, len(images), (batch,), device=DEVICE)]
            loss = forward((x + torch.rand(x.shape, device=DEVICE)) / 256 - 0.5).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        loss.item()
        return (time.perf_counter() - start) / steps

    timed()
    return timed


def main() -> None:
    """Run all in turn, print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="runs of each")
    parser.add_argument("--steps", type=int, default=2, help="steps of a run")
    parser.add_argument("--batch", type=int, default=64, help="images a step, of the small model")
    parser.add_argument("--paper-batch", type=int, default=8, help="the same, of the paper's")
    arguments = parser.parse_args()
    print(f"{DEVICE}, Python {platform.python_version()}, jax {jax.__version__},")
    print(f"PyTorch {torch.__version__}")
    optimizer = glow.AdamConfig(learning_rate=RATE, beta1=0.9)
    settings = {
        "small": (
            glow.GlowConfig(levels=3, steps_per_level=8, hidden_features=128, optimizer=optimizer),
            ImageSpec(32, 32, 1),
            arguments.batch,
        ),
        "paper's": (
            glow.GlowConfig(levels=3, steps_per_level=32, hidden_features=512, optimizer=optimizer),
            ImageSpec(32, 32, 3),
            arguments.paper_batch,
        ),
    }
    for label, (config, spec, batch) in settings.items():
        check_same_loss(config, spec)
        rebuilt = dataclasses.replace(config, reversible=True)
        rest = (spec, batch, arguments.steps)
        runners = {
            "genjax": genjax_runner(glow.FAMILY, config, *rest),
            "genjax, activations rebuilt": genjax_runner(glow.FAMILY, rebuilt, *rest),
            "PyTorch eager": pytorch_runner(config, *rest, compiled=False),
        }
        if DEVICE == "cuda":
            runners["PyTorch compiled"] = pytorch_runner(config, *rest, compiled=True)
        report(f"{label}, batch {batch},", runners, arguments.rounds)


if __name__ == "__main__":
    main()
