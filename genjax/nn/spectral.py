"""Spectral normalization (Miyato et al. 2018): layers whose weight has largest singular value 1.

Each layer divides its weight W, seen as a matrix of outputs by inputs, by an estimate of its
largest singular value, from one step of the power iteration (their algorithm 1)

    v = W^T u / |W^T u|,  u' = W v / |W v|,  sigma = u'^T W v

that starts from the vector u of the training step before. Collection `spectral` holds `u`,
[outputs], and `sigma`, []; only a pass with `train` stores new ones. Gradients go through W, but
not through u and v. Norms below `epsilon` count as that. With `spectral_norm=False` a layer is a
plain one.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from genjax.nn.conv import conv
from genjax.nn.precision import exact

ORTHOGONAL = nn.initializers.orthogonal()
EPSILON = 1e-6


@exact()
def _normalized(module: "Dense | Conv | Embed", weight: jax.Array, train: bool) -> jax.Array:
    """Divide a weight [..., outputs] by its largest singular value; `module` keeps the state."""
    matrix = weight.reshape(-1, weight.shape[-1])

    def begin() -> jax.Array:
        return jax.random.normal(module.make_rng("params"), (weight.shape[-1],))

    vector = module.variable("spectral", "u", begin)
    value = module.variable("spectral", "sigma", jnp.ones, ())

    def unit(x: jax.Array) -> jax.Array:
        return x / jnp.maximum(jnp.linalg.norm(x), module.epsilon)

    fixed = lax.stop_gradient(matrix)
    v = unit(fixed @ vector.value)
    u = unit(v @ fixed)
    sigma = v @ matrix @ u
    if train and not module.is_initializing():
        vector.value, value.value = u, lax.stop_gradient(sigma)
    return weight / sigma


class Dense(nn.Module):
    """A dense layer: [..., I] -> [..., features]."""

    features: int
    use_bias: bool = True
    spectral_norm: bool = True
    epsilon: float = EPSILON
    kernel_init: nn.initializers.Initializer = ORTHOGONAL
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        if self.spectral_norm:
            kernel = _normalized(self, kernel, train)
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias.astype(self.dtype).reshape((1,) * (y.ndim - 1) + (-1,))
        return y


class Conv(nn.Module):
    """A convolution of stride 1 that keeps the size: [B, H, W, I] -> [B, H, W, features]."""

    features: int
    kernel_size: int
    use_bias: bool = True
    spectral_norm: bool = True
    epsilon: float = EPSILON
    kernel_init: nn.initializers.Initializer = ORTHOGONAL
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        if self.spectral_norm:
            kernel = _normalized(self, kernel, train)
        kernel, x = kernel.astype(self.dtype), x.astype(self.dtype)
        y = conv(x, kernel, padding=self.kernel_size // 2)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
        return y


class Embed(nn.Module):
    """An embedding of classes: labels int32 [B] -> [B, features]; W has a row for each class."""

    classes: int
    features: int
    spectral_norm: bool = True
    epsilon: float = EPSILON
    dtype: str = "float32"

    @nn.compact
    def __call__(self, labels: jax.Array, train: bool) -> jax.Array:
        embedding = self.param("embedding", ORTHOGONAL, (self.classes, self.features))
        if self.spectral_norm:
            embedding = _normalized(self, embedding.T, train).T
        return embedding.astype(self.dtype)[labels]
