import jax
import jax.numpy as jnp
import numpy as np

from genjax.steps.optim import AdamConfig, adam


def _moves(config, steps):
    """How far each step goes for a gradient that never changes."""
    optimizer = adam(config)
    params = jnp.zeros(())
    state, moves = optimizer.init(params), []
    for _ in range(steps):
        update, state = jax.jit(optimizer.update)(jnp.ones(()), state, params)
        moves.append(-float(update))
    return moves


def test_adam_goes_its_step_size():
    np.testing.assert_allclose(_moves(AdamConfig(learning_rate=0.1), 5), 0.1, rtol=1e-5)


def test_the_step_size_falls_to_zero_on_a_line_and_stays_there():
    moves = _moves(AdamConfig(learning_rate=0.1, decay_steps=4), 6)
    np.testing.assert_allclose(moves, [0.1, 0.075, 0.05, 0.025, 0, 0], rtol=1e-5)
