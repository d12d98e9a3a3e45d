"""What makes a failing game visible: a GAN's losses alone do not tell."""

import jax
import jax.numpy as jnp

from genjax.nn.replicas import mean_over_replicas
from genjax.types import Metrics


def spread(images: jax.Array) -> jax.Array:
    """Root mean square distance between two images drawn from a batch.

    For points x_i with mean m the mean of |x_i - x_j|^2 over all i, j is 2 mean |x_i - m|^2, so no
    pair is ever formed.

    Args:
        images: [B, ...].

    Returns:
        float32 []; 0 when all images are the same.
    """
    flat = images.reshape(len(images), -1).astype(jnp.float32)
    centred = flat - mean_over_replicas(jnp.mean(flat, axis=0, keepdims=True))
    return jnp.sqrt(2 * mean_over_replicas(jnp.vdot(centred, centred) / len(flat)))


def discriminator_metrics(
    real_logits: jax.Array, fake_logits: jax.Array, real: jax.Array, fake: jax.Array
) -> Metrics:
    """How the two players stand.

    Args:
        real_logits: The discriminator's logits of the real images, [B].
        fake_logits: Of the generated images, [B].
        real: Real images, [B, H, W, C].
        fake: Generated images, [B, H, W, C].

    Returns:
        `d_real`, `d_fake`: mean D(x) and D(G(z)), both 1/2 at equilibrium. `accuracy_real`,
        `accuracy_fake`: share of images that D judges right; both near 1 when D wins.
        `diversity`: spread of the samples over that of the data; near 0 in a mode collapse.
    """
    means = {
        "d_real": jnp.mean(jax.nn.sigmoid(real_logits)),
        "d_fake": jnp.mean(jax.nn.sigmoid(fake_logits)),
        "accuracy_real": jnp.mean(real_logits > 0),
        "accuracy_fake": jnp.mean(fake_logits < 0),
    }
    return {**mean_over_replicas(means), "diversity": diversity(real, fake)}


def diversity(real: jax.Array, fake: jax.Array) -> jax.Array:
    """Spread of the samples over that of the data, []; near 0 in a mode collapse."""
    # A batch of one image over and over has no spread to compare with: a large number, not NaN.
    return spread(fake) / jnp.maximum(spread(real), 1e-6)


# "A unit is active if Cov_x(E_q[u]) > 10^-2" (Burda et al. 2016, section 5.2).
ACTIVE_VARIANCE = 0.01


def active_units(means: jax.Array) -> jax.Array:
    """How many latents carry something of the image: their posterior mean varies over images.

    Args:
        means: Of q(z|x), [B, Z].

    Returns:
        float32 []; 0 in a posterior collapse.
    """
    centre = mean_over_replicas(jnp.mean(means, axis=0, keepdims=True))
    variance = mean_over_replicas(jnp.mean((means - centre) ** 2, axis=0))
    return jnp.sum(variance > ACTIVE_VARIANCE, dtype=jnp.float32)
