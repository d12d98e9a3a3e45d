"""Optimizers that are given in Python: a run keeps that there was one, not the code."""

import dataclasses

import optax
import pytest

import genjax
from genjax import Recipe
from genjax.models.gan import GanConfig
from genjax.run.trained import load

OPTIMIZER = optax.chain(optax.clip(1.0), optax.scale_by_belief(), optax.scale(-1e-3))
RECIPE = Recipe("gan", GanConfig(), steps=4, batch_size=8, log_interval=2, save_interval=2)


def test_a_run_with_an_optimizer_of_ones_own(tmp_path):
    mine = RECIPE.with_optimizers(generator=OPTIMIZER)
    genjax.train(mine, tmp_path / "run")
    text = (tmp_path / "run/config.json").read_text()
    assert text.count('"optax": "given in Python"') == 1
    # As the state is drawn from without it, so in another process.
    assert genjax.sample(tmp_path / "run", 2).shape == (2, 8, 8, 1)
    known = load(tmp_path / "run").recipe
    with pytest.raises(genjax.UsageError, match=r"given again: .*with_optimizers\(generator=..."):
        genjax.resume(tmp_path / "run", 6)
    with pytest.raises(genjax.UsageError, match="its state has another structure"):
        genjax.resume(tmp_path / "run", 6, known.with_optimizers(generator=optax.sgd(0.1)))
    genjax.resume(tmp_path / "run", 6, known.with_optimizers(generator=OPTIMIZER))
    genjax.train(dataclasses.replace(mine, steps=6), tmp_path / "whole")
    one, other = (load(tmp_path / name, "latest").state for name in ("run", "whole"))
    assert (
        one.generator.params["output"]["bias"] == other.generator.params["output"]["bias"]
    ).all()


def test_a_player_that_the_model_does_not_have_is_refused():
    with pytest.raises(genjax.UsageError, match="'critic': wanted generator or discriminator"):
        RECIPE.with_optimizers(critic=OPTIMIZER)
