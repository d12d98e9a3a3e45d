"""Adversarial losses: pairs of what a discriminator or critic and what a generator minimizes.

Each is elementwise, from logits of any shape [...] to losses of that shape and type: [B] for a
discriminator with one logit an image, [B, H, W] for one of patches, [] under `jax.vmap`; the caller
takes the mean. The logits of real and of generated images have one shape, and are paired place by
place; for other pairings the caller arranges them before.

Equations without a source are those of Goodfellow et al. 2014, with `D(x) = sigmoid(logit)`. Their
losses go through softplus, `log(1 + exp(x))`, which neither overflows nor loses the tail, so that
each loss and its gradient are finite at any finite logit:

    -log D(x)       = softplus(-logit)
    -log(1 - D(x))  = softplus(logit)
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import chex
import jax


def minimax_discriminator_loss(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Compute the negated value function V(D, G), equation 1, which the discriminator minimizes.

    Args:
        real_logits: D's logits of real images, [...].
        fake_logits: D's logits of generated images, [...].

    Returns:
        `-log D(x) - log(1 - D(G(z)))` per pair, in nats, [...].
    """
    chex.assert_equal_shape([real_logits, fake_logits])
    return jax.nn.softplus(-real_logits) + jax.nn.softplus(fake_logits)


def non_saturating_generator_loss(fake_logits: jax.Array) -> jax.Array:
    """Compute `-log D(G(z))`, section 3: minimax's fixed point, with a gradient when D wins.

    Args:
        fake_logits: D's logits of generated images, [...].

    Returns:
        Loss per logit, in nats, [...].
    """
    return jax.nn.softplus(-fake_logits)


def saturating_generator_loss(fake_logits: jax.Array) -> jax.Array:
    """Compute `log(1 - D(G(z)))`, equation 1: minimax, whose gradient vanishes when D wins.

    Args:
        fake_logits: D's logits of generated images, [...].

    Returns:
        Loss per logit, in nats, [...]; never positive.
    """
    return -jax.nn.softplus(fake_logits)


def least_squares_discriminator_loss(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Compute `(D(x) - 1)^2 / 2 + (D(G(z)) + 1)^2 / 2`, LSGAN's loss of D (Mao et al. 2017, eq. 8).

    Here a = -1, b = 1, and D's outputs are the logits themselves, so that 0 separates real from
    generated images as in the other losses.

    Args:
        real_logits: D's logits of real images, [...].
        fake_logits: D's logits of generated images, [...].

    Returns:
        Loss per pair, [...].
    """
    chex.assert_equal_shape([real_logits, fake_logits])
    return 0.5 * (real_logits - 1) ** 2 + 0.5 * (fake_logits + 1) ** 2


def least_squares_generator_loss(fake_logits: jax.Array) -> jax.Array:
    """Compute `D(G(z))^2 / 2`, LSGAN's loss of G with c = 0 (Mao et al. 2017, equation 8).

    With it G minimizes Pearson's chi^2.

    Args:
        fake_logits: D's logits of generated images, [...].

    Returns:
        Loss per logit, [...].
    """
    return 0.5 * fake_logits**2


def hinge_discriminator_loss(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Compute `max(0, 1 - D(x)) + max(0, 1 + D(G(z)))`, the hinge loss of D.

    Source: Lim and Ye 2017; Miyato et al. 2018, equation 16.

    Args:
        real_logits: D's logits of real images, [...].
        fake_logits: D's logits of generated images, [...].

    Returns:
        Loss per pair, [...]; 2 where both logits are 0, 0 where D is right by a margin of 1.
    """
    chex.assert_equal_shape([real_logits, fake_logits])
    return jax.nn.relu(1 - real_logits) + jax.nn.relu(1 + fake_logits)


def wasserstein_critic_loss(real_scores: jax.Array, fake_scores: jax.Array) -> jax.Array:
    """Compute `f(G(z)) - f(x)`, WGAN's loss of the critic f (Arjovsky et al. 2017, equation 2).

    For the best f of Lipschitz constant 1 its mean is the negated Wasserstein-1 distance.

    Args:
        real_scores: The critic's values of real images, [...].
        fake_scores: The critic's values of generated images, [...].

    Returns:
        Loss per pair, [...].
    """
    chex.assert_equal_shape([real_scores, fake_scores])
    return fake_scores - real_scores


def wasserstein_generator_loss(fake_scores: jax.Array) -> jax.Array:
    """Compute `-f(G(z))`, G's loss in WGAN (algorithm 1) and with the hinge loss.

    Args:
        fake_scores: The critic's values, or D's logits, of generated images, [...].

    Returns:
        Loss per logit, [...].
    """
    return -fake_scores


def relativistic_discriminator_loss(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Compute `-log sigmoid(D(x) - D(G(z)))`, D's loss in the relativistic pairing game.

    D says which image of a pair is the real one, and only differences of its logits count. With
    R1 and R2 the game converges locally (Huang et al. 2024, proposition 2).

    Source: Jolicoeur-Martineau 2019, section 4; Sun et al. 2020; Huang et al. 2024, equation 2.

    Args:
        real_logits: D's logits of real images, [...].
        fake_logits: D's logits of generated images, [...].

    Returns:
        Loss per pair, in nats, [...]; log 2 where both logits are equal.
    """
    chex.assert_equal_shape([real_logits, fake_logits])
    return jax.nn.softplus(fake_logits - real_logits)


def relativistic_generator_loss(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Compute `-log sigmoid(D(G(z)) - D(x))`, G's loss in the relativistic pairing game.

    It is D's with both images exchanged. A sample is held against the real image of its pair, so
    that G gains nothing by moving all samples to the one place that D likes best.

    Args:
        real_logits: D's logits of real images, [...].
        fake_logits: D's logits of generated images, [...].

    Returns:
        Loss per pair, in nats, [...].
    """
    return relativistic_discriminator_loss(fake_logits, real_logits)


class AdversarialLoss(NamedTuple):
    """The losses of both players; each maps D's logits [...] to losses [...].

    Attributes:
        discriminator_loss: Function of the logits of real and of generated images.
        generator_loss: Function of the logits of generated images; if relativistic, of those of
            real and of generated images.
        is_relativistic: Whether only the difference of a pair's logits has a meaning.
    """

    discriminator_loss: Callable[[jax.Array, jax.Array], jax.Array]
    generator_loss: Callable[..., jax.Array]
    is_relativistic: bool = False


# The losses for a discriminator that classifies, by the names that configs use.
ADVERSARIAL_LOSSES = {
    "non_saturating": AdversarialLoss(minimax_discriminator_loss, non_saturating_generator_loss),
    "saturating": AdversarialLoss(minimax_discriminator_loss, saturating_generator_loss),
    "least_squares": AdversarialLoss(
        least_squares_discriminator_loss, least_squares_generator_loss
    ),
    "hinge": AdversarialLoss(hinge_discriminator_loss, wasserstein_generator_loss),
    "relativistic": AdversarialLoss(
        relativistic_discriminator_loss, relativistic_generator_loss, is_relativistic=True
    ),
}
AdversarialLossName = Literal[
    "non_saturating", "saturating", "least_squares", "hinge", "relativistic"
]
