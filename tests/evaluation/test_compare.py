import csv
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

import genjax
from genjax import DataOptions, Recipe
from genjax.evaluation.compare import to_html
from genjax.models.gan import GanConfig
from genjax.models.vae import VaeConfig

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
SHORT = {"steps": 2, "log_interval": 1, "save_interval": 1}
OPTIONS = DataOptions(split="train[:80%]", test_split="train[80%:]")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, real_curves):
    """Train and evaluate a GAN and a VAE with the same data and options."""
    folder = tmp_path_factory.mktemp("runs")
    recipes = {
        "a gan": Recipe(family="gan", model=GanConfig(), data_options=OPTIONS, **SHORT),
        "a <vae>": Recipe(family="vae", model=VaeConfig(), data_options=OPTIONS, **SHORT),
    }
    for name, recipe in recipes.items():
        with real_curves():
            genjax.train(recipe, folder / name)
        genjax.evaluate(folder / name, n=50, importance_samples=2)
    return [folder / name for name in recipes]


def test_families_stand_side_by_side(runs):
    comparison = genjax.compare(runs)
    assert comparison.runs == ["a gan", "a <vae>"]
    rows = comparison.rows
    assert rows["family"] == ["gan", "vae"]
    # 64-256-64 and 64-128-1; 64-400-20 twice, and back.
    gan = 64 * 256 + 256 + 256 * 64 + 64 + 64 * 128 + 128 + 128 + 1
    vae = 64 * 400 + 400 + 2 * (400 * 20 + 20) + 20 * 400 + 400 + 400 * 64 + 64
    assert rows["parameters"] == [f"{gan:,}", f"{vae:,}"]
    assert rows["nll"][0] == ""
    assert re.fullmatch(r"[\d.]+ \+- [\d.]+", rows["nll"][1])
    assert all(re.fullmatch(r"[\d.]+ \+- [\d.]+", text) for text in rows["frechet distance"])
    assert rows["importance samples"] == ["", "2"]
    assert comparison.protocol["samples"] == 50


def test_as_text_csv_and_page(runs, tmp_path):
    files = {"csv": tmp_path / "table.csv", "html": tmp_path / "page.html"}
    text = str(genjax.compare(runs, **files))
    assert text.splitlines()[0].split() == ["a", "gan", "a", "<vae>"]
    assert "protocol: " in text
    first, second = csv.DictReader(io.StringIO(files["csv"].read_text()))
    assert (first["run"], second["family"]) == ("a gan", "vae")
    page = files["html"].read_text()
    assert "a &lt;vae&gt;" in page and "<vae>" not in page
    assert page.count("data:image/png;base64,") == 8
    assert not re.search(r"(src|href)=.(?!data:)", page)


@pytest.mark.skipif(BROWSER is None, reason="needs a Chromium, which no Python package brings")
def test_the_page_renders(runs, tmp_path):
    """A browser loads every figure, and shows text above and figures below."""
    page = to_html(genjax.compare(runs), runs)
    script = """<script>onload = () => { document.title = JSON.stringify(
        [...document.images].map(i => i.complete && i.naturalWidth)) }</script>"""
    (tmp_path / "page.html").write_text(page.replace("</html>", f"{script}</html>"))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,1600"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--disable-background-networking"]
    address = (tmp_path / "page.html").as_uri()
    for more in (["--dump-dom"], [f"--screenshot={tmp_path / 'page.png'}"]):
        done = subprocess.run(
            [*command, *more, address], capture_output=True, text=True, timeout=90
        )
        if more == ["--dump-dom"]:
            widths = json.loads(re.search("<title>(.*)</title>", done.stdout)[1])
    assert len(widths) == 8 and min(widths) > 50
    shot = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
    assert shot.shape == (1600, 1200)
    # There is text in the upper half, and figures in the lower.
    assert all(part.std() > 20 for part in np.split(shot, 2))


def test_unlike_protocols_are_refused_with_the_difference(runs, tmp_path):
    recipe = Recipe(family="gan", model=GanConfig(), data_options=OPTIONS, **SHORT)
    genjax.train(recipe, tmp_path / "other")
    with pytest.raises(genjax.UsageError, match="has not been evaluated: genjax evaluate"):
        genjax.compare([runs[0], tmp_path / "other"])
    genjax.evaluate(tmp_path / "other", n=40)
    with pytest.raises(genjax.UsageError, match=r"samples = 40.*with 50: such numbers do not"):
        genjax.compare([runs[0], tmp_path / "other"])
    genjax.evaluate(tmp_path / "other", n=50, seed=1)
    with pytest.raises(genjax.UsageError, match="seed = 1"):
        genjax.compare([runs[0], tmp_path / "other"])
    # The same evaluation is refused with another feature net.
    line = (runs[0] / "evaluations.jsonl").read_text().splitlines()[-1]
    result = json.loads(line)
    result["protocol"]["extractor"]["sha256"] = "0" * 16
    (tmp_path / "other/evaluations.jsonl").write_text(json.dumps(result) + "\n")
    with pytest.raises(genjax.UsageError, match="extractor = "):
        genjax.compare([runs[0], tmp_path / "other"])
    with pytest.raises(genjax.UsageError, match="is not a run folder"):
        genjax.compare([tmp_path])
    with pytest.raises(genjax.UsageError, match="no runs"):
        genjax.compare([])
