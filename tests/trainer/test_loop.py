import dataclasses
import json
import logging
import os
import signal
import threading
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from PIL import Image

import genjax
from genjax import Recipe
from genjax.data.digest import digest_of
from genjax.data.sources import open_source
from genjax.models import dcgan
from genjax.models.gan import GanConfig
from genjax.models.vae import VaeConfig
from genjax.models.wgan import PlayerConfig, WganGpConfig
from genjax.run.folder import RunFolder
from genjax.run.records import TIMINGS, read_records
from genjax.run.trained import load
from tests import commands, runs

RECIPE = Recipe(
    family="gan", model=GanConfig(), steps=20, batch_size=16, log_interval=5, save_interval=10
)


def _state(run):
    return load(run, "latest").state


def _assert_same_run(one, other):
    chex.assert_trees_all_equal(_state(one), _state(other))
    assert runs.records(one) == runs.records(other)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, real_curves):
    """Train a run of 40 steps without interruption."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    with real_curves():
        genjax.train(dataclasses.replace(RECIPE, steps=40), run)
    return run


def test_what_a_run_writes(trained):
    config = json.loads((trained / "config.json").read_text())
    assert config["recipe"]["model"]["generator"]["learning_rate"] == 2e-4
    spec = {"height": 8, "width": 8, "channels": 1, "classes": 10, "empty_classes": []}
    assert config["spec"] == spec
    assert config["class_names"] == [str(k) for k in range(10)]
    environment = json.loads((trained / "environment.jsonl").read_text())
    assert environment["versions"]["jax"] == jax.__version__
    assert len(environment["devices"]) == 8
    steps = [record["step"] for record in read_records(RunFolder(trained))]
    assert steps == list(range(5, 45, 5))
    names = {"d_loss", "g_loss", "d_real", "d_fake", "accuracy_real", "accuracy_fake"}
    names |= {"d_grad_norm", "g_grad_norm", "diversity", *TIMINGS}
    records = read_records(RunFolder(trained))
    assert all(names < record.keys() for record in records)
    saved = [record["step"] for record in records if "energy_distance" in record]
    assert saved == [10, 20, 30, 40]
    grids = sorted(path.name for path in (trained / "samples").iterdir())
    assert grids == [f"step_{step:08d}.png" for step in saved]
    with Image.open(trained / "samples" / grids[0]) as grid:
        assert grid.mode == "L"
        assert np.asarray(grid).std() > 10
    with Image.open(trained / "curves.png") as curves:
        assert min(curves.size) > 300
    assert list((trained / "tensorboard").glob("events.out.tfevents.*"))
    assert "training in" in (trained / "log.txt").read_text()


def test_what_not_every_step_measures_is_averaged_over_those_that_did(tmp_path):
    """The critic takes 3 steps for one of the generator, and a record has 2 steps."""
    player = PlayerConfig(learning_rate=1e-4, hidden_sizes=(8,))
    model = WganGpConfig(network="mlp", n_critic=3, generator=player, critic=player)
    recipe = Recipe(
        family="wgan_gp", model=model, steps=8, batch_size=16, log_interval=2, save_interval=8
    )
    genjax.train(recipe, tmp_path / "run")
    records = read_records(RunFolder(tmp_path / "run"))
    assert [record["step"] for record in records if "g_loss" in record] == [4, 6]
    assert all(record["g_grad_norm"] > 1e-6 for record in records if "g_loss" in record)
    assert all(np.isfinite(record["wasserstein_estimate"]) for record in records)


def test_resumed_is_uninterrupted_bit_for_bit(trained, tmp_path):
    genjax.train(RECIPE, tmp_path / "run")
    result = genjax.resume(tmp_path / "run", steps=40)
    assert result == genjax.Result(tmp_path / "run", 40, None)
    _assert_same_run(trained, tmp_path / "run")


def test_steps_after_the_rate_has_fallen_are_told(tmp_path, caplog):
    falling = dataclasses.replace(RECIPE.model.generator, schedule="linear", decay_steps=10)
    model = dataclasses.replace(RECIPE.model, generator=falling)
    genjax.train(dataclasses.replace(RECIPE, model=model, steps=10), tmp_path / "run")
    assert "step size" not in caplog.text
    genjax.resume(tmp_path / "run", steps=20)
    (told,) = (line for line in caplog.text.splitlines() if "step size of generator" in line)
    assert "0 from step 10 on" in told and "--generator.decay-steps 20?" in told


@pytest.mark.slow
def test_an_adapted_augmentation_goes_on_bit_for_bit(tmp_path):
    player = dcgan.PlayerConfig(features=4)
    model = dcgan.DcganConfig(
        latent_size=8,
        augment="ada",
        augment_p=0.2,
        augment_operations=("cutout",),
        ada_images=400,
        generator=player,
        discriminator=player,
    )
    recipe = dataclasses.replace(RECIPE, family="dcgan", model=model, steps=8)
    recipe = dataclasses.replace(recipe, log_interval=2, save_interval=2)
    recipe = dataclasses.replace(recipe, data_options=genjax.DataOptions(size=(16,)))
    genjax.train(recipe, tmp_path / "whole")
    genjax.train(dataclasses.replace(recipe, steps=6), tmp_path / "resumed")
    assert _state(tmp_path / "resumed").augment_p != 0.2
    genjax.resume(tmp_path / "resumed", steps=8)
    _assert_same_run(tmp_path / "whole", tmp_path / "resumed")
    ps = [record["augment_p"] for record in read_records(RunFolder(tmp_path / "whole"))]
    assert len(set(ps)) > 2


@pytest.mark.slow
def test_streamed_data_give_the_same_run(tmp_path):
    """Runs as users compile are bit-identical; the quicker code of tests may round otherwise."""
    as_users = {"XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    options = ("--steps", 40, "--batch-size", 16, "--log-interval", 5, "--save-interval", 10)
    for gib in ("4", "0"):
        process = commands.start(
            *("train", "gan_digits", "--resident-gib", gib, "--run", tmp_path / gib, *options),
            environment=as_users,
        )
        _, errors = process.communicate(timeout=commands.PATIENCE)
        assert process.returncode == 0, errors
    _assert_same_run(tmp_path / "4", tmp_path / "0")


def test_a_seed_makes_another_run(trained, tmp_path):
    genjax.train(dataclasses.replace(RECIPE, steps=5, seed=1), tmp_path / "run")
    assert runs.records(tmp_path / "run")[0]["d_loss"] != runs.records(trained)[0]["d_loss"]


def test_a_signal_saves_and_the_run_goes_on(trained, tmp_path, stop_signal, monkeypatch):
    handler = signal.getsignal(stop_signal)
    calls = []
    take_steps = genjax.trainer.loop._take_steps

    def interrupted(*args):
        calls.append(None)
        if len(calls) == 3:
            os.kill(os.getpid(), stop_signal)
        return take_steps(*args)

    monkeypatch.setattr(genjax.trainer.loop, "_take_steps", interrupted)
    with pytest.raises(
        genjax.Stopped, match="saved at step 15; to go on: genjax resume"
    ) as stopped:
        genjax.train(dataclasses.replace(RECIPE, steps=40), tmp_path / "run")
    assert (stopped.value.result.step, stopped.value.signal) == (15, stop_signal)
    assert signal.getsignal(stop_signal) is handler
    monkeypatch.undo()
    assert genjax.resume(tmp_path / "run").step == 40
    _assert_same_run(trained, tmp_path / "run")


def test_records_after_the_checkpoint_are_written_anew(trained, tmp_path):
    genjax.train(RECIPE, tmp_path / "run")
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write('{"step": 25, "d_loss": 9.0, "seconds": 1}\n{"step": 30, "d_l')
    genjax.resume(tmp_path / "run", steps=40)
    _assert_same_run(trained, tmp_path / "run")


def test_a_damaged_checkpoint_costs_only_the_steps_since_the_one_before(trained, tmp_path, caplog):
    genjax.train(dataclasses.replace(RECIPE, steps=40), tmp_path / "run")
    files = (p for p in (tmp_path / "run/checkpoints/00000040").rglob("*") if p.is_file())
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[100] ^= 4
    largest.write_bytes(data)
    with caplog.at_level(logging.INFO, logger="genjax"):
        genjax.resume(tmp_path / "run")
    assert "00000040 cannot be used: ocdbt.process_0/" in caplog.text
    assert "from step 30" in caplog.text
    _assert_same_run(trained, tmp_path / "run")


def test_a_run_without_a_checkpoint_starts_over(trained, tmp_path, caplog):
    genjax.train(dataclasses.replace(RECIPE, steps=40), tmp_path / "run")
    for path in sorted((tmp_path / "run/checkpoints").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    with caplog.at_level(logging.WARNING, logger="genjax"):
        genjax.resume(tmp_path / "run")
    assert "no checkpoint is left: training begins anew, and its records, up to step 40" in (
        caplog.text
    )
    _assert_same_run(trained, tmp_path / "run")


def test_a_finished_run_is_left_as_it_is(trained, caplog):
    before = (trained / "metrics.jsonl").read_bytes()
    with caplog.at_level(logging.INFO, logger="genjax"):
        assert genjax.resume(trained).step == 40
    assert "at step 40 already" in caplog.text
    assert (trained / "metrics.jsonl").read_bytes() == before


def test_the_callers_level_of_logging_stays(trained, caplog):
    with caplog.at_level(logging.ERROR, logger="genjax"):
        genjax.resume(trained)
        assert logging.getLogger("genjax").level == logging.ERROR


def test_a_run_that_diverges_says_where_and_keeps_the_good_state(tmp_path):
    genjax.train(RECIPE, tmp_path / "run")
    good = _state(tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["recipe"]["model"]["discriminator"]["learning_rate"] = 1e37
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    with pytest.raises(genjax.Diverged, match=r"step 2[1-5]: .*(loss|discriminator)"):
        genjax.resume(tmp_path / "run", steps=40)
    chex.assert_trees_all_equal(_state(tmp_path / "run"), good)


def test_a_parameter_that_is_not_finite_is_named():
    state = {"generator": {"kernel": np.array([1.0, np.inf], np.float32)}, "step": np.int32(3)}
    leaves = genjax.trainer.loop._leaf_names(state)
    finite = np.array([np.isfinite(leaf).all() for leaf in jax.tree.leaves(state)])
    with pytest.raises(genjax.Diverged, match="after step 3: generator/kernel"):
        genjax.trainer.loop._refuse_non_finite({"loss": np.ones(3)}, 0, leaves, finite)


def test_the_first_metric_that_is_not_finite_is_named():
    metrics = {"a": np.array([1, 1, np.nan]), "b": np.array([1, np.inf, np.nan])}
    with pytest.raises(genjax.Diverged, match=r"at step 12: b = inf"):
        genjax.trainer.loop._refuse_non_finite(metrics, 10, [], np.array([]))


def test_a_second_process_is_refused(trained):
    with RunFolder(trained).locked(), pytest.raises(genjax.UsageError, match="another process"):
        genjax.resume(trained, steps=60)
    assert json.loads((trained / "config.json").read_text())["recipe"]["steps"] == 40


def test_a_run_folder_in_use_is_refused(trained):
    with pytest.raises(genjax.UsageError, match="genjax resume"):
        genjax.train(RECIPE, trained)


def test_no_run_there(tmp_path):
    with pytest.raises(genjax.UsageError, match=r"no config\.json"):
        genjax.resume(tmp_path)
    with pytest.raises(genjax.UsageError, match=r"no config\.json"):
        genjax.sample(tmp_path / "nothing")


def test_a_damaged_config_is_named(trained, tmp_path):
    (tmp_path / "config.json").write_text((trained / "config.json").read_text()[:-20])
    with pytest.raises(genjax.UsageError, match=r"config\.json cannot be read"):
        genjax.resume(tmp_path)
    text = (trained / "config.json").read_text().replace('"steps"', '"stepz"')
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(genjax.UsageError, match="stepz"):
        genjax.resume(tmp_path)


def test_data_that_changed_are_refused(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(20):
        Image.new("L", (8, 8), i * 12).save(images / f"{i}.png")
    recipe = dataclasses.replace(RECIPE, data=f"folder:{images}", steps=5)
    genjax.train(recipe, tmp_path / "run")
    (images / "0.png").unlink()
    with pytest.raises(genjax.UsageError, match="has changed: 19 images") as caught:
        genjax.resume(tmp_path / "run", steps=10)
    assert "0 came, 1 went (0.png), 0 changed" in str(caught.value)
    Image.new("L", (8, 8), 0).save(images / "0.png")
    Image.new("L", (8, 8), 99).save(images / "7.png")
    with pytest.raises(genjax.UsageError, match=r"1 changed in content or class \(7\.png\)"):
        genjax.resume(tmp_path / "run", steps=10)
    Image.new("L", (8, 8), 7 * 12).save(images / "7.png")
    genjax.resume(tmp_path / "run", steps=10)
    config = json.loads((tmp_path / "run/config.json").read_bytes())
    contents = open_source(recipe.data, recipe.data_options).contents(False)
    assert config["data_digest"] == digest_of(contents)
    assert config["recipe"]["steps"] == 10


def test_the_best_is_among_those_of_the_data_as_they_are_now(tmp_path):
    """Not a checkpoint of before, however near its samples were to other images."""
    images = tmp_path / "images"
    images.mkdir()
    for i in range(20):
        Image.new("L", (8, 8), 128).save(images / f"{i}.png")
    recipe = dataclasses.replace(RECIPE, data=f"folder:{images}", steps=10, save_interval=5)
    genjax.train(recipe, tmp_path / "run")
    for i in range(20):
        Image.new("L", (8, 8), 255).save(images / f"{i}.png")
    genjax.resume(tmp_path / "run", steps=15, accept_changed_data=True)
    assert load(tmp_path / "run").step == 15
    assert RunFolder(tmp_path / "run").read_config().same_data_since == 10
    genjax.resume(tmp_path / "run", steps=20)
    assert load(tmp_path / "run").step in (15, 20)


def test_what_is_left_out_and_taken_for_a_class_is_in_the_log(tmp_path):
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/.1.png", "stray.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 9).save(path)
    recipe = dataclasses.replace(RECIPE, data=f"folder:{tmp_path}/images", steps=5)
    genjax.train(recipe, tmp_path / "run")
    said = (tmp_path / "run/log.txt").read_text()
    for line in (
        "files left out: 1 that a system or program keeps for itself",
        "stray.png lies beside the class folders",
        "2 classes: a (2), b (1)",
    ):
        assert line in said


def test_a_batch_that_does_not_divide_is_refused(tmp_path, eight_devices):
    refused = pytest.raises(genjax.UsageError, match=r"batch_size = 12: .* 8 devices")
    with eight_devices(), refused:
        genjax.train(dataclasses.replace(RECIPE, batch_size=12), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bad_data_leave_no_run_folder(tmp_path):
    with pytest.raises(genjax.UsageError):
        genjax.train(dataclasses.replace(RECIPE, data="folder:/no/such"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_runs_are_named_and_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = dataclasses.replace(RECIPE, steps=5)
    assert genjax.train(recipe).run == Path("runs/gan_digits")
    assert genjax.train(recipe).run == Path("runs/gan_digits-2")


def test_training_in_a_thread(tmp_path):
    results = []
    recipe = dataclasses.replace(RECIPE, steps=5)
    thread = threading.Thread(target=lambda: results.append(genjax.train(recipe, tmp_path / "r")))
    thread.start()
    thread.join()
    assert results[0].step == 5


def test_samples(trained):
    images = genjax.sample(trained, n=70, seed=3)
    assert images.shape == (70, 8, 8, 1)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images[:5], genjax.sample(trained, n=5, seed=3))
    assert not np.array_equal(images[:5], genjax.sample(trained, n=5, seed=4))
    at_30, latest = (genjax.sample(trained, n=5, seed=3, checkpoint=c) for c in (30, "latest"))
    assert not np.array_equal(at_30, latest)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"n": 0}, "n = 0"), ({"checkpoint": 7}, "no good checkpoint 7: it has 20, 30, 40")],
)
def test_samples_that_cannot_be_are_refused(trained, arguments, message):
    with pytest.raises(genjax.UsageError, match=message):
        genjax.sample(trained, **arguments)


@pytest.mark.slow
def test_the_gan_learns_the_digits(tmp_path):
    """Samples come much closer to the data, and stay diverse."""
    recipe = dataclasses.replace(
        RECIPE, batch_size=128, steps=2500, log_interval=100, save_interval=500
    )
    genjax.train(recipe, tmp_path / "run")
    records = runs.records(tmp_path / "run")
    distances = [r["energy_distance"] for r in records if "energy_distance" in r]
    assert distances[-1] < 0.2 * distances[0]
    assert records[-1]["diversity"] > 0.9


def _folder(path, count):
    path.mkdir(exist_ok=True)
    for i in range(count):
        Image.new("L", (8, 8), i * 12).save(path / f"{i}.png")
    return f"folder:{path}"


def test_one_image_has_finite_metrics(tmp_path):
    recipe = dataclasses.replace(RECIPE, data=_folder(tmp_path / "one", 1), steps=5)
    genjax.train(recipe, tmp_path / "run")
    text = (tmp_path / "run/metrics.jsonl").read_text()
    (record,) = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    assert record["energy_distance"] > 0
    assert record["diversity"] == 1  # of equal images


def test_a_metric_that_is_not_finite_decides_nothing(tmp_path, monkeypatch, caplog):
    values = iter([5.0, float("nan"), 7.0, float("-inf")])
    monkeypatch.setattr(
        genjax.trainer.loop._Evaluator,
        "__call__",
        lambda self, state: {"energy_distance": next(values)},
    )
    genjax.train(dataclasses.replace(RECIPE, steps=40), tmp_path / "run")
    text = (tmp_path / "run/metrics.jsonl").read_text()
    records = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    assert [r["energy_distance"] for r in records if "energy_distance" in r] == [5, 7]
    assert "energy_distance is nan, and left out" in caplog.text
    assert load(tmp_path / "run").step == 10


def test_the_metric_of_the_recipe_picks_the_best(tmp_path, monkeypatch):
    distances = iter([(3, 4), (1, 3), (2, 1), (4, 2)])
    monkeypatch.setattr(genjax.trainer.loop, "SampleQuality", lambda *given: None)
    monkeypatch.setattr(
        genjax.trainer.loop._Evaluator,
        "__call__",
        lambda self, state: dict(
            zip(("energy_distance", "frechet_distance"), map(float, next(distances)), strict=True)
        ),
    )
    recipe = dataclasses.replace(RECIPE, steps=40, quality="frechet_distance")
    genjax.train(recipe, tmp_path / "run")
    config = tmp_path / "run/config.json"
    for quality, best in (("frechet_distance", 30), ("energy_distance", 20), ("latest", 40)):
        values = json.loads(config.read_text())
        values["recipe"]["quality"] = quality
        config.write_text(json.dumps(values))
        assert load(tmp_path / "run").step == best


SMALL_VAE = VaeConfig(hidden_sizes=(8,), latent_size=2)


@pytest.mark.parametrize(
    ("family", "model", "metric"),
    [("gan", GanConfig(), "energy_distance"), ("vae", SMALL_VAE, "eval_nll")],
)
def test_a_run_from_before_keeps_its_metric(tmp_path, real_quality, family, model, metric):
    recipe = dataclasses.replace(RECIPE, family=family, model=model, steps=10)
    genjax.train(recipe, tmp_path / "run")
    config = tmp_path / "run/config.json"
    values = json.loads(config.read_text())
    assert values["recipe"].pop("quality") == metric
    config.write_text(json.dumps(values))
    with real_quality():  # whatever a new run would take
        genjax.resume(tmp_path / "run", recipe=dataclasses.replace(recipe, steps=20))
    assert json.loads(config.read_text())["recipe"]["quality"] == metric
    assert metric in runs.records(tmp_path / "run")[-1]


def test_changed_data_can_be_accepted_and_moved_data_named(tmp_path):
    data = _folder(tmp_path / "images", 20)
    genjax.train(dataclasses.replace(RECIPE, data=data, steps=5), tmp_path / "run")
    (tmp_path / "images").rename(tmp_path / "moved")
    with pytest.raises(genjax.UsageError, match=r"no folder .* say where: --data"):
        genjax.resume(tmp_path / "run", steps=10)
    moved = dataclasses.replace(
        RunFolder(tmp_path / "run").read_config().recipe, data=f"folder:{tmp_path}/moved", steps=10
    )
    genjax.resume(tmp_path / "run", recipe=moved)
    _folder(tmp_path / "moved", 21)
    with pytest.raises(genjax.UsageError, match=r"add --accept-changed-data"):
        genjax.resume(tmp_path / "run", steps=15)
    genjax.resume(tmp_path / "run", steps=15, accept_changed_data=True)
    assert json.loads((tmp_path / "run/config.json").read_text())["images"] == 21
    genjax.resume(tmp_path / "run", steps=20)
    for path in (tmp_path / "moved").iterdir():
        Image.new("L", (9, 8)).save(path)
    with pytest.raises(genjax.UsageError, match="cannot change in a run"):
        genjax.resume(tmp_path / "run", steps=25, accept_changed_data=True)


def test_settings_that_are_refused_leave_the_run_as_it_was(tmp_path, eight_devices):
    genjax.train(RECIPE, tmp_path / "run")
    before = (tmp_path / "run/config.json").read_bytes()
    odd = dataclasses.replace(RECIPE, batch_size=12, steps=40)
    message = "8 devices, as with --batch-size 8 or --batch-size 16"
    with eight_devices(), pytest.raises(genjax.UsageError, match=message):
        genjax.resume(tmp_path / "run", recipe=odd)
    assert (tmp_path / "run/config.json").read_bytes() == before
