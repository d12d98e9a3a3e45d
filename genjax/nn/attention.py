"""Self-attention over the pixels of an image."""

import flax.linen as nn
import jax
import jax.numpy as jnp

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
