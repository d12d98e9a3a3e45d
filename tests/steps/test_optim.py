import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from genjax.steps.optim import AdamConfig, adam


def _moves(config, steps):
    """Return how far each step goes for a gradient that never changes."""
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


def test_the_step_size_rises_over_the_warm_up_then_stays_or_falls():
    moves = _moves(AdamConfig(learning_rate=0.1, warmup_steps=4), 6)
    np.testing.assert_allclose(moves, [0.02, 0.04, 0.06, 0.08, 0.1, 0.1], rtol=1e-5)
    moves = _moves(AdamConfig(learning_rate=0.1, warmup_steps=1, decay_steps=5), 6)
    np.testing.assert_allclose(moves, [0.05, 0.1, 0.075, 0.05, 0.025, 0], rtol=1e-5)


def test_a_decay_that_ends_within_the_warm_up_is_refused():
    with pytest.raises(ValidationError, match="decay_steps = 3"):
        AdamConfig(warmup_steps=3, decay_steps=3)
