import dataclasses
import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import genjax
from genjax import DataOptions, Recipe
from genjax.cli.run import run as cli
from genjax.figures import sample
from genjax.figures.latents import linear, spherical
from genjax.models import FAMILIES
from genjax.models.gan import GanConfig
from genjax.models.vae import VaeConfig

RECIPE = Recipe(
    family="vae",
    model=VaeConfig(hidden_sizes=(128,), latent_size=2),
    data_options=DataOptions(split="train[:80%]", test_split="train[80%:]"),
    steps=600,
    batch_size=64,
    log_interval=100,
    save_interval=300,
)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "vae"
    genjax.train(RECIPE, run)
    return run


@pytest.fixture(scope="module")
def gan(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "gan"
    recipe = Recipe(family="gan", model=GanConfig(), steps=2, log_interval=1, save_interval=1)
    genjax.train(recipe, run)
    return run


def test_reconstructions_are_closer_to_their_image_than_to_others(vae):
    images, copies = genjax.reconstruct(vae, n=50)
    assert images.shape == copies.shape == (50, 8, 8, 1)
    assert images.dtype == copies.dtype == np.uint8
    a, b = (x.reshape(50, -1).astype(float) for x in (images, copies))
    distances = np.linalg.norm(a[:, None] - b[None], axis=2)
    assert np.diag(distances).mean() < 0.75 * distances.mean()
    again, _ = genjax.reconstruct(vae, n=5)
    np.testing.assert_array_equal(again, images[:5])


@pytest.mark.parametrize("path", ["spherical", "linear"])
def test_a_path_leads_from_one_reconstruction_to_another(vae, path):
    images = genjax.interpolate(vae, n=3, steps=7, path=path)
    assert images.shape == (3, 7, 8, 8, 1)
    _, copies = genjax.reconstruct(vae, n=6)
    for ours, ends in ((images[:, 0], copies[:3]), (images[:, -1], copies[3:])):
        np.testing.assert_allclose(ours.astype(int), ends, atol=1)
    steps = np.abs(np.diff(images.astype(int), axis=1)).mean(axis=(2, 3, 4))
    assert np.all(steps < 60)


def test_a_gan_interpolates_between_draws(gan):
    images = genjax.interpolate(gan, n=2, steps=4)
    assert images.shape == (2, 4, 8, 8, 1)
    assert not np.array_equal(images[:, 0], images[:, -1])


def test_a_traversal_changes_the_image(vae):
    images = genjax.traverse(vae, n=2, steps=5)
    assert images.shape == (2, 5, 8, 8, 1)
    assert np.abs(np.diff(images.astype(int), axis=1)).mean() > 3


def test_a_manifold_is_continuous(vae):
    images = genjax.manifold(vae, n=12).astype(int)
    assert images.shape == (12, 12, 8, 8, 1)
    near = np.abs(np.diff(images, axis=1)).mean()
    assert near < 0.5 * np.abs(images[:, 0] - images[:, -1]).mean()


def test_what_cannot_be_drawn_is_refused(vae, gan, tmp_path):
    for message, call in {
        "n = 0": lambda: genjax.interpolate(vae, n=0),
        "steps = 1": lambda: genjax.interpolate(vae, steps=1),
        "n = 3: should be from 1 to 2": lambda: genjax.traverse(vae, n=3),
        "n = 1: should be at least 2": lambda: genjax.manifold(vae, n=1),
        "n = 500: should be from 1 to 360": lambda: genjax.reconstruct(vae, n=500),
        "'gan' has no encoder": lambda: genjax.reconstruct(gan),
        "path = 'foo': wanted spherical or linear or style": lambda: genjax.interpolate(
            gan, path="foo"
        ),
        "no good checkpoint last: it has 1, 2; best is [12], latest 2": lambda: genjax.interpolate(
            gan, checkpoint="last"
        ),
        "latent_size = 64": lambda: genjax.manifold(gan),
    }.items():
        with pytest.raises(genjax.UsageError, match=message):
            call()


def test_all_that_is_drawn_is_drawn_of_the_prepared_state(vae, monkeypatch):
    """Of a state whose preparation clears every weight there are only plain images."""

    def prepare(config, state, key):
        return jax.tree.map(jnp.zeros_like, state)

    monkeypatch.setitem(FAMILIES, "vae", dataclasses.replace(FAMILIES["vae"], prepare=prepare))
    sample._preparer.cache_clear()
    drawn = {
        "sample": genjax.sample(vae, n=4),
        "interpolate": genjax.interpolate(vae, n=2, steps=3),
        "reconstruct": genjax.reconstruct(vae, n=2)[1],
        "traverse": genjax.traverse(vae, n=2, steps=3),
        "manipulate": genjax.manipulate(vae, to=0, n=2, steps=3),
        "manifold": genjax.manifold(vae, n=3),
    }
    sample._preparer.cache_clear()
    assert [name for name, images in drawn.items() if np.ptp(images)] == []


def test_paths_begin_and_end_where_they_should():
    rng = np.random.default_rng(0)
    start, end = rng.normal(size=(2, 3, 16)).astype(np.float32)
    t = jnp.linspace(0, 1, 5)
    for path in (linear, spherical):
        points = path(start, end, t)
        assert points.shape == (3, 5, 16)
        np.testing.assert_allclose(points[:, 0], start, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(points[:, -1], end, rtol=1e-4, atol=1e-5)


def test_a_spherical_path_keeps_the_norm_and_an_even_pace():
    start, end = jnp.array([[2.0, 0, 0]]), jnp.array([[0.0, 2, 0]])
    points = spherical(start, end, jnp.linspace(0, 1, 4))[0]
    np.testing.assert_allclose(jnp.linalg.norm(points, axis=-1), 2, rtol=1e-5)
    paces = jnp.linalg.norm(jnp.diff(points, axis=0), axis=-1)
    np.testing.assert_allclose(paces, paces[0], rtol=1e-4)
    # Parallel vectors have no plane: the straight line.
    points = spherical(start, 2 * start, jnp.linspace(0, 1, 3))[0]
    np.testing.assert_allclose(points, [[2, 0, 0], [3, 0, 0], [4, 0, 0]], rtol=1e-5)


def test_labels_of_a_conditional_model(tmp_path):
    model = dataclasses.replace(RECIPE.model, conditional=True)
    genjax.train(dataclasses.replace(RECIPE, model=model, steps=300), tmp_path / "run")
    assert genjax.interpolate(tmp_path / "run", n=2, steps=3).shape == (2, 3, 8, 8, 1)
    assert genjax.manifold(tmp_path / "run", n=3).shape == (3, 3, 8, 8, 1)


def test_manipulation_leads_to_the_class(vae):
    """The distance in pixels to the mean image of the class falls."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = genjax.manipulate(vae, to=0, source=1, n=10, steps=3, extent=1.0)
    assert rows.shape == (10, 3, 8, 8, 1)
    mean = {k: digits.images[digits.target == k].mean(axis=0) * 255 / 16 for k in (0, 1)}
    away, here, there = np.moveaxis(
        np.linalg.norm(rows[..., 0] - mean[0], axis=(-2, -1))
        - np.linalg.norm(rows[..., 0] - mean[1], axis=(-2, -1)),
        1,
        0,
    )
    assert (there < here - 20).sum() >= 8
    assert there.mean() < here.mean() < away.mean()
    # Without `from_class`, images of any class are moved away from all others.
    assert genjax.manipulate(vae, to=0, n=2, steps=2).shape == (2, 2, 8, 8, 1)


def test_what_cannot_be_manipulated_is_refused(vae, gan, tmp_path):
    for message, call in {
        "to = 12: should be from 0 to 9": lambda: genjax.manipulate(vae, to=12),
        "from = 10": lambda: genjax.manipulate(vae, to=1, source=10),
        "steps = 1": lambda: genjax.manipulate(vae, to=1, steps=1),
        "n = 0": lambda: genjax.manipulate(vae, to=1, n=0),
        "n = 361: should be from 1 to 360": lambda: genjax.manipulate(vae, to=1, n=361),
        "n = 99: should be from 1 to": lambda: genjax.manipulate(vae, to=1, source=2, n=99),
        "'gan' has no encoder": lambda: genjax.manipulate(gan, to=1),
    }.items():
        with pytest.raises(genjax.UsageError, match=message):
            call()


def _write_images(folder, count, broken=0):
    folder.mkdir()
    for i in range(count):
        values = np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(values).save(folder / f"{i:02d}.png")
    for i in range(0, 2 * broken, 2):
        path = folder / f"{i:02d}.png"
        path.write_bytes(path.read_bytes()[:40])
    return f"folder:{folder}"


def test_ones_own_images_are_files_folders_and_archives(vae, tmp_path):
    folder = tmp_path / "own"
    rng = np.random.default_rng(0)
    for name in ("1/a.png", "1/b.png", "7/c.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 10, 3), np.uint8)).save(folder / name)
    file, archive = folder / "1/a.png", tmp_path / "own.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in sorted(folder.rglob("*.png")):
            zipped.write(path, path.relative_to(folder))
    of_folder, _ = genjax.reconstruct(vae, images=(folder,))
    assert of_folder.shape == (3, 8, 8, 1)
    of_all, _ = genjax.reconstruct(vae, images=(file, archive))
    np.testing.assert_array_equal(of_all, of_folder[[0, 0, 1, 2]])
    ends = genjax.interpolate(vae, images=(folder,), steps=2)
    assert ends.shape == (2, 2, 8, 8, 1)
    np.testing.assert_array_equal(ends[0, 1], ends[1, 0])  # from one to the next
    with pytest.raises(genjax.UsageError, match="images: 1 image; wanted at least 2"):
        genjax.interpolate(vae, images=(file,))
    moved = genjax.manipulate(vae, to=1, images=(file,), steps=3)
    assert moved.shape == (1, 3, 8, 8, 1)
    _, copies = genjax.reconstruct(vae, images=(file,))
    np.testing.assert_allclose(moved[0, 1].astype(int), copies[0], atol=1)  # the middle stays
    output = tmp_path / "out.npy"
    arguments = ["reconstruct", str(vae), "--images", str(file), str(folder), "-o", str(output)]
    assert cli(arguments) == 0
    assert np.load(output).shape == (2, 4, 8, 8, 1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run on 30 images of which 10 are broken and skipped, and data of few images."""
    folder = tmp_path_factory.mktemp("folders")
    recipe = dataclasses.replace(
        RECIPE,
        data=_write_images(folder / "broken", 30, 10),
        data_options=DataOptions(on_broken="skip"),
        steps=1,
        log_interval=1,
        save_interval=1,
    )
    genjax.train(recipe, folder / "run")
    return folder


def test_skipped_images_are_replaced_by_others(folders):
    """As many as were asked for, whatever the seed, up to all that can be read."""
    run = folders / "run"
    for seed in range(3):
        assert len(genjax.reconstruct(run, n=20, seed=seed)[0]) == 20
        assert genjax.interpolate(run, n=10, steps=2, seed=seed).shape[:2] == (10, 2)
        assert genjax.traverse(run, n=2, steps=2, seed=seed).shape[:2] == (2, 2)
    few, many = (genjax.reconstruct(run, n=n)[0] for n in (3, 20))
    np.testing.assert_array_equal(few, many[:3])
    with pytest.raises(genjax.UsageError, match="n = 21: should be from 1 to 20"):
        genjax.reconstruct(run, n=21)
    with pytest.raises(genjax.UsageError, match="n = 11: should be from 1 to 10: 2 images each"):
        genjax.interpolate(run, n=11)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_a_number_that_nobody_gave_is_as_many_as_there_are(folders, count):
    run, path = folders / "run", folders / str(count)
    data = _write_images(path, count)
    assert len(genjax.reconstruct(run, data=data)[0]) == count
    assert genjax.traverse(run, steps=2, data=data).shape[:2] == (2, 2)
    if count > 1:
        assert len(genjax.interpolate(run, steps=2, data=data)) == min(8, count // 2)
    else:
        with pytest.raises(genjax.UsageError, match="has 1 image; wanted at least 2"):
            genjax.interpolate(run, data=data)
    with pytest.raises(genjax.UsageError, match=f"n = 99: should be from 1 to {count}"):
        genjax.reconstruct(run, n=99, data=data)


def test_numbers_without_bound_are_refused_before_the_work(vae, gan):
    huge = 10**20
    for message, call in {
        f"n = {huge}": lambda: genjax.sample(gan, n=huge),
        "n = 100000000000": lambda: genjax.sample(gan, n=10**11),
        f"n = {huge}, steps = 10": lambda: genjax.interpolate(gan, n=huge),
        f"n = 8, steps = {huge}": lambda: genjax.interpolate(gan, steps=huge),
        f"steps = {huge}": lambda: genjax.traverse(vae, steps=huge),
        f"steps = {10**12}": lambda: genjax.manipulate(vae, to=1, steps=10**12),
        "n = 10000000: .* GiB": lambda: genjax.manifold(vae, n=10**7),
        "n = 100000000000: should be from 6 to 360": lambda: genjax.evaluate(vae, n=10**11),
    }.items():
        with pytest.raises(genjax.UsageError, match=message):
            call()


def test_data_that_have_moved_are_taken_from_their_new_place(folders, tmp_path, caplog):
    run = folders / "run"
    before = genjax.reconstruct(run, n=3)[0]
    (folders / "broken").rename(tmp_path / "elsewhere")
    try:
        for call in (genjax.reconstruct, genjax.interpolate, genjax.traverse, genjax.evaluate):
            with pytest.raises(genjax.UsageError, match=r"no folder .* say where: --data"):
                call(run)
        moved = genjax.reconstruct(run, n=3, data=f"folder:{tmp_path}/elsewhere")[0]
        np.testing.assert_array_equal(moved, before)
        assert "not the images" not in caplog.text
        genjax.reconstruct(run, n=3, data="digits")
        assert "digits: these are not the images that" in caplog.text
        assert genjax.evaluate(run, importance_samples=1, data=f"folder:{tmp_path}/elsewhere")[
            "metrics"
        ]
    finally:
        (tmp_path / "elsewhere").rename(folders / "broken")
    with pytest.raises(genjax.UsageError, match="the run's have"):
        genjax.reconstruct(run, data="stacked:digits")


def test_one_image_has_a_likelihood_without_an_error(folders, tmp_path):
    data = _write_images(tmp_path / "one", 1)
    metrics = genjax.evaluate(folders / "run", importance_samples=2, data=data)["metrics"]
    assert metrics["nll"] > 0 and np.isnan(metrics["nll_error"])
    line = (folders / "run/evaluations.jsonl").read_text().splitlines()[-1]
    assert json.loads(line, parse_constant=pytest.fail)["metrics"]["nll_error"] is None
    (text,) = genjax.compare([folders / "run"]).rows["nll"]
    assert float(text) == pytest.approx(metrics["nll"], rel=1e-3)
