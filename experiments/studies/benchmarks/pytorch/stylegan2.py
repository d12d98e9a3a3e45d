"""StyleGAN2 in plain PyTorch, as a counterpart of `genjax.models.stylegan2`."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
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
    scaled,
    to_numpy,
)
from genjax.interop import stylegan2 as interop
from genjax.models import stylegan2
from genjax.nn.resolution import base_resolution
from genjax.nn.style import num_style_layers
from genjax.objectives.penalties import path_lengths, r1_penalty
from genjax.types import ImageSpec

CHECKED_IMAGES = 8


def blur(x: Any, up: int = 1, down: int = 1, padding: Any = (0, 0)) -> Any:
    """Apply the filter [1, 3, 3, 1] along both axes, with zeros inserted or samples left out."""
    n, c, h, w = x.shape
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device, dtype=x.dtype)
    taps = taps / taps.sum() * up
    if up > 1:
        x = functional.pad(x.reshape(n, c, h, 1, w, 1), [0, up - 1, 0, 0, 0, up - 1])
        x = x.reshape(n, c, h * up, w * up)
    x = functional.pad(x, [padding[0], padding[1]] * 2)
    x = functional.conv2d(x, taps.reshape(1, 1, 4, 1).expand(c, 1, 4, 1), groups=c)
    x = functional.conv2d(x, taps.reshape(1, 1, 1, 4).expand(c, 1, 1, 4), groups=c)
    return x[:, :, ::down, ::down]


def convolve(x: Any, w: Any, up: bool = False, down: bool = False) -> Any:
    """Convolve and resample like `genjax.nn.equalized.resampling_conv`."""
    size = w.shape[2]
    if up:
        x = functional.conv_transpose2d(x, w.transpose(0, 1), stride=2)
        return blur(x, padding=(1, 1)) * 4
    if down and size == 1:
        return functional.conv2d(blur(x, down=2, padding=(1, 1)), w)
    if down:
        return functional.conv2d(blur(x, padding=(2, 2)), w, stride=2)
    return functional.conv2d(x, w, padding=size // 2)


class Affine(nn.Module):
    """A dense layer of equalized learning rate."""

    def __init__(self, inputs: int, outputs: int, rate: float = 1.0, bias: float = 0.0):
        super().__init__()
        self.rate = rate
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full([outputs], bias / rate))

    def forward(self, x: Any) -> Any:
        weight = self.weight * (self.rate / x.shape[1] ** 0.5)
        return functional.linear(x, weight, self.bias * self.rate)


def act(x: Any, gain: float = 2**0.5) -> Any:
    """Apply leaky ReLU."""
    return functional.leaky_relu(x, 0.2) * gain


class Layer(nn.Module):
    """A layer of modulated convolution, noise, bias and leaky ReLU; or a layer to RGB."""

    def __init__(self, style: int, inputs: int, outputs: int, size: int, up: bool = False):
        super().__init__()
        self.up, self.rgb = up, size == 1
        self.affine = Affine(style, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self.bias = nn.Parameter(torch.zeros(outputs))
        if not self.rgb:
            self.noise_strength = nn.Parameter(torch.zeros([]))

    def forward(self, x: Any, w: Any, noise: Any = None) -> Any:
        styles = self.affine(w)
        bias = self.bias[:, None, None]
        if self.rgb:
            styles = styles / x.shape[1] ** 0.5
            return convolve(x * styles[:, :, None, None], self.weight) + bias
        scale = (styles.square() @ self.weight.square().sum((2, 3)).T + 1e-8).rsqrt()
        y = convolve(x * styles[:, :, None, None], self.weight, self.up)
        y = y * scale[:, :, None, None]
        return act(y + noise * self.noise_strength + bias)


class SynthesisBlock(nn.Module):
    """The layers of one size."""

    def __init__(self, style: int, inputs: int, outputs: int, channels: int):
        super().__init__()
        if not inputs:
            self.const = nn.Parameter(torch.randn(outputs, 4, 4))
        else:
            self.conv0 = Layer(style, inputs, outputs, 3, up=True)
        self.conv1 = Layer(style, outputs, outputs, 3)
        self.torgb = Layer(style, outputs, channels, 1)


class Mapping(nn.Module):
    """The mapping from noise [B, Z] to styles [B, W], with the running mean of styles."""

    def __init__(self, size: int, style: int, depth: int):
        super().__init__()
        self.depth = depth
        for i in range(depth):
            self.add_module(f"fc{i}", Affine(style if i else size, style, rate=0.01))
        self.register_buffer("w_avg", torch.zeros(style))

    def forward(self, z: Any) -> Any:
        w = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for i in range(self.depth):
            w = act(getattr(self, f"fc{i}")(w))
        self.w_avg.lerp_(w.detach().mean(0), 0.005)
        return w


class Generator(nn.Module):
    """The generator: noise to styles by `mapping`, styles and noise to images by `synthesize`."""

    def __init__(self, config: stylegan2.Stylegan2Config, spec: ImageSpec):
        super().__init__()
        player = config.generator
        self.mapping = Mapping(config.latent_size, config.style_size, player.mapping_layers)
        self.synthesis, inputs = nn.Module(), 0
        halvings, _ = base_resolution(spec)
        self.sizes = [4 << level for level in range(halvings + 1)]
        for level, at in enumerate(self.sizes):
            outputs = player.features(level)
            block = SynthesisBlock(config.style_size, inputs, outputs, spec.channels)
            self.synthesis.add_module(f"b{at}", block)
            inputs = outputs

    def synthesize(self, ws: Any, noise: Any) -> Any:
        """Map styles [B, L, W] and the noise of each convolution to images."""
        image, i = None, 0
        for at in self.sizes:
            block = getattr(self.synthesis, f"b{at}")
            if at == 4:
                x = block.const[None].expand(len(ws), -1, -1, -1)
            else:
                x, i = block.conv0(x, ws[:, i], noise[i]), i + 1
            x, i = block.conv1(x, ws[:, i], noise[i]), i + 1
            rgb = block.torgb(x, ws[:, i])
            image = rgb if image is None else blur(image, 2, padding=(2, 1)) + rgb
        return image


class Conv(nn.Module):
    """A convolution of equalized learning rate."""

    def __init__(self, inputs: int, outputs: int, size: int, down: bool = False, bias: bool = True):
        super().__init__()
        self.down = down
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def plain(self, x: Any) -> Any:
        """Convolve without bias and activation."""
        return convolve(x, self.weight / self.weight[0].numel() ** 0.5, down=self.down)

    def forward(self, x: Any, gain: float = 2**0.5) -> Any:
        y = self.plain(x)
        return act(y + self.bias[:, None, None], gain) if self.bias is not None else y * gain


def minibatch_std(x: Any, group: int) -> Any:
    """Append a feature: the standard deviation over the images of a group."""
    n, c, h, w = x.shape
    groups = x.reshape(group, -1, c, h, w)
    std = (groups.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
    return torch.cat([x, std.repeat(group).reshape(n, 1, 1, 1).expand(n, 1, h, w)], 1)


class Discriminator(nn.Module):
    """The discriminator, from images to logits."""

    def __init__(self, config: stylegan2.Stylegan2Config, spec: ImageSpec):
        super().__init__()
        player = config.discriminator
        halvings, _ = base_resolution(spec)
        self.group = config.minibatch_std_group_size
        self.sizes = [4 << level for level in range(halvings, 0, -1)]
        outside = player.features(0)
        for level, at in zip(range(halvings, 0, -1), self.sizes, strict=True):
            inside, outside = player.features(level), player.features(level - 1)
            block = nn.Module()
            if level == halvings:
                block.fromrgb = Conv(spec.channels, inside, 1)
            block.conv0, block.conv1 = Conv(inside, inside, 3), Conv(inside, outside, 3, down=True)
            block.skip = Conv(inside, outside, 1, down=True, bias=False)
            self.add_module(f"b{at}", block)
        self.b4 = nn.Module()
        self.b4.conv = Conv(outside + 1, outside, 3)
        self.b4.fc, self.b4.out = Affine(outside * 16, outside), Affine(outside, 1)

    def forward(self, x: Any) -> Any:
        for at in self.sizes:
            block = getattr(self, f"b{at}")
            if at == self.sizes[0]:
                x = block.fromrgb(x)
            x = block.conv1(block.conv0(x), gain=1.0) + block.skip(x, gain=0.5**0.5)
        x = minibatch_std(x, self.group)
        return self.b4.out(act(self.b4.fc(self.b4.conv(x).flatten(1))))[:, 0]


def mixed_styles(style: Any, size: tuple[int, int], layers: int, share: float) -> Any:
    """Draw styles [n, L, W]; a part of them has a second style from a random layer on."""
    ws = style(torch.randn(size, device=DEVICE))[:, None].repeat(1, layers, 1)
    if not share:
        return ws
    other = style(torch.randn(size, device=DEVICE))[:, None]
    cut = torch.randint(1, layers, (size[0], 1, 1), device=DEVICE)
    is_mixed = torch.rand(size[0], 1, 1, device=DEVICE) < share
    is_other = torch.arange(layers, device=DEVICE)[None, :, None] >= cut
    return torch.where(is_mixed & is_other, other, ws)


class Trainer:
    """The four losses, and a whole step."""

    def __init__(
        self,
        config: stylegan2.Stylegan2Config,
        spec: ImageSpec,
        generator: Any,
        discriminator: Any,
        compiled: bool,
    ):
        self._config, self._module = config, generator
        self._levels = [level for level, _ in stylegan2.convolutions(spec)]
        self._layers = num_style_layers(spec)
        share = config.path_length_interval / (config.path_length_interval + 1)
        self._g_adam = Optimizer(generator.parameters(), _slower(config.generator, share))
        share = config.r1_interval / (config.r1_interval + 1)
        self._d_adam = Optimizer(discriminator.parameters(), _slower(config.discriminator, share))
        self._average = Average(generator, 0.999)
        compile_ = compiler(compiled)
        self._synthesize = compile_(generator.synthesize)
        self._style, self._judge = compile_(generator.mapping), compile_(discriminator)
        self.mean_length = torch.tensor(0.0, device=DEVICE)

    def styles(self, n: int) -> Any:
        """Draw styles [n, L, W] of new noise, part of them mixed."""
        size = (n, self._config.latent_size)
        return mixed_styles(self._style, size, self._layers, self._config.style_mixing_prob)

    def noise(self, n: int) -> list[Any]:
        """Draw the noise of each convolution."""
        return [torch.randn(n, 1, 4 << i, 4 << i, device=DEVICE) for i in self._levels]

    def generator_loss(self, ws: Any, noise: Any) -> Any:
        """Compute the non-saturating loss of the generator."""
        with mixed(self._config.dtype):
            logits = self._judge(self._synthesize(ws, noise))
        return functional.softplus(-logits.float()).mean()

    def path_lengths(self, ws: Any, noise: Any, directions: Any) -> Any:
        """Compute the path lengths, [B]."""
        with mixed(self._config.dtype):
            fake = self._synthesize(ws, noise).float()
        total = (fake * directions).sum() / (fake.shape[2] * fake.shape[3]) ** 0.5
        (grads,) = torch.autograd.grad(total, ws, create_graph=True)
        return grads.square().sum(2).mean(1).sqrt()

    def discriminator_loss(self, real: Any, ws: Any, noise: Any) -> Any:
        """Compute the loss of the discriminator."""
        with mixed(self._config.dtype):
            with torch.no_grad():
                fake = self._synthesize(ws, noise)
            on_fake, on_real = self._judge(fake).float(), self._judge(real).float()
        return (functional.softplus(on_fake) + functional.softplus(-on_real)).mean()

    def r1(self, real: Any) -> Any:
        """Compute the R1 penalty: half the mean squared norm of D's gradient at images."""
        real = real.detach().requires_grad_(True)
        with mixed(self._config.dtype):
            total = self._judge(real).float().sum()
        (grads,) = torch.autograd.grad(total, real, create_graph=True)
        return 0.5 * grads.square().sum((1, 2, 3)).mean()

    def step(self, index: int, real: Any) -> Any:
        """Take a step of each player, and of each penalty that is due at this step."""
        config, n = self._config, len(real)
        self._g_adam.minimize(self.generator_loss(self.styles(n), self.noise(n)))
        if config.path_length_weight and index % config.path_length_interval == 0:
            few = max(1, n // stylegan2.PATH_LENGTH_SHRINK)
            lengths = self.path_lengths(
                self.styles(few), self.noise(few), torch.randn_like(real[:few])
            )
            change = lengths.detach().mean() - self.mean_length
            self.mean_length = self.mean_length + config.path_length_decay * change
            weight = config.path_length_weight * config.path_length_interval
            self._g_adam.minimize(weight * (lengths - self.mean_length).square().mean())
        with torch.no_grad():
            ws = self.styles(n)
        loss = self.discriminator_loss(real, ws, self.noise(n))
        self._d_adam.minimize(loss)
        if config.r1_gamma and index % config.r1_interval == 0:
            self._d_adam.minimize(config.r1_gamma * config.r1_interval * self.r1(real))
        self._average.update()
        return loss


def _slower(player: stylegan2.PlayerConfig, share: float) -> stylegan2.PlayerConfig:
    """Return the optimizer with the changes for lazy regularization."""
    return dataclasses.replace(
        player,
        learning_rate=player.learning_rate * share,
        beta1=player.beta1**share,
        beta2=player.beta2**share,
    )


def _require(config: stylegan2.Stylegan2Config, spec: ImageSpec) -> None:
    # Without classes in the data `conditional` asks for nothing.
    if spec.classes:
        require(config, conditional=False)
    require(config, augment="none", conv_clamp=0.0)
    require(config.generator, architecture="skip")
    require(config.discriminator, architecture="residual")


def counterpart(
    config: stylegan2.Stylegan2Config, spec: ImageSpec, batch_size: int, compiled: bool
) -> Counterpart:
    """Make the counterpart of an unconditional config without augmentation or clamping.

    G has skip connections and D has residual ones.

    Convolutions are modulated as ours, by scaling inputs and outputs, which is PyTorch's faster
    way on a CPU too.
    """
    del batch_size
    _require(config, spec)
    generator, discriminator = map(place, (Generator(config, spec), Discriminator(config, spec)))
    trainer = Trainer(config, spec, generator, discriminator, compiled)
    return Counterpart(
        lambda: check(config, spec),
        lambda index, images, labels: trainer.step(index, scaled(images)),
    )


def check(config: stylegan2.Stylegan2Config, spec: ImageSpec) -> None:
    """Check the losses of all four phases."""
    config = dataclasses.replace(config, dtype="float32")
    generator, discriminator = Generator(config, spec), Discriminator(config, spec)
    for name, value in generator.named_parameters():
        if name.endswith("noise_strength"):
            nn.init.constant_(value, 0.3)
    g_arrays, few = to_numpy(generator), CHECKED_IMAGES // 2
    rng = np.random.default_rng(0)
    noise = []
    for level, conv in stylegan2.convolutions(spec):
        size = 4 << level
        noise.append(rng.normal(size=(CHECKED_IMAGES, 1, size, size)).astype(np.float32))
        g_arrays[f"synthesis.b{size}.{conv}.noise_const"] = noise[-1][0, 0]
    arrays = {f"G.{name}": array for name, array in g_arrays.items()}
    arrays |= {f"D.{name}": array for name, array in to_numpy(discriminator).items()}
    variables = interop.load(config, spec, arrays)
    g_variables, d_params = variables["generator"], variables["discriminator"]["params"]
    ws = rng.normal(size=(CHECKED_IMAGES, num_style_layers(spec), config.style_size))
    ws = ws.astype(np.float32)
    z = rng.normal(size=(CHECKED_IMAGES, config.latent_size)).astype(np.float32)
    shape = (2, CHECKED_IMAGES, spec.channels, spec.height, spec.width)
    real, directions = rng.normal(size=shape).astype(np.float32)
    networks = stylegan2.networks(config, spec)

    @jax.jit
    def ours(params: Any, stats: Any, d_params: Any, ws: Any, noise: Any) -> dict[str, Any]:
        def draw(ws: jax.Array, noise: Any) -> Any:
            return networks[0].apply({"params": params}, ws, noise, method="synthesize")

        def discriminate(x: jax.Array) -> Any:
            return networks[1].apply({"params": d_params}, x, None)

        noise, images, ways = (
            jax.tree.map(lambda x: x.transpose(0, 2, 3, 1), each)
            for each in (noise, real, directions)
        )
        some = [each[:few] for each in noise]
        fake, on_real = draw(ws, noise), discriminate(images)
        lengths = path_lengths(lambda ws: draw(ws, some), ws[:few], ways[:few])
        variables = {"params": params, "batch_stats": stats}
        style: Any = networks[0].apply(variables, z, None, False, method="style")
        return {
            "g_loss": jnp.mean(jax.nn.softplus(-discriminate(fake))),
            "path_length": jnp.mean(lengths),
            "d_loss": jnp.mean(jax.nn.softplus(discriminate(fake)) + jax.nn.softplus(-on_real)),
            "r1_penalty": jnp.mean(r1_penalty(discriminate, images)),
            "style": jnp.mean(jnp.square(style)),
        }

    trainer = Trainer(config, spec, generator, discriminator, compiled=False)
    given = torch.from_numpy(ws).requires_grad_(True)
    noises = [torch.from_numpy(each) for each in noise]
    halves = [each[:few] for each in noises]
    theirs = {
        "g_loss": trainer.generator_loss(given, noises),
        "path_length": trainer.path_lengths(
            given[:few], halves, torch.from_numpy(directions[:few])
        ).mean(),
        "d_loss": trainer.discriminator_loss(torch.from_numpy(real), given, noises),
        "r1_penalty": trainer.r1(torch.from_numpy(real)),
        "style": generator.mapping(torch.from_numpy(z)).square().mean(),
    }
    values = ours(g_variables["params"], g_variables["batch_stats"], d_params, ws, noise)
    assert_losses_agree(values, theirs)
