import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import genjax
from genjax import DataOptions, Recipe
from genjax.figures.latents import linear, spherical
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
        "latent_size = 64": lambda: genjax.manifold(gan),
    }.items():
        with pytest.raises(genjax.UsageError, match=message):
            call()


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
        "to = 12: no image of that class; there are 0, 1, 2": lambda: genjax.manipulate(vae, to=12),
        "from = 10": lambda: genjax.manipulate(vae, to=1, source=10),
        "steps = 1": lambda: genjax.manipulate(vae, to=1, steps=1),
        "n = 0": lambda: genjax.manipulate(vae, to=1, n=0),
        "n = 361: should be from 1 to 360": lambda: genjax.manipulate(vae, to=1, n=361),
        "n = 99: should be from 1 to": lambda: genjax.manipulate(vae, to=1, source=2, n=99),
        "'gan' has no encoder": lambda: genjax.manipulate(gan, to=1),
    }.items():
        with pytest.raises(genjax.UsageError, match=message):
            call()
