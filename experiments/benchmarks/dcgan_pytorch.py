"""DCGAN's whole training step beside the same networks in eager PyTorch.

    pip install -e '.[bench]'
    python experiments/benchmarks/dcgan_pytorch.py

32x32 at 128 features (G: 100 -> 512x4x4 -> 256 -> 128 -> 3, D the mirror image) and 64x64 at 64
features, batch 64, float32, both players' Adam; images resident in both. Runs alternate in one
process, so that a change in the machine's speed meets both; genjax runs its steps in a compiled
scan with all of its metrics, as `genjax train` does. On a GPU PyTorch uses channels_last and is
also compiled, and `--dtype bfloat16` sets the compute type of both.

First it is checked that both compute the same: from the same parameters, noise and images, the
losses of one round must agree.
"""

import argparse
import functools
import platform
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
import torch
from side_by_side import genjax_runner, report
from torch import nn

from genjax.interop import dcgan as interop
from genjax.models import dcgan
from genjax.steps.update import apply_network
from genjax.types import ImageSpec

Dtype = Literal["float32", "bfloat16"]
BATCH, LATENT = 64, 100
SETTINGS = ((32, 128), (64, 64))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def pytorch_networks(size: int, features: int) -> tuple[Any, Any]:
    """G and D as in PyTorch's example, for a power of two."""
    halvings = size.bit_length() - 3
    widths = [features << i for i in range(halvings)]
    g: list[Any] = [nn.ConvTranspose2d(LATENT, widths[-1], 4, 1, 0, bias=False)]
    for before, after in zip(widths[::-1], [*widths[-2::-1], 3], strict=True):
        g += [nn.BatchNorm2d(before), nn.ReLU(inplace=True)]
        g += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
    d: list[Any] = []
    for i, (before, after) in enumerate(zip([3, *widths[:-1]], widths, strict=True)):
        d += [nn.Conv2d(before, after, 4, 2, 1, bias=False)]
        d += [nn.BatchNorm2d(after)] if i else []
        d += [nn.LeakyReLU(0.2, inplace=True)]
    d += [nn.Conv2d(widths[-1], 1, 4, 1, 0, bias=False)]
    networks = (nn.Sequential(*g, nn.Tanh()), nn.Sequential(*d))
    layout = torch.channels_last if DEVICE == "cuda" else torch.contiguous_format
    return networks[0].to(DEVICE, memory_format=layout), networks[1].to(
        DEVICE, memory_format=layout
    )


def pytorch_round(generator: Any, discriminator: Any, dtype: Dtype) -> Callable[[Any, Any], Any]:
    """`play(real, z) -> (d_loss, g_loss)`, a step of each player."""
    g_adam = torch.optim.Adam(generator.parameters(), 2e-4, (0.5, 0.999))
    d_adam = torch.optim.Adam(discriminator.parameters(), 2e-4, (0.5, 0.999))
    loss = nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(BATCH, device=DEVICE), torch.zeros(BATCH, device=DEVICE)
    mixed = functools.partial(
        torch.autocast, DEVICE, dtype=torch.bfloat16, enabled=dtype == "bfloat16"
    )

    def play(real: Any, z: Any) -> tuple[Any, Any]:
        with mixed():
            fake = generator(z)
            d_loss = loss(discriminator(real).flatten().float(), ones)
            d_loss = d_loss + loss(discriminator(fake.detach()).flatten().float(), zeros)
        d_adam.zero_grad()
        d_loss.backward()
        d_adam.step()
        with mixed():
            g_loss = loss(discriminator(fake).flatten().float(), ones)
        g_adam.zero_grad()
        g_loss.backward()
        g_adam.step()
        return d_loss.detach(), g_loss.detach()

    return play


def config_and_spec(size: int, features: int, dtype: Dtype) -> tuple[dcgan.DcganConfig, ImageSpec]:
    """Our model of the same shape."""
    player = dcgan.PlayerConfig(features=features)
    config = dcgan.DcganConfig(
        latent_size=LATENT, dtype=dtype, generator=player, discriminator=player
    )
    return config, ImageSpec(size, size, 3)


def check_same_round(size: int, features: int) -> None:
    """Both give the same losses from the same parameters, noise and images."""
    config, spec = config_and_spec(size, features, "float32")
    generator, discriminator = pytorch_networks(size, features)
    arrays = {
        f"{letter}.main.{name}": tensor.detach().cpu().numpy().copy()
        for letter, module in (("G", generator), ("D", discriminator))
        for name, tensor in module.state_dict().items()
    }
    state = dcgan.from_variables(config, spec, interop.load(config, spec, arrays))
    rng = np.random.default_rng(0)
    real = rng.uniform(-1, 1, (BATCH, size, size, 3)).astype(np.float32)
    z = rng.normal(size=(BATCH, LATENT)).astype(np.float32)

    @jax.jit
    def ours(state: Any, real: jax.Array, z: jax.Array) -> tuple[Any, Any]:
        generator, _ = dcgan.networks(config, spec)
        fake, _ = apply_network(generator, state.generator.params, state.generator.stats, z, True)
        key = jax.random.key(0)
        state, d_metrics = dcgan.discriminator_step(config, state, real, fake, None, key)
        _, g_metrics = dcgan.generator_step(config, state, z, None)
        return d_metrics["d_loss"], g_metrics["g_loss"]

    play = pytorch_round(generator, discriminator, "float32")
    images = torch.from_numpy(real.transpose(0, 3, 1, 2).copy()).to(DEVICE)
    theirs = play(images, torch.from_numpy(z)[:, :, None, None].to(DEVICE))
    # The second is after a step of Adam, whose first move is of the gradients' signs.
    for value, expected, tolerance in zip(ours(state, real, z), theirs, (1e-4, 1e-2), strict=True):
        np.testing.assert_allclose(float(value), expected.item(), rtol=tolerance)


def pytorch_runner(
    size: int, features: int, dtype: Dtype, steps: int, compiled: bool
) -> Callable[[], float]:
    """The same for PyTorch."""
    networks = pytorch_networks(size, features)
    if compiled:
        networks = (torch.compile(networks[0]), torch.compile(networks[1]))
    play = pytorch_round(*networks, dtype)
    images = torch.randint(0, 256, (1024, 3, size, size), dtype=torch.uint8, device=DEVICE)

    def timed() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            real = images[torch.randint(0, len(images), (BATCH,), device=DEVICE)] / 127.5 - 1
            d_loss, _ = play(real, torch.randn(BATCH, LATENT, 1, 1, device=DEVICE))
        d_loss.item()
        return (time.perf_counter() - start) / steps

    timed()
    return timed


def main() -> None:
    """Run all in turn, print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="runs of each")
    parser.add_argument("--steps", type=int, default=2, help="steps of a run")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    print(
        f"{DEVICE}, {arguments.dtype}, Python {platform.python_version()}, jax {jax.__version__},"
    )
    print(f"PyTorch {torch.__version__}")
    for size, features in SETTINGS:
        check_same_round(size, features)
        setting = (size, features, arguments.dtype, arguments.steps)
        runners = {
            "genjax": genjax_runner(
                dcgan.FAMILY,
                *config_and_spec(size, features, arguments.dtype),
                BATCH,
                arguments.steps,
            ),
            "PyTorch eager": pytorch_runner(*setting, compiled=False),
        }
        if DEVICE == "cuda":
            runners["PyTorch compiled"] = pytorch_runner(*setting, compiled=True)
        report(f"{size}x{size}", runners, arguments.rounds)


if __name__ == "__main__":
    main()
