"""Tests of every command on a flow: train, evaluate, sample, reconstruct, manipulate."""

import contextlib
import dataclasses
import json
import math
import shutil

import numpy as np
import pytest

import genjax
from genjax import DataOptions, Recipe
from genjax.models.glow import GlowConfig
from genjax.run.folder import RunFolder
from genjax.run.records import read_records
from genjax.steps.optim import OptimizerConfig

OPTIMIZER = OptimizerConfig(learning_rate=3e-3, beta1=0.9, warmup_steps=20, clip_norm=1.0)
RECIPE = Recipe(
    family="glow",
    model=GlowConfig(levels=2, steps_per_level=2, hidden_features=16, bits=4, optimizer=OPTIMIZER),
    data_options=DataOptions(split="train[:80%]", test_split="train[80%:]"),
    steps=300,
    batch_size=64,
    log_interval=50,
    save_interval=150,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "glow"
    genjax.train(RECIPE, run)
    return run


def test_the_flow_learns_the_digits_and_stays_sound(trained):
    records = read_records(RunFolder(trained))
    assert records[-1]["loss"] < records[0]["loss"] - 0.5
    saved = [record for record in records if "eval_bits_per_dim" in record]
    assert [record["step"] for record in saved] == [150, 300]
    # A value that is uniform over 16 gray levels takes 4 bits.
    assert saved[1]["eval_bits_per_dim"] < saved[0]["eval_bits_per_dim"] < 4
    for record in saved:
        assert record["eval_bits_per_dim"] == pytest.approx(
            record["eval_nll"] / (64 * math.log(2)), rel=1e-6
        )
        assert 0 < record["round_trip_error"] < 1e-3
        assert 1 < record["condition_number"] < 100
    assert "WARNING" not in (trained / "log.txt").read_text()


@pytest.mark.slow
def test_an_evaluation_is_exact_and_says_its_protocol(trained):
    result = genjax.evaluate(trained, n=20)
    assert "elbo" not in result["metrics"]
    assert "active_units" not in result["metrics"]
    assert 0 < result["metrics"]["bits_per_dim_error"] < 0.1
    assert result["protocol"]["importance_samples"] == 1
    assert result["protocol"]["model"] == {"bits": 4, "dequantization": "uniform"}
    assert len(result["health"]["condition_number"]) == 4
    assert json.loads((trained / "evaluations.jsonl").read_text()) == json.loads(json.dumps(result))
    # More draws of the noise tighten the bound.
    more = genjax.evaluate(trained, n=20, importance_samples=20)["metrics"]["nll"]
    assert more < result["metrics"]["nll"]


def test_reconstructions_are_exact(trained):
    images, copies = genjax.reconstruct(trained, n=40)
    np.testing.assert_array_equal(copies, np.round(images // 16 * (255 / 15)))


@pytest.mark.slow
def test_a_temperature_narrows_the_samples(trained):
    spreads = [
        genjax.sample(trained, n=64, temperature=t).astype(float).std(axis=0).mean()
        for t in (0.0, 0.5, 1.0)
    ]
    assert spreads[0] == 0
    assert spreads[0] < spreads[1] < spreads[2]
    np.testing.assert_array_equal(
        genjax.sample(trained, n=5), genjax.sample(trained, n=5, temperature=1.0)
    )
    with pytest.raises(genjax.UsageError, match=r"temperature = -0\.5"):
        genjax.sample(trained, temperature=-0.5)


def test_latents_lead_from_image_to_image(trained):
    images, _ = genjax.reconstruct(trained, n=4)
    paths = genjax.interpolate(trained, n=2, steps=5)
    np.testing.assert_array_equal(paths[:, 0], np.round(images[:2] // 16 * (255 / 15)))
    assert genjax.manipulate(trained, to=3, source=7, n=4, steps=3).shape == (4, 3, 8, 8, 1)


def test_a_resumed_flow_is_the_one_that_was_never_stopped(tmp_path, trained):
    """Actnorms are fitted once, so the resumed run does not fit them anew."""
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/00000300")
    genjax.resume(tmp_path / "run", steps=300)
    ours, theirs = (genjax.sample(run, n=16, checkpoint=300) for run in (tmp_path / "run", trained))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_a_flow_that_cannot_be_inverted_is_warned_of(tmp_path):
    """A rate far too high, without clipping, is told in the log, and no image has a NaN."""
    optimizer = OptimizerConfig(learning_rate=0.3, beta1=0.9)
    model = dataclasses.replace(RECIPE.model, optimizer=optimizer)
    recipe = dataclasses.replace(RECIPE, model=model, steps=4, log_interval=1, save_interval=1)
    with contextlib.suppress(genjax.Diverged):
        genjax.train(recipe, tmp_path / "run")
    assert "hardly be inverted" in (tmp_path / "run/log.txt").read_text()
