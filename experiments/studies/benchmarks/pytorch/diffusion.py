"""Diffusion in PyTorch, as a counterpart of `genjax.models.diffusion`: diffusers' U-Net."""

import dataclasses
from typing import Any

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import optax
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
    draw_images,
    mixed,
    nchw,
    place,
    require,
    to_numpy,
)
from genjax.interop import diffusion as interop
from genjax.models import diffusion
from genjax.objectives.paths import linear_betas, mix, squared_error
from genjax.types import ImageSpec, UsageError

CHECKED_IMAGES = 8
# Path and prediction of the configs that there is a counterpart of.
KINDS = {"straight": "velocity", "linear": "noise"}


class Model(nn.Module):
    """The U-Net and the path, from data, noise and draws in [0, 1], for the level, to the loss."""

    def __init__(self, config: diffusion.DiffusionConfig, spec: ImageSpec):
        super().__init__()
        network, seen = config.network, config.network.seen(spec)
        heights = [seen.height >> level for level in range(len(network.features))]
        attended = ["Attn" * (height in network.attention_sizes) for height in heights]
        self.patches = network.patches
        self.unet: Any = diffusers.UNet2DModel(
            sample_size=(seen.height, seen.width),
            in_channels=seen.channels,
            out_channels=seen.channels,
            block_out_channels=network.features,
            layers_per_block=network.blocks,
            down_block_types=[f"{kind}DownBlock2D" for kind in attended],
            up_block_types=[f"{kind}UpBlock2D" for kind in reversed(attended)],
            attention_head_dim=network.head_size or None,
            norm_num_groups=network.groups,
            norm_eps=network.epsilon,
            dropout=network.dropout,
            freq_shift=network.frequency_shift,
            flip_sin_to_cos=network.cosine_first,
            downsample_padding=int(network.symmetric_padding),
        )
        self.is_straight = config.path == "straight"
        betas = linear_betas(config.time_steps, config.beta_start, config.beta_end)
        kept = torch.from_numpy(np.cumprod(1 - betas)).float()
        self.register_buffer("alphas", kept.sqrt())
        self.register_buffer("sigmas", (1 - kept).sqrt())

    def forward(self, data: Any, noise: Any, uniform: Any) -> Any:
        if self.is_straight:
            alpha, sigma, time, target = uniform, 1 - uniform, 1000 * uniform, data - noise
        else:
            time = (uniform * len(self.alphas)).long()
            alpha, sigma, target = self.alphas[time], self.sigmas[time], noise
        x = alpha[:, None, None, None] * data + sigma[:, None, None, None] * noise
        x = functional.pixel_unshuffle(x, 2) if self.patches else x
        output = self.unet(x, time).sample.float()
        output = functional.pixel_shuffle(output, 2) if self.patches else output
        return (output - target).square().mean()


def counterpart(
    config: diffusion.DiffusionConfig, spec: ImageSpec, batch_size: int, compiled: bool
) -> Counterpart:
    """Make the counterpart of flow matching, or of DDPM, without classes."""
    require(config, conditional=False, min_snr=0.0)
    if config.path not in KINDS:
        raise UsageError(f"path = {config.path!r}: its PyTorch counterpart has {', '.join(KINDS)}")
    require(config, prediction=KINDS[config.path])
    module = place(Model(config, spec))
    adam = Optimizer(module.parameters(), config.optimizer)
    average = Average(module, config.ema_decay)
    forward = compiler(compiled)(module)
    is_normal = config.path == "straight" and config.time_sampling == "logit_normal"

    def step(index: int, images: Any, labels: Any) -> Any:
        del index, labels
        within: Any = 0.5
        if config.dequantization == "uniform":
            within = torch.rand(images.shape, device=DEVICE)
        data = (images + (within - 0.5)) / 127.5 - 1
        uniform = torch.rand(batch_size, device=DEVICE)
        if is_normal:
            uniform = torch.sigmoid(torch.randn(batch_size, device=DEVICE))
        with mixed(config.dtype):
            loss = forward(data, torch.randn_like(data), uniform)
        adam.minimize(loss)
        average.update()
        return loss

    return Counterpart(lambda: check(config, spec), step)


def check(config: diffusion.DiffusionConfig, spec: ImageSpec) -> None:
    """Check the loss and the norm of its gradient, without dropout."""
    config = dataclasses.replace(config, dtype="float32")
    module = Model(config, spec).eval()
    params = interop.FORMAT.load(config, spec, to_numpy(module.unet))
    data = draw_images(spec, CHECKED_IMAGES)
    rng = np.random.default_rng(1)
    noise = rng.normal(size=data.shape).astype(np.float32)
    uniform = rng.uniform(size=CHECKED_IMAGES).astype(np.float32)

    def ours(params: Any, data: jax.Array, noise: jax.Array) -> jax.Array:
        if config.path == "straight":
            level = diffusion.level_at(config, jnp.asarray(uniform))
        else:
            exact = diffusion.level_at(config, diffusion.angles(config))
            level = exact.in_float32()(jnp.asarray(uniform * config.time_steps, int))
        output = diffusion.apply(
            config, spec, params, mix(level, data, noise), level, jnp.zeros(CHECKED_IMAGES, int)
        )
        prediction = diffusion.prediction_of(config)
        return jnp.mean(squared_error(prediction, level, output, data, noise))

    value, gradient = jax.jit(jax.value_and_grad(ours))(params, data, noise)
    loss = module(nchw(data), nchw(noise), torch.from_numpy(uniform))
    loss.backward()
    norms = torch.stack([each.grad.norm() for each in module.parameters()])
    assert_losses_agree(
        {"loss": value, "grad_norm": optax.tree.norm(gradient)},
        {"loss": loss, "grad_norm": norms.norm()},
    )
