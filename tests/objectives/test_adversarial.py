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
        "relativistic D": lambda x: adversarial.relativistic_discriminator_loss(x / 2, -x / 2),
        "relativistic G": lambda x: adversarial.relativistic_generator_loss(x / 2, -x / 2),
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


@pytest.mark.parametrize("name", adversarial.ADVERSARIAL_LOSSES)
def test_a_loss_of_patches_is_that_of_each_logit(name):
    """Logits [B, H, W] of patches, [] under vmap, and [B]: one function of numbers."""
    of_d, of_g, is_relativistic = adversarial.ADVERSARIAL_LOSSES[name]
    real, fake = jax.random.normal(jax.random.key(0), (2, 4, 3, 2))
    for loss, args in ((of_d, (real, fake)), (of_g, (real, fake) if is_relativistic else (fake,))):
        found = loss(*args)
        chex.assert_shape(found, (4, 3, 2))
        flat = [arg.ravel() for arg in args]
        np.testing.assert_array_equal(found.ravel(), loss(*flat))
        np.testing.assert_array_equal(found.ravel(), jax.vmap(loss)(*flat))


def test_the_relativistic_losses_are_of_the_difference_in_a_pair():
    real, fake = jnp.asarray(LOGITS, jnp.float32), jnp.asarray(LOGITS[::-1] / 3, jnp.float32)
    difference = LOGITS - LOGITS[::-1] / 3
    of_d = adversarial.relativistic_discriminator_loss(real, fake)
    of_g = adversarial.relativistic_generator_loss(real, fake)
    np.testing.assert_allclose(of_d, np.log1p(np.exp(-difference)), rtol=1e-5)
    np.testing.assert_allclose(of_g, np.log1p(np.exp(difference)), rtol=1e-5)
    moved = adversarial.relativistic_discriminator_loss(real + 8, fake + 8)
    np.testing.assert_allclose(moved, of_d, rtol=1e-5)


def test_other_relativistic_pairings_are_made_of_differences():
    """Each real with each fake (Jolicoeur-Martineau 2018, section 4), and with the others' mean."""
    real, fake = LOGITS[::40] / 5, LOGITS[1::40] / 3
    pairs = adversarial.non_saturating_generator_loss(jnp.float32(real[:, None] - fake[None]))
    np.testing.assert_allclose(pairs, -_log_d(real[:, None] - fake[None]), rtol=1e-5)
    centred = real - fake.mean(), fake - real.mean()[None]
    found = adversarial.minimax_discriminator_loss(*map(jnp.float32, (centred[0][:2], centred[1])))
    expected = -_log_d(centred[0][:2]) - _log_one_minus_d(centred[1])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1,), (4, 1), ()])
def test_unequal_shapes_are_refused(shape):
    with pytest.raises(AssertionError, match="shape"):
        adversarial.minimax_discriminator_loss(jnp.zeros(4), jnp.zeros(shape))
