import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax.nn.batch import BATCH_AXIS, batch_noise
from genjax.steps.state import SpectralPlayer
from genjax.steps.update import GradientConfig, gradients, update_player, when

KEY = jax.random.key(0)


def _loss(weight, carried, x):
    """Return the mean squared distance of x from noise, times the squared weight."""
    distance = jnp.mean((x - batch_noise(KEY, x.shape)) ** 2)
    return weight**2 * distance, (carried, {"distance": distance})


def test_replicas_and_parts_give_the_gradient_and_metrics_of_the_global_batch():
    x = jnp.arange(16.0).reshape(16, 1)
    whole, _, metrics = gradients(_loss, 3.0, None, x, GradientConfig())
    np.testing.assert_allclose(whole, 6 * metrics["distance"], rtol=1e-6)
    for parts in (1, 2):
        config = GradientConfig(gradient_accumulation_steps=parts)

        def replica(x, config=config):
            grads, _, metrics = gradients(_loss, 3.0, None, x, config)
            return grads, metrics["distance"]

        found = jax.pmap(replica, BATCH_AXIS, devices=jax.devices()[:4])(x.reshape(4, 4, 1))
        np.testing.assert_allclose(found[0], np.full(4, whole), rtol=1e-5)
        np.testing.assert_allclose(found[1], np.full(4, metrics["distance"]), rtol=1e-5)


def test_a_player_keeps_what_its_last_pass_left():
    def loss(params, carried, x):
        new = {"batch_stats": carried["batch_stats"] + x, "spectral": carried["spectral"] * x}
        return params * x, (new, {"loss": params * x})

    player = SpectralPlayer(jnp.float32(1), optax.sgd(0.1).init(1.0), jnp.float32(5), 7.0)
    player, metrics = update_player(
        loss, player, jnp.float32(2), optax.sgd(0.1), GradientConfig(), "norm"
    )
    assert (player.params, player.stats, player.spectral) == (jnp.float32(0.8), 7, 14)
    assert metrics == {"loss": 2, "norm": 2}


def test_a_step_that_is_not_due_leaves_the_state_and_masks_its_metrics():
    def run(is_due):
        return when(is_due, lambda state: (state + 1, {"seen": state}), jnp.float32(4), ["seen"])

    for is_due, after in ((True, 5), (False, 4)):
        state, metrics = jax.jit(run)(is_due)
        assert (state, bool(metrics["seen"].mask)) == (after, is_due)
        assert metrics["seen"].value.dtype == jnp.float32
    assert jax.jit(run)(True)[1]["seen"].value == 4
