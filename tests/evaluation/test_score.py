"""Tests of what a model says of single images: score, encode, classify, and the user's own."""

import csv
import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.special import log_softmax
from sklearn.metrics import roc_auc_score

import genjax
from genjax import DataOptions, Recipe, UsageError
from genjax.cli.run import run as cli
from genjax.data.batches import read_all
from genjax.data.sources import open_source
from genjax.evaluation import classify
from genjax.evaluation.images import open_images
from genjax.evaluation.score import auroc
from genjax.figures.own import read_own
from genjax.metrics.classes import calibration_error
from genjax.models.vae import VaeConfig
from genjax.run.states import initial_state
from genjax.run.trained import load
from genjax.steps.optim import OptimizerConfig
from genjax.types import Batch, ImageSpec

RECIPE = Recipe(
    family="vae",
    model=VaeConfig(
        hidden_sizes=(32,),
        latent_size=2,
        conditional=True,
        optimizer=OptimizerConfig(learning_rate=1e-2),
    ),
    data_options=DataOptions(split="train[:80%]", test_split="train[80%:]", size=(6,), border=1),
    steps=300,
    log_interval=100,
    save_interval=300,
    batch_size=64,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "vae"
    genjax.train(RECIPE, run)
    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of other sizes, in folders by class."""
    folder = tmp_path_factory.mktemp("own") / "images"
    rng = np.random.default_rng(0)
    for name in ("1/a.png", "1/b.png", "7/c.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).save(folder / name)
    return folder


def test_the_auroc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    low, high = rng.integers(0, 20, 70).astype(float), rng.integers(5, 30, 40).astype(float)
    truth = np.repeat([0, 1], [len(low), len(high)])
    assert auroc(low, high) == pytest.approx(roc_auc_score(truth, np.concatenate([low, high])))
    assert auroc(low, low) == 0.5
    assert auroc(np.zeros(3), np.ones(2)) == 1 and auroc(np.ones(3), np.zeros(2)) == 0


def test_scores_are_a_csv_with_the_files_names_and_their_mean_is_evaluates(
    trained, folder, tmp_path, capsys
):
    output = tmp_path / "scores.csv"
    options = ["--importance-samples", "3", "--split", "train[80%:]", "-n", "4", "-o", str(output)]
    against = ["--against", f"folder:{folder}"]
    assert cli(["score", str(trained), "digits", *options, *against]) == 0
    printed = capsys.readouterr().out.splitlines()
    rows = list(csv.DictReader(output.read_text().splitlines()))
    own, other = rows[:360], rows[360:]
    assert {row["data"] for row in own} == {"train[80%:] of digits"}
    assert [(row["name"], row["label"]) for row in other] == [
        ("1/a.png", "1"),
        ("1/b.png", "1"),
        ("7/c.png", "7"),
    ]
    nll = np.array([float(row["nll"]) for row in rows])
    bits = np.array([float(row["bits_per_dim"]) for row in rows])
    np.testing.assert_allclose(bits, nll / (64 * math.log(2)), rtol=1e-6)
    assert nll[360:].mean() > nll[:360].mean()  # noise is not like digits
    assert printed[2] == f"AUROC {auroc(nll[:360], nll[360:]):.4f}, by the likelihood"
    assert printed[3:] == [str(output), str(output.with_suffix(".png"))]
    # The same images, from the run's own data, in the same order.
    scores = genjax.score(trained, importance_samples=3, n=4)
    np.testing.assert_allclose([row["nll"] for row in scores.rows], nll[:360], rtol=1e-6)
    assert scores.auroc is None
    images, _, _ = read_all(open_source("digits", RECIPE.data_options.for_test))
    np.testing.assert_array_equal(scores.least_likely, images[np.argsort(-nll[:360])[:4]])
    with Image.open(output.with_suffix(".png")) as picture:
        assert min(picture.size) > 100


def test_latents_are_those_that_reconstructions_are_decoded_from(trained, folder, tmp_path):
    output = tmp_path / "latents.npz"
    assert cli(["encode", str(trained), f"folder:{folder}", "-o", str(output)]) == 0
    with np.load(output) as found:
        assert found["latents"].shape == (3, 2) and found["latents"].dtype == np.float32
        assert found["names"].tolist() == ["1/a.png", "1/b.png", "7/c.png"]
        assert found["labels"].tolist() == [0, 0, 1]
        assert found["class_names"].tolist() == ["1", "7"]
        latents = found["latents"]
    images, copies = genjax.reconstruct(trained, images=(folder,))
    model = load(trained)
    recipe, state = model.recipe, model.state
    decode = recipe.functions.decode
    again = decode(recipe.model, state, latents, np.array([1, 1, 7]))
    # The model sees its own numbers of the classes, which it knows by their names.
    (seen,) = open_images(model, f"folder:{folder}", None)
    own = read_own(recipe, state.spec, (folder,), [str(i) for i in range(10)])
    assert seen.labels.tolist() == own.labels.tolist() == [1, 1, 7]
    np.testing.assert_array_equal(seen.images, own.images)
    assert not own.images[:, 0].any() and own.images[:, 1].any()  # the border of the training data
    # The binarization is another draw, which moves a latent of an image of noise a little.
    assert np.abs((np.asarray(again) + 1) * 127.5 - copies).mean() < 25
    assert images.shape == copies.shape == (3, 8, 8, 1)
    test = genjax.encode(trained)
    assert test.latents.shape == (360, 2) and test.class_names == [str(i) for i in range(10)]


def test_bayes_rule_of_a_model_whose_likelihood_is_known():
    """The decoder ignores z, so that `p(x|y)` is a product of Bernoulli probabilities."""
    spec, shares = ImageSpec(3, 3, 1, 4), np.array([0.1, 0.2, 0.3, 0.4])
    recipe = Recipe(family="vae", model=VaeConfig(hidden_sizes=(), latent_size=2, conditional=True))
    state = initial_state(recipe, spec, jax.random.key(0))
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4, 9)).astype(np.float32)
    zeros = jax.tree.map(jnp.zeros_like, state.model.params)
    zeros["decoder"]["output"]["kernel"] = jnp.concatenate([jnp.zeros((2, 9)), jnp.array(logits)])
    state = dataclasses.replace(state, model=dataclasses.replace(state.model, params=zeros))
    x = np.array(list(itertools.product([0, 1], repeat=9)))[::37]
    batch = Batch((255 * x).astype(np.uint8).reshape(-1, 3, 3, 1), np.zeros(len(x), np.int32))
    parts = list(classify._by_class(recipe, 3)(state, [batch], jax.random.key(0)))
    log_p = x[:, None] * -np.log1p(np.exp(-logits)) + (1 - x[:, None]) * -np.log1p(np.exp(logits))
    expected = log_p.sum(axis=2)
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-5)
    joint = np.exp(expected) * shares
    found = classify.bayes(np.concatenate(parts), np.log(shares))
    np.testing.assert_allclose(np.exp(found), joint / joint.sum(axis=1, keepdims=True), rtol=1e-4)


def test_calibration_of_what_is_as_often_right_as_it_says():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 200_000)
    labels = (rng.uniform(size=len(p)) > p).astype(int)
    assert calibration_error(np.stack([p, 1 - p], axis=1), labels) < 0.01
    # Always certain, and right three times of four.
    certain = np.tile([1.0, 0.0], (8, 1))
    assert calibration_error(certain, np.array([0, 0, 0, 1] * 2)) == 0.25
    # Two bins, (1/2, 2/3] and (2/3, 1]: 0.6 is always right, 0.9 never; means over images.
    probabilities = np.array([[0.6, 0.4], [0.1, 0.9], [0.1, 0.9]])
    found = calibration_error(probabilities, np.zeros(3, int), bins=3)
    assert found == pytest.approx((0.4 + 2 * 0.9) / 3)


@pytest.mark.slow  # it trains the classifier
def test_classes_by_bayes_beside_a_classifiers(trained, tmp_path, capsys):
    output = tmp_path / "classes.png"
    options = ["--importance-samples", "2", "-o", str(output)]
    assert cli(["classify", str(trained), *options]) == 0
    printed = capsys.readouterr().out
    found = genjax.classify(trained, importance_samples=2)
    assert str(found) in printed and "calibration error" in printed
    _, labels, _ = read_all(open_source("digits", RECIPE.data_options.for_test))
    np.testing.assert_array_equal(found.labels, labels)
    rows = list(csv.DictReader(output.with_suffix(".csv").read_text().splitlines()))
    for name, log_probs in found.log_probs.items():
        np.testing.assert_allclose(log_softmax(log_probs, axis=1), log_probs, atol=1e-9)
        right = log_probs.argmax(axis=1) == labels
        metrics = found.metrics[name]
        assert metrics["accuracy"] == pytest.approx(right.mean())
        assert metrics["wrong"] == (~right).sum()
        nll = -log_probs[np.arange(360), labels]
        assert metrics["nll"] == pytest.approx(nll.mean())
        assert metrics["nll_error"] == pytest.approx(nll.std() / 360**0.5)
        share = right.mean()
        assert metrics["accuracy_error"] == pytest.approx((share * (1 - share) / 360) ** 0.5)
        np.testing.assert_allclose([float(row[f"nll {name}"]) for row in rows], nll, rtol=1e-5)
        assert [row[name] == row["label"] for row in rows] == right.tolist()
        assert len(found.wrong[name]) == min(48, metrics["wrong"])
    # A little training is enough to be right more often than one time in ten.
    assert found.metrics["by Bayes"]["accuracy"] > 0.4
    assert found.metrics["classifier"]["accuracy"] > 0.9
    with Image.open(output) as picture:
        assert min(picture.size) > 500


def test_what_cannot_be_said_of_images_is_refused_in_a_line(trained, folder, tmp_path):
    unnamed = tmp_path / "unnamed"
    unnamed.mkdir()
    Image.new("L", (8, 8)).save(unnamed / "x.png")
    (tmp_path / "classes/cat").mkdir(parents=True)
    (tmp_path / "classes/dog").mkdir()
    for name in ("cat/x.png", "dog/y.png"):
        Image.new("L", (8, 8)).save(tmp_path / "classes" / name)
    vae, images = str(trained), (folder,)
    for message, call in {
        "data 'nothing' is unknown": lambda: genjax.score(vae, "nothing"),
        "no folder /no/such": lambda: genjax.encode(vae, "folder:/no/such"),
        "digits has no split 'test'": lambda: genjax.score(vae, "digits", split="test"),
        "against_split = test: is of --against": lambda: genjax.score(vae, against_split="test"),
        "n = 0: should be at least 1": lambda: genjax.score(vae, n=0),
        "importance_samples = 0: should be": lambda: genjax.classify(vae, importance_samples=0),
        "seed = -1": lambda: genjax.encode(vae, seed=-1),
        "has no classes, and the model is conditional": lambda: genjax.score(
            vae, f"folder:{unnamed}"
        ),
        "has classes cat, dog, and the model": lambda: genjax.reconstruct(
            vae, images=(tmp_path / "classes",)
        ),
        "its class is not known": lambda: genjax.manipulate(vae, to=1, images=(unnamed / "x.png",)),
        "none.png": lambda: genjax.reconstruct(vae, images=(tmp_path / "none.png",)),
        "n = 3: is of the test split": lambda: genjax.reconstruct(vae, n=3, images=images),
        "wanted these or images": lambda: genjax.interpolate(
            vae, images=images, styles=folder / "w.npy"
        ),
        "should end in .csv": lambda: cli(["score", vae, "-o", "a.png"]),
        "should end in .npz": lambda: cli(["encode", vae, "-o", "a.npy"]),
        "output /no/such/a.png: no folder": lambda: cli(["classify", vae, "-o", "/no/such/a.png"]),
    }.items():
        with pytest.raises(UsageError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
