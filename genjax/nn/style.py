"""Styles: the mapping network, their draws and noise, AdaIN and modulated convolutions."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.nn.batch import batch_noise, mean_over_replicas
from genjax.nn.equalized import Dense, leaky_relu, resampling_conv
from genjax.nn.precision import exact
from genjax.nn.resolution import base_resolution
from genjax.types import ImageSpec

EPSILON = 1e-8


def normalize(x: jax.Array) -> jax.Array:
    """Scale each vector to mean square 1 (Karras et al. 2018, section 4.2): [B, Z] -> [B, Z]."""
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + EPSILON)


class Mapping(nn.Module):
    """The mapping network: noise z [B, Z] and labels int32 [B], or one of them -> w [B, size].

    An MLP that learns slowly (Karras et al. 2019, figure 1); the embedding of a class is appended
    to z. With `track` the running mean of w, towards which styles are truncated, is `mean` in
    collection `batch_stats`; a pass with `train` updates it.

    Attributes:
        size: Features of w and of all layers.
        layers: Number of layers.
        classes: Number of classes of the labels.
        output: Features of the last layer; None for `size`.
        track: Whether the running mean of w is kept.
        momentum: Weight of the old mean in the new one.
        lr_multiplier: Learning rate relative to other layers.
    """

    size: int
    layers: int
    classes: int = 0
    output: int | None = None
    track: bool = True
    momentum: float = 0.995
    lr_multiplier: float = 0.01

    @nn.compact
    @exact()
    def __call__(self, z: jax.Array | None, labels: jax.Array | None, train: bool) -> jax.Array:
        parts = [] if z is None else [normalize(z)]
        if labels is not None:
            one_hot = jax.nn.one_hot(labels, self.classes)
            parts.append(normalize(Dense(self.size, name="embed")(one_hot)))
        w = jnp.concatenate(parts, axis=1)
        for i in range(self.layers):
            last = i == self.layers - 1
            size = self.output if last and self.output else self.size
            w = Dense(size, leaky_relu, lr_multiplier=self.lr_multiplier, name=f"fc{i}")(w)
        if self.track:
            mean = self.variable("batch_stats", "mean", jnp.zeros, w.shape[-1])
            if train and not self.is_initializing():
                batch = jax.lax.stop_gradient(mean_over_replicas(jnp.mean(w, axis=0)))
                mean.value = batch + self.momentum * (mean.value - batch)
        return w


def num_style_layers(spec: ImageSpec) -> int:
    """Return the number L of layers with a style of their own, two for each size.

    In StyleGAN they are convolutions; in StyleGAN2 the last is the layer to RGB, as the smallest
    size has one convolution only.
    """
    halvings, _ = base_resolution(spec)
    return 2 * (halvings + 1)


def broadcast(w: jax.Array, spec: ImageSpec) -> jax.Array:
    """Repeat a style for all layers: [B, W] -> [B, L, W]."""
    return jnp.broadcast_to(w[:, None], (w.shape[0], num_style_layers(spec), w.shape[1]))


def truncate(
    ws: jax.Array,
    mean: jax.Array,
    psi: float | jax.Array | None,
    cutoff: int | jax.Array | None = None,
) -> jax.Array:
    """Move styles towards their mean: `mean + psi (w - mean)` (Karras et al. 2019, appendix B).

    Args:
        ws: Styles, [B, L, W].
        mean: The mean style, [W].
        psi: 1 or None leaves the styles as they are, 0 gives the mean.
        cutoff: Number of layers to truncate, from the coarsest; None for all.

    Returns:
        [B, L, W].
    """
    if psi is None:
        return ws
    mean = mean.reshape(1, 1, -1)
    truncated = mean + psi * (ws - mean)
    if cutoff is None:
        return truncated
    is_cut = jnp.arange(ws.shape[1]) < cutoff
    return jnp.where(is_cut.reshape(1, -1, 1), truncated, ws)


def style_latents(
    generator: Any,
    variables: Any,
    latents: jax.Array,
    labels: jax.Array | None,
    psi: float | None,
    cutoff: int | None,
) -> jax.Array:
    """Map latents [n, Z] to styles [n, L, W] by the mapping of a generator, and truncate them.

    Args:
        generator: A module with a `spec`, and a method `style(z, labels, train)` to styles [n, W].
        variables: Its variables, with the mean style in the mapping's `batch_stats`.
        latents: [n, Z].
        labels: int32 [n] if conditional, else None.
        psi: See `truncate`.
        cutoff: See `truncate`.
    """
    w: Any = generator.apply(variables, latents, labels, False, method="style")
    mean = variables["batch_stats"]["mapping"]["mean"]
    return truncate(broadcast(w, generator.spec), mean, psi, cutoff)


def mix(key: jax.Array, ws: jax.Array, other: jax.Array, share: float, layers: int) -> jax.Array:
    """Replace the styles of some images by others, from a random layer on (style mixing).

    It keeps a layer from relying on the style of the others (Karras et al. 2019, section 3.1).

    Args:
        key: The PRNG key of the draws.
        ws: Styles, [B, L, W].
        other: Another style for each image, [B, W].
        share: Probability that an image gets two styles.
        layers: The random layer is among the first `layers`, but not the very first.

    Returns:
        [B, L, W].
    """
    cut_key, share_key = jax.random.split(key)
    batch, count, _ = ws.shape
    cut = 1 + jnp.floor(batch_noise(cut_key, (batch,), jax.random.uniform) * (layers - 1))
    is_mixed = batch_noise(share_key, (batch,), jax.random.uniform) < share
    cut = jnp.where(is_mixed, cut, count)
    is_first = jnp.arange(count).reshape(1, -1) < cut.reshape(-1, 1)
    return jnp.where(is_first[..., None], ws, other[:, None])


def draw_styles(
    style: Callable[[jax.Array], tuple[jax.Array, Any]],
    key: jax.Array,
    shape: tuple[int, int],
    spec: ImageSpec,
    share: float,
    layers: int | None = None,
) -> tuple[jax.Array, Any]:
    """Draw styles for training, some of them mixed of two.

    Args:
        style: Function from noise of `shape` to styles [n, W], and the variables that it updates.
        key: The PRNG key of the draws.
        shape: [n, Z].
        spec: The shape of the images.
        share: Probability that an image gets two styles; see `mix`.
        layers: The second style begins at one of the first `layers`; None for all.

    Returns:
        The styles, [n, L, W], and the updated variables.
    """
    z_key, other_key, mix_key = jax.random.split(key, 3)
    w, updated = style(batch_noise(z_key, shape))
    ws = broadcast(w, spec)
    if share:
        other, _ = style(batch_noise(other_key, shape))
        ws = mix(mix_key, ws, other, share, layers or num_style_layers(spec))
    return ws, updated


def draw_layer_noise(
    key: jax.Array, spec: ImageSpec, n: int, levels: Sequence[int]
) -> list[jax.Array]:
    """Draw noise for `n` images and a layer at each of `levels`, of which 0 is the smallest size.

    Returns:
        [n, H, W, 1] of each layer.
    """
    _, (height, width) = base_resolution(spec)
    return [
        batch_noise(jax.random.fold_in(key, i), (n, height << level, width << level, 1))
        for i, level in enumerate(levels)
    ]


def modulated_conv(
    x: jax.Array,
    kernel: jax.Array,
    styles: jax.Array,
    demodulate: bool = True,
    up: bool = False,
    down: bool = False,
) -> jax.Array:
    """Convolve each image with a kernel scaled by its style (Karras et al. 2020, section 2.2).

    The kernel of an image is `w'_kio = s_i w_kio`, with `demodulate` divided by its norm over k and
    i (equations 1 and 3). To scale the input by s and the output by the norm is equivalent, and
    needs one convolution for all images; with B kernels in groups it is several times slower
    (experiments/BENCHMARKS.md).

    Args:
        x: [B, H, W, I].
        kernel: [K, K, I, O], K odd; see `equalized.resampling_conv`.
        styles: The styles s, [B, I].
        demodulate: Whether to divide the kernel by its norm, which keeps the variance of x.
        up: Whether to double the size.
        down: Whether to halve the size.

    Returns:
        [B, H', W', O].
    """
    batch, channels = styles.shape
    y = resampling_conv(x * styles.reshape(batch, 1, 1, channels).astype(x.dtype), kernel, up, down)
    if demodulate:
        squares = jnp.sum(jnp.square(kernel.astype(jnp.float32)), axis=(0, 1))
        with exact():
            norms = jnp.square(styles.astype(jnp.float32)) @ squares
        scale = jax.lax.rsqrt(norms + EPSILON)
        y *= scale.reshape(batch, 1, 1, -1).astype(y.dtype)
    return y


def adain(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Apply adaptive instance normalization (AdaIN).

    Source: Huang and Belongie 2017; Karras et al. 2019, equation 1.

    Args:
        x: [B, H, W, C]; each feature of each image is normalized over its pixels.
        scale: The new standard deviations, [B, C].
        bias: The new means, [B, C].

    Returns:
        `scale (x - mean) / std + bias`, [B, H, W, C].
    """
    values = x.astype(jnp.float32)
    centred = values - jnp.mean(values, axis=(1, 2), keepdims=True)
    std = jnp.sqrt(jnp.mean(centred**2, axis=(1, 2), keepdims=True) + EPSILON)
    y = centred / std * scale[:, None, None] + bias[:, None, None]
    return y.astype(x.dtype)
