import json

import pytest

from genjax.models.stylegan2 import Stylegan2Config
from genjax.run.folder import RunFolder
from genjax.run.recipe import Recipe
from genjax.types import ImageSpec, UsageError


def test_a_run_of_before_its_fields_were_renamed_is_refused_in_one_line(tmp_path):
    folder = RunFolder(tmp_path)
    recipe, spec = Recipe(family="stylegan2", model=Stylegan2Config()), ImageSpec(16, 16, 1)
    folder.write_config(recipe, spec, 10, [], "0123")
    assert folder.read_config() == (recipe, spec, 10)
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
