"""Likelihoods and the bounds of a VAE and of diffusion, in nats per example.

Images are [..., H, W, C]: a log-likelihood sums over the last three axes and keeps the leading
ones, [B] or [samples, B]. Latents are [..., Z]. Sums are in float32, or wider where values are.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr, logsumexp

from genjax.nn.batch import batch_noise
from genjax.nn.precision import widened

Values = TypeVar("Values", float, jax.Array)

# Most importance samples of an image that are decoded at once, and most values of all images that
# are: they bound the memory of an evaluation.
MOST_SAMPLES, MOST_VALUES = 50, 2**25


def _flat(images: jax.Array) -> jax.Array:
    """Reshape [..., H, W, C] to [..., H * W * C], in float32 or wider.

    On a CPU XLA fuses a network, a likelihood and its sum into one loop, which takes ten times as
    long over three axes as over one (experiments/BENCHMARKS.md).
    """
    if images.ndim < 3:
        raise ValueError(f"a likelihood of images of {images.shape}: wants [..., H, W, C]")
    return widened(images).reshape(*images.shape[:-3], -1)


def _check_images(*arrays: jax.Array) -> None:
    """Check that all are [..., H, W, C], of one H, W and C, with as many axes before them."""
    chex.assert_equal_rank(arrays)
    chex.assert_equal_shape_suffix(arrays, 3)


def normal_kl(mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """Compute `KL(N(mean, exp(log_var)) || N(0, 1))` (Kingma and Welling 2014, appendix B).

    Args:
        mean: Mean of each latent, [..., Z].
        log_var: Log variance of each latent, [..., Z].

    Returns:
        The divergence of each latent, [..., Z], in nats, never negative; the sum over Z is the
        divergence of the whole vector.
    """
    chex.assert_equal_shape([mean, log_var])
    # expm1(v) - v is accurate near 0, where exp(v) - v - 1 loses every digit.
    return 0.5 * (mean**2 + (jnp.expm1(log_var) - log_var))


def standard_normal_log_prob(x: jax.Array) -> jax.Array:
    """Compute the log density of N(0, I) at x, [..., Z]: [...], in nats."""
    return -0.5 * (jnp.sum(widened(x) ** 2, axis=-1) + x.shape[-1] * math.log(2 * math.pi))


def bernoulli_log_likelihood(images: jax.Array, logits: jax.Array) -> jax.Array:
    """Compute `x log p + (1 - x) log(1 - p)`, `p = sigmoid(logits)`, accurate at any finite logit.

    Args:
        images: x in [0, 1], [..., H, W, C].
        logits: [..., H, W, C]; of both arrays the axes before the image broadcast.

    Returns:
        The sum over each image, [...], in nats. For x between 0 and 1 it is not a likelihood, only
        the negated cross entropy.
    """
    _check_images(images, logits)
    images, logits = _flat(images), _flat(logits)
    # softplus(l) - x l as max(l, 0) - x l + log1p(exp(-|l|)): where the prediction is right the
    # first two terms cancel, and the last keeps its digits. With max(l, 0) written by |l| too, the
    # gradient at l = 0 is right whichever subgradient of |l| is taken.
    size = jnp.abs(logits)
    rest = jnp.log1p(jnp.exp(-size))
    return -jnp.sum(0.5 * (logits + size) - images * logits + rest, axis=-1)


def _flat_alike(
    images: jax.Array, mean: jax.Array, log_scale: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Flatten all three as `_flat` does, after the scale is broadcast to the mean's shape."""
    _check_images(images, mean)
    chex.assert_equal_rank([mean, log_scale])
    return _flat(images), _flat(mean), _flat(jnp.broadcast_to(log_scale, mean.shape))


def normal_log_likelihood(images: jax.Array, mean: jax.Array, log_scale: jax.Array) -> jax.Array:
    """Compute the log density of images under independent normal distributions of their values.

    Args:
        images: [..., H, W, C].
        mean: [..., H, W, C].
        log_scale: Log of the standard deviation; it broadcasts to [..., H, W, C], of its rank.

    Returns:
        The sum over each image, [...], in nats, per unit of the images. For images scaled from
        levels 0 to 255 to [-1, 1] the density per level is `log 127.5` less for each value.
    """
    images, mean, log_scale = _flat_alike(images, mean, log_scale)
    squares = ((images - mean) * jnp.exp(-log_scale)) ** 2
    return -jnp.sum(0.5 * squares + log_scale + 0.5 * math.log(2 * math.pi), axis=-1)


def discretized_logistic_log_likelihood(
    images: jax.Array, mean: jax.Array, log_scale: jax.Array, levels: int = 256
) -> jax.Array:
    """Compute the log probability of gray levels under a logistic distribution cut into bins.

    Source: Kingma et al. 2016, equation 11 of the appendix. The outermost bins reach to infinity,
    so that the probabilities of the levels sum to 1 (Salimans et al. 2017, equation 2). A bin from
    a to b, in units of the scale, has the probability
    `s(b) - s(a) = s(b) s(-a) (1 - exp(a - b))`, whose logarithm is finite at any distance.

    Args:
        images: Levels mapped to [-1, 1] evenly, [..., H, W, C].
        mean: [..., H, W, C].
        log_scale: Log of the scale; it broadcasts to [..., H, W, C], of its rank.
        levels: Number of levels and bins.

    Returns:
        The sum over each image, [...], in nats.
    """
    images, mean, log_scale = _flat_alike(images, mean, log_scale)
    half_bin = 1 / (levels - 1)
    inverse_scale = jnp.exp(-log_scale)
    upper = jax.nn.log_sigmoid((images - mean + half_bin) * inverse_scale)
    lower = jax.nn.log_sigmoid(-(images - mean - half_bin) * inverse_scale)
    within = jnp.log(-jnp.expm1(-2 * half_bin * inverse_scale))
    # Compare half a bin inside of the ends, so that rounding does not matter.
    is_lowest, is_highest = images < half_bin - 1, images > 1 - half_bin
    log_prob = jnp.where(is_lowest, upper, jnp.where(is_highest, lower, upper + lower + within))
    return jnp.sum(log_prob, axis=-1)


def discretized_normal_log_likelihood(
    images: jax.Array, mean: jax.Array, log_scale: jax.Array, levels: int = 256
) -> jax.Array:
    """Compute the log probability of gray levels under a normal distribution cut into bins.

    Source: Ho et al. 2020, equation 13. The outermost bins reach to infinity. A bin above the mean
    has the probability of its mirror image, the difference of two small numbers and not of two near
    1, so that its logarithm is finite at any distance.

    Args:
        images: Levels mapped to [-1, 1] evenly, [..., H, W, C].
        mean: [..., H, W, C].
        log_scale: Log of the standard deviation; it broadcasts to [..., H, W, C], of its rank.
        levels: Number of levels and bins.

    Returns:
        The sum over each image, [...], in nats.
    """
    images, mean, log_scale = _flat_alike(images, mean, log_scale)
    half_bin = 1 / (levels - 1)
    inverse_scale = jnp.exp(-log_scale)
    distance = -jnp.abs(images - mean)
    upper = log_ndtr((distance + half_bin) * inverse_scale)
    lower = log_ndtr((distance - half_bin) * inverse_scale)
    # Compare half a bin inside of the ends, so that rounding does not matter.
    is_lowest, is_highest = images < half_bin - 1, images > 1 - half_bin
    beyond = jnp.where(is_lowest, images - mean, mean - images)  # its other end is infinite
    outermost = log_ndtr((beyond + half_bin) * inverse_scale)
    within = upper + jnp.log(-jnp.expm1(lower - upper))
    return jnp.sum(jnp.where(is_lowest | is_highest, outermost, within), axis=-1)


def diffusion_bound(
    data_at: Callable[[jax.Array, jax.Array], jax.Array],
    data: jax.Array,
    alpha: np.ndarray,
    sigma: np.ndarray,
    key: jax.Array,
    draws: int | None = None,
    scale: float = 1.0,
) -> jax.Array:
    """Compute the negative variational bound of a diffusion model, by one draw of noise a level.

    Source: Ho et al. 2020, equation 5, for the variance of q(x_s | x_t, y) in each step; in this
    form Kingma et al. 2021, equation 13.

    Args:
        data_at: `data_at(index, noise)`: the model's estimate of the data, [B, H, W, C], by the
            mixture of data and noise at the level of that index.
        data: Gray levels mapped to [-1, 1] evenly, [B, H, W, C].
        alpha: Factors of the data at the T levels, float64 [T], from noise to data.
        sigma: Factors of the noise, [T].
        key: The PRNG key of the noise.
        draws: Number of levels, drawn from as many equal parts of all; None for all.
        scale: Standard deviation of the prior of the first level.

    Returns:
        [B], in nats.
    """
    rises, count = np.diff((alpha / sigma) ** 2), len(alpha) - 1
    draws = count if draws is None else min(draws, count)
    last_key, place_key, noise_key = jax.random.split(key, 3)

    def add(total: jax.Array, part: jax.Array) -> tuple[jax.Array, None]:
        index = part
        if draws < count:
            place = jax.random.uniform(jax.random.fold_in(place_key, part))
            index = ((part + place) * count / draws).astype(jnp.int32)
            index = jnp.minimum(index, count - 1)  # which rounding may exceed
        noise = batch_noise(jax.random.fold_in(noise_key, part), data.shape)
        error = jnp.square(data - data_at(index, noise))
        found = jnp.asarray(rises, jnp.float32)[index] * jnp.sum(error, axis=(1, 2, 3)) / 2
        return total + found * (count / draws), None

    total, _ = jax.lax.scan(add, jnp.zeros(len(data)), jnp.arange(draws))
    # Where x is all noise: KL(q(x|y) || N(0, scale^2)).
    variance = (sigma[0] / scale) ** 2
    means = jnp.sum(jnp.square(alpha[0] / scale * data), axis=(1, 2, 3))
    total += (means + data[0].size * (variance - 1 - math.log(variance))) / 2
    log_scale = jnp.full((1, 1, 1, 1), math.log(sigma[-1] / alpha[-1]))
    mean = data_at(jnp.asarray(count), batch_noise(last_key, data.shape))
    return total - discretized_normal_log_likelihood(data, mean, log_scale)


def elbo(log_likelihood: jax.Array, kl: jax.Array, beta: float | jax.Array = 1.0) -> jax.Array:
    """Compute the evidence lower bound, or beta-VAE's objective (Higgins et al. 2017, equation 4).

    Args:
        log_likelihood: `E_q log p(x|z)`, [B].
        kl: `KL(q(z|x) || p(z))`, [B].
        beta: Weight of the KL divergence; 1 gives the bound.

    Returns:
        [B], in nats.
    """
    chex.assert_equal_shape([log_likelihood, kl])
    return log_likelihood - beta * kl


def free_bits(mean_kl: jax.Array, minimum: float, of_batch: jax.Array | None = None) -> jax.Array:
    """Sum the KL divergences of the latents, each no less than `minimum` (free bits).

    Source: Kingma et al. 2016, equation 15; the minimum applies to the mean over the batch, latent
    by latent.

    Args:
        mean_kl: Mean KL divergence of each latent over the batch, or over a part of it, [Z].
        minimum: The paper's lambda, in nats.
        of_batch: The mean over the whole batch, [Z], where `mean_kl` is that of a part. It makes
            the mean of the parts' results, and of their gradients, equal to the whole batch's.

    Returns:
        [], in nats; its gradient is 0 for latents up to the minimum.
    """
    of_batch = mean_kl if of_batch is None else of_batch
    chex.assert_rank([mean_kl, of_batch], 1)
    chex.assert_equal_shape([mean_kl, of_batch])
    return jnp.sum(jnp.where(of_batch > minimum, widened(mean_kl), minimum))


def iwae_bound(log_weights: jax.Array) -> jax.Array:
    """Compute `log mean_i w_i`, the importance-weighted bound (Burda et al. 2016, equation 8).

    Args:
        log_weights: `log p(x, z_i) - log q(z_i|x)`, [samples, ...].

    Returns:
        [...], in nats; it rises with the number of samples towards `log p(x)`.
    """
    return logsumexp(widened(log_weights), axis=0) - math.log(len(log_weights))


def samples_at_once(samples: int, dimensions: int) -> int:
    """Return how many importance samples of an image to decode at once: a divisor of `samples`.

    It is the largest up to `MOST_SAMPLES` whose images, of so many dimensions, have no more than
    `MOST_VALUES` in all; or 1.
    """
    most = max(1, min(MOST_SAMPLES, MOST_VALUES // dimensions))
    return max(size for size in range(1, most + 1) if samples % size == 0)


def iwae_bound_in_chunks(
    log_weights: Callable[[jax.Array], jax.Array], key: jax.Array, samples: int, chunk: int
) -> jax.Array:
    """Compute `iwae_bound` from more samples than fit in memory, chunk by chunk.

    Args:
        log_weights: `key -> log weights` of `chunk` new samples, [chunk, ...].
        key: The PRNG key, split over the chunks.
        samples: Number of samples in all.
        chunk: Number of samples at a time.

    Returns:
        [...], in nats.

    Raises:
        ValueError: `chunk` does not divide `samples`.
    """
    if samples < 1 or samples % chunk:
        raise ValueError(f"samples = {samples}: should be a multiple of the chunk of {chunk}")

    def of_chunk(key: jax.Array) -> jax.Array:
        weights = log_weights(key)
        chex.assert_axis_dimension(weights, 0, chunk)
        return logsumexp(widened(weights), axis=0)

    def add(total: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        return jnp.logaddexp(total, of_chunk(key)), None

    first, *_ = keys = jax.random.split(key, samples // chunk)
    total = of_chunk(first)
    total, _ = jax.lax.scan(add, total, keys[1:])
    return total - math.log(samples)


def bits_per_dim(nats: Values, dimensions: int) -> Values:
    """Convert nats per example to bits for each of its `dimensions` values."""
    return nats / (dimensions * math.log(2))
