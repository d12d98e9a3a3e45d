import dataclasses
import json
import math
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import genjax
from genjax import DataOptions, Recipe
from genjax.data.batches import read_all
from genjax.data.broken import BrokenImage
from genjax.data.sources import open_source
from genjax.evaluation.evaluate import compared_size, feature_net, real_sides, sample_labels
from genjax.evaluation.extractor import cache_folder
from genjax.evaluation.features import Content, FeatureSet, data_features
from genjax.evaluation.likelihood import likelihoods
from genjax.figures.sample import sample_batches
from genjax.models.gan import GanConfig
from genjax.models.vae import VaeConfig
from genjax.run.folder import RunFolder
from genjax.run.records import read_records
from genjax.run.trained import load
from genjax.steps.optim import OptimizerConfig
from genjax.types import Batch, UsageError

RECIPE = Recipe(
    family="vae",
    model=VaeConfig(
        hidden_sizes=(64,), latent_size=2, optimizer=OptimizerConfig(learning_rate=4e-3)
    ),
    data_options=DataOptions(split="train[:80%]", test_split="train[80%:]"),
    steps=600,
    batch_size=64,
    log_interval=50,
    save_interval=200,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "vae"
    genjax.train(RECIPE, run)
    return run


def test_the_vae_learns_the_digits(trained):
    """Held-out images become likelier, and latents carry the image."""
    records = read_records(RunFolder(trained))
    nll = [record["eval_nll"] for record in records if "eval_nll" in record]
    assert len(nll) == 3
    assert nll[-1] < nll[0]
    # This is a model that knows only the mean of the training images, each pixel on its own.
    train, test = (
        np.stack([image for image, _ in source.read(range(len(source)))]) / 255
        for source in (
            open_source("digits", DataOptions(split=split))
            for split in ("train[:80%]", "train[80%:]")
        )
    )
    odds = np.clip(train.mean(axis=0), 1e-3, 1 - 1e-3)
    mean_nll = -(test * np.log(odds) + (1 - test) * np.log(1 - odds)).sum(axis=(1, 2, 3)).mean()
    assert nll[-1] < mean_nll - 1
    assert records[-1]["active_units"] == 2
    assert records[-1]["loss"] < records[0]["loss"] - 5


def test_an_evaluation_carries_its_protocol(trained):
    result = genjax.evaluate(trained, n=100, importance_samples=100)
    metrics = result["metrics"]
    assert metrics["nll"] < -metrics["elbo"]
    assert metrics["bits_per_dim"] == pytest.approx(metrics["nll"] / (64 * math.log(2)))
    assert 0.1 < metrics["nll_error"] < 1
    assert metrics["active_units"] == 2
    extractor = result["protocol"].pop("extractor")
    assert extractor["kind"] == "classifier"
    assert extractor["accuracy"] > 0.9
    assert len(extractor["sha256"]) == 16
    images, labels, _ = read_all(open_source("digits", RECIPE.data_options.for_test))
    content = Content()
    for i in (slice(0, 100), slice(100, None)):
        content.add(Batch(images[i], labels[i]))
    assert result["protocol"].pop("content") == content.gather().content
    assert result["protocol"] == {
        "data": "digits",
        "split": "train[80%:]",
        "images": 360,
        "shape": (8, 8, 1),
        "resized": None,
        "samples": 100,
        "temperature": None,
        "truncation": None,
        "truncation_cutoff": None,
        "sampler": None,
        "sampling_steps": None,
        "guidance": None,
        "importance_samples": 100,
        "seed": 0,
        "model": {"likelihood": "bernoulli", "binarization": "dynamic"},
    }
    assert genjax.evaluate(trained, n=100, importance_samples=100)["metrics"] == metrics
    assert result["seconds_per_1000"] > 0
    spread = {"n": 100, "importance_samples": 100, "seed": 1}
    other = genjax.evaluate(trained, **spread, likelihood_images=360)["metrics"]
    assert all(other[name] != metrics[name] for name in ("nll", "frechet_distance"))
    lines = (trained / "evaluations.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["metrics"] == metrics
    figures = {path.stem: Image.open(path) for path in (trained / "figures").glob("*.png")}
    assert figures.keys() == {"samples", "interpolations", "neighbours"}
    assert all(np.ptp(np.asarray(figure)) > 100 for figure in figures.values())


def test_the_likelihood_of_some_images_is_of_those_spread_over_the_split(trained):
    result = genjax.evaluate(trained, n=20, importance_samples=5, likelihood_images=2)
    assert result["protocol"]["likelihood_images"] == 2
    assert "images" in result["protocol"]  # those of the samples' distances
    found = load(trained)
    images, labels, _ = read_all(open_source("digits", RECIPE.data_options.for_test))
    chosen = Batch(images[[0, 180]], labels[[0, 180]])
    key = jax.random.split(jax.random.key(0))[1]
    nll = likelihoods(found.recipe, found.state, [chosen], key, 5).nll
    assert result["metrics"]["nll"] == pytest.approx(np.mean(nll), rel=1e-5)
    with pytest.raises(UsageError, match="likelihood_images = 361: should be from 1 to 360"):
        genjax.evaluate(trained, likelihood_images=361)


@pytest.mark.slow
def test_more_samples_give_a_tighter_bound(trained):
    few, many = (
        genjax.evaluate(trained, n=10, importance_samples=n)["metrics"]["nll"] for n in (7, 200)
    )
    assert many < few


@pytest.mark.slow
def test_the_best_checkpoint_is_the_likeliest(trained, tmp_path):
    """A learning rate that ruins the model at the end leaves the best checkpoint where it was."""
    shutil.copytree(trained, tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["recipe"]["model"]["optimizer"]["learning_rate"] = 0.05
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    genjax.resume(tmp_path / "run", steps=800)
    assert genjax.evaluate(tmp_path / "run", n=10, importance_samples=1)["step"] == 600
    latest = genjax.evaluate(tmp_path / "run", n=10, importance_samples=1, checkpoint="latest")
    assert latest["step"] == 800


@pytest.mark.slow
def test_without_a_test_split_the_training_images_stand_in_and_the_protocol_says_so(
    tmp_path, caplog
):
    recipe = Recipe(family="gan", model=GanConfig(), steps=1, log_interval=1, save_interval=1)
    genjax.train(recipe, tmp_path / "gan")
    result = genjax.evaluate(tmp_path / "gan", n=100)
    assert result["protocol"]["split"] == "train"
    assert "nll" not in result["metrics"] and "memorization" not in result["metrics"]
    assert "frechet_distance_floor" in result["metrics"]  # of a hundred other images
    assert not (tmp_path / "gan/figures/neighbours.png").exists()
    assert "no memorization, no neighbours: without test_split" in caplog.text
    assert "importance_samples" not in result["protocol"]
    model = dataclasses.replace(
        RECIPE, data_options=DataOptions(), steps=1, log_interval=1, save_interval=1
    )
    genjax.train(model, tmp_path / "vae")
    assert "no test_split" in (tmp_path / "vae/log.txt").read_text()


def test_data_without_classes_have_a_likelihood_and_no_feature_net(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(40):
        values = np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(values).save(tmp_path / f"images/{i}.png")
    recipe = dataclasses.replace(
        RECIPE,
        data=f"folder:{tmp_path}/images",
        steps=1,
        log_interval=1,
        save_interval=1,
        batch_size=8,
    )
    genjax.train(recipe, tmp_path / "run")
    result = genjax.evaluate(tmp_path / "run", importance_samples=2)
    assert "extractor" not in result["protocol"]
    assert "frechet_distance" not in result["metrics"]
    assert result["metrics"]["nll"] > 0


@pytest.mark.slow
def test_features_are_those_of_images_without_their_border(tmp_path):
    """A border that a model needs leaves its numbers comparable with those of models without."""
    options = dataclasses.replace(RECIPE.data_options, border=4)
    short = {"steps": 1, "log_interval": 1, "save_interval": 1}
    recipe = dataclasses.replace(RECIPE, data_options=options, **short)
    genjax.train(recipe, tmp_path / "bordered")
    genjax.train(dataclasses.replace(RECIPE, **short), tmp_path / "bare")
    bordered, bare = (
        genjax.evaluate(tmp_path / name, n=20, importance_samples=1)
        for name in ("bordered", "bare")
    )
    assert bordered["protocol"]["model"].pop("border") == 4
    assert bordered["protocol"] == bare["protocol"]
    assert bordered["metrics"]["frechet_distance_floor"] == pytest.approx(
        bare["metrics"]["frechet_distance_floor"]
    )
    assert genjax.compare([tmp_path / "bordered", tmp_path / "bare"]).protocol["shape"] == [8, 8, 1]


@pytest.mark.slow
def test_stacked_digits_count_a_thousand_modes(tmp_path):
    options = DataOptions(split="train[:80%]", test_split="train[80%:]")
    recipe = Recipe(
        family="gan",
        model=GanConfig(),
        data="stacked:digits",
        data_options=options,
        steps=1,
        log_interval=1,
        save_interval=1,
    )
    genjax.train(recipe, tmp_path / "run")
    result = genjax.evaluate(tmp_path / "run", n=100)
    assert result["protocol"]["extractor"]["kind"] == "classifier of each channel"
    assert result["protocol"]["extractor"]["accuracy"] > 0.9
    assert 1 <= result["metrics"]["classes"] <= 100
    assert result["metrics"]["frechet_distance"] > 2 * result["metrics"]["frechet_distance_floor"]


def test_what_cannot_be_evaluated_is_refused(trained):
    with pytest.raises(genjax.UsageError, match="importance_samples = 0"):
        genjax.evaluate(trained, importance_samples=0)
    for n in (5, 361):
        with pytest.raises(
            genjax.UsageError, match=f"n = {n}: should be from 6 to 360, the images"
        ):
            genjax.evaluate(trained, n=n)
    with pytest.raises(genjax.UsageError, match="labels = 'odd': wanted data or even"):
        genjax.evaluate(trained, labels="odd")
    for options in ({"labels": "even"}, {"per_class": True}):
        with pytest.raises(genjax.UsageError, match="is of conditional models"):
            genjax.evaluate(trained, **options)
    with pytest.raises(genjax.UsageError, match="no Inception weights at"):
        genjax.evaluate(trained, n=10, extractor="inception")
    with pytest.raises(genjax.UsageError, match="extractor = 'foo': wanted classifier or incep"):
        genjax.evaluate(trained, n=10, extractor="foo")
    with pytest.raises(genjax.UsageError, match=r"checkpoint last: .*; best is \d+, latest"):
        genjax.evaluate(trained, n=10, checkpoint="last")


@pytest.mark.slow
def test_posterior_collapse_is_warned_of(tmp_path):
    """A KL term of thirty times its weight costs more than any latent brings."""
    model = VaeConfig(hidden_sizes=(64,), latent_size=8, beta=30.0)
    recipe = dataclasses.replace(RECIPE, model=model, steps=900, log_interval=20)
    genjax.train(recipe, tmp_path / "run")
    assert "posterior collapse" in (tmp_path / "run/log.txt").read_text()
    assert (
        genjax.evaluate(tmp_path / "run", n=10, importance_samples=10)["metrics"]["active_units"]
        == 0
    )


def test_a_healthy_run_is_not_warned_of(trained):
    assert "WARNING" not in (trained / "log.txt").read_text()


def test_held_out_images_are_not_trained_on(trained):
    config = json.loads((trained / "config.json").read_text())
    assert config["images"] == 1437
    assert config["recipe"]["data_options"]["test_split"] == "train[80%:]"
    assert np.isfinite(read_records(RunFolder(trained))[-1]["energy_distance"])


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A GAN on two classes of images, of which four are for evaluation; and one on black images."""
    folder = tmp_path_factory.mktemp("few")
    for kind in ("few", "black"):
        for i in range(40):
            values = np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8)
            path = folder / kind / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values * (kind == "few")).save(path)
    short = {"steps": 1, "log_interval": 1, "save_interval": 1, "batch_size": 8}
    gan = Recipe(family="gan", model=GanConfig(), data=f"folder:{folder}/few", **short)
    halves = DataOptions(split="train[:90%]", test_split="train[90%:]")
    genjax.train(dataclasses.replace(gan, data_options=halves), folder / "run")
    genjax.train(dataclasses.replace(gan, data=f"folder:{folder}/black"), folder / "run-black")
    return folder


def test_too_few_test_images_have_a_likelihood_alone_or_are_refused_before_the_work(few, caplog):
    with pytest.raises(genjax.UsageError, match="has 4 images; samples are compared with at least"):
        genjax.evaluate(few / "run", n=50)
    assert "training a classifier" not in caplog.text
    recipe = dataclasses.replace(
        RunFolder(few / "run").read_config().recipe, family="vae", model=RECIPE.model
    )
    genjax.train(recipe, few / "vae")
    result = genjax.evaluate(few / "vae", importance_samples=2)
    assert result["metrics"]["nll"] > 0 and "extractor" not in result["protocol"]
    assert "4 test images: too few" in caplog.text


@pytest.mark.filterwarnings("error")
def test_black_images_have_strict_json(few):
    """What has no meaning for images without variation is null, and all else is finite."""
    result = genjax.evaluate(few / "run-black", n=20)
    line = (few / "run-black/evaluations.jsonl").read_text()
    metrics = json.loads(line, parse_constant=pytest.fail)["metrics"]
    undefined = {name for name, value in metrics.items() if value is None}
    assert {"diversity", "sharpness"} <= undefined
    without_errors = {name.removesuffix("_error") for name in undefined}
    assert without_errors <= {"diversity", "sharpness", "class_kl"}
    assert math.isnan(result["metrics"]["diversity"])
    rows = genjax.compare([few / "run-black"]).rows
    assert rows["sharpness"] == ["undefined"]
    record = json.loads((few / "run-black/metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert record["diversity"] == 1


def test_a_model_that_nothing_can_judge_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(8):
        Image.new("L", (8, 8), i).save(tmp_path / f"images/{i}.png")
    recipe = Recipe(
        family="gan",
        model=GanConfig(),
        data=f"folder:{tmp_path}/images",
        **{"steps": 1, "log_interval": 1, "save_interval": 1, "batch_size": 8},
    )
    genjax.train(recipe, tmp_path / "run")
    with pytest.raises(genjax.UsageError, match=r"no classes .*: wanted --extractor inception"):
        genjax.evaluate(tmp_path / "run", n=50)


def test_images_and_samples_are_compared_in_equal_numbers(trained):
    """By default all test images are; and of one seed they are always the same."""
    recipe, spec = RECIPE, RunFolder(trained).read_config().spec
    net, identity = feature_net(recipe, "classifier", None)
    assert compared_size(recipe, None, 360) == 360
    assert compared_size(recipe, None, 10**6) == 50_000
    alone = dataclasses.replace(recipe, data_options=DataOptions())
    assert compared_size(alone, None, 1797) == 898  # as many again are for the floor
    sides = real_sides(recipe, spec, net, identity, 50, seed=3)
    assert len(sides.real) == len(sides.others) == 50
    assert len(sides.test.images) == 360 and len(sides.train.images) == 1437
    again = real_sides(recipe, spec, net, identity, 50, seed=3)
    assert np.array_equal(sides.real.features, again.real.features)
    halves = real_sides(alone, spec, net, identity, None, seed=3)
    both = np.concatenate([halves.real.features, halves.others.features])
    assert len(np.unique(both, axis=0)) > 2 * 898 - 20
    assert real_sides(alone, spec, net, identity, 1797, seed=3).others is None


def test_features_of_data_are_kept_for_their_content(trained, caplog):
    """They come from the cache the second time, are made anew if damaged, and do not survive other
    pixels, another split, or another network."""
    spec, options = RunFolder(trained).read_config().spec, DataOptions()
    images = np.random.default_rng(0).integers(0, 256, (40, *spec.shape), np.uint8)
    seen = []

    def net(images):
        seen.append(len(images))
        return images.reshape(len(images), -1).astype(np.float32), np.eye(3)[images[:, 0, 0, 0] % 3]

    class Images:
        spec = RunFolder(trained).read_config().spec

        def __len__(self):
            return len(images)

        def read(self, indices):
            return [
                BrokenImage(str(i), "it is") if i == 7 else (images[i], i % 10) for i in indices
            ]

        def contents(self, full):
            return {"all": images.tobytes().hex()}

    first = data_features(net, {"kind": "pixels"}, Images(), options)
    assert seen.pop() == 39 and list(first.indices) == [i for i in range(40) if i != 7]
    for cause in ("none", "damage", "pixels", "split", "net"):
        if cause == "damage":
            kept = (cache_folder() / "features").glob("*.npy")
            path = max(kept, key=lambda path: path.stat().st_mtime_ns)
            damaged = path.read_bytes()[:-1] + b"?"
            path.unlink()  # what is mapped stays as it is
            path.write_bytes(damaged)
        if cause == "pixels":
            images[0] = 255 - images[0]
        other = dataclasses.replace(options, split="train[:10%]" if cause == "split" else "train")
        identity = {"kind": "colours" if cause == "net" else "pixels"}
        again = data_features(net, identity, Images(), other)
        assert len(seen) == (cause != "none"), cause
        seen.clear()
        same = all(map(np.array_equal, first.images, again.images))
        assert same == (cause != "pixels")
        assert (again.content == first.content) == same
        first, options = again, other
    assert "is damaged: it is made anew" in caplog.text


@pytest.mark.slow
def test_classes_of_samples_follow_the_data_and_are_compared_one_by_one(tmp_path):
    """A third of the images are of one class; samples are so too, unless they are to be even."""
    images = tmp_path / "images"
    for i in range(60):
        values = np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8)
        path = images / ("few" if i % 3 == 0 else "many") / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)
    model = dataclasses.replace(RECIPE.model, conditional=True)
    short = {"steps": 1, "log_interval": 1, "save_interval": 1, "batch_size": 8}
    recipe = dataclasses.replace(RECIPE, model=model, data=f"folder:{images}", **short)
    genjax.train(recipe, tmp_path / "run")
    counts = {}
    for labels in ("data", "even"):
        result = genjax.evaluate(
            tmp_path / "run", n=12, importance_samples=1, labels=labels, per_class=True
        )
        assert result["protocol"]["labels"] == labels
        counts[labels] = {name: each["images"] for name, each in result["classes"].items()}
    spec = RunFolder(tmp_path / "run").read_config().spec
    train = open_source(recipe.data, recipe.data_options)
    shares = FeatureSet(*(np.asarray(train.labels),) * 4)
    drawn = sample_labels(recipe, spec, "data", shares, 48, seed=0)
    assert np.bincount(drawn).tolist() == np.bincount(train.labels).tolist()
    assert sample_labels(recipe, spec, "even", shares, 48, seed=0) == 48
    # Of the twelve test images are too few of one class to compare.
    assert set(counts["data"]) <= {"many"} and counts["even"].get("many", 6) == 6


def test_samples_of_many_devices_are_those_of_one(trained):
    model = load(trained)
    recipe, state = model.recipe, model.state
    key, n = jax.random.key(0), 64 * 10 + 5  # three devices have a chunk more than the others
    labels = np.arange(n) % 10
    one, eight = (
        list(sample_batches(recipe, state, key, labels, spread=spread)) for spread in (False, True)
    )
    assert [len(batch.images) for batch in one] == [64] * 10 + [5]
    for a, b in zip(one, eight, strict=True):
        assert np.array_equal(a.labels, b.labels)
        np.testing.assert_allclose(a.images.astype(int), b.images.astype(int), atol=1)
    some = list(sample_batches(recipe, state, key, labels, chunks=[3, 10]))
    for a, i in zip(some, (3, 10), strict=True):
        assert np.array_equal(a.images, one[i].images)
