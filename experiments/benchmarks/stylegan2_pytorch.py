"""StyleGAN2's training step, phase by phase, beside the same networks in eager PyTorch.

    pip install -e '.[bench]'
    python experiments/benchmarks/stylegan2_pytorch.py

The four phases: G by its loss and by path lengths, D by its loss and by R1, at 32, 64 and 256
pixels, float32 (on a GPU also bfloat16 in genjax), with Adam; no style mixing, no augmentation.
A step is one of G and D, a quarter of a path length phase on half the batch, a sixteenth of an R1.
Phases alternate in one process, so that a change in the machine's speed meets both. Convolutions
are modulated in PyTorch as in genjax, by scaling inputs and outputs (`--fused`: by a kernel for
each image, in groups, as the authors do on GPUs).

First it is checked that both compute the same: from the same parameters, styles, noise and images
the losses of all four phases must agree.
"""

import argparse
import dataclasses
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from genjax.interop import stylegan2 as interop
from genjax.models import stylegan2
from genjax.objectives.penalties import path_lengths, r1_penalty
from genjax.types import ImageSpec

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Size: batch, channel_base, channel_max. 32 is that of `stylegan2_mnist`.
SHAPES = {32: (32, 512, 128), 64: (16, 2048, 128), 256: (4, 4096, 128)}
LATENT = 128
# How often each phase has its turn in a step.
SHARES = {"G main": 1.0, "G path": 1 / 4, "D main": 1.0, "D R1": 1 / 16}


def blur(x: Any, up: int = 1, down: int = 1, padding: Any = (0, 0)) -> Any:
    """The filter [1, 3, 3, 1] along both axes, with zeros put in or samples left out."""
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


def convolve(x: Any, w: Any, up: bool = False, down: bool = False, groups: int = 1) -> Any:
    """As `genjax.nn.equalized.resampling_conv`."""
    size = w.shape[2]
    if up:
        if groups > 1:
            out = w.shape[0] // groups
            w = w.reshape(groups, out, *w.shape[1:]).transpose(1, 2).flatten(0, 1)
        else:
            w = w.transpose(0, 1)
        x = functional.conv_transpose2d(x, w, stride=2, groups=groups)
        return blur(x, padding=(1, 1)) * 4
    if down and size == 1:
        return functional.conv2d(blur(x, down=2, padding=(1, 1)), w)
    if down:
        return functional.conv2d(blur(x, padding=(2, 2)), w, stride=2)
    return functional.conv2d(x, w, padding=size // 2, groups=groups)


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
    """Leaky ReLU."""
    return functional.leaky_relu(x, 0.2) * gain


class Layer(nn.Module):
    """A modulated convolution, noise, bias, leaky ReLU; or to RGB."""

    def __init__(self, inputs: int, outputs: int, size: int, up: bool = False, fused: bool = False):
        super().__init__()
        self.up, self.rgb, self.fused = up, size == 1, fused
        self.affine = Affine(LATENT, inputs, bias=1.0)
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
        if self.fused:
            weight = self.weight[None] * styles[:, None, :, None, None]
            weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
            y = x.reshape(1, -1, *x.shape[2:])
            y = convolve(y, weight.flatten(0, 1), self.up, groups=len(x))
            y = y.reshape(len(x), -1, *y.shape[2:])
        else:
            scale = (styles.square() @ self.weight.square().sum((2, 3)).T + 1e-8).rsqrt()
            y = convolve(x * styles[:, :, None, None], self.weight, self.up)
            y = y * scale[:, :, None, None]
        return act(y + noise * self.noise_strength + bias)


class SynthesisBlock(nn.Module):
    """One size."""

    def __init__(self, inputs: int, outputs: int, channels: int, fused: bool):
        super().__init__()
        if not inputs:
            self.const = nn.Parameter(torch.randn(outputs, 4, 4))
        else:
            self.conv0 = Layer(inputs, outputs, 3, up=True, fused=fused)
        self.conv1 = Layer(outputs, outputs, 3, fused=fused)
        self.torgb = Layer(outputs, channels, 1)


class Generator(nn.Module):
    """z to styles by `mapping`, styles and noise to images by `synthesize`."""

    def __init__(self, size: int, channels: int, base: int, most: int, fused: bool):
        super().__init__()
        self.mapping = nn.Module()
        self.mapping.fc0 = Affine(LATENT, LATENT, rate=0.01)
        self.mapping.fc1 = Affine(LATENT, LATENT, rate=0.01)
        self.synthesis, inputs = nn.Module(), 0
        self.sizes: list[int] = []
        while 4 << len(self.sizes) <= size:
            at = 4 << len(self.sizes)
            outputs = min(base // at, most)
            self.synthesis.add_module(f"b{at}", SynthesisBlock(inputs, outputs, channels, fused))
            self.sizes.append(at)
            inputs = outputs

    def style(self, z: Any) -> Any:
        """[B, Z] to [B, L, W]."""
        w = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        w = act(self.mapping.fc1(act(self.mapping.fc0(w))))
        return w[:, None].repeat(1, 2 * len(self.sizes), 1)

    def synthesize(self, ws: Any, noise: Any) -> Any:
        """[B, L, W] and noise of each convolution to images."""
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

    def forward(self, x: Any, gain: float = 2**0.5) -> Any:
        fan_in = self.weight[0].numel()
        y = convolve(x, self.weight / fan_in**0.5, down=self.down)
        return act(y + self.bias[:, None, None], gain) if self.bias is not None else y * gain


class Discriminator(nn.Module):
    """Images to logits."""

    def __init__(self, size: int, channels: int, base: int, most: int):
        super().__init__()
        self.sizes: list[int] = []
        while size > 4:
            inside, outside = min(base // size, most), min(base // (size // 2), most)
            block = nn.Module()
            if not self.sizes:
                block.fromrgb = Conv(channels, inside, 1)
            block.conv0, block.conv1 = Conv(inside, inside, 3), Conv(inside, outside, 3, down=True)
            block.skip = Conv(inside, outside, 1, down=True, bias=False)
            self.add_module(f"b{size}", block)
            self.sizes.append(size)
            size //= 2
        self.b4 = nn.Module()
        self.b4.conv = Conv(outside + 1, outside, 3)
        self.b4.fc, self.b4.out = Affine(outside * 16, outside), Affine(outside, 1)

    def forward(self, x: Any) -> Any:
        for at in self.sizes:
            block = getattr(self, f"b{at}")
            if at == self.sizes[0]:
                x = block.fromrgb(x)
            x = block.conv1(block.conv0(x), gain=1.0) + block.skip(x, gain=0.5**0.5)
        n, c, h, w = x.shape
        groups = x.reshape(4, -1, c, h, w)
        std = (groups.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
        x = torch.cat([x, std.repeat(4).reshape(n, 1, 1, 1).expand(n, 1, h, w)], 1)
        return self.b4.out(act(self.b4.fc(self.b4.conv(x).flatten(1))))[:, 0]


Phase = Callable[[Any, Any, Any, Any, Any], Any]


def pytorch_phases(generator: Any, discriminator: Any) -> dict[str, Phase]:
    """Each takes z, noise, real images, directions and the mean length, and gives its loss."""
    softplus = functional.softplus

    def g_main(z: Any, noise: Any, real: Any, directions: Any, mean: Any) -> Any:
        fake = generator.synthesize(generator.style(z), noise)
        return softplus(-discriminator(fake)).mean()

    def g_path(z: Any, noise: Any, real: Any, directions: Any, mean: Any) -> Any:
        half = len(z) // 2
        ws = generator.style(z[:half])
        fake = generator.synthesize(ws, [each[:half] for each in noise])
        total = (fake * directions[:half]).sum() / (fake.shape[2] * fake.shape[3]) ** 0.5
        (grads,) = torch.autograd.grad(total, ws, create_graph=True)
        lengths = grads.square().sum(2).mean(1).sqrt()
        return 8 * (lengths - mean).square().mean()

    def d_main(z: Any, noise: Any, real: Any, directions: Any, mean: Any) -> Any:
        with torch.no_grad():
            fake = generator.synthesize(generator.style(z), noise)
        return (softplus(discriminator(fake)) + softplus(-discriminator(real))).mean()

    def d_r1(z: Any, noise: Any, real: Any, directions: Any, mean: Any) -> Any:
        real = real.detach().requires_grad_(True)
        (grads,) = torch.autograd.grad(discriminator(real).sum(), real, create_graph=True)
        return 16 * 0.5 * grads.square().sum((1, 2, 3)).mean()

    return {"G main": g_main, "G path": g_path, "D main": d_main, "D R1": d_r1}


def config(base: int, most: int, dtype: str) -> stylegan2.Stylegan2Config:
    """That of the recipes, without style mixing."""
    player = stylegan2.PlayerConfig(channel_base=base, channel_max=most, mapping_layers=2)
    return stylegan2.Stylegan2Config(
        latent_size=LATENT,
        style_size=LATENT,
        style_mixing=0.0,
        r1_gamma=1.0,
        clamp=0.0,
        dtype=dtype,  # type: ignore[arg-type]
        generator=dataclasses.replace(player, architecture="skip"),
        discriminator=player,
    )


def check_same_losses(size: int, channels: int) -> None:
    """Both give the same losses of all phases from the same parameters and draws."""
    spec, ours = ImageSpec(size, size, channels), config(256, 32, "float32")
    generator = Generator(size, channels, 256, 32, fused=False)
    discriminator = Discriminator(size, channels, 256, 32)
    for name, value in generator.named_parameters():
        if name.endswith("noise_strength"):
            nn.init.constant_(value, 0.3)
    arrays = [
        {name: tensor.detach().numpy().copy() for name, tensor in player.state_dict().items()}
        for player in (generator, discriminator)
    ]
    rng = np.random.default_rng(0)
    levels = [level for level, _ in stylegan2.convolutions(spec)]
    noise = [rng.normal(size=(4, 1, 4 << i, 4 << i)).astype(np.float32) for i in levels]
    arrays[0]["mapping.w_avg"] = np.zeros(LATENT, np.float32)
    for (level, conv), values in zip(stylegan2.convolutions(spec), noise, strict=True):
        arrays[0][f"synthesis.b{4 << level}.{conv}.noise_const"] = values[0, 0]
    g_params = interop.load_generator(ours, spec, arrays[0])["params"]
    d_params = interop.load_discriminator(ours, spec, arrays[1])["params"]
    z = rng.normal(size=(4, LATENT)).astype(np.float32)
    real, directions = rng.normal(size=(2, 4, channels, size, size)).astype(np.float32)
    networks = stylegan2.networks(ours, spec)
    our_noise = [each.transpose(0, 2, 3, 1) for each in noise]
    images, our_directions = (x.transpose(0, 2, 3, 1) for x in (real, directions))

    @jax.jit
    def losses(g_params: Any, d_params: Any) -> list[jax.Array]:
        def draw(ws: jax.Array, noise: Any) -> Any:
            return networks[0].apply({"params": g_params}, ws, noise, method="synthesize")

        def judge(x: jax.Array) -> Any:
            return networks[1].apply({"params": d_params}, x, None)

        variables = {"params": g_params, "batch_stats": {"mapping": {"mean": jnp.zeros(LATENT)}}}
        w: Any = networks[0].apply(variables, z, None, False, method="style")
        ws = stylegan2.broadcast(w, spec)
        fake = draw(ws, our_noise)
        lengths = path_lengths(
            lambda ws: draw(ws, [each[:2] for each in our_noise]), ws[:2], our_directions[:2]
        )
        return [
            jnp.mean(jax.nn.softplus(-judge(fake))),
            8 * jnp.mean((lengths - 0.1) ** 2),
            jnp.mean(jax.nn.softplus(judge(fake)) + jax.nn.softplus(-judge(images))),
            16 * jnp.mean(r1_penalty(judge, images)),
        ]

    given: Any = [torch.from_numpy(z), [torch.from_numpy(each) for each in noise]]
    given += [torch.from_numpy(real), torch.from_numpy(directions), torch.tensor(0.1)]
    phases = pytorch_phases(generator, discriminator)
    for name, value in zip(phases, losses(g_params, d_params), strict=True):
        expected = phases[name](*given).item()
        np.testing.assert_allclose(float(value), expected, rtol=1e-4, err_msg=name)


def our_runners(size: int, channels: int, dtype: str) -> dict[str, Callable[[], float]]:
    """A function for each phase that runs it once and gives its seconds."""
    batch, base, most = SHAPES[size]
    spec, ours = ImageSpec(size, size, channels), config(base, most, dtype)
    state = jax.jit(lambda key: stylegan2.init(ours, key, spec))(jax.random.key(0))
    real = jax.random.normal(jax.random.key(1), (batch, *spec.shape))
    steps: dict[str, Callable[..., Any]] = {
        "G main": lambda state, real, key: stylegan2.generator_step(ours, state, key, None, batch),
        "G path": lambda state, real, key: stylegan2.path_length_step(
            ours, state, key, None, batch // 2
        ),
        "D main": lambda state, real, key: stylegan2.discriminator_step(
            ours, state, real, key, None
        ),
        "D R1": lambda state, real, key: stylegan2.r1_step(ours, state, real, key, None),
    }

    def runner(step: Callable[..., Any]) -> Callable[[], float]:
        compiled = jax.jit(step)
        key = jax.random.key(2)

        def timed() -> float:
            start = time.perf_counter()
            jax.block_until_ready(compiled(state, real, key))
            return time.perf_counter() - start

        timed()
        return timed

    return {name: runner(step) for name, step in steps.items()}


def pytorch_runners(size: int, channels: int, fused: bool) -> dict[str, Callable[[], float]]:
    """The same in PyTorch, with Adam."""
    batch, base, most = SHAPES[size]
    generator = Generator(size, channels, base, most, fused).to(DEVICE)
    discriminator = Discriminator(size, channels, base, most).to(DEVICE)
    adams = {
        name: torch.optim.Adam(player.parameters(), 0.0025, (0.0, 0.99))
        for name, player in (("G", generator), ("D", discriminator))
    }
    real = torch.randn(batch, channels, size, size, device=DEVICE)
    levels = [level for level, _ in stylegan2.convolutions(ImageSpec(size, size, channels))]

    def runner(name: str, phase: Phase) -> Callable[[], float]:
        def timed() -> float:
            start = time.perf_counter()
            noise = [torch.randn(batch, 1, 4 << i, 4 << i, device=DEVICE) for i in levels]
            z, mean = torch.randn(batch, LATENT, device=DEVICE), torch.tensor(0.1, device=DEVICE)
            for player in (generator, discriminator):
                player.requires_grad_((player is generator) == (name[0] == "G"))
            loss = phase(z, noise, real, torch.randn_like(real), mean)
            adams[name[0]].zero_grad()
            loss.backward()
            adams[name[0]].step()
            loss.item()
            return time.perf_counter() - start

        timed()
        return timed

    phases = pytorch_phases(generator, discriminator)
    return {name: runner(name, phase) for name, phase in phases.items()}


def main() -> None:
    """Run all in turn, print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="runs of each")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SHAPES))
    parser.add_argument("--fused", action="store_true", help="PyTorch's modulation, in groups")
    parser.add_argument("--dtype", default="float32", help="of genjax")
    arguments = parser.parse_args()
    print(f"{DEVICE}, Python {platform.python_version()}, jax {jax.__version__},")
    print(f"PyTorch {torch.__version__}")
    check_same_losses(16, 3)
    for size in arguments.sizes:
        channels = 1 if size == 32 else 3
        ours = our_runners(size, channels, arguments.dtype)
        theirs = pytorch_runners(size, channels, arguments.fused)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ours}
        for _ in range(arguments.rounds):
            for name in ours:
                times[name].append((ours[name](), theirs[name]()))
        batch, totals = SHAPES[size][0], []
        for name, pairs in times.items():
            medians = [statistics.median(values) for values in zip(*pairs, strict=True)]
            totals.append([SHARES[name] * seconds for seconds in medians])
            print_row(f"{size} pixels, batch {batch}, {name}", pairs, medians)
        whole = [sum(values) for values in zip(*totals, strict=True)]
        per_thousand = " and ".join(f"{1000 * seconds / batch:.1f}" for seconds in whole)
        print(
            f"{size} pixels, a step: {per_thousand} s per 1,000 images, {whole[1] / whole[0]:.2f}"
        )


def print_row(label: str, pairs: list[tuple[float, float]], medians: list[float]) -> None:
    """Milliseconds of both, and the ratio with its spread."""
    ratios = sorted(theirs / ours for ours, theirs in pairs)
    print(
        f"{label}: {1e3 * medians[0]:.0f} ms, PyTorch {1e3 * medians[1]:.0f} ms, "
        f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        flush=True,
    )


if __name__ == "__main__":
    main()
