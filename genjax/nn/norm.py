"""Normalization."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.nn.replicas import mean_over_replicas, number_of_replicas


class BatchNorm(nn.Module):
    """Batch normalization over the global batch (Ioffe and Szegedy 2015, algorithm 1).

    [B, ..., C] -> [B, ..., C], normalized in float32 whatever the type of the input. With `train`
    the statistics are the batch's, and the running ones in collection `batch_stats` follow them;
    without, the running ones are used. As in PyTorch the running variance is the unbiased estimate.

    Attributes:
        momentum: Share of the new batch in the running statistics.
        epsilon: Added to the variance.
        scale_init: Of the gain; the bias begins at 0.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        features = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, features)
        running_var = self.variable("batch_stats", "var", jnp.ones, features)
        scale = self.param("scale", self.scale_init, (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        if train:
            axes = tuple(range(x.ndim - 1))
            values = x.astype(jnp.float32)
            mean = mean_over_replicas(jnp.mean(values, axes))
            var = mean_over_replicas(jnp.mean(jnp.square(values - along_last(mean, x)), axes))
            if not self.is_initializing():
                count = number_of_replicas() * x.size // features
                for running, new in (
                    (running_mean, mean),
                    (running_var, var * count / (count - 1)),
                ):
                    running.value = (1 - self.momentum) * running.value + self.momentum * new
        else:
            mean, var = running_mean.value, running_var.value
        scale = scale * jax.lax.rsqrt(var + self.epsilon)
        y = (x - along_last(mean, x)) * along_last(scale, x) + along_last(bias, x)
        return y.astype(x.dtype)


def along_last(values: jax.Array, x: jax.Array) -> jax.Array:
    """[C] as [1, ..., C], of the rank of `x`."""
    return values.reshape((1,) * (x.ndim - 1) + values.shape)
