import base64
import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import genjax
from genjax import DataOptions, Recipe
from genjax.data.batches import read_all
from genjax.data.sources import open_source
from genjax.evaluation import compare
from genjax.evaluation.compare import to_csv, to_html, to_text
from genjax.evaluation.extractor import create_extractor
from genjax.figures.sample import sample_state
from genjax.metrics.frechet import Moments, frechet_distance
from genjax.models.gan import GanConfig
from genjax.models.vae import VaeConfig
from genjax.run.folder import RunFolder
from genjax.run.records import read_records
from genjax.run.trained import load

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
SHORT = {"steps": 2, "log_interval": 1, "save_interval": 1}
OPTIONS = DataOptions(split="train[:80%]", test_split="train[80%:]")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, real_curves):
    """Train and evaluate a GAN and a VAE with the same data and options."""
    folder = tmp_path_factory.mktemp("runs")
    recipes = {
        "a gan": Recipe(
            family="gan",
            model=GanConfig(),
            data_options=OPTIONS,
            quality="frechet_distance",
            quality_samples=50,
            **SHORT,
        ),
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


def test_the_best_is_nearest_to_the_training_images_in_their_classifiers_features(runs):
    model = load(runs[0])
    recipe, state, step = model.recipe, model.state, model.step
    distances = {
        record["step"]: record["frechet_distance"] for record in read_records(RunFolder(runs[0]))
    }
    assert len(distances) == 2 and step == min(distances, key=distances.get)
    net, _ = create_extractor("classifier", "digits", OPTIONS)
    train, _, _ = read_all(open_source("digits", OPTIONS))
    sample_key = jax.random.split(jax.random.split(jax.random.key(0), 3)[2], 3)[1]
    samples = sample_state(recipe, state, sample_key, 50)
    found = frechet_distance(*(Moments.of(net(images)[0]) for images in (samples, train)))
    assert distances[step] == pytest.approx(found, rel=1e-4)


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
    with pytest.raises(genjax.UsageError, match=r"csv .*no/x\.csv: no folder .*no$"):
        genjax.compare(runs, csv=tmp_path / "no/x.csv")
    with pytest.raises(genjax.UsageError, match=r"html \.: is a folder; wanted a file"):
        genjax.compare(runs, html=Path())


def _copy(run, folder, name):
    return shutil.copytree(run, folder / name)


def _change(run, **changes):
    path = run / "evaluations.jsonl"
    values = json.loads(path.read_text())
    for name, value in changes.items():
        values[name] = values[name] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(values) + "\n")


def test_nothing_of_a_received_run_is_run_by_its_reader(runs, tmp_path, monkeypatch):
    """Names with tags, formulas and terminal codes; a figure that links to a secret."""
    monkeypatch.chdir(tmp_path)
    names = ["=1+1", "@SUM(A1)", "+1", "-2+3", "<script>alert(1)<script>", "\x1b[2J"]
    evil = '"><script>alert(2)</script>\x1b[2J'
    received = [_copy(runs[0], tmp_path, name) for name in names]
    for run in received:
        _change(run, protocol={"data": evil, "temperature": "\x1b]0;title\x07=2"})
    secret = tmp_path / "secret.png"
    Image.new("L", (5, 7)).save(secret)
    (received[0] / "figures/samples.png").unlink()
    (received[0] / "figures/samples.png").symlink_to(secret)
    (received[1] / "figures/samples.png").write_bytes(b"no picture")
    comparison = genjax.compare(received)
    text = to_text(comparison)
    assert "\x1b" not in text + to_csv(comparison) + to_html(comparison, received)
    assert "\\x1b" in text
    cells = [cell for row in csv.reader(io.StringIO(to_csv(comparison))) for cell in row]
    assert {f"'{name}" for name in names[:4]} <= set(cells) | {"'+1"}
    assert not any(cell.startswith(("=", "@")) for cell in cells)
    page = to_html(comparison, received)
    assert "<script" not in page
    assert base64.b64encode(secret.read_bytes()).decode() not in page
    assert base64.b64encode(b"no picture").decode() not in page
    assert page.count("<img") == 4 * len(received) - 2
    if BROWSER:
        (tmp_path / "page.html").write_text(page)
        dom = subprocess.run(
            [BROWSER, "--headless", "--no-sandbox", "--dump-dom", "page.html"],
            capture_output=True,
            text=True,
            timeout=300,
        ).stdout
        assert "<script" not in dom


def test_numbers_of_the_table_stay_numbers(runs):
    (row, _) = csv.DictReader(io.StringIO(to_csv(genjax.compare(runs))))
    assert all(not cell.startswith("'") for cell in row.values())
    assert compare._as_text("-0.5") == "-0.5"
    assert compare._as_text("-1.2e-05 +- 0.3") == "-1.2e-05 +- 0.3"


BROKEN = {
    "cut": lambda text: text[: len(text) // 2],
    "flipped": lambda text: text.replace(b"protocol", b"proto\xe3ol"),
    "no object": lambda text: b"[]\n",
    "no float": lambda text: b'{"step": 1, "protocol": {}, "metrics": {"a": 1%0400d}}\n' % 0,
    "no number": lambda text: b'{"step": 1, "protocol": {}, "metrics": {"a": "b"}}\n',
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_damaged_evaluation_is_left_out(runs, tmp_path, kind, caplog):
    run = _copy(runs[0], tmp_path, "run")
    path = run / "evaluations.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + BROKEN[kind](whole))
    assert genjax.compare([run]).rows == genjax.compare(runs[:1]).rows
    assert "has lines that are damaged" in caplog.text
    path.write_bytes(BROKEN[kind](whole))
    with pytest.raises(genjax.UsageError, match="has not been evaluated"):
        genjax.compare([run])
