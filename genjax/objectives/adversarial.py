"""The adversarial game of Goodfellow et al. 2014, from logits.

`D(x) = sigmoid(logit)`. Every value goes through softplus, `log(1 + exp(x))`, which neither
overflows nor loses the tail, so each loss and its gradient are finite at any finite logit:

    -log D(x)       = softplus(-logit)
    -log(1 - D(x))  = softplus(logit)
"""

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
