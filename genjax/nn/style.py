"""What sets the style of an image: the mapping network, AdaIN and modulated convolutions."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.nn.equalized import Dense, leaky_relu, resampling_conv
from genjax.nn.replicas import mean_over_replicas, uniform_for_batch

EPSILON = 1e-8


def normalize(x: jax.Array) -> jax.Array:
    """Each vector at a mean square of 1 (Karras et al. 2018, section 4.2): [B, Z] -> [B, Z]."""
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + EPSILON)


class Mapping(nn.Module):
    """Noise z [B, Z], labels int32 [B], either of them None -> styles w [B, size], float32.

    An MLP that learns slowly (Karras et al. 2019, figure 1); a class counts by an embedding beside
    z. With `track` the running mean of w, by which styles are truncated, is `mean` in collection
    `batch_stats`; with `train` it follows the batch.

    Attributes:
        size: Of w and of all layers.
        layers: How many.
        classes: Of the labels.
        output: Size of the last layer; None for `size`.
        track: Whether the mean of w is kept.
        momentum: Share of the old mean in the new one.
        lr_multiplier: Learning rate relative to that of other layers.
    """

    size: int
    layers: int
    classes: int = 0
    output: int | None = None
    track: bool = True
    momentum: float = 0.995
    lr_multiplier: float = 0.01

    @nn.compact
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


def truncate(
    ws: jax.Array,
    mean: jax.Array,
    psi: float | jax.Array | None,
    cutoff: int | jax.Array | None = None,
) -> jax.Array:
    """Styles nearer to their mean: `mean + psi (w - mean)` (Karras et al. 2019, appendix B).

    Args:
        ws: [B, L, W].
        mean: [W].
        psi: 1 or None leaves them, 0 gives the mean.
        cutoff: Layers that are truncated, from the coarsest; None for all.

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


def mix(key: jax.Array, ws: jax.Array, other: jax.Array, share: float, layers: int) -> jax.Array:
    """Styles of which a share of the images takes another from a random layer on.

    Style mixing (Karras et al. 2019, section 3.1) keeps a layer from relying on the others' style.

    Args:
        key: Of the draws.
        ws: [B, L, W].
        other: Of each image another style, [B, W].
        share: Probability that an image is of two styles.
        layers: The layer is one of the first so many, and not the first.

    Returns:
        [B, L, W].
    """
    cut_key, share_key = jax.random.split(key)
    batch, count, _ = ws.shape
    cut = 1 + jnp.floor(uniform_for_batch(cut_key, (batch,)) * (layers - 1))
    cut = jnp.where(uniform_for_batch(share_key, (batch,)) < share, cut, count)
    is_first = jnp.arange(count).reshape(1, -1) < cut.reshape(-1, 1)
    return jnp.where(is_first[..., None], ws, other[:, None])


def modulated_conv(
    x: jax.Array,
    kernel: jax.Array,
    styles: jax.Array,
    demodulate: bool = True,
    up: bool = False,
    down: bool = False,
) -> jax.Array:
    """A convolution whose kernel each image scales for itself (Karras et al. 2020, section 2.2).

    The kernel of an image is `w'_kio = s_i w_kio`, with `demodulate` over its norm over k and i
    (equations 1 and 3). Scaling the input by s and the output by the norm is the same, and one
    convolution of all images; as B kernels in groups it is several times slower
    (experiments/BENCHMARKS.md).

    Args:
        x: [B, H, W, I].
        kernel: [K, K, I, O], K odd; see `equalized.resampling_conv`.
        styles: s, [B, I].
        demodulate: Whether the outputs are brought back to the size of the inputs.
        up: Twice the size.
        down: Half the size.

    Returns:
        [B, H', W', O].
    """
    batch, channels = styles.shape
    y = resampling_conv(x * styles.reshape(batch, 1, 1, channels).astype(x.dtype), kernel, up, down)
    if demodulate:
        squares = jnp.sum(jnp.square(kernel.astype(jnp.float32)), axis=(0, 1))
        scale = jax.lax.rsqrt(jnp.square(styles.astype(jnp.float32)) @ squares + EPSILON)
        y *= scale.reshape(batch, 1, 1, -1).astype(y.dtype)
    return y


def adain(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Adaptive instance normalization (Huang and Belongie 2017; Karras et al. 2019, equation 1).

    Args:
        x: [B, H, W, C]; each feature of each image is normalized over its pixels.
        scale: [B, C].
        bias: [B, C].

    Returns:
        `scale (x - mean) / std + bias`, [B, H, W, C].
    """
    values = x.astype(jnp.float32)
    centred = values - jnp.mean(values, axis=(1, 2), keepdims=True)
    std = jnp.sqrt(jnp.mean(centred**2, axis=(1, 2), keepdims=True) + EPSILON)
    y = centred / std * scale[:, None, None] + bias[:, None, None]
    return y.astype(x.dtype)
