import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.objectives import adversarial

# Logits at which the formulas, as they stand in the paper, keep 6 digits in float64.
LOGITS = np.linspace(-20, 20, 81)


def _log_d(x):
    return np.log(1 / (1 + np.exp(-x)))


def _log_one_minus_d(x):
    return np.log(1 / (1 + np.exp(x)))


def test_losses_are_their_formulas():
    real, fake = jnp.asarray(LOGITS, jnp.float32), jnp.asarray(LOGITS[::-1], jnp.float32)
    d_loss = adversarial.minimax_discriminator_loss(real, fake)
    expected = -_log_d(LOGITS) - _log_one_minus_d(LOGITS[::-1])
    np.testing.assert_allclose(d_loss, expected, rtol=1e-6)
    np.testing.assert_allclose(
        adversarial.non_saturating_generator_loss(real), -_log_d(LOGITS), rtol=1e-6
    )
    np.testing.assert_allclose(
        adversarial.saturating_generator_loss(real), _log_one_minus_d(LOGITS), rtol=1e-6
    )


def test_equilibrium_is_log_4():
    zeros = jnp.zeros(3)
    loss = adversarial.minimax_discriminator_loss(zeros, zeros)
    chex.assert_shape(loss, (3,))
    np.testing.assert_allclose(loss, np.log(4), rtol=1e-6)


@pytest.mark.parametrize("logit", [-1e38, -1e4, -100.0, 0.0, 100.0, 1e4, 1e38])
def test_values_and_gradients_are_finite_at_any_logit(logit):
    x = jnp.full((2,), logit)
    losses = {
        "discriminator": lambda x: adversarial.minimax_discriminator_loss(x / 2, -x / 2),
        "non_saturating": adversarial.non_saturating_generator_loss,
        "saturating": adversarial.saturating_generator_loss,
    }
    for name, loss in losses.items():
        value, grad = jax.value_and_grad(lambda x, loss=loss: jnp.mean(loss(x)))(x)
        assert jnp.isfinite(value), name
        assert jnp.all(jnp.isfinite(grad)), name


def test_only_the_non_saturating_loss_teaches_when_d_wins():
    def slope(loss):
        return abs(float(jax.grad(lambda x: loss(x)[0])(jnp.array([-20.0]))[0]))

    assert slope(adversarial.non_saturating_generator_loss) > 0.99
    assert slope(adversarial.saturating_generator_loss) < 1e-8


@pytest.mark.parametrize("shape", [(4, 1), ()])
def test_logits_of_another_rank_are_refused(shape):
    with pytest.raises(AssertionError):
        adversarial.minimax_discriminator_loss(jnp.zeros(shape), jnp.zeros(shape))


def test_unequal_batches_are_refused():
    with pytest.raises(AssertionError):
        adversarial.minimax_discriminator_loss(jnp.zeros(4), jnp.zeros(1))
