"""Self-attention over the pixels of an image."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.nn.norm import GroupNorm
from genjax.nn.remat import end_of_block
from genjax.nn.spectral import EPSILON, Conv


class SelfAttention(nn.Module):
    """The self-attention block of SAGAN (Zhang et al. 2019, section 3), as in BigGAN.

    [B, H, W, C] -> [B, H, W, C], C a multiple of 8, H and W even. Queries of C/8 features at each
    pixel attend to keys and values, of C/8 and C/2 features, which are pooled over 2x2 pixels. The
    result is added to the input times `gamma`, which begins at 0. `spectral_norm` and `epsilon` are
    those of its layers.
    """

    spectral_norm: bool = True
    epsilon: float = EPSILON
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        batch, height, width, channels = x.shape

        def project(x: jax.Array, features: int, name: str) -> jax.Array:
            conv = Conv(
                features,
                1,
                use_bias=False,
                spectral_norm=self.spectral_norm,
                epsilon=self.epsilon,
                dtype=self.dtype,
                name=name,
            )
            return conv(x, train)

        def pooled(x: jax.Array) -> jax.Array:
            return nn.max_pool(x, (2, 2), (2, 2)).reshape(batch, -1, x.shape[-1])

        queries = project(x, channels // 8, "theta").reshape(batch, height * width, -1)
        keys = pooled(project(x, channels // 8, "phi"))
        values = pooled(project(x, channels // 2, "g"))
        scores = jnp.einsum("bqc,bkc->bqk", queries, keys).astype(jnp.float32)
        weights = jax.nn.softmax(scores).astype(values.dtype)
        seen = jnp.einsum("bqk,bkc->bqc", weights, values).reshape(batch, height, width, -1)
        gamma = self.param("gamma", nn.initializers.zeros, ())
        return x + gamma.astype(x.dtype) * project(seen, channels, "o")


class AttentionBlock(nn.Module):
    """Self-attention after group norm, beside a shortcut (Ho et al. 2020, appendix B).

    [B, H, W, C] -> [B, H, W, C]. Each pixel's query attends to the keys and values of all pixels
    (Vaswani et al. 2017, section 3.2), in heads of neighbouring channels. What is added to the
    input begins at 0.

    Attributes:
        head_size: Channels of a head, a divisor of C; 0 for one head of all channels.
        groups: Number of groups of the norm.
        epsilon: The norm's `epsilon`.
        dtype: Compute type of the products; the softmax is float32.
    """

    head_size: int = 0
    groups: int = 32
    epsilon: float = 1e-6
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        size = self.head_size or channels
        uniform = nn.initializers.xavier_uniform()
        normed = GroupNorm(self.groups, self.epsilon, name="norm")(x)
        normed = normed.reshape(batch, height * width, channels)

        def heads(name: str) -> jax.Array:
            project = nn.Dense(channels, kernel_init=uniform, dtype=self.dtype, name=name)
            return project(normed).reshape(batch, height * width, channels // size, size)

        queries, keys, values = heads("query"), heads("key"), heads("value")
        scores = jnp.einsum("bqhc,bkhc->bhqk", queries, keys, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores / math.sqrt(size)).astype(values.dtype)
        seen = jnp.einsum("bhqk,bkhc->bqhc", weights, values).reshape(normed.shape)
        zeros = nn.initializers.zeros
        output = nn.Dense(channels, kernel_init=zeros, dtype=self.dtype, name="output")(seen)
        return end_of_block(x + output.reshape(x.shape))
