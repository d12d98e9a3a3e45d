"""Tests of measuring and comparing times."""

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from genjax.bench.timing import (
    TOLERANCE,
    Change,
    Limits,
    alternating_times,
    drift,
    measure_limits,
    ratio_of_medians,
    sampler,
    verdict,
    without_cache,
)

LIMITS = Limits(10e9, 5e-6, {"float32": 100e9})


def test_a_sample_of_what_is_quick_is_a_mean_of_many_calls():
    calls = []
    sample = sampler(lambda: calls.append(0) or np.zeros(1))
    before = len(calls)
    seconds = sample()
    assert len(calls) - before > 100
    assert 0 < seconds < 1e-4


def test_calls_take_turns():
    order = []

    def call(name):
        return lambda: order.append(name) or float(len(order))

    times = alternating_times({"a": call("a"), "b": call("b")}, 3)
    assert order == ["a", "b"] * 3
    assert times == {"a": [1, 3, 5], "b": [2, 4, 6]}


def test_limits_are_of_this_machine():
    limits = measure_limits(["float32", "bfloat16"], rounds=1)
    assert set(limits.product) == {"float32", "bfloat16"}
    assert limits.copy > 1e8 and limits.product["float32"] > 1e9 and limits.call < 0.01


def test_a_ratio_has_an_interval_that_holds_it():
    rng = np.random.default_rng(0)
    old = list(rng.normal(1.0, 0.1, 30))
    new = list(rng.normal(2.0, 0.1, 30))
    change = ratio_of_medians(new, old)
    assert change.low <= change.ratio <= change.high
    assert change.ratio == pytest.approx(np.median(new) / np.median(old))
    assert 1.8 < change.low < change.high < 2.2
    assert ratio_of_medians([2.0], [1.0]) == Change(2.0, 0.0, float("inf"))


@pytest.mark.parametrize(
    ("change", "noise", "said"),
    [
        (Change(2.0, 1.8, 2.2), 1.1, "slower"),
        (Change(0.5, 0.4, 0.6), 1.1, "faster"),
        (Change(1.2, 0.9, 1.6), 1.1, "same"),  # by chance
        (Change(1.5, 1.4, 1.6), 1.7, "same"),  # so is the machine
    ],
)
def test_a_verdict_asks_for_more_than_noise(change, noise, said):
    assert verdict(change, noise) == said


def test_noise_is_the_machines_own_change():
    slower = LIMITS._replace(copy=5e9)
    assert drift(slower, LIMITS) == drift(LIMITS, slower) == 2
    assert drift(LIMITS, LIMITS) == TOLERANCE


def test_programs_are_compiled_anew_for_a_time_only(tmp_path):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in (*names, "jax_enable_compilation_cache")}

    def kept(number):
        """Compile one more program, and return how many the cache has then."""
        jax.jit(lambda x: x + number)(1.0)
        return len(list(tmp_path.glob("*-cache")))

    try:
        for name, value in zip(names, (str(tmp_path), 0), strict=True):
            jax.config.update(name, value)
        reset_cache()
        many = kept(1)
        with without_cache():
            assert kept(2) == many > 0
        assert kept(3) > many
        with pytest.raises(ValueError, match="sic"), without_cache():
            raise ValueError("sic")
        many = kept(4)
        assert kept(5) > many
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        reset_cache()
