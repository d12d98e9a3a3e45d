"""BigGAN's whole training step at CIFAR-10's shapes beside the same networks in eager PyTorch.

    pip install -e '.[bench]'
    python experiments/benchmarks/biggan_pytorch.py

32x32, 10 classes, batch 50, one step of each player, at 16 features (64 channels) and at the 64
(256 channels) of `biggan_cifar10`; float32, Adam, no moving average. Runs alternate in one process,
so that a change in the machine's speed meets both; genjax runs its steps in a compiled scan with
all of its metrics, as `genjax train` does. On a GPU PyTorch is also compiled.

First it is checked that both compute the same: from the same parameters, noise and images, the
losses of one round must agree.
"""

import argparse
import platform
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from side_by_side import genjax_runner, report
from torch import nn
from torch.nn import functional

from genjax.interop import biggan as interop
from genjax.models import biggan
from genjax.types import ImageSpec

BATCH, LATENT, CLASSES = 50, 128, 10
SPEC = ImageSpec(32, 32, 3, CLASSES)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Spectral(nn.Module):
    """A layer whose weight is divided by its largest singular value."""

    def remember(self) -> None:
        """Begin the power iteration."""
        self.register_buffer("u0", torch.randn(1, self.weight.shape[0]))
        self.register_buffer("sv0", torch.ones(1))

    def normalized(self) -> Any:
        """The weight to use."""
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            v = functional.normalize(self.u0 @ matrix, eps=1e-6)
            u = functional.normalize(v @ matrix.T, eps=1e-6)
            if self.training:
                self.u0.copy_(u)
        return self.weight / (v @ matrix.T @ u.T).squeeze()


class Conv(nn.Conv2d, Spectral):
    """Of a size that is kept."""

    def __init__(self, inputs: int, outputs: int, size: int):
        super().__init__(inputs, outputs, size, padding=size // 2)
        self.remember()

    def forward(self, x: Any) -> Any:
        return functional.conv2d(x, self.normalized(), self.bias, padding=self.padding)


class Linear(nn.Linear, Spectral):
    """A dense layer."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        super().__init__(inputs, outputs, bias)
        self.remember()

    def forward(self, x: Any) -> Any:
        return functional.linear(x, self.normalized(), self.bias)


class Embedding(nn.Embedding, Spectral):
    """Vectors of classes."""

    def __init__(self, classes: int, features: int):
        super().__init__(classes, features)
        self.remember()

    def forward(self, labels: Any) -> Any:
        return functional.embedding(labels, self.normalized())


class Norm(nn.Module):
    """Batch norm under a class."""

    def __init__(self, features: int):
        super().__init__()
        self.gain, self.bias = (Linear(CLASSES, features, bias=False) for _ in range(2))
        self.register_buffer("stored_mean", torch.zeros(features))
        self.register_buffer("stored_var", torch.ones(features))

    def forward(self, x: Any, y: Any) -> Any:
        x = functional.batch_norm(x, self.stored_mean, self.stored_var, training=self.training)
        return x * (1 + self.gain(y)[:, :, None, None]) + self.bias(y)[:, :, None, None]


class PlainNorm(nn.Module):
    """Batch norm."""

    def __init__(self, features: int):
        super().__init__()
        self.gain, self.bias = (
            nn.Parameter(torch.ones(features)),
            nn.Parameter(torch.zeros(features)),
        )
        self.register_buffer("stored_mean", torch.zeros(features))
        self.register_buffer("stored_var", torch.ones(features))

    def forward(self, x: Any) -> Any:
        statistics = (self.stored_mean, self.stored_var)
        return functional.batch_norm(x, *statistics, self.gain, self.bias, self.training)


class GeneratorBlock(nn.Module):
    """Twice the size."""

    def __init__(self, features: int):
        super().__init__()
        self.bn1, self.bn2 = Norm(features), Norm(features)
        self.conv1, self.conv2 = Conv(features, features, 3), Conv(features, features, 3)
        self.conv_sc = Conv(features, features, 1)

    def forward(self, x: Any, y: Any) -> Any:
        h = functional.interpolate(functional.relu(self.bn1(x, y)), scale_factor=2)
        h = self.conv2(functional.relu(self.bn2(self.conv1(h), y)))
        return h + self.conv_sc(functional.interpolate(x, scale_factor=2))


class DiscriminatorBlock(nn.Module):
    """Half the size, or the same."""

    def __init__(self, inputs: int, features: int, first: bool, down: bool):
        super().__init__()
        self.first, self.down = first, down
        self.conv1, self.conv2 = Conv(inputs, features, 3), Conv(features, features, 3)
        self.conv_sc = Conv(inputs, features, 1) if down else None

    def forward(self, x: Any) -> Any:
        h = self.conv1(x if self.first else functional.relu(x))
        h = self.conv2(functional.relu(h))
        if self.down:
            h, x = functional.avg_pool2d(h, 2), functional.avg_pool2d(x, 2)
        return h + (x if self.conv_sc is None else self.conv_sc(x))


class Generator(nn.Module):
    """z, one-hot classes to images."""

    def __init__(self, features: int):
        super().__init__()
        self.features = 4 * features
        self.linear = Linear(LATENT, self.features * 16)
        blocks = (nn.ModuleList([GeneratorBlock(self.features)]) for _ in range(3))
        self.blocks = nn.ModuleList(blocks)
        self.output_layer = nn.Sequential(
            PlainNorm(self.features), nn.ReLU(), Conv(self.features, 3, 3)
        )

    def forward(self, z: Any, y: Any) -> Any:
        x = self.linear(z).view(len(z), self.features, 4, 4)
        for (block,) in self.blocks:
            x = block(x, y)
        return torch.tanh(self.output_layer(x))


class Discriminator(nn.Module):
    """Images, classes to logits."""

    def __init__(self, features: int):
        super().__init__()
        width = 4 * features
        blocks = (
            nn.ModuleList([DiscriminatorBlock(width if i else 3, width, i == 0, i < 2)])
            for i in range(4)
        )
        self.blocks = nn.ModuleList(blocks)
        self.linear, self.embed = Linear(width, 1), Embedding(CLASSES, width)

    def forward(self, x: Any, labels: Any) -> Any:
        for (block,) in self.blocks:
            x = block(x)
        h = functional.relu(x).sum((2, 3))
        return self.linear(h)[:, 0] + (self.embed(labels) * h).sum(1)


def pytorch_round(generator: Any, discriminator: Any) -> Callable[..., Any]:
    """`play(real, z_d, z_g, labels) -> (d_loss, g_loss)`, a step of each player."""
    adams = [
        torch.optim.Adam(player.parameters(), 2e-4, (0.0, 0.999))
        for player in (generator, discriminator)
    ]

    def play(real: Any, z_d: Any, z_g: Any, labels: Any) -> tuple[Any, Any]:
        y = functional.one_hot(labels, CLASSES).float()
        with torch.no_grad():
            fake = generator(z_d, y)
        logits = discriminator(torch.cat([real, fake]), torch.cat([labels, labels]))
        on_real, on_fake = logits.chunk(2)
        d_loss = functional.relu(1 - on_real).mean() + functional.relu(1 + on_fake).mean()
        adams[1].zero_grad()
        d_loss.backward()
        adams[1].step()
        g_loss = -discriminator(generator(z_g, y), labels).mean()
        adams[0].zero_grad()
        g_loss.backward()
        adams[0].step()
        return d_loss.detach(), g_loss.detach()

    return play


def our_config(features: int) -> biggan.BigganConfig:
    """That of `biggan_cifar10`, with as many steps of G as of D."""
    player = biggan.PlayerConfig(features=features, attention=(), learning_rate=2e-4, beta1=0.0)
    return biggan.BigganConfig(
        latent_size=LATENT,
        hierarchical=False,
        shared_size=0,
        discriminator_steps=1,
        orthogonal_weight=0.0,
        ema_decay=0.0,
        generator=player,
        discriminator=player,
    )


def check_same_round(features: int) -> None:
    """Both give the same losses from the same parameters, noise and images."""
    config = our_config(features)
    torch.manual_seed(0)
    generator, discriminator = Generator(features), Discriminator(features)
    for layer in (*generator.modules(), *discriminator.modules()):
        if isinstance(layer, Spectral):
            for _ in range(100):  # until one more turn of the power iteration changes nothing
                layer.normalized()
    arrays = [
        {name: tensor.numpy().copy() for name, tensor in player.state_dict().items()}
        for player in (generator, discriminator)
    ]
    variables = {
        "generator": interop.load_generator(config, SPEC, arrays[0]),
        "discriminator": interop.load_discriminator(config, SPEC, arrays[1]),
    }
    state = biggan.from_variables(config, SPEC, variables)
    rng = np.random.default_rng(0)
    real = rng.uniform(-1, 1, (BATCH, 32, 32, 3)).astype(np.float32)
    zs = rng.normal(size=(2, BATCH, LATENT)).astype(np.float32)
    labels = rng.integers(0, CLASSES, BATCH)

    @jax.jit
    def ours(state: Any, real: jax.Array, zs: jax.Array, labels: jax.Array) -> tuple[Any, Any]:
        state, d_metrics = biggan.discriminator_step(config, state, real, zs[0], labels)
        _, g_metrics = biggan.generator_step(config, state, zs[1], labels)
        return d_metrics["d_loss"], g_metrics["g_loss"]

    play = pytorch_round(generator, discriminator)
    images = torch.from_numpy(real.transpose(0, 3, 1, 2).copy())
    theirs = play(images, *torch.from_numpy(zs), torch.from_numpy(labels))
    # The second is after a step of Adam, whose first move is of the gradients' signs.
    for value, expected, tolerance in zip(
        ours(state, real, zs, labels), theirs, (1e-4, 0.05), strict=True
    ):
        np.testing.assert_allclose(float(value), expected.item(), rtol=tolerance, atol=tolerance)


def pytorch_runner(features: int, steps: int, compiled: bool) -> Callable[[], float]:
    """Steps of PyTorch, of images that are resident."""
    players = [Generator(features).to(DEVICE), Discriminator(features).to(DEVICE)]
    play = pytorch_round(*(torch.compile(p) if compiled else p for p in players))
    images = torch.randint(0, 256, (1024, 3, 32, 32), dtype=torch.uint8, device=DEVICE)
    labels = torch.zeros(BATCH, dtype=torch.long, device=DEVICE)

    def timed() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            real = images[torch.randint(0, len(images), (BATCH,), device=DEVICE)] / 127.5 - 1
            d_loss, _ = play(real, *torch.randn(2, BATCH, LATENT, device=DEVICE), labels)
        d_loss.item()
        return (time.perf_counter() - start) / steps

    timed()
    return timed


def main() -> None:
    """Run all in turn, print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each")
    parser.add_argument("--steps", type=int, default=2, help="steps of a run")
    parser.add_argument("--features", type=int, nargs="+", default=[16, 64])
    arguments = parser.parse_args()
    print(f"{DEVICE}, Python {platform.python_version()}, jax {jax.__version__},")
    print(f"PyTorch {torch.__version__}")
    check_same_round(8)
    for features in arguments.features:
        runners = {
            "genjax": genjax_runner(
                biggan.FAMILY, our_config(features), SPEC, BATCH, arguments.steps
            ),
            "PyTorch eager": pytorch_runner(features, arguments.steps, compiled=False),
        }
        if DEVICE == "cuda":
            runners["PyTorch compiled"] = pytorch_runner(features, arguments.steps, compiled=True)
        report(f"{features} features", runners, arguments.rounds)


if __name__ == "__main__":
    main()
