"""Tests of every command on a class-conditional GAN: train, sample by class, evaluate."""

import csv
import dataclasses
import io
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import genjax
from genjax import DataOptions, Recipe
from genjax.cli.run import run as cli
from genjax.evaluation.tradeoff import to_csv, to_figure
from genjax.figures.latents import paths
from genjax.models.biggan import BigganConfig, PlayerConfig
from genjax.run.folder import RunFolder
from genjax.run.records import read_records
from genjax.run.trained import load

pytestmark = pytest.mark.slow

PLAYER = PlayerConfig(features=8, attention_resolutions=(8,), learning_rate=1e-3, beta1=0.0)
RECIPE = Recipe(
    family="biggan",
    model=BigganConfig(
        latent_size=12, shared_size=8, ema_decay=0.9, generator=PLAYER, discriminator=PLAYER
    ),
    data_options=DataOptions(split="train[:80%]", test_split="train[80%:]"),
    steps=60,
    batch_size=32,
    log_interval=10,
    save_interval=30,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "biggan"
    genjax.train(RECIPE, run)
    return run


def test_it_records_what_tells_of_a_collapse(trained):
    records = read_records(RunFolder(trained))
    for name in (
        "g_max_singular_value",
        "d_max_singular_value",
        "logit_gap",
        "g_loss",
        "d_loss",
        "diversity",
    ):
        assert all(np.isfinite(record[name]) for record in records)
    saved = [record for record in records if "energy_distance" in record]
    assert len(saved) == 2
    assert all(record["generator_singular_value"] > 0 for record in saved)
    # There is a row for each of the ten classes.
    with Image.open(trained / "samples/step_00000060.png") as picture:
        width, height = picture.size
    assert height > 1.2 * width


def test_a_resumed_run_is_the_one_that_was_never_stopped(tmp_path, trained):
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/00000060")
    genjax.resume(tmp_path / "run", steps=60)
    ours, theirs = (genjax.sample(run, n=16, checkpoint=60) for run in (tmp_path / "run", trained))
    np.testing.assert_array_equal(ours, theirs)


def test_samples_of_a_class(trained):
    by_class = genjax.sample(trained, checkpoint=60)
    assert by_class.shape == (80, 8, 8, 1)
    threes = genjax.sample(trained, n=8, label=3, checkpoint=60)
    assert threes.shape == (8, 8, 8, 1)
    in_turn = genjax.sample(trained, n=70, checkpoint=60)
    np.testing.assert_array_equal(in_turn[3], threes[3])
    assert not np.array_equal(in_turn[4], threes[4])
    for label, message in ((10, "label = 10: should be from 0 to 9"), (-1, "label = -1")):
        with pytest.raises(genjax.UsageError, match=message):
            genjax.sample(trained, label=label)


def test_a_class_has_a_name_and_a_number(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    config = RunFolder(tmp_path / "run").config
    values = json.loads(config.read_text())
    values["class_names"] = ["cat", "2", "1", "004", *"bcdefg"]
    config.write_text(json.dumps(values))

    def sampled(label):
        output = tmp_path / "x.npy"
        arguments = ["-n", "4", "--checkpoint", "60", "-o", str(output)]
        assert cli(["sample", str(tmp_path / "run"), "--label", label, *arguments]) == 0
        return np.load(output)

    for given, number in (("cat", 0), ("g", 9), ("9", 9), ("2", 1), ("1", 2), ("004", 3), ("4", 4)):
        wanted = genjax.sample(trained, n=4, label=number, checkpoint=60)
        np.testing.assert_array_equal(sampled(given), wanted)
    for wrong in ("dog", "10", "-1"):
        with pytest.raises(genjax.UsageError) as error:
            sampled(wrong)
        assert str(error.value) == (
            f"label = {wrong}: should be from 0 to 9, or the name of a class: "
            "cat, 2, 1, 004, b, c, d, e, f, g"
        )


def test_truncated_samples_are_less_varied(trained):
    spreads = [
        genjax.sample(trained, n=64, label=3, truncation=t, checkpoint=60).astype(float).std(axis=0)
        for t in (0.1, 1.0, None)
    ]
    assert spreads[0].mean() < spreads[1].mean() < spreads[2].mean()
    with pytest.raises(genjax.UsageError, match=r"truncation = 0: should be more than 0"):
        genjax.sample(trained, truncation=0)


def test_paths_have_standing_statistics_as_samples_do(trained):
    """Whatever the running statistics are, the images of a path are the same."""
    model = load(trained)
    recipe, state = model.recipe, model.state
    stats = jax.tree.map(lambda values: 9 * values + 1, state.ema["batch_stats"])
    spoiled = dataclasses.replace(state, ema={**state.ema, "batch_stats": stats})
    drawn, other = (
        paths(recipe, each, None, 2, 3, "spherical", jax.random.key(0)) for each in (state, spoiled)
    )
    np.testing.assert_array_equal(drawn, other)


def test_an_evaluation_tells_its_truncation_and_singular_values(trained):
    result = genjax.evaluate(trained, n=50, truncation=0.5)
    assert result["protocol"]["truncation"] == 0.5
    assert len(result["health"]["generator_singular_value"]) == 10
    values = result["health"]["discriminator_singular_value"]
    assert values == sorted(values, reverse=True)
    assert genjax.compare([trained]).rows["truncation"] == ["0.5"]


def test_the_tradeoff_of_truncations(trained):
    rows = genjax.tradeoff(trained, values=(0.1, 1.0), n=60)
    assert [row["truncation"] for row in rows] == [0.1, 1.0]
    assert rows[0]["recall"] <= rows[1]["recall"]
    assert all(0 <= row[name] <= 1 for row in rows for name in ("precision", "recall", "coverage"))
    first, second = csv.DictReader(io.StringIO(to_csv(rows)))
    assert float(second["frechet_distance"]) == rows[1]["frechet_distance"]
    assert first.keys() == rows[0].keys()
    picture = Image.open(io.BytesIO(to_figure(rows)))
    assert np.ptp(np.asarray(picture.convert("L"))) > 200
    again = genjax.tradeoff(trained, values=(0.1, 1.0), option="truncation", n=60)
    assert all(row.pop("seconds") > 0 for row in [*rows, *again])
    assert rows == again
    with pytest.raises(genjax.UsageError, match="n = 5"):
        genjax.tradeoff(trained, n=5)
    assert json.loads(json.dumps(rows)) == rows
