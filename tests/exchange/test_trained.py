import json
import re

import numpy as np
import pytest

import genjax
from genjax.exchange.export import describe
from genjax.metrics import classifier
from genjax.run.model_file import read_card
from genjax.run.shipped import trained_paths

MEGABYTE = 10**6


@pytest.fixture(params=trained_paths())
def name(request):
    return request.param


def test_there_are_some_and_they_are_small():
    paths = trained_paths()
    sizes = [path.stat().st_size for path in paths.values()]
    assert len(paths) >= 2 and max(sizes) <= 2 * MEGABYTE and sum(sizes) <= 15 * MEGABYTE
    page = next(iter(paths.values())).with_name("README.md").read_text()
    assert all(f"[{name}]({name}.png)" in page for name in paths)
    assert "trained:gan_digits" in genjax.run.recipe.list_all()


def test_it_draws_and_says_what_it_is(name):
    card = read_card(trained_paths()[name])
    recipe = genjax.load_recipe(name)
    assert (card.recipe.model, card.recipe.steps) == (recipe.model, recipe.steps)
    assert card.license and card.versions and card.minutes and card.evaluation
    assert not re.search("/(work|tmp|home|root)", json.dumps(describe(trained_paths()[name])))
    images = genjax.sample(f"trained:{name}", n=8)
    assert images.std() > 10 and not np.array_equal(images[0], images[1])


@pytest.mark.parametrize("data", ["digits", "mnist"])
def test_all_of_a_data_set_compare(data):
    names = [name for name in trained_paths() if data in name]
    found = genjax.compare([f"trained:{name}" for name in names])
    assert len(found.runs) == len(names) > 5
    assert "frechet distance" in found.rows


@pytest.mark.slow
def test_its_scores_are_those_of_its_card(optimized_programs, monkeypatch):
    """With the same classifier they are equal; with another, trained elsewhere, within errors."""
    monkeypatch.setattr(classifier, "STEPS", 1000)
    card = read_card(trained_paths()["gan_digits"])
    found = genjax.evaluate("trained:gan_digits")
    assert card.evaluation is not None
    same = found["protocol"]["extractor"] == card.evaluation["protocol"]["extractor"]
    for name, value in card.evaluation["metrics"].items():
        error = card.evaluation["metrics"].get(f"{name}_error", 0.0)
        if not name.endswith("_error") and error:
            tolerance = 0.05 * error if same else 4 * error
            assert found["metrics"][name] == pytest.approx(value, abs=tolerance), name
