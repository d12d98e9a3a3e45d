"""Adversarial games: what a discriminator or critic, and what a generator minimizes.

In that of Goodfellow et al. 2014 `D(x) = sigmoid(logit)`. Every value goes through softplus,
`log(1 + exp(x))`, which neither overflows nor loses the tail, so each loss and its gradient are
finite at any finite logit:

    -log D(x)       = softplus(-logit)
    -log(1 - D(x))  = softplus(logit)
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import chex
import jax


def minimax_discriminator_loss(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """What the discriminator minimizes: the negated value function V(D, G), equation 1.

    Args:
        real_logits: Of real images, [B].
        fake_logits: Of generated images, [B].

    Returns:
        `-log D(x) - log(1 - D(G(z)))` per pair, in nats, [B].
    """
    chex.assert_rank([real_logits, fake_logits], 1)
    chex.assert_equal_shape([real_logits, fake_logits])
    return jax.nn.softplus(-real_logits) + jax.nn.softplus(fake_logits)


def non_saturating_generator_loss(fake_logits: jax.Array) -> jax.Array:
    """`-log D(G(z))`, section 3: the same fixed point as minimax, with a gradient when D wins.

    Args:
        fake_logits: Of generated images, [B].

    Returns:
        Loss per example, in nats, [B].
    """
    chex.assert_rank(fake_logits, 1)
    return jax.nn.softplus(-fake_logits)


def saturating_generator_loss(fake_logits: jax.Array) -> jax.Array:
    """`log(1 - D(G(z)))`, equation 1: the textbook game, whose gradient vanishes when D wins.

    Args:
        fake_logits: Of generated images, [B].

    Returns:
        Loss per example, in nats, [B]; never positive.
    """
    chex.assert_rank(fake_logits, 1)
    return -jax.nn.softplus(fake_logits)


def least_squares_discriminator_loss(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """`(D(x) - 1)^2 / 2 + (D(G(z)) + 1)^2 / 2`: LSGAN with a = -1, b = 1 (Mao et al. 2017, eq. 8).

    D's outputs are the logits themselves, so that 0 still parts real from fake.

    Args:
        real_logits: Of real images, [B].
        fake_logits: Of generated images, [B].

    Returns:
        Loss per pair, [B].
    """
    chex.assert_rank([real_logits, fake_logits], 1)
    chex.assert_equal_shape([real_logits, fake_logits])
    return 0.5 * (real_logits - 1) ** 2 + 0.5 * (fake_logits + 1) ** 2


def least_squares_generator_loss(fake_logits: jax.Array) -> jax.Array:
    """`D(G(z))^2 / 2`: LSGAN with c = 0, which minimizes Pearson's chi^2 (equation 8).

    Args:
        fake_logits: Of generated images, [B].

    Returns:
        Loss per example, [B].
    """
    chex.assert_rank(fake_logits, 1)
    return 0.5 * fake_logits**2


def hinge_discriminator_loss(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """`max(0, 1 - D(x)) + max(0, 1 + D(G(z)))` (Lim and Ye 2017; Miyato et al. 2018, equation 16).

    Args:
        real_logits: Of real images, [B].
        fake_logits: Of generated images, [B].

    Returns:
        Loss per pair, [B]; 2 where D cannot tell, 0 where it tells all by a margin of 1.
    """
    chex.assert_rank([real_logits, fake_logits], 1)
    chex.assert_equal_shape([real_logits, fake_logits])
    return jax.nn.relu(1 - real_logits) + jax.nn.relu(1 + fake_logits)


def wasserstein_critic_loss(real_scores: jax.Array, fake_scores: jax.Array) -> jax.Array:
    """`f(G(z)) - f(x)`: WGAN (Arjovsky et al. 2017, equation 2), negated to be minimized.

    For the best f of Lipschitz constant 1 its mean is minus the Wasserstein-1 distance.

    Args:
        real_scores: The critic f of real images, [B].
        fake_scores: Of generated images, [B].

    Returns:
        Loss per pair, [B].
    """
    chex.assert_rank([real_scores, fake_scores], 1)
    chex.assert_equal_shape([real_scores, fake_scores])
    return fake_scores - real_scores


def wasserstein_generator_loss(fake_scores: jax.Array) -> jax.Array:
    """`-f(G(z))`: WGAN, algorithm 1; the generator's side of the hinge loss too.

    Args:
        fake_scores: The critic of generated images, [B].

    Returns:
        Loss per example, [B].
    """
    chex.assert_rank(fake_scores, 1)
    return -fake_scores


class AdversarialLoss(NamedTuple):
    """The two sides: of (real outputs, fake outputs), and of fake outputs; [B] each."""

    discriminator_loss: Callable[[jax.Array, jax.Array], jax.Array]
    generator_loss: Callable[[jax.Array], jax.Array]


# The games for a discriminator that classifies, by the names that configs use.
ADVERSARIAL_LOSSES = {
    "non_saturating": AdversarialLoss(minimax_discriminator_loss, non_saturating_generator_loss),
    "saturating": AdversarialLoss(minimax_discriminator_loss, saturating_generator_loss),
    "least_squares": AdversarialLoss(
        least_squares_discriminator_loss, least_squares_generator_loss
    ),
    "hinge": AdversarialLoss(hinge_discriminator_loss, wasserstein_generator_loss),
}
AdversarialLossName = Literal["non_saturating", "saturating", "least_squares", "hinge"]
