import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax.steps.optim import OptimizerConfig, create_optimizer
from genjax.types import UsageError


def _moves(config, steps, start=1.0, gradient=1.0):
    """Return how far a parameter goes in each training step for a gradient that never changes."""
    params = jnp.float32(start)
    state, moves = create_optimizer(config, 0).init(params), []
    for step in steps:

        @jax.jit
        def update(state, params, step):
            return create_optimizer(config, step).update(jnp.float32(gradient), state, params)

        update, state = update(state, params, step)
        params += update
        moves.append(-float(update))
    return moves


def test_adam_goes_its_step_size():
    np.testing.assert_allclose(_moves(OptimizerConfig(learning_rate=0.1), range(5)), 0.1, rtol=1e-4)


def test_the_step_size_falls_to_zero_on_a_line_and_stays_there():
    config = OptimizerConfig(learning_rate=0.1, schedule="linear", decay_steps=4)
    moves = _moves(config, range(6))
    np.testing.assert_allclose(moves, [0.1, 0.075, 0.05, 0.025, 0, 0], rtol=1e-4)


def test_the_step_size_falls_to_zero_on_half_a_cosine_and_stays_there():
    config = OptimizerConfig(learning_rate=0.1, schedule="cosine", decay_steps=4)
    shares = [(1 + np.cos(np.pi * step / 4)) / 2 for step in range(4)]
    moves = _moves(config, range(6))
    # In float32 Adam's 1 - 0.999^t is known to 6e-5 of itself; and cos(pi) is not quite -1.
    wanted = [0.1 * share for share in [*shares, 0, 0]]
    np.testing.assert_allclose(moves, wanted, rtol=1e-4, atol=1e-8)


def test_the_step_size_rises_over_the_warm_up_then_stays_or_falls():
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=4)
    moves = _moves(config, range(6))
    np.testing.assert_allclose(moves, [0.02, 0.04, 0.06, 0.08, 0.1, 0.1], rtol=1e-4)
    config = dataclasses.replace(config, warmup_steps=1, schedule="linear", decay_steps=5)
    moves = _moves(config, range(6))
    np.testing.assert_allclose(moves, [0.05, 0.1, 0.075, 0.05, 0.025, 0], rtol=1e-4)


def test_the_schedule_counts_training_steps_not_updates():
    """As of a generator with an update every second step, and one with two updates in a step."""
    config = OptimizerConfig(learning_rate=0.1, schedule="linear", decay_steps=4)
    np.testing.assert_allclose(_moves(config, [1, 3, 5]), [0.075, 0.025, 0], rtol=1e-4)
    np.testing.assert_allclose(_moves(config, [0, 0, 2, 2]), [0.1, 0.1, 0.05, 0.05], rtol=1e-4)


def test_adamw_shrinks_parameters_by_the_step_size_too():
    config = OptimizerConfig(
        rule="adamw", learning_rate=0.1, weight_decay=0.5, schedule="linear", decay_steps=2
    )
    (first, second) = _moves(config, range(2), start=8.0)
    assert first == pytest.approx(0.1 * (1 + 0.5 * 8), rel=1e-5)
    assert second == pytest.approx(0.05 * (1 + 0.5 * (8 - first)), rel=1e-5)


def test_rmsprop_divides_by_the_root_of_the_mean_of_squares_alone():
    config = OptimizerConfig(rule="rmsprop", learning_rate=0.1, beta1=0.9, beta2=0.75)
    squares = [3**2 * (1 - 0.75**count) for count in range(1, 4)]
    moves = _moves(config, range(3), gradient=3.0)
    np.testing.assert_allclose(moves, [0.1 * 3 / square**0.5 for square in squares], rtol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"schedule": "linear", "warmup_steps": 3, "decay_steps": 3},
            "decay_steps = 3: should be more than warmup_steps = 3 with schedule = linear",
        ),
        ({"schedule": "cosine"}, "decay_steps = 0: should be more than warmup_steps = 0"),
        ({"decay_steps": 3}, "decay_steps = 3: should be 0 with schedule = constant"),
        ({"weight_decay": 0.1}, "weight_decay = 0.1: should be 0 with rule = adam"),
        ({"rule": "adamw"}, "weight_decay = 0.0: should be more than 0, as 0.01, with rule = ad"),
        ({"rule": "sgdd"}, "rule"),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        OptimizerConfig(**fields)


@pytest.mark.parametrize("rule", ["adabelief", "adamax", "amsgrad", "lamb", "nadam", "radam"])
def test_other_rules_take_the_same_options(rule):
    config = OptimizerConfig(rule=rule, learning_rate=0.1, beta1=0.9, beta2=0.99, epsilon=1e-6)
    expected = getattr(optax, rule)(0.1, b1=0.9, b2=0.99, eps=1e-6)
    params = {"w": jnp.array([1.0, -2.0])}
    optimizer = create_optimizer(config, 0)
    found, _ = optimizer.update(params, optimizer.init(params), params)
    wanted, _ = expected.update(params, expected.init(params), params)
    np.testing.assert_allclose(found["w"], wanted["w"], rtol=1e-6)


def test_lion_and_sgd_move_as_their_papers_say():
    lion = OptimizerConfig(rule="lion", learning_rate=0.1, beta1=0.9, beta2=0.99, weight_decay=0.5)
    np.testing.assert_allclose(_moves(lion, range(1)), 0.1 * (1 + 0.5), rtol=1e-6)
    sgd = OptimizerConfig(rule="sgd", learning_rate=0.1, beta1=0.5)
    np.testing.assert_allclose(_moves(sgd, range(3)), [0.1, 0.15, 0.175], rtol=1e-6)


def test_an_optimizer_of_ones_own_takes_the_place_of_the_rule():
    config = OptimizerConfig(optax=optax.sgd(0.25))
    assert create_optimizer(config, 0) is config.optax
    with pytest.raises(UsageError, match=r"wanted an optax.GradientTransformation, not int"):
        OptimizerConfig(optax=3)
