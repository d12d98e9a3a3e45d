import dataclasses
import json
import logging
import shutil

import chex
import jax
import numpy as np
import pytest

import genjax
from genjax import ImageSpec, Recipe, UsageError
from genjax.models.gan import GanConfig
from genjax.run.folder import RunFolder
from genjax.run.start import origin_of, start_from
from genjax.run.states import initial_state
from genjax.run.trained import load
from genjax.steps.state import named_leaves
from tests import hub, runs
from tests.exchange.test_export import saved
from tests.models.test_families import CONFIGS

RECIPE = Recipe(
    family="gan",
    model=GanConfig(),
    steps=4,
    batch_size=16,
    log_interval=2,
    save_interval=2,
    quality="energy_distance",
)
OTHER = genjax.DataOptions(split="train[:20%]")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return genjax.train(RECIPE, tmp_path_factory.mktemp("runs") / "one").run


def _digits(family: str, size: int, classes: int = 10, **values) -> tuple[Recipe, ImageSpec]:
    config = dataclasses.replace(CONFIGS[family], **values)
    return Recipe(family=family, model=config), ImageSpec(size, size, 1, classes)


def test_a_run_starts_with_the_weights_of_another(run, tmp_path):
    model = genjax.export(run, tmp_path / "m.safetensors", checkpoint="latest")
    whole = genjax.export(run, tmp_path / "all.safetensors", checkpoint="latest", all=True)
    state = initial_state(RECIPE, load(run).spec, jax.random.key(9))
    last = load(run, "latest").state
    for what, has_d in ((load(run, "latest"), True), (load(whole), True), (load(model), False)):
        found = start_from(state, origin_of(what))
        chex.assert_trees_all_equal(found.generator.params, last.generator.params)
        chex.assert_trees_all_equal(found.generator.opt_state, state.generator.opt_state)
        expected = last if has_d else state
        chex.assert_trees_all_equal(found.discriminator.params, expected.discriminator.params)
        assert found.step == 0


def test_what_does_not_fit_is_fresh_and_named(tmp_path, caplog):
    """More pixels of StyleGAN2, other classes of a VAE: the layers that are the same are taken."""
    sizes = [_digits("stylegan2", size, conditional=True) for size in (8, 16)]
    classes = [_digits("vae", 8, count, conditional=True) for count in (10, 3)]
    named = {"stylegan2": "discriminator, generator.params.synthesis.block_2.", "vae": "decoder"}
    for (recipe, spec), (larger, larger_spec) in (sizes, classes):
        path = saved(recipe, initial_state(recipe, spec, jax.random.key(0)), tmp_path)
        state = initial_state(larger, larger_spec, jax.random.key(1))
        caplog.clear()
        caplog.set_level(logging.INFO, "genjax")
        found = start_from(state, origin_of(load(path)))
        before, after, source = (
            named_leaves(each.weights) for each in (state, found, load(path).state)
        )
        taken = [n for n in source if n in after and np.array_equal(after[n], source[n])]
        assert len(taken) > 4
        arrays = [id(x) for x in jax.tree.leaves(found)]
        assert len(arrays) == len(set(arrays))  # or they could not be donated
        fresh = [n for n in after if not np.array_equal(after[n], source.get(n))]
        assert all(np.array_equal(after[n], before[n]) for n in fresh)
        assert "and fresh:" in caplog.text and named[recipe.family] in caplog.text


def test_weights_of_which_nothing_fits_are_refused(run, tmp_path):
    recipe, spec = _digits("stylegan2", 8)
    state = initial_state(recipe, spec, jax.random.key(0))
    with pytest.raises(UsageError, match=r"is a gan of \(8, 8, 1\), of which no weights"):
        start_from(state, origin_of(load(run)))
    target = tmp_path / "run"
    with pytest.raises(UsageError, match="of which no weights"):
        genjax.train("vae_digits", target, init=run)
    with pytest.raises(UsageError, match=r"no model file .*none.safetensors"):
        genjax.train(RECIPE, target, init="none.safetensors")
    assert not target.exists()


def test_the_origin_is_kept_and_needed_until_the_first_checkpoint(run, tmp_path):
    path = genjax.export(run, tmp_path / "m.safetensors", checkpoint="latest")
    recipe = dataclasses.replace(RECIPE, steps=2, data_options=OTHER)
    genjax.train(recipe, tmp_path / "fine", init=path)
    genjax.train(recipe, tmp_path / "fresh")
    config = RunFolder(tmp_path / "fine").read_config()
    assert config.init is not None and (config.init.path, config.init.step) == (str(path), 4)
    state, records = runs.results(tmp_path / "fine")
    assert records != runs.results(tmp_path / "fresh")[1]
    # Killed before its first checkpoint, it begins again with the same weights.
    shutil.rmtree(tmp_path / "fine/checkpoints")
    genjax.resume(tmp_path / "fine")
    chex.assert_trees_all_equal(runs.results(tmp_path / "fine")[0], state)
    genjax.export(run, path, checkpoint=2)
    shutil.rmtree(tmp_path / "fine/checkpoints")
    with pytest.raises(UsageError, match=r"has changed since the run began|is a model of step 2"):
        genjax.resume(tmp_path / "fine")


def test_frozen_layers_stay(run, tmp_path):
    recipe = dataclasses.replace(RECIPE, freeze=("discriminator.params.*",), data_options=OTHER)
    genjax.train(recipe, tmp_path / "run", init=run)
    before, after = (load(each, "latest").state for each in (load(run), tmp_path / "run"))
    chex.assert_trees_all_equal(after.discriminator.params, before.discriminator.params)
    assert not np.array_equal(
        *(jax.tree.leaves(each.generator.params)[0] for each in (before, after))
    )
    part = dataclasses.replace(recipe, freeze=("discriminator.params.hidden_0",))
    genjax.train(part, tmp_path / "part", init=run)
    before, after = (load(each, "latest").state.discriminator for each in (run, tmp_path / "part"))
    chex.assert_trees_all_equal(after.params["hidden_0"], before.params["hidden_0"])
    assert not np.array_equal(after.params["output"]["kernel"], before.params["output"]["kernel"])
    with pytest.raises(UsageError, match=r"freeze = D\.\*: fits none of .*tor\.params"):
        genjax.train(dataclasses.replace(recipe, freeze=("D.*",)), tmp_path / "other")
    with pytest.raises(UsageError, match=r"freeze = \*: nothing is left to train"):
        genjax.train(dataclasses.replace(recipe, freeze=("*",)), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_file_with_all_goes_on_as_the_run(run, tmp_path, monkeypatch):
    genjax.train(dataclasses.replace(RECIPE, steps=6), tmp_path / "whole")
    path = genjax.export(run, tmp_path / "my.safetensors", checkpoint="latest", all=True)
    monkeypatch.chdir(tmp_path)
    result = genjax.resume(path, steps=6)
    assert str(result.run) == "runs/my"
    mine, other = (load(each, "latest").state for each in (result, tmp_path / "whole"))
    chex.assert_trees_all_equal(mine, other)
    slim = genjax.export(run, tmp_path / "slim.safetensors")
    with pytest.raises(
        UsageError, match=r"slim.safetensors holds what samples need, no more: there"
    ):
        genjax.resume(slim)


def test_a_run_in_a_bucket_is_that_of_a_folder(run, tmp_path, monkeypatch):
    """A bucket of s3://, to which checkpoints go through a local copy."""
    hub.start(monkeypatch)
    genjax.train(dataclasses.replace(RECIPE, steps=6), tmp_path / "whole")
    genjax.train(RECIPE, "s3://bucket/run")
    result = genjax.resume("s3://bucket/run", steps=6)
    mine, other = (load(each, "latest").state for each in (result, tmp_path / "whole"))
    chex.assert_trees_all_equal(mine, other)
    assert runs.records("s3://bucket/run") == runs.records(tmp_path / "whole")


def test_each_start_records_its_step_and_what_changed(run, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="genjax")
    result = genjax.train(RECIPE, tmp_path / "run")
    folder = RunFolder(result.run)
    recipe = folder.read_config().recipe
    genjax.resume(result, recipe=dataclasses.replace(recipe, steps=6, keep=2))
    assert "another run" not in caplog.text
    genjax.resume(result, recipe=dataclasses.replace(recipe, steps=8, keep=2, batch_size=8))
    assert "batch_size = 8 (was 16); another run from here on" in caplog.text
    genjax.resume(result, recipe=dataclasses.replace(recipe, steps=8, batch_size=4, keep=2))
    assert "at step 8 already, and nothing has changed: batch_size; --steps" in caplog.text
    starts = [json.loads(line) for line in folder.environment.read_text().splitlines()]
    assert [start["step"] for start in starts] == [0, 4, 6]
    assert starts[1]["changes"] == ["steps = 6 (was 4)", "keep = 2 (was 3)"]
