import dataclasses
import json

import jax
import numpy as np
import pytest

from genjax.models import _OWN, FAMILIES
from genjax.models.gan import GanConfig, PlayerConfig
from genjax.models.vae import VaeConfig
from genjax.run.recipe import (
    Recipe,
    from_json,
    load_recipe,
    to_json,
    train_step,
)
from genjax.run.shipped import own_families, recipe_paths
from genjax.types import Batch, Config, ImageSpec, UsageError, describe


def _recipe(**fields):
    return Recipe(**{"family": "gan", "model": GanConfig(), **fields})


def test_the_list_reads_papers_without_importing_the_families():
    own = {name: FAMILIES[name].paper for name in _OWN}
    assert own_families() == own and list(own_families()) == [n for n in FAMILIES if n in _OWN]


@pytest.mark.parametrize("name", recipe_paths())
def test_every_recipe_says_how_to_run_it_and_what_to_expect(name):
    recipe = load_recipe(name)
    assert name.startswith(f"{recipe.family}_")
    text = recipe_paths()[name].read_text()
    for part in (f"genjax train {name}", "Hardware:", "Expected:"):
        assert part in text
    assert from_json(json.loads(json.dumps(to_json(recipe)))) == recipe


def test_all_recipes_of_a_data_set_compare_with_one_another():
    """Their images are the same but for a border, without which all of them are evaluated."""
    found = {}
    for name in recipe_paths():
        recipe = load_recipe(name)
        data = name.removeprefix(f"{recipe.family}_").partition("_")[0]
        bare = recipe.data, dataclasses.replace(recipe.data_options, border=0)
        assert found.setdefault(data, bare) == bare, name
    without = {data for data, (_, options) in found.items() if options.test_split is None}
    assert without == {"ffhq256", "ffhq1024"}


def test_json_spells_out_every_default():
    values = to_json(_recipe())
    assert values["model"]["generator"]["learning_rate"] == 2e-4
    assert values["data_options"]["split"] == "train"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps = 0: should be greater than 0"),
        ({"batch_size": 1}, "batch_size = 1"),
        ({"seed": -1}, "seed = -1"),
        ({"keep": 1}, "keep = 1: should be greater than or equal to 2"),
        ({"save_interval": 150}, "save_interval 150 must be a multiple of log_interval 100"),
        (
            {"log_interval": 10**6, "save_interval": 10**6},
            "log_interval = 1000000: should be less than or equal to 100000",
        ),
        ({"family": "gna"}, "family 'gna' is unknown: wanted gan"),
        ({"model": Config()}, "model is a Config, not of gan"),
        ({"parallel": "threads"}, "parallel = 'threads'"),
        ({"quality": "fid"}, "quality = 'fid': should be 'auto', 'frechet_distance', 'energy_dist"),
        ({"quality": "eval_nll"}, "quality = eval_nll: family 'gan' has no likelihood"),
        (
            {"quality": "latest", "quality_weights": "w.pth"},
            "quality_weights = w.pth: for quality = frechet_distance, not latest",
        ),
        ({"stesp": 3}, "stesp"),
    ],
)
def test_impossible_recipes_are_refused_by_name(fields, message):
    with pytest.raises(UsageError) as error:
        _recipe(**fields)
    assert message in describe(error.value)
    assert "\n" not in describe(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": "many"}, "steps = 'many'"),
        ({"unknown": 1}, "unknown"),
        ({"family": "gna"}, "family"),
        ({"model": {"generator": {"learning_rate": 0}}}, "generator.learning_rate = 0"),
        ({"model": {"latent": 3}}, "latent"),
    ],
)
def test_bad_json_is_refused_by_name(change, message):
    with pytest.raises(UsageError, match=message):
        from_json({**to_json(_recipe()), **change})


def test_unknown_recipes_are_refused(tmp_path):
    with pytest.raises(UsageError, match="did you mean gan_digits"):
        load_recipe("gan_digit")
    with pytest.raises(UsageError, match="no recipe file"):
        load_recipe(str(tmp_path / "none.py"))
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UsageError, match="sets no `recipe"):
        load_recipe(str(tmp_path / "empty.py"))


def test_a_recipe_of_the_users(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import dataclasses, genjax\n"
        "recipe = dataclasses.replace(genjax.load_recipe('gan_digits'), steps=7)\n"
    )
    assert load_recipe(str(tmp_path / "mine.py")).steps == 7


MISTAKES = {
    "recipe = genjax.Recipe(": "line 2: SyntaxError: '(' was never closed",
    "\n\nx = 1 / 0": "line 4: ZeroDivisionError: division by zero",
    "import no_such_package": "line 2: ModuleNotFoundError: No module named 'no_such_package'",
    "def f(): return missing\nf()": "line 2: NameError: name 'missing' is not defined",
    "recipe = genjax.Recipe(family='gan')": "line 2: model is missing",
    "genjax.ImageSpec(8, 8, 1, colors=3)": "ImageSpec has no colors: wanted height, width, ",
    "\0": "source code string cannot contain null bytes",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_in_a_recipe_is_one_line_that_says_where(tmp_path, text):
    path = tmp_path / "mine.py"
    path.write_text("import genjax\n" + text)
    with pytest.raises(UsageError) as error:
        load_recipe(str(path))
    message = str(error.value)
    assert message.startswith(str(path))
    assert MISTAKES[text] in message
    assert "\n" not in message


def test_what_picks_the_best_follows_from_family_classes_and_size(real_quality, tmp_path):
    weights = tmp_path / "w.pth"
    weights.touch()
    vae, weighed = {"family": "vae", "model": VaeConfig()}, {"quality_weights": str(weights)}
    with real_quality():
        for fields, spec, wanted in (
            ({}, ImageSpec(64, 64, 3, 10), "frechet_distance"),
            ({}, ImageSpec(28, 28, 1), "energy_distance"),
            ({}, ImageSpec(64, 65, 3, 10), "latest"),
            (vae, ImageSpec(28, 28, 1, 10), "eval_nll"),
            (weighed, ImageSpec(256, 256, 3), "frechet_distance"),
            (vae | weighed, ImageSpec(28, 28, 1), "frechet_distance"),
            ({"quality": "energy_distance"}, ImageSpec(256, 256, 3), "energy_distance"),
            ({"quality": "frechet_distance"}, ImageSpec(256, 256, 3, 2), "frechet_distance"),
        ):
            assert _recipe(**fields).with_quality(spec).quality == wanted
        weights.unlink()
        for fields, message in (
            ({"quality": "frechet_distance"}, "digits has no classes to train a feature net for"),
            (weighed, r"quality_weights = .*w\.pth: there is no such file"),
        ):
            with pytest.raises(UsageError, match=message):
                _recipe(**fields).with_quality(ImageSpec(8, 8, 1))


def test_recipes_are_hashable_values():
    assert hash(_recipe()) == hash(_recipe())
    config = GanConfig(generator=PlayerConfig(learning_rate=1e-3))
    assert _recipe(model=config) != _recipe()
    assert dataclasses.replace(_recipe(), steps=5).steps == 5


def test_a_step_sees_mirrored_images_if_the_recipe_says_so(monkeypatch):
    def step(config, state, batch, key):
        return batch.images, {"labels": batch.labels}

    monkeypatch.setitem(FAMILIES, "gan", dataclasses.replace(FAMILIES["gan"], step=step))
    images = np.arange(64 * 6, dtype=np.uint8).reshape(64, 1, 6, 1)
    batch, keys = Batch(images, np.arange(64)), jax.random.split(jax.random.key(0))
    plain, _ = train_step(_recipe())(None, batch, keys[0])
    assert plain is images
    one, other = (train_step(_recipe(mirror=True))(None, batch, key)[0] for key in keys)
    assert not np.array_equal(one, other)
    assert {0, 5} == set((one[:, 0, 0, 0] - images[:, 0, 0, 0]).tolist())


def test_faces_are_mirrored_and_digits_are_not():
    for name in recipe_paths():  # DDPM mirrors CIFAR-10
        assert load_recipe(name).mirror == ("ffhq" in name or name == "diffusion_cifar10")


def test_what_pmap_cannot_is_refused():
    with pytest.raises(ValueError, match="deterministic: wanted parallel = jit or fsdp, not pmap"):
        _recipe(parallel="pmap", deterministic=True)
