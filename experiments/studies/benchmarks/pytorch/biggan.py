"""BigGAN in plain PyTorch, as a counterpart of `genjax.models.biggan`."""

import dataclasses
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
from genjax.interop import biggan as interop
from genjax.models import biggan
from genjax.nn.resolution import base_resolution
from genjax.types import ImageSpec

CHECKED_IMAGES = 16
# Iterations of the power method after which one more changes nothing.
SETTLED = 100


class Spectral(nn.Module):
    """A layer whose weight is divided by its largest singular value."""

    def remember(self) -> None:
        """Initialize the power iteration."""
        self.register_buffer("u0", torch.randn(1, self.weight.shape[0]))
        self.register_buffer("sv0", torch.ones(1))

    def normalized(self) -> Any:
        """Return the normalized weight."""
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            v = functional.normalize(self.u0 @ matrix, eps=1e-6)
            u = functional.normalize(v @ matrix.T, eps=1e-6)
            if self.training:
                self.u0.copy_(u)
        return self.weight / (v @ matrix.T @ u.T).squeeze()


class Conv(nn.Conv2d, Spectral):
    """A convolution that keeps the size."""

    def __init__(self, inputs: int, outputs: int, size: int, bias: bool = True):
        super().__init__(inputs, outputs, size, padding=size // 2, bias=bias)
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
    """An embedding of classes."""

    def __init__(self, classes: int, features: int):
        super().__init__(classes, features)
        self.remember()

    def forward(self, labels: Any) -> Any:
        return functional.embedding(labels, self.normalized())


class Norm(nn.Module):
    """Conditional batch norm."""

    def __init__(self, features: int, conditions: int):
        super().__init__()
        self.gain, self.bias = (Linear(conditions, features, bias=False) for _ in range(2))
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


class Attention(nn.Module):
    """Self-attention with keys and values of half the size."""

    def __init__(self, channels: int):
        super().__init__()
        self.theta, self.phi = (Conv(channels, channels // 8, 1, bias=False) for _ in range(2))
        self.g, self.o = (
            Conv(channels, channels // 2, 1, bias=False),
            Conv(channels // 2, channels, 1, bias=False),
        )
        self.gamma = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Any) -> Any:
        queries = self.theta(x).flatten(2)
        keys, values = (functional.max_pool2d(f(x), 2).flatten(2) for f in (self.phi, self.g))
        weights = functional.softmax(torch.bmm(queries.transpose(1, 2), keys), -1)
        seen = torch.bmm(values, weights.transpose(1, 2))
        return self.gamma * self.o(seen.view(len(x), -1, *x.shape[2:])) + x


class GeneratorBlock(nn.Module):
    """A residual block that doubles the size."""

    def __init__(self, inputs: int, features: int, conditions: int):
        super().__init__()
        self.bn1, self.bn2 = Norm(inputs, conditions), Norm(features, conditions)
        self.conv1, self.conv2 = Conv(inputs, features, 3), Conv(features, features, 3)
        self.conv_sc = Conv(inputs, features, 1)

    def forward(self, x: Any, y: Any) -> Any:
        h = functional.interpolate(functional.relu(self.bn1(x, y)), scale_factor=2)
        h = self.conv2(functional.relu(self.bn2(self.conv1(h), y)))
        return h + functional.interpolate(self.conv_sc(x), scale_factor=2)


class DiscriminatorBlock(nn.Module):
    """A residual block that halves or keeps the size."""

    def __init__(self, inputs: int, features: int, first: bool, down: bool):
        super().__init__()
        self.first, self.down = first, down
        self.conv1, self.conv2 = Conv(inputs, features, 3), Conv(features, features, 3)
        self.conv_sc = Conv(inputs, features, 1) if down or inputs != features else None

    def forward(self, x: Any) -> Any:
        h = self.conv1(x if self.first else functional.relu(x))
        h = self.conv2(functional.relu(h))
        if self.down:
            h, x = functional.avg_pool2d(h, 2), functional.avg_pool2d(x, 2)
        return h + (x if self.conv_sc is None else self.conv_sc(x))


class Generator(nn.Module):
    """The generator, from noise and classes to images."""

    def __init__(self, config: biggan.BigganConfig, spec: ImageSpec):
        super().__init__()
        halvings, self.size = base_resolution(spec)
        player = config.generator
        self.widths = [player.features * width for width in biggan.GENERATOR_WIDTHS[halvings]]
        self.classes, self.parts = spec.classes, halvings + 1 if config.hierarchical else 1
        part = config.latent_size // self.parts
        if config.shared_size:
            self.shared = nn.Embedding(spec.classes, config.shared_size)
        conditions = config.shared_size or spec.classes
        conditions += part if config.hierarchical else 0
        self.linear = Linear(part, self.size[0] * self.size[1] * self.widths[0])
        blocks, inputs = [], self.widths[0]
        for i, width in enumerate(self.widths):
            layers: list[Any] = [GeneratorBlock(inputs, width, conditions)]
            if self.size[0] << (i + 1) in player.attention_resolutions:
                layers.append(Attention(width))
            blocks.append(nn.ModuleList(layers))
            inputs = width
        self.blocks = nn.ModuleList(blocks)
        end = (PlainNorm(inputs), nn.ReLU(), Conv(inputs, spec.channels, 3))
        self.output_layer = nn.Sequential(*end)

    def forward(self, z: Any, labels: Any) -> Any:
        has_shared = hasattr(self, "shared")
        y = self.shared(labels) if has_shared else functional.one_hot(labels, self.classes).float()
        conditions = [y] * len(self.widths)
        if self.parts > 1:
            z, *parts = z.chunk(self.parts, 1)
            conditions = [torch.cat([y, part], 1) for part in parts]
        x = self.linear(z).view(len(z), -1, *self.size)
        for (block, *attention), condition in zip(self.blocks, conditions, strict=True):
            x = block(x, condition)
            for layer in attention:
                x = layer(x)
        return torch.tanh(self.output_layer(x))


class Discriminator(nn.Module):
    """The discriminator, from images and classes to logits."""

    def __init__(self, config: biggan.BigganConfig, spec: ImageSpec):
        super().__init__()
        halvings, _ = base_resolution(spec)
        player, size = config.discriminator, spec.height
        small = halvings <= biggan.SMALL_UP_TO
        downs = min(halvings, biggan.SMALL_HALVINGS) if small else halvings
        blocks, inputs = [], spec.channels
        for i, width in enumerate(biggan.DISCRIMINATOR_WIDTHS[halvings]):
            width *= player.features
            layers: list[Any] = [DiscriminatorBlock(inputs, width, i == 0, i < downs)]
            size = size // 2 if i < downs else size
            if size in player.attention_resolutions:
                layers.append(Attention(width))
            blocks.append(nn.ModuleList(layers))
            inputs = width
        self.blocks = nn.ModuleList(blocks)
        self.linear, self.embed = Linear(inputs, 1), Embedding(spec.classes, inputs)

    def forward(self, x: Any, labels: Any) -> Any:
        for block, *attention in self.blocks:
            x = block(x)
            for layer in attention:
                x = layer(x)
        h = functional.relu(x).sum((2, 3))
        return self.linear(h)[:, 0] + (self.embed(labels) * h).sum(1)


class Trainer:
    """The steps of both players."""

    def __init__(
        self, config: biggan.BigganConfig, generator: Any, discriminator: Any, compiled: bool
    ):
        self._config = config
        self._adams = (
            Optimizer(generator.parameters(), config.generator),
            Optimizer(discriminator.parameters(), config.discriminator),
        )
        # Weights that G's regularization covers: all but those of the shared embedding.
        self._weights = [
            layer.weight
            for layer in generator.modules()
            if isinstance(layer, nn.Conv2d | nn.Linear)
        ]
        self._average = Average(generator, config.ema_decay)
        self._generator, self._discriminator = map(compiler(compiled), (generator, discriminator))

    def discriminator_step(self, real: Any, z: Any, labels: Any) -> Any:
        """Take a step by the hinge loss, with real and generated images in one batch."""
        with mixed(self._config.dtype):
            with torch.no_grad():
                fake = self._generator(z, labels)
            images, both = torch.cat([real, fake]), torch.cat([labels, labels])
            on_real, on_fake = self._discriminator(images, both).float().chunk(2)
        loss = functional.relu(1 - on_real).mean() + functional.relu(1 + on_fake).mean()
        self._adams[1].minimize(loss)
        return loss

    def generator_step(self, z: Any, labels: Any) -> Any:
        """Take a step of G and its moving average; return the loss without the regularization."""
        with mixed(self._config.dtype):
            loss = -self._discriminator(self._generator(z, labels), labels).float().mean()
        total = loss
        if self._config.orthogonal_weight:
            penalties = []
            for weight in self._weights:
                products = weight.flatten(1) @ weight.flatten(1).T
                off = products * (1 - torch.eye(len(products), device=products.device))
                penalties.append(off.square().sum() / 2)
            total = loss + self._config.orthogonal_weight * torch.stack(penalties).sum()
        self._adams[0].minimize(total)
        self._average.update()
        return loss


def counterpart(
    config: biggan.BigganConfig, spec: ImageSpec, batch_size: int, compiled: bool
) -> Counterpart:
    """Make the counterpart of a conditional config that is not deep and has the hinge loss."""
    require(config, deep=False, loss="hinge", conditional=True, ema_start=0, **NO_PENALTIES)
    generator, discriminator = map(place, (Generator(config, spec), Discriminator(config, spec)))
    trainer = Trainer(config, generator, discriminator, compiled)

    def step(index: int, images: Any, labels: Any) -> Any:
        shape = (batch_size, config.latent_size)
        loss = trainer.discriminator_step(scaled(images), torch.randn(shape, device=DEVICE), labels)
        if (index + 1) % config.discriminator_steps == 0:
            trainer.generator_step(torch.randn(shape, device=DEVICE), labels)
        return loss

    return Counterpart(lambda: check(config, spec), step)


def check(config: biggan.BigganConfig, spec: ImageSpec) -> None:
    """Check the losses of a step of each player."""
    config = dataclasses.replace(config, dtype="float32")
    generator, discriminator = Generator(config, spec), Discriminator(config, spec)
    for layer in (*generator.modules(), *discriminator.modules()):
        if isinstance(layer, Spectral):
            for _ in range(SETTLED):
                layer.normalized()
        elif isinstance(layer, Attention):
            nn.init.constant_(layer.gamma, 0.5)
    players = {"G": generator, "D": discriminator}
    arrays = {
        f"{letter}.{name}": array
        for letter, player in players.items()
        for name, array in to_numpy(player).items()
    }
    variables = interop.load(config, spec, arrays)
    state = biggan.from_variables(config, spec, variables)
    rng = np.random.default_rng(1)
    real = draw_images(spec, CHECKED_IMAGES)
    zs = rng.normal(size=(2, CHECKED_IMAGES, config.latent_size)).astype(np.float32)
    labels = rng.integers(0, spec.classes, CHECKED_IMAGES)

    @jax.jit
    def ours(state: Any, real: jax.Array, zs: jax.Array, labels: jax.Array) -> dict[str, Any]:
        state, d_metrics = biggan.discriminator_step(config, state, real, zs[0], labels)
        _, g_metrics = biggan.generator_step(config, state, zs[1], labels)
        return {"d_loss": d_metrics["d_loss"], "g_loss": g_metrics["g_loss"]}

    trainer = Trainer(config, generator, discriminator, compiled=False)
    z_d, z_g = torch.from_numpy(zs)
    theirs = {
        "d_loss": trainer.discriminator_step(nchw(real), z_d, torch.from_numpy(labels)),
        "g_loss": trainer.generator_step(z_g, torch.from_numpy(labels)),
    }
    assert_losses_agree(ours(state, real, zs, labels), theirs, loose=["g_loss"])
