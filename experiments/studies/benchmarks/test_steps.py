"""A training step of each family under pytest-benchmark; see test_losses.py beside it."""

from typing import Any

import jax
import pytest

from genjax.bench.steps import RECIPES, Trainer
from genjax.bench.timing import Limits, measure_limits
from genjax.data.sources import expected_spec
from genjax.run.recipe import load_recipe


@pytest.fixture(scope="module")
def limits() -> Limits:
    return measure_limits(["float32"])


@pytest.mark.parametrize("name", RECIPES)
def test_call(benchmark: Any, name: str, limits: Limits) -> None:
    """Time a compiled call of several steps; how many is in `extra_info`."""
    recipe = load_recipe(name)
    spec = expected_spec(recipe.data, recipe.data_options)
    trainer = Trainer(recipe, spec, jax.device_count(), limits)
    benchmark.extra_info["steps"] = trainer.steps
    benchmark.pedantic(trainer, rounds=3, warmup_rounds=1)
