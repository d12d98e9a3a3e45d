"""StyleGAN at its last stage in plain PyTorch, as a counterpart of `genjax.models.stylegan`."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax.traverse_util import flatten_dict
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
    scaled,
)
from experiments.studies.benchmarks.pytorch.stylegan2 import (
    Affine,
    Conv,
    Mapping,
    act,
    minibatch_std,
    mixed_styles,
)
from genjax.models import stylegan
from genjax.nn.resolution import base_resolution
from genjax.nn.style import broadcast, num_style_layers
from genjax.objectives.penalties import r1_penalty
from genjax.types import ImageSpec

CHECKED_IMAGES = 8


def blur(x: Any) -> Any:
    """Apply the filter [1, 2, 1] along both axes, at the same size."""
    channels = x.shape[1]
    taps = torch.tensor([0.25, 0.5, 0.25], device=x.device, dtype=x.dtype)
    rows = taps.reshape(1, 1, 3, 1).expand(channels, 1, 3, 1)
    x = functional.conv2d(x, rows, padding=(1, 0), groups=channels)
    return functional.conv2d(x, rows.transpose(2, 3), padding=(0, 1), groups=channels)


class Epilogue(nn.Module):
    """Noise, bias, leaky ReLU, AdaIN."""

    def __init__(self, features: int, style: int):
        super().__init__()
        self.noise_strength = nn.Parameter(torch.zeros(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.style = Affine(style, 2 * features)

    def forward(self, x: Any, w: Any, noise: Any) -> Any:
        x = x + noise * self.noise_strength[:, None, None] + self.bias[:, None, None]
        x = functional.leaky_relu(x, 0.2)
        scale, shift = self.style(w)[:, :, None, None].chunk(2, 1)
        var, mean = torch.var_mean(x, (2, 3), unbiased=False, keepdim=True)
        return (x - mean) * (var + 1e-8).rsqrt() * (1 + scale) + shift


class Generator(nn.Module):
    """The generator: noise to styles by `mapping`, styles and noise to images by `synthesize`."""

    def __init__(self, config: stylegan.StyleganConfig, spec: ImageSpec):
        super().__init__()
        halvings, (height, width) = base_resolution(spec)
        player, size = config.generator, config.style_size
        self.levels = halvings + 1
        self.mapping = Mapping(config.latent_size, size, config.mapping_layers)
        self.synthesis = nn.Module()
        self.synthesis.const = nn.Parameter(torch.randn(player.features(0), height, width))
        for i in range(self.levels):
            features, before = player.features(i), player.features(max(0, i - 1))
            if i:
                self.synthesis.add_module(f"conv0_{i}", Conv(before, features, 3, bias=False))
            self.synthesis.add_module(f"conv1_{i}", Conv(features, features, 3, bias=False))
            for j in range(2):
                self.synthesis.add_module(f"epilogue{j}_{i}", Epilogue(features, size))
        self.synthesis.add_module(f"to_rgb_{halvings}", ToRgb(features, spec.channels))

    def synthesize(self, ws: Any, noise: Any) -> Any:
        """Map styles [B, L, W] and the noise of each layer to images."""
        layers = self.synthesis
        x = layers.const[None].expand(len(ws), -1, -1, -1)
        for i in range(self.levels):
            if i:
                x = blur(functional.interpolate(x, scale_factor=2))
                x = getattr(layers, f"conv0_{i}").plain(x)
            x = getattr(layers, f"epilogue0_{i}")(x, ws[:, 2 * i], noise[2 * i])
            x = getattr(layers, f"conv1_{i}").plain(x)
            x = getattr(layers, f"epilogue1_{i}")(x, ws[:, 2 * i + 1], noise[2 * i + 1])
        return getattr(layers, f"to_rgb_{self.levels - 1}")(x)


class ToRgb(Conv):
    """The last convolution, without an activation."""

    def __init__(self, inputs: int, channels: int):
        super().__init__(inputs, channels, 1)

    def forward(self, x: Any, gain: float = 1.0) -> Any:
        assert self.bias is not None
        return self.plain(x) * gain + self.bias[:, None, None]


class Discriminator(nn.Module):
    """The discriminator, from images to logits."""

    def __init__(self, config: stylegan.StyleganConfig, spec: ImageSpec):
        super().__init__()
        halvings, (height, width) = base_resolution(spec)
        player = config.discriminator
        self.last, self.group = halvings, config.minibatch_std_group_size
        self.add_module(f"from_rgb_{halvings}", Conv(spec.channels, player.features(halvings), 1))
        for i in range(halvings, 0, -1):
            features = player.features(i)
            self.add_module(f"conv0_{i}", Conv(features, features, 3))
            self.add_module(f"conv1_{i}", Conv(features, player.features(i - 1), 3))
        features = player.features(0)
        self.conv0_0 = Conv(features + bool(self.group), features, 3)
        self.dense = Affine(features * height * width, features)
        self.output = Affine(features, 1)

    def forward(self, x: Any) -> Any:
        x = getattr(self, f"from_rgb_{self.last}")(x)
        for i in range(self.last, 0, -1):
            x = getattr(self, f"conv1_{i}")(blur(getattr(self, f"conv0_{i}")(x)))
            x = functional.avg_pool2d(x, 2)
        if self.group:
            x = minibatch_std(x, self.group)
        # Flat as ours is: features last.
        x = self.conv0_0(x).permute(0, 2, 3, 1).flatten(1)
        return self.output(act(self.dense(x)))[:, 0]


class Trainer:
    """The losses of both players, and a whole step."""

    def __init__(
        self,
        config: stylegan.StyleganConfig,
        spec: ImageSpec,
        generator: Any,
        discriminator: Any,
        compiled: bool,
    ):
        self._config, self._layers = config, num_style_layers(spec)
        _, (height, width) = base_resolution(spec)
        self._sizes = [(height << i // 2, width << i // 2) for i in range(self._layers)]
        self._adams = (
            Optimizer(generator.parameters(), config.generator),
            Optimizer(discriminator.parameters(), config.discriminator),
        )
        self._average = Average(generator, config.ema_decay)
        compile_ = compiler(compiled)
        self._synthesize = compile_(generator.synthesize)
        self._style, self._judge = compile_(generator.mapping), compile_(discriminator)

    def draw(self, n: int) -> tuple[Any, list[Any]]:
        """Draw styles, part of them mixed, and noise."""
        size = (n, self._config.latent_size)
        ws = mixed_styles(self._style, size, self._layers, self._config.style_mixing_prob)
        return ws, [torch.randn(n, 1, *size, device=DEVICE) for size in self._sizes]

    def discriminator_loss(self, real: Any, ws: Any, noise: Any) -> Any:
        """Compute the discriminator's loss, with R1 in each step."""
        real = real.detach().requires_grad_(True)
        with mixed(self._config.dtype):
            with torch.no_grad():
                fake = self._synthesize(ws, noise)
            on_fake, on_real = self._judge(fake).float(), self._judge(real).float()
        loss = (functional.softplus(on_fake) + functional.softplus(-on_real)).mean()
        if not self._config.r1_gamma:
            return loss
        (grads,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
        penalty = 0.5 * grads.square().sum((1, 2, 3)).mean()
        return loss + self._config.r1_gamma * penalty

    def generator_loss(self, ws: Any, noise: Any) -> Any:
        """Compute the non-saturating loss of the generator."""
        with mixed(self._config.dtype):
            logits = self._judge(self._synthesize(ws, noise))
        return functional.softplus(-logits.float()).mean()

    def step(self, real: Any) -> Any:
        """Take a step of each player."""
        with torch.no_grad():
            drawn = self.draw(len(real))
        loss = self.discriminator_loss(real, *drawn)
        self._adams[1].minimize(loss)
        self._adams[0].minimize(self.generator_loss(*self.draw(len(real))))
        self._average.update()
        return loss


def counterpart(
    config: stylegan.StyleganConfig, spec: ImageSpec, batch_size: int, compiled: bool
) -> Counterpart:
    """Make the counterpart of any config at its last stage, with all layers."""
    del batch_size
    generator, discriminator = map(place, (Generator(config, spec), Discriminator(config, spec)))
    trainer = Trainer(config, spec, generator, discriminator, compiled)
    return Counterpart(
        lambda: check(config, spec), lambda index, images, labels: trainer.step(scaled(images))
    )


def _copy(params: Any, module: Any) -> None:
    """Copy our parameters to a module with our names, without the layers of other stages."""
    layouts = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,), 3: (2, 0, 1)}
    own = module.state_dict()
    for path, value in flatten_dict(params).items():
        *layers, leaf = path
        name = ".".join([*layers, "weight" if leaf == "kernel" else leaf])
        if name in own:
            own[name].copy_(torch.from_numpy(np.array(value).transpose(layouts[np.ndim(value)])))


def check(config: stylegan.StyleganConfig, spec: ImageSpec) -> None:
    """Check the losses of both players and the penalty."""
    config = dataclasses.replace(config, dtype="float32")
    state = stylegan.init(config, jax.random.key(0), spec)
    generator, discriminator = Generator(config, spec), Discriminator(config, spec)
    _copy(state.generator.params, generator)
    _copy(state.discriminator.params, discriminator)
    networks = stylegan.networks(config, spec)
    halvings, _ = base_resolution(spec)
    rng = np.random.default_rng(0)
    real = rng.normal(size=(CHECKED_IMAGES, *spec.shape)).astype(np.float32)
    z = rng.normal(size=(CHECKED_IMAGES, config.latent_size)).astype(np.float32)
    noise = stylegan.draw_noise(jax.random.key(1), spec, CHECKED_IMAGES)

    @jax.jit
    def ours(state: Any) -> dict[str, Any]:
        g_params, d_params = state.generator.params, state.discriminator.params

        def discriminate(images: jax.Array) -> Any:
            return networks[1].apply({"params": d_params}, images, halvings, jnp.ones(()))

        variables = {"params": g_params, "batch_stats": state.generator.stats}
        w: Any = networks[0].apply(variables, z, None, False, method="style")
        given = (broadcast(w, spec), noise, halvings, jnp.ones(()))
        fake: Any = networks[0].apply(variables, *given, method="synthesize")
        images = jnp.asarray(real)
        loss = jnp.mean(
            jax.nn.softplus(discriminate(fake)) + jax.nn.softplus(-discriminate(images))
        )
        loss += config.r1_gamma * jnp.mean(r1_penalty(discriminate, images))
        return {"d_loss": loss, "g_loss": jnp.mean(jax.nn.softplus(-discriminate(fake)))}

    trainer = Trainer(config, spec, generator, discriminator, compiled=False)
    ws = generator.mapping(torch.from_numpy(z))[:, None].repeat(1, num_style_layers(spec), 1)
    noises = [torch.from_numpy(np.array(each).transpose(0, 3, 1, 2)) for each in noise]
    images = torch.from_numpy(real.transpose(0, 3, 1, 2).copy())
    theirs = {
        "d_loss": trainer.discriminator_loss(images, ws, noises),
        "g_loss": trainer.generator_loss(ws, noises),
    }
    assert_losses_agree(ours(state), theirs)
