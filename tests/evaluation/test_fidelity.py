"""Tests of the comparison of any two sets of images."""

import logging
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import genjax
from genjax import DataOptions, Recipe, UsageError
from genjax.data.batches import read_all
from genjax.data.sources import open_source
from genjax.evaluation.extractor import create_extractor
from genjax.figures.sample import sample_state
from genjax.models.gan import GanConfig
from genjax.run.trained import load

OPTIONS = DataOptions(split="train[:80%]", test_split="train[80%:]")
SHARED = ("frechet_distance", "precision", "recall", "density", "coverage", "inception_score")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A GAN after one step."""
    short = {"steps": 1, "log_interval": 1, "save_interval": 1}
    folder = tmp_path_factory.mktemp("runs") / "gan"
    genjax.train(Recipe(family="gan", model=GanConfig(), data_options=OPTIONS, **short), folder)
    return folder


def test_a_run_and_its_data_have_the_numbers_of_an_evaluation(run, caplog):
    caplog.set_level(logging.INFO, logger="genjax")
    evaluated = genjax.evaluate(run, n=100)["metrics"]
    found = genjax.fidelity(run, "digits", n=100)
    assert {name: found["metrics"][name] for name in SHARED} == {
        name: evaluated[name] for name in SHARED
    }
    assert "frechet_distance_floor" in found["metrics"]  # of a hundred more of the 360
    assert found["protocol"]["images"] == 100
    assert "100 images of each side are compared, of 100 and 360" in caplog.text
    assert "no floor" not in caplog.text
    assert genjax.fidelity(run, "digits")["protocol"]["images"] == 360
    assert "no floor of these distances: it takes 720 images of the reference" in caplog.text


def test_files_folders_and_arrays_of_the_same_images_have_the_same_numbers(run, tmp_path):
    samples = genjax.sample(run, n=60)
    np.save(tmp_path / "a.npy", samples)
    np.savez(tmp_path / "b.npz", images=samples)
    (tmp_path / "c").mkdir()
    for i, image in enumerate(samples):
        Image.fromarray(image[..., 0]).save(tmp_path / f"c/{i:02}.png")
    results = [
        genjax.fidelity(side, "digits")["metrics"]
        for side in (samples, tmp_path / "a.npy", tmp_path / "b.npz", tmp_path / "c")
    ]
    assert all(result == results[0] for result in results)
    same = genjax.fidelity(tmp_path / "a.npy", "digits", n=60)["metrics"]
    assert same == results[0]


def test_stored_statistics_stand_for_the_images(run, tmp_path):
    """Their mean and covariance are those of NumPy, and the distance is that of the formula."""
    file = tmp_path / "digits.npz"
    genjax.fidelity(run, "digits", n=10, options=OPTIONS, save_statistics=file)
    found = genjax.fidelity(run, file, n=300)
    assert set(found["metrics"]) == {"frechet_distance"} and found["protocol"]["images"] == 300
    model = load(run)
    recipe, state = model.recipe, model.state
    samples = sample_state(recipe, state, jax.random.split(jax.random.key(0))[0], 300)
    net, _ = create_extractor("classifier", "digits", OPTIONS)
    images = read_all(open_source("digits", OPTIONS))[0]
    real, fake = (net(x)[0].astype(float) for x in (images, samples))
    with np.load(file) as stored:
        np.testing.assert_allclose(stored["mu"], real.mean(axis=0), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(stored["sigma"], np.cov(real.T), rtol=1e-6, atol=1e-7)
    covariances = np.cov(real.T), np.cov(fake.T)
    # The trace of the root of a product is the sum of the roots of its eigenvalues.
    values = np.linalg.eigvals(covariances[0] @ covariances[1]).real.clip(0)
    gap = real.mean(axis=0) - fake.mean(axis=0)
    expected = gap @ gap + np.trace(sum(covariances)) - 2 * np.sqrt(values).sum()
    assert found["metrics"]["frechet_distance"] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UsageError, match=r"the statistics are of .*, and the feature net is"):
        genjax.fidelity("digits", file, options=DataOptions(split="train[:50%]"))
    with pytest.raises(UsageError, match=r"the statistics are of .*, a classifier: wanted a run"):
        genjax.fidelity(samples, file)
    assert genjax.fidelity(file, file)["metrics"]["frechet_distance"] == pytest.approx(0, abs=1e-6)


def test_a_folder_of_ones_own_is_compared_whole_and_in_any_order(run, tmp_path):
    """All of it, though the run is tested on a part of its data; the names sort it by class."""
    images, labels, _ = read_all(open_source("digits", DataOptions()))
    for i, (image, label) in enumerate(zip(images[:400], labels, strict=False)):
        path = tmp_path / f"own/{label}/{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
    found = genjax.fidelity(run, tmp_path / "own")
    assert found["protocol"]["images"] == 400
    found = genjax.fidelity(tmp_path / "own", "digits", n=400)["metrics"]
    assert found["inception_score"] > 6
    assert genjax.fidelity(tmp_path / "own", tmp_path / "own")["metrics"]["precision"] == 1
    np.savez(tmp_path / "large.npz", images=np.kron(images[:80], np.ones((1, 2, 2, 1), np.uint8)))
    named = DataOptions(size=(8,))  # beside the options of the run
    assert genjax.fidelity(run, tmp_path / "large.npz", options=named)["protocol"]["images"] == 80
    values = genjax.data.arrays(images[:90], labels[:90])
    assert genjax.fidelity(values, run)["protocol"]["images"] == 90
    (tmp_path / "own/0/broken.png").write_bytes(b"no image")
    found = genjax.fidelity(tmp_path / "own", "digits")
    assert found["protocol"]["images"] == 400


def test_what_cannot_be_compared_is_refused_in_one_line(run, tmp_path):
    def refused(match, *sides, **options):
        with pytest.raises(UsageError, match=match) as error:
            genjax.fidelity(*sides, **options)
        assert "\n" not in str(error.value)

    images = np.zeros((20, 8, 8, 1), np.uint8)
    arrays = {
        "floats.npy": np.zeros((9, 8, 8, 1)),
        "odd.npz": {"weights": images},
        "mu.npz": {"mu": np.zeros(3), "sigma": np.zeros((3, 2))},
        "nan.npz": {"mu": np.full(2, np.nan), "sigma": np.zeros((2, 2))},
        "object.npy": np.array([{}]),
    }
    for name, value in arrays.items():
        if isinstance(value, dict):
            np.savez(tmp_path / name, **value)
        else:
            np.save(tmp_path / name, value)
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    refused("n = 5: should be from 6 to 20", images, "digits", n=5)
    refused("5 images: wanted at least 6", images[:5], "digits")
    refused(r"samples of \(4, 4, 1\), and a reference of \(8, 8, 1\)", images[:, :4, :4], "digits")
    refused(
        r"the array: has float64 \[9, 8, 8, 1\]; wanted images uint8", np.zeros((9, 8, 8, 1)), run
    )
    refused(r"floats.npy: has float64", tmp_path / "floats.npy", "digits")
    refused("odd.npz: has the arrays weights; wanted images", tmp_path / "odd.npz", "digits")
    refused(r"mu.npz: .* wanted floats \[D\] and \[D, D\]", images, tmp_path / "mu.npz")
    refused("nan.npz: not all numbers are finite", images, tmp_path / "nan.npz")
    for name in ("object.npy", "broken.npz"):
        refused(f"{name}: cannot be read as arrays", tmp_path / name, "digits")
    refused("none.npz: there is no such file", tmp_path / "none.npz", "digits")
    refused("data 'nothing' is unknown", "nothing", "digits")
    refused("no side has classes", images, images, extractor="classifier")
    refused("no Inception weights", images, images)
    refused("output a.csv: should end in .npz", run, "digits", save_statistics=Path("a.csv"))
