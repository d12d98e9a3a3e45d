"""Families from outside: registered by a recipe file, by a package, or in a notebook."""

import dataclasses
import importlib.metadata
import logging
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import genjax
from genjax import models
from genjax.cli.run import run as command
from genjax.models import FAMILIES, gan
from genjax.models.gan import GanConfig

EXAMPLES = Path(__file__).parents[2] / "experiments/families"
SHORT = ["--steps", "4", "--batch-size", "8", "--log-interval", "2", "--save-interval", "2"]


@pytest.fixture(autouse=True)
def _forget():
    """Forget after each test what it registers, as a new process does."""
    known, files = dict(FAMILIES), dict(models._files)
    yield
    _new_process()
    for kept, now in ((known, FAMILIES), (files, models._files)):
        now.clear()
        now.update(kept)


def _new_process():
    for name in ("my_lsgan", "my_lsgan_nnx"):
        FAMILIES.pop(name, None)
        models._files.pop(name, None)
    for name in [name for name in sys.modules if "genjax_recipe_" in name]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["my_lsgan", "my_lsgan_nnx"])
def test_an_example_is_a_family_like_the_others(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    file, run = str(EXAMPLES / f"{name}.py"), f"runs/{name}_digits"
    assert len(Path(file).read_text().splitlines()) <= (80 if name == "my_lsgan" else 100)
    assert command(["train", file, *SHORT, "--learning-rate", "1e-3"]) == 0
    assert load_path(run) == file
    _new_process()
    for arguments in (["sample", run], ["resume", run, "--steps", "6"], ["evaluate", run]):
        with pytest.raises(genjax.UsageError, match=f"of the file {file}.*: --recipe {file}, or"):
            command(arguments)
        _new_process()
    assert command(["sample", run, "-n", "4", "--recipe", file, "-o", "a.png"]) == 0
    _new_process()
    assert command(["resume", run, "--steps", "6", f"--recipe={file}"]) == 0
    assert command(["interpolate", run]) == 0
    assert genjax.export(run, "model.stablehlo").exists()
    model = genjax.export(run, "model.safetensors")
    _new_process()
    with pytest.raises(genjax.UsageError, match=r"model.safetensors: family .* --recipe"):
        genjax.sample(model, 2)
    genjax.load_recipe(file)
    np.testing.assert_array_equal(genjax.sample(model, 2), genjax.sample(run, 2))


def load_path(run):
    text = (Path(run) / "config.json").read_text()
    return text.partition('"family_file": {\n      "path": "')[2].partition('"')[0]


def test_help_of_a_recipe_with_its_own_family(capsys):
    with pytest.raises(SystemExit) as stop:
        command(["train", str(EXAMPLES / "my_lsgan.py"), "--help"])
    assert not stop.value.code
    assert "--learning-rate" in (found := capsys.readouterr().out)
    assert "every field is" in " ".join(found.split())


def test_a_file_that_has_changed_is_told(tmp_path, caplog):
    file = tmp_path / "my_lsgan.py"
    shutil.copy(EXAMPLES / "my_lsgan.py", file)
    recipe = dataclasses.replace(
        genjax.load_recipe(str(file)), steps=2, batch_size=8, log_interval=2, save_interval=2
    )
    assert genjax.load_recipe(str(file)).model.__class__ is recipe.model.__class__  # run once
    genjax.train(recipe, tmp_path / "run")
    genjax.load(tmp_path / "run")
    assert "has changed" not in caplog.text
    file.write_text(file.read_text() + "\n")
    _new_process()
    genjax.load_recipe(str(file))
    with caplog.at_level(logging.WARNING, logger="genjax"):
        genjax.load(tmp_path / "run")
    assert f"{file} has changed since the run began" in caplog.text


def test_a_recipe_that_is_no_file_is_refused():
    with pytest.raises(genjax.UsageError, match=r"--recipe my_lsgan: wanted the .py file"):
        command(["sample", "run", "--recipe", "my_lsgan"])
    with pytest.raises(genjax.UsageError, match=r"no recipe file nothing.py"):
        command(["sample", "run", "--recipe=nothing.py"])


@pytest.mark.parametrize(
    ("name", "family", "message"),
    [
        ("gan", gan.FAMILY, "is genjax's own"),
        ("My family", gan.FAMILY, "wanted small letters"),
        ("mine", GanConfig, "is a type; wanted a genjax.Family"),
        ("mine", {"config": dict}, "no subclass of genjax.Config"),
        ("mine", {"config": genjax.Config}, "wants a latent_size"),
        ("mine", {"step": None}, "its step is no function"),
        ("mine", {"config": type("Plain", (GanConfig,), {})}, "wants the decorator genjax.checked"),
        (3, gan.FAMILY, "family 3: wanted small letters"),
    ],
)
def test_what_is_no_family_is_refused(name, family, message):
    if isinstance(family, dict):
        family = dataclasses.replace(gan.FAMILY, **family)
    with pytest.raises(genjax.UsageError, match=message):
        genjax.register(name, family)


def test_a_family_of_a_notebook(tmp_path):
    genjax.register("mine", gan.FAMILY)
    genjax.register("mine", gan.FAMILY)  # the cell is run again
    recipe = genjax.Recipe("mine", GanConfig(), steps=2, batch_size=8, log_interval=2)
    recipe = dataclasses.replace(recipe, save_interval=2)
    assert genjax.sample(genjax.train(recipe, tmp_path / "run"), 2).shape == (2, 8, 8, 1)
    del FAMILIES["mine"]
    with pytest.raises(genjax.UsageError, match=r"'mine' is unknown: .* genjax.register has added"):
        genjax.sample(tmp_path / "run", 2)


def test_a_state_without_what_is_asked_of_it_is_named(tmp_path):
    family = dataclasses.replace(gan.FAMILY, init=lambda config, key, spec: {"step": 0})
    genjax.register("mine", family)
    with pytest.raises(genjax.UsageError, match="'mine': its state, of type dict, has no step, "):
        genjax.train(genjax.Recipe("mine", GanConfig()), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_sample_that_wants_a_number_cannot_be_exported(tmp_path):
    def sample(config, state, key, labels):
        return gan.FAMILY.sample(config, state, key, np.zeros(len(labels), np.int32))

    genjax.register("mine", dataclasses.replace(gan.FAMILY, sample=sample))
    recipe = genjax.Recipe("mine", GanConfig(), steps=2, log_interval=2, save_interval=2)
    run = genjax.train(recipe, tmp_path / "run")
    with pytest.raises(genjax.UsageError, match=r"'mine': .*len wants a number"):
        genjax.export(run, tmp_path / "x.stablehlo")


def test_packages_offer_families(monkeypatch, caplog):
    point = importlib.metadata.EntryPoint("theirs", "their_package:FAMILY", models.ENTRY_POINTS)
    broken = importlib.metadata.EntryPoint("broken", "no_such_package", models.ENTRY_POINTS)
    their_package = types.ModuleType("their_package")
    monkeypatch.setattr(their_package, "FAMILY", gan.FAMILY, raising=False)
    monkeypatch.setitem(sys.modules, "their_package", their_package)

    def entry_points(group, name=None):
        assert group == "genjax.families"
        return [each for each in (point, broken) if name in (None, each.name)]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    assert genjax.Recipe("theirs", GanConfig()).functions is gan.FAMILY
    with pytest.raises(genjax.UsageError, match=r"'broken' of the package no_such_package: No"):
        models.find_family("broken")
    assert "theirs" in models.all_families()
    assert "'broken' of the package no_such_package: No module" in caplog.text
