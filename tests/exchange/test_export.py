import dataclasses
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest

import genjax
from genjax import Recipe, UsageError
from genjax.data.paths import to_path
from genjax.data.source import DataOptions
from genjax.data.sources import open_source
from genjax.exchange.export import describe
from genjax.figures.grid import to_picture, to_png
from genjax.figures.sample import CHUNK, sample_state
from genjax.models import FAMILIES
from genjax.run.model_file import Card, _digest, read_arrays, read_card, write_model
from genjax.run.states import initial_state
from genjax.run.trained import load
from genjax.types import Batch
from tests import hub
from tests.families import each_family
from tests.models.test_families import CONFIGS, SPEC, SPECS
from tests.states import drawn_state

FAST = ("gan", "dcgan", "wgan_gp", "vae", "biggan", "stylegan2")
KEY = jax.random.key(1)
README = Path(__file__).parents[2] / "README.md"


def model_of(name: str) -> tuple[Recipe, Any]:
    spec = SPECS.get(name, SPEC)
    config: Any = CONFIGS[name]
    if hasattr(config, "conditional"):
        config = dataclasses.replace(config, conditional=True)
    if hasattr(config, "ema_decay"):
        config = dataclasses.replace(config, ema_decay=0.9)
    recipe = Recipe(family=name, model=config)
    if name == "glow":
        return recipe, initial_state(recipe, spec, jax.random.key(0))
    state = drawn_state(recipe.functions.init, config, spec)
    if state.ema is not None:  # or a file could hold one in place of the other
        state = dataclasses.replace(state, ema=jax.tree.map(lambda x: 0.9 * x, state.ema))
    return recipe, state


def _card(recipe: Recipe, state: Any, **values: Any) -> Card:
    names = tuple(map(str, range(state.spec.classes)))
    return Card(recipe, state.spec, names, step=3, origin="a test", **values)


def saved(recipe: Recipe, state: Any, folder: Path) -> Path:
    """Save a state in a model file of a folder."""
    path = folder / f"{recipe.family}.safetensors"
    write_model(path, _card(recipe, state), state.for_sampling(), None)
    return path


@each_family(*FAST, slow=("glow",))
def test_a_model_file_draws_encodes_and_judges_as_the_state(name, tmp_path):
    recipe, state = model_of(name)
    functions = FAMILIES[name]
    path = saved(recipe, state, tmp_path)
    assert path.stat().st_size < 4 * sum(x.size for x in jax.tree.leaves(state)) / 1.5 + 20_000
    found = load(path)
    assert (found.recipe, found.spec, found.step) == (recipe, state.spec, 3)
    labels = np.arange(4, dtype=np.int32)

    def results(state: Any) -> list[Any]:
        batch = Batch(np.full((4, *state.spec.shape), 100, np.uint8), labels)
        made: list[Any] = [sample_state(recipe, state, KEY, labels, {})]
        if functions.encode is not None:
            made.append(functions.encode(recipe.model, state, batch, KEY))
        if functions.evaluate is not None:
            made.append(functions.evaluate(recipe.model, state, batch, KEY, 2))
        if functions.decode is not None and functions.encode is None:
            latents = jax.random.normal(KEY, (4, recipe.model.latent_size))
            made.append(functions.decode(recipe.model, state, latents, labels))
        return made

    chex.assert_trees_all_equal(results(found.state), results(state))
    signs = functions.health and functions.health(
        recipe.model, found.state, Batch(np.zeros((4, *state.spec.shape), np.uint8), labels)
    )
    assert signs is None or isinstance(signs, dict)


@each_family(*FAST, slow=("glow",))
def test_fewer_images_cost_less_and_are_the_same(name):
    """Calls of any size give the same images, up to one level where rounding tips the scale."""
    recipe, state = model_of(name)
    many = sample_state(recipe, state, KEY, CHUNK)
    for n in (1, 3):
        few = sample_state(recipe, state, KEY, n)
        assert few.shape == (n, *state.spec.shape)
        differ = few.astype(int) - many[:n]
        assert abs(differ).max() <= 1 and np.mean(differ != 0) < 1e-2
    assert many.std() > 1


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a run"
    recipe = genjax.load_recipe("gan_digits")
    short = dict(steps=4, log_interval=2, save_interval=2, quality="energy_distance")
    return genjax.train(dataclasses.replace(recipe, **short), folder)


def test_what_is_loaded_takes_the_place_of_a_run(run, tmp_path):
    path = genjax.export(run, tmp_path / "m.safetensors", license="CC0-1.0")
    images = genjax.sample(run.run, n=5)
    for each in (run, genjax.load(run), genjax.load(path), path, str(path)):
        np.testing.assert_array_equal(genjax.sample(each, n=5), images)
    loaded = genjax.load(path)
    np.testing.assert_array_equal(
        genjax.interpolate(loaded, n=1, steps=3), genjax.interpolate(run.run, n=1, steps=3)
    )
    result = genjax.evaluate(loaded, n=20)
    assert result["metrics"] == genjax.evaluate(run, n=20)["metrics"]
    # Once the run has been evaluated, its file says how well it did.
    path = genjax.export(genjax.load(run), tmp_path / "m.safetensors")
    table = genjax.compare([genjax.load(path), path, run])
    assert {len(set(row)) for name, row in table.rows.items() if "step" not in name} <= {1, 2}
    assert genjax.fidelity(loaded, run, n=20)["metrics"]["frechet_distance"] < 1e-6
    with pytest.raises(UsageError, match=r"checkpoint = 3: .*m.safetensors is a model of step"):
        genjax.load(path, checkpoint=3)
    assert repr(loaded) == f"step {loaded.step} of {path}"


def test_a_card_says_what_is_known(run, tmp_path):
    path = genjax.export(run, tmp_path / "m.safetensors", "latest", license="CC-BY-4.0")
    card = read_card(path)
    config = genjax.run.folder.RunFolder(run.run).read_config()
    assert (card.step, card.license, card.origin) == (4, "CC-BY-4.0", f"run {config.id}")
    assert (card.images, card.data_digest) == (1437, config.data_digest)
    assert card.quality["energy_distance"] > 0 and card.versions["jax"] == jax.__version__
    shown = json.loads(json.dumps(describe(path)))
    assert shown["values"] * 4 == shown["bytes"] and shown["recipe"]["family"] == "gan"


def test_all_that_training_needs(run, tmp_path):
    whole = genjax.export(run, tmp_path / "all.safetensors", all=True)
    chex.assert_trees_all_equal(load(whole).state, load(run).state)
    slim = genjax.export(whole, tmp_path / "slim.safetensors")
    assert slim.read_bytes() == genjax.export(run, tmp_path / "m.safetensors").read_bytes()
    with pytest.raises(UsageError, match=r"slim.safetensors holds what samples need, no more"):
        genjax.export(slim, tmp_path / "other.safetensors", all=True)
    assert not (tmp_path / "other.safetensors").exists()


def test_half_the_bytes(run, tmp_path):
    path = genjax.export(run, tmp_path / "m.safetensors")
    half = genjax.export(path, tmp_path / "half.safetensors", dtype="float16")
    assert half.stat().st_size < 0.55 * path.stat().st_size
    images, coarse = (genjax.sample(each, n=8).astype(int) for each in (path, half))
    assert 0 < abs(images - coarse).max() < 8
    trained = load(path)
    ema = jax.tree.map(lambda x: x * 1e6, trained.state.ema)
    large = dataclasses.replace(trained, state=dataclasses.replace(trained.state, ema=ema))
    with pytest.raises(UsageError, match=r"dtype = float16: ema\.params\..* has values that are"):
        genjax.export(large, tmp_path / "large.safetensors", dtype="float16")


def test_models_that_come_with_genjax_have_names(run, tmp_path, monkeypatch):
    path = genjax.export(run, tmp_path / "one.safetensors")
    monkeypatch.setattr(genjax.run.shipped, "shipped", lambda kind: tmp_path)
    images = genjax.sample(path, n=2)
    np.testing.assert_array_equal(genjax.sample("trained:one", n=2), images)
    with pytest.raises(UsageError, match="no trained model 'two': wanted one"):
        genjax.sample("trained:two")


def _header(data: bytes) -> tuple[dict[str, Any], bytes]:
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def _with_header(header: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_damaged_foreign_and_newer_files_are_named(run, tmp_path):
    whole = genjax.export(run, tmp_path / "m.safetensors")
    good = whole.read_bytes()
    header, body = _header(good)
    card = json.loads(header["__metadata__"]["genjax"])
    del card["sha256"]
    other = header | {"__metadata__": {"format": "pt"}}

    def with_card(**values: Any) -> bytes:
        digest = _digest(card | values, read_arrays(whole)[1])
        text = json.dumps({"sha256": digest} | card | values)
        return _with_header(header | {"__metadata__": {"genjax": text}}, body)

    cases = {
        "is damaged": [
            *(good[:n] for n in (0, 4, 100, len(good) // 2, len(good) - 1)),
            *(good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :] for i in (3, len(good) - 1, 9)),
            good.replace(b"CC0", b"CC1").replace(b'"step', b'"stop'),
            good + b"x",
            b"\x80\x02}q\x00.",
        ],
        "is a file of another program": [_with_header(other, body)],
        "its card has format 99": [with_card(format=99)],
        "its card has format None": [with_card(format=None)],
        "step = -1": [with_card(step=-1)],
        "recipe = 3: should be an object": [with_card(recipe=3)],
        "Card has no surprise: wanted recipe, ": [with_card(surprise=1)],
    }
    path = tmp_path / "x.safetensors"
    for message, files in cases.items():
        for data in files:
            path.write_bytes(data)
            with pytest.raises(UsageError, match=message):
                load(path)
            with pytest.raises(UsageError):
                describe(path)
    with pytest.raises(UsageError, match=r"no model file .*none.safetensors"):
        load(tmp_path / "none.safetensors")


def test_arrays_that_do_not_fit_are_summed_up(run, tmp_path):
    trained = load(run)
    path = tmp_path / "m.safetensors"
    wide = dataclasses.replace(trained.recipe.model, latent_size=7)
    card = _card(dataclasses.replace(trained.recipe, model=wide), trained.state)
    write_model(path, card, trained.state, None)
    with pytest.raises(UsageError) as error:
        load(path)
    assert "do not fit its config" in str(error.value) and "more" in str(error.value)
    assert len(str(error.value)) < 500


def test_what_is_no_model_is_named(run, tmp_path):
    path = genjax.export(run, tmp_path / "m.safetensors").rename(tmp_path / "m.bin")
    with pytest.raises(UsageError, match=r"m\.bin is no run folder, and no model file by its name"):
        genjax.sample(path)
    for what in (None, 3, load(run).recipe):
        with pytest.raises(UsageError, match="wanted a run folder, a model file"):
            load(what)
    assert describe(run.run)["step"] == load(run).step


def test_where_it_cannot_be_written(run, tmp_path):
    for output, message in (
        (tmp_path / "m.onnx", "m.onnx: should end in .safetensors or .stablehlo$"),
        (tmp_path / "none" / "m.safetensors", "a folder that exists"),
    ):
        with pytest.raises(UsageError, match=message):
            genjax.export(run, output)


# Runs the README's lines where nothing of genjax, or of what it needs beside jax, can be imported.
ALONE = """
import sys

class JaxAlone:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("genjax", "flax", "optax", "orbax", "etils"):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, JaxAlone())
exec(sys.argv[1])
import numpy
numpy.save("images.npy", images)
assert "genjax" not in sys.modules
"""


def test_three_lines_of_jax_run_it_without_genjax(run, tmp_path):
    genjax.export(run, tmp_path / "model.stablehlo")
    (lines,) = re.findall(r"```python\n(import jax, jax\.export\n.*?)```", README.read_text(), re.S)
    assert len(lines.split("\n")) == 5  # one is empty
    command = [sys.executable, "-c", ALONE, lines]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300)
    images = np.load(tmp_path / "images.npy")
    differ = images.astype(int) - genjax.sample(run, n=64, seed=0)
    assert images.dtype == np.uint8 and abs(differ).max() <= 1 and np.mean(differ != 0) < 1e-2


def test_options_of_the_other_kind_are_refused(run, tmp_path):
    file, program = tmp_path / "m.safetensors", tmp_path / "m.stablehlo"
    for output, options, message in (
        (file, {"truncation": 0.5}, r"truncation = 0.5 wanted a .stablehlo"),
        (program, {"all": True}, r"all = True wanted a .safetensors"),
        (program, {"dtype": "float16"}, r"dtype = float16 wanted a .safetensors"),
        (program, {"temperature": 0.5}, r"family 'gan' has no temperature"),
    ):
        with pytest.raises(UsageError, match=message):
            genjax.export(run, output, **options)
        assert not output.exists()


def test_a_hub_holds_model_files_runs_and_data(run, monkeypatch):
    hub.start(monkeypatch)
    images = genjax.sample(run, n=3)
    path = genjax.export(run, "hf://me/model/m.safetensors")
    assert os.fspath(path) == "hf://me/model/m.safetensors"
    np.testing.assert_array_equal(genjax.sample(path, n=3), images)
    with pytest.raises(UsageError, match=r"no model file hf://me/model/none\.safetensors"):
        genjax.load("hf://me/model/none.safetensors")

    for file in Path(run.run).rglob("*"):
        if file.is_file():
            name = file.relative_to(run.run).as_posix()
            to_path(f"hf://me/run/{name}").write_bytes(file.read_bytes())
    np.testing.assert_array_equal(genjax.sample("hf://me/run", n=3), images)
    refused = (
        r"run hf://me/\w+: a hub is read from, not trained in; wanted a local folder, gs:// or"
    )
    with pytest.raises(UsageError, match=refused):
        genjax.resume("hf://me/run", steps=9)
    with pytest.raises(UsageError, match=refused):
        genjax.train(load(run).recipe, "hf://me/new")

    for i, name in enumerate(("a/0.png", "a/1.png", "b/2.png")):
        picture = to_png(to_picture(np.full((8, 8, 1), 80 * i, np.uint8)))
        to_path(f"hf://datasets/me/images/{name}").write_bytes(picture)
    source = open_source("folder:hf://datasets/me/images", DataOptions())
    with pytest.raises(UsageError, match="3 images"):  # opened, and too few
        genjax.fidelity("hf://datasets/me/images", "folder:hf://datasets/me/images")
    assert (len(source), source.spec.shape, source.class_names) == (3, (8, 8, 1), ["a", "b"])
