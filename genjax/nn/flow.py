"""Layers of normalizing flows: linen modules with a forward function and a method `inverse`.

Both take x [B, H, W, C] and return `(y, log_det [B])`, as `transforms.from_module` expects.
"""

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.scipy.linalg import lu, solve_triangular

from genjax import transforms
from genjax.nn.batch import mean_over_replicas
from genjax.nn.conv import Conv, conv
from genjax.nn.labels import append_planes
from genjax.nn.norm import along_last
from genjax.nn.precision import exact
from genjax.nn.remat import end_of_block
from genjax.transforms import Bijection

Value = tuple[jax.Array, jax.Array]
Permutation = Literal["lu", "plain", "shuffle", "reverse"]


def _per_pixel(x: jax.Array, log_det: jax.Array) -> jax.Array:
    """Multiply the log-determinant of a map of one pixel, [], by the number of pixels: [B]."""
    return jnp.full(x.shape[0], x.shape[1] * x.shape[2] * log_det, transforms.zero_log_det(x).dtype)


class ActNorm(nn.Module):
    """Actnorm, `scale * (x + loc)` for each channel (Kingma and Dhariwal 2018, section 3.1).

    x [B, H, W, C] -> [B, H, W, C] and log-det [B].
    `actnorm_params` computes the initial values from the first batch.

    Attributes:
        features: Number of channels C.
    """

    features: int

    def setup(self) -> None:
        self.loc = self.param("loc", nn.initializers.zeros, (self.features,))
        self.scale = self.param("scale", nn.initializers.ones, (self.features,))

    def _log_det(self, x: jax.Array) -> jax.Array:
        return _per_pixel(x, jnp.sum(jnp.log(jnp.abs(self.scale))))

    def __call__(self, x: jax.Array) -> Value:
        return along_last(self.scale, x) * (x + along_last(self.loc, x)), self._log_det(x)

    def inverse(self, y: jax.Array) -> Value:
        """Return x, [B, H, W, C], for the value `y`, and the log-det of the inverse, [B]."""
        return y / along_last(self.scale, y) - along_last(self.loc, y), -self._log_det(y)


def actnorm_params(x: jax.Array) -> dict[str, jax.Array]:
    """Return the params by which `ActNorm` normalizes the channels of the batch x, [B, ..., C].

    Each channel of the output then has mean 0 and variance 1.
    """
    axes = tuple(range(x.ndim - 1))
    mean = mean_over_replicas(jnp.mean(x, axes))
    variance = mean_over_replicas(jnp.mean((x - along_last(mean, x)) ** 2, axes))
    # A channel that is constant in the batch keeps a finite gain.
    return {"loc": -mean, "scale": 1 / (jnp.sqrt(variance) + 1e-6)}


class InvertibleConv1x1(nn.Module):
    """An invertible 1x1 convolution: y = W x at each pixel (Kingma and Dhariwal 2018, section 3.2).

    x [B, H, W, C] -> [B, H, W, C] and log-det [B]. W is learned, from a random rotation at first,
    or a fixed permutation.

    Attributes:
        features: Number of channels C.
        kind: `lu`: `W = P L (U + diag(s))`, where P and the signs of s are fixed (equations 10 and
            11); `plain`: W itself, whose determinant costs C^3; `shuffle`: a random permutation;
            `reverse`: the reverse order.

    Its products are exact: no inverse can undo a rounding of the factors.
    """

    features: int
    kind: Permutation = "lu"

    def setup(self) -> None:
        # All parts of W come from one rotation. Only `init` calls the initializers below, so
        # afterwards any key will do.
        key = self.make_rng("params") if self.is_initializing() else jax.random.key(0)
        if self.kind == "lu":
            parts = functools.partial(_lu_of_rotation, key, self.features)
            self.permutation = self.variable("constants", "permutation", lambda: parts()[0])
            self.sign = self.variable("constants", "sign", lambda: parts()[1])
            self.lower = self.param("lower", lambda _: parts()[2])
            self.upper = self.param("upper", lambda _: parts()[3])
            self.log_scale = self.param("log_scale", lambda _: parts()[4])
        elif self.kind == "plain":
            self.kernel = self.param(
                "kernel", nn.initializers.orthogonal(), (self.features, self.features)
            )
        else:
            order = functools.partial(_order, self.kind, key, self.features)
            self.permutation = self.variable("constants", "permutation", order)

    def _factors(self) -> tuple[jax.Array, jax.Array]:
        """Return L and `U + diag(s)`, each [C, C]."""
        one = jnp.eye(self.features, dtype=self.lower.dtype)
        scale = self.sign.value * jnp.exp(self.log_scale)
        return jnp.tril(self.lower, -1) + one, jnp.triu(self.upper, 1) + one * scale[None]

    @exact()
    def weight(self) -> jax.Array:
        """Return W, [C, C]."""
        if self.kind == "plain":
            return self.kernel
        if self.kind == "lu":
            lower, upper = self._factors()
            return jnp.dot(self.permutation.value, jnp.dot(lower, upper))
        return self.permutation.value

    def _inverse_weight(self) -> jax.Array:
        if self.kind == "plain":
            return jnp.linalg.inv(self.kernel)
        if self.kind == "lu":
            lower, upper = self._factors()
            rest = solve_triangular(lower, self.permutation.value.T, lower=True, unit_diagonal=True)
            return solve_triangular(upper, rest)
        return self.permutation.value.T

    def _log_det(self, x: jax.Array) -> jax.Array:
        if self.kind == "plain":
            return _per_pixel(x, jnp.linalg.slogdet(self.kernel)[1])
        if self.kind == "lu":
            return _per_pixel(x, jnp.sum(self.log_scale))
        return transforms.zero_log_det(x)

    @exact()
    def __call__(self, x: jax.Array) -> Value:
        return jnp.dot(x, self.weight().T.astype(x.dtype)), self._log_det(x)

    @exact()
    def inverse(self, y: jax.Array) -> Value:
        """Return x, [B, H, W, C], for the value `y`, and the log-det of the inverse, [B]."""
        return jnp.dot(y, self._inverse_weight().T.astype(y.dtype)), -self._log_det(y)


def _lu_of_rotation(key: jax.Array, features: int) -> tuple[jax.Array, ...]:
    """Return P, the signs of s, L, U and log |s| of a random rotation."""
    permutation, lower, upper = lu(jax.random.orthogonal(key, features))
    scale = jnp.diag(upper)
    log_scale = jnp.log(jnp.abs(scale))
    return permutation, jnp.sign(scale), jnp.tril(lower, -1), jnp.triu(upper, 1), log_scale


def _order(kind: str, key: jax.Array, features: int) -> jax.Array:
    one = jnp.eye(features)
    return one[::-1] if kind == "reverse" else jax.random.permutation(key, one)


_BESIDE = ((0, 0), (1, 1), (1, 1), (0, 0))


class ZeroConv(nn.Module):
    """A 3x3 convolution that begins at 0, times a learned scale (Kingma and Dhariwal 2018, 3.3).

    [B, H, W, I] -> [B, H, W, features], float32. The input is padded with ones, so that the network
    can tell its border; the scale `exp(3 * log_scale)` lets the output grow fast.
    """

    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.zeros, shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        log_scale = self.param("log_scale", nn.initializers.zeros, (self.features,))
        y = conv(x.astype(self.dtype), kernel, padding=1)
        # The ones are the same in every example and input channel: one channel of them, with the
        # kernel summed over its inputs, is enough.
        beside = jnp.pad(jnp.zeros((1, *x.shape[1:3], 1), self.dtype), _BESIDE, constant_values=1)
        y = (y + conv(beside, jnp.sum(kernel, axis=2, keepdims=True))).astype(bias.dtype)
        return (y + along_last(bias, y)) * along_last(jnp.exp(3 * log_scale), y)


class CouplingNet(nn.Module):
    """The 3x3-1x1-3x3 network of a coupling (Kingma and Dhariwal 2018, section 3.3).

    x [B, H, W, I] and a context [B, H or 1, W or 1, K] or None -> [B, H, W, features], float32. The
    output is 0 at initialization.
    """

    features: int
    hidden_features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array | None) -> jax.Array:
        x = append_planes(x, context)
        initializer = nn.initializers.normal(0.05)
        conv_0 = Conv(
            self.hidden_features,
            3,
            padding=1,
            kernel_init=initializer,
            dtype=self.dtype,
            name="conv_0",
        )
        # A dense layer over the channels is a 1x1 convolution.
        conv_1 = nn.Dense(
            self.hidden_features, kernel_init=initializer, dtype=self.dtype, name="conv_1"
        )
        x = nn.relu(conv_1(nn.relu(conv_0(x))))
        return end_of_block(ZeroConv(self.features, self.dtype, name="output")(x))


def _change(output: jax.Array, affine: bool, is_kept: jax.Array | None = None) -> Bijection:
    """Return the bijection of b, [B, H, W, C], by the output of the network; see `Coupling`.

    The output is s and t, [B, H, W, 2 C], or t, [B, H, W, C]. Values where `is_kept` stay.
    """
    t, log_scale = output, jnp.zeros_like(output)
    if affine:
        s, t = jnp.split(output, 2, axis=-1)
        log_scale = jax.nn.log_sigmoid(s + 2)
    if is_kept is not None:
        t, log_scale = jnp.where(is_kept, 0, t), jnp.where(is_kept, 0, log_scale)
    return transforms.affine(t, log_scale)


class Coupling(nn.Module):
    """A coupling of halves of the channels, a and b (Kingma and Dhariwal 2018, section 3.3).

    x [B, H, W, C], context [B, H or 1, W or 1, K] or None -> [B, H, W, C] and log-det [B].
    The half a stays; a network computes s and t from it and the context. An affine coupling changes
    b to `(b + t) sigmoid(s + 2)`, an additive one to `b + t`.

    Attributes:
        features: Number of channels C.
        hidden_features: Hidden channels of the network.
        affine: Whether the coupling is affine; otherwise it is additive.
        dtype: Compute type of the network.
    """

    features: int
    hidden_features: int
    affine: bool = True
    dtype: str = "float32"

    def setup(self) -> None:
        outputs = self.features // 2 * (1 + self.affine)
        self.net = CouplingNet(outputs, self.hidden_features, self.dtype)

    def _bijection(self, context: jax.Array | None) -> Bijection:
        def change(kept: jax.Array) -> Bijection:
            return _change(self.net(kept, context), self.affine)

        return transforms.chain(transforms.split(change), transforms.invert(transforms.split()))

    def __call__(self, x: jax.Array, context: jax.Array | None = None) -> Value:
        return self._bijection(context).forward(x)

    def inverse(self, y: jax.Array, context: jax.Array | None = None) -> Value:
        """Return x, [B, H, W, C], for the value `y`, and the log-det of the inverse, [B]."""
        return self._bijection(context).inverse(y)


class CheckerboardCoupling(nn.Module):
    """A coupling of the two colours of a checkerboard of pixels (Dinh et al. 2017, section 3.4).

    x [B, H, W, C], context [B, H or 1, W or 1, K] or None -> [B, H, W, C] and log-det [B]. It is
    `Coupling` with the pixels of one colour in the place of half of the channels.

    Attributes:
        features: Number of channels C.
        hidden_features: Hidden channels of the network.
        parity: The colour that does not change: pixels whose row plus column is `parity` modulo 2.
        affine: Whether the coupling is affine; otherwise it is additive.
        dtype: Compute type of the network.
    """

    features: int
    hidden_features: int
    parity: int
    affine: bool = True
    dtype: str = "float32"

    def setup(self) -> None:
        outputs = self.features * (1 + self.affine)
        self.net = CouplingNet(outputs, self.hidden_features, self.dtype)

    def _bijection(self, x: jax.Array, context: jax.Array | None) -> Bijection:
        row, column = jnp.arange(x.shape[1]), jnp.arange(x.shape[2])
        is_kept = (row[:, None] + column[None]) % 2 == self.parity
        is_kept = is_kept.reshape(1, *is_kept.shape, 1)
        return _change(self.net(jnp.where(is_kept, x, 0), context), self.affine, is_kept)

    def __call__(self, x: jax.Array, context: jax.Array | None = None) -> Value:
        return self._bijection(x, context).forward(x)

    def inverse(self, y: jax.Array, context: jax.Array | None = None) -> Value:
        """Return x, [B, H, W, C], for the value `y`, and the log-det of the inverse, [B]."""
        return self._bijection(y, context).inverse(y)


class Prior(nn.Module):
    """A learned normal distribution of z given h, as a bijection (Dinh et al. 2017, section 3.6).

    z [B, H, W, C] and h [B, H, W, I] -> [B, H, W, C] and log-det [B]. The bijection maps z onto a
    standard normal distribution, by `(z - mean) / exp(log_scale)`.

    Attributes:
        features: Number of channels of z.
        dtype: Compute type of the network.
    """

    features: int
    dtype: str = "float32"

    def setup(self) -> None:
        self.net = ZeroConv(2 * self.features, self.dtype)

    def __call__(self, z: jax.Array, h: jax.Array) -> Value:
        return self._bijection(h).forward(z)

    def inverse(self, y: jax.Array, h: jax.Array) -> Value:
        """Return x, [B, H, W, C], for the value `y`, and the log-det of the inverse, [B]."""
        return self._bijection(h).inverse(y)

    def _bijection(self, h: jax.Array) -> Bijection:
        mean, log_scale = jnp.split(self.net(h), 2, axis=-1)
        return transforms.affine(-mean, -log_scale)
