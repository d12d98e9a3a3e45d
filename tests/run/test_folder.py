import copy
import dataclasses
import json
import subprocess
import sys

import jax
import pytest

from genjax.models import FAMILIES
from genjax.models.gan import GanConfig
from genjax.models.stylegan2 import Stylegan2Config
from genjax.run.checkpoint import Checkpoints
from genjax.run.folder import RunConfig, RunFolder
from genjax.run.recipe import Recipe
from genjax.run.states import initial_state
from genjax.types import ImageSpec, UsageError
from tests.families import each_family

ID = "0123456789abcdef"


def test_a_run_of_before_its_fields_were_renamed_is_refused_in_one_line(tmp_path):
    folder = RunFolder(tmp_path)
    recipe, spec = Recipe(family="stylegan2", model=Stylegan2Config()), ImageSpec(16, 16, 1)
    config = RunConfig(ID, recipe, spec, 10, (), ID)
    folder.write_config(config)
    assert folder.read_config() == config
    values = json.loads(folder.config.read_text())
    del values["format"]
    values["recipe"]["model"]["r1_every"] = values["recipe"]["model"].pop("r1_interval")
    values["recipe"]["save_every"] = values["recipe"].pop("save_interval")
    folder.config.write_text(json.dumps(values))
    with pytest.raises(UsageError) as error:
        folder.read_config()
    message = str(error.value)
    assert message.startswith(f"{folder.config}: a run of another version of genjax")
    assert message.endswith("use the version that environment.jsonl names, or train it again")
    assert "\n" not in message


GAN = RunConfig(
    ID,
    Recipe(family="gan", model=GanConfig()),
    ImageSpec(8, 8, 1, 10),
    100,
    tuple("0123456789"),
    ID,
)
WHOLE = {
    "[]": "the file = []: should be an object",
    "null": "the file = None: should be an object",
    "{}": "a run of another version of genjax",
    "[" * 10**5: "cannot be read: RecursionError",
    "\xff": "cannot be read: UnicodeDecodeError",
    '{"format": 3': "cannot be read: JSONDecodeError",
    "1" * 5000: "cannot be read: ValueError",
    '{"format": 3}': "recipe is missing",
    '{"format": 2}': "a run of another version of genjax",
    '{"format": [2]}': "a run of another version of genjax",
}


@pytest.mark.parametrize("content", WHOLE, ids=lambda content: content[:20])
def test_a_config_that_is_none_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError) as error:
        RunFolder(tmp_path).read_config()
    assert str(error.value).startswith(str(tmp_path / "config.json"))
    assert WHOLE[content] in str(error.value)
    assert "\n" not in str(error.value)


FIELDS = {
    "id": (None, 7, "", "A" * 16, "../../etc/passwd"),
    "recipe": (None, [], 3, "gan"),
    "recipe.family": (None, [], {}, "", "x" * 10**6),
    "recipe.model": (None, [], 3),
    "recipe.model.self": (1,),
    "recipe.model.__dataclass_self__": (1,),
    "recipe.model.latent_size": (None, [], "many", -1, 0, 1.5, 2**31, "9" * 5000),
    "recipe.model.generator.hidden_sizes": (None, 3, [0], [8, 10**20]),
    "recipe.data_options": (None, [], {"data_options": 1}),
    "recipe.batch_size": (None, -1, 10**12),
    "recipe.steps": (None, -1, 2**31),
    "recipe.log_interval": (None, -1, 10**20),
    "recipe.save_interval": (None, -1, 2**31, 10**20),
    "recipe.keep": (None, -1, 2**31),
    "recipe.data_options.size": (None, [0], [10**9], [8, 8, 8]),
    "recipe.data_options.border": (None, -1, 10**9),
    "spec": (None, [], 3, {}),
    "spec.height": (None, "many", -1, 0, 10**9, 1e300, [8]),
    "spec.width": (None, -1, 0, 10**9),
    "spec.channels": (None, -1, 0, 10**9),
    "spec.classes": (None, -1, 10**9),
    "spec.empty_classes": (None, 3, [-1], [10**9], list(range(20))),
    "images": (None, -1, 0, "many"),
    "class_names": (None, 3, "abc", [1]),
    "more": (1,),
}


REQUIRED = {"id", "recipe", "recipe.family", "recipe.model", "spec", "spec.height", "images"}


def _changed(values, field, value):
    values = copy.deepcopy(values)
    *parents, name = field.split(".")
    inner = values
    for parent in parents:
        inner = inner[parent]
    inner[name] = value
    return values


def _without(values, field):
    values = copy.deepcopy(values)
    *parents, name = field.split(".")
    inner = values
    for parent in parents:
        inner = inner[parent]
    del inner[name]
    return values


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that_cannot_be_is_refused_by_its_name_in_one_line(tmp_path, field):
    folder = RunFolder(tmp_path)
    folder.write_config(GAN)
    good = json.loads(folder.config.read_text())
    bad = [_changed(good, field, value) for value in FIELDS[field]]
    if field in REQUIRED:
        bad.append(_without(good, field))
    for values in bad:
        folder.config.write_text(json.dumps(values))
        with pytest.raises(UsageError) as error:
            folder.read_config()
        message = str(error.value)
        assert message.startswith(str(folder.config))
        assert field.rpartition(".")[2] in message.removeprefix(str(folder.config))
        assert "\n" not in message
        assert len(message) < 1000


def test_a_config_without_an_id_gets_one_line(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_config(GAN)
    values = json.loads(folder.config.read_text())
    del values["id"]
    folder.config.write_text(json.dumps(values))
    with pytest.raises(UsageError) as error:
        folder.read_config()
    assert str(error.value) == f"{folder.config}: id is missing"


def _numbers(values, before=()):
    """Return the paths of all whole numbers in a JSON value."""
    if isinstance(values, dict):
        return [path for key in values for path in _numbers(values[key], (*before, key))]
    if isinstance(values, list):
        return [before] if values and all(isinstance(x, int) for x in values) else []
    return [before] if isinstance(values, int) and not isinstance(values, bool) else []


def _write_checkpoint(folder, config):
    folder.path.mkdir(exist_ok=True)
    folder.write_config(config)
    recipe = config.recipe
    checkpoints = Checkpoints(folder.checkpoints, config.id, 2, recipe.quality, writable=True)
    checkpoints.save(1, initial_state(recipe, config.spec, jax.random.key(0)), None)
    checkpoints.close()


# Loads the run of its argument, with each line of standard input as the config. Its last line is
# the largest number of KiB that one load took; all of them keep more, as jax keeps what it traced.
LOAD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
from genjax.run.folder import RunFolder
from genjax.run.trained import load
from genjax.types import UsageError
folder = RunFolder(sys.argv[1])
def peak():
    # Not `ru_maxrss`, which begins with that of the process that started this one.
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0])
most = 0
for line in sys.stdin:
    before = peak()
    folder.config.write_text(line)
    try:
        load(folder.path)
        print("loaded")
    except UsageError as error:
        print(repr(str(error)))
    most = max(most, peak() - before)
print(most)
"""


@pytest.mark.timeout(3600)  # each of many sizes is traced
@each_family("gan")
def test_sizes_that_the_checkpoint_cannot_have_are_refused_before_they_are_allocated(
    tmp_path, name
):
    """Every number of the config in turn is a billion, and more than 64 bits hold."""
    folder, family = RunFolder(tmp_path / "run"), FAMILIES[name]
    config = dataclasses.replace(
        GAN,
        recipe=Recipe(family=name, model=family.config()),
        spec=ImageSpec(16, 16, 1, 3) if name != "gan" else GAN.spec,
    )
    _write_checkpoint(folder, config)
    good = json.loads(folder.config.read_text())
    paths = [".".join(path) for path in _numbers(good)]
    changed = [_changed(good, path, size) for path in paths for size in (10**9, 10**20)]
    text = "".join(json.dumps(values) + "\n" for values in [good, *changed])
    result = subprocess.run(
        [sys.executable, "-c", LOAD, folder.path], input=text, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    first, *lines, most = result.stdout.splitlines()
    assert first == "loaded"
    assert len(lines) == 2 * len(paths)
    assert int(most) < 500_000  # KiB, of which the first takes most; a billion bytes are more
    loaded = {path for path, line in zip(paths, lines[::2], strict=True) if line == "loaded"}
    assert not any("spec." in path or path.endswith("size") for path in loaded), loaded


def test_a_state_much_larger_than_its_files_is_refused(tmp_path):
    """As of a received checkpoint and config that agree on a shape of terabytes."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", ID, 2, "score", writable=True)
    checkpoints.save(1, {"a": jax.numpy.zeros(5)}, None)
    like = {"a": jax.ShapeDtypeStruct((10**12,), "float32")}
    with pytest.raises(UsageError, match=r"bytes, a state of its config\.json 4,000,000,000,000"):
        checkpoints.restore(1, like)
