"""Tests of every command on a model with styles: train, mix, project, interpolate, evaluate."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

import genjax
from genjax import DataOptions, Recipe, UsageError
from genjax.cli.run import run as cli
from genjax.figures import styles
from genjax.figures.own import read_own
from genjax.models.gan import GanConfig
from genjax.models.stylegan2 import PlayerConfig, Stylegan2Config
from genjax.run.trained import load

PLAYER = PlayerConfig(channel_base=128, channel_max=16, mapping_layers=2)
RECIPE = Recipe(
    family="stylegan2",
    model=Stylegan2Config(
        latent_size=8,
        style_size=8,
        path_length_weight=0.0,
        r1_gamma=0.0,
        ema_images=500,
        generator=PLAYER,
        discriminator=PLAYER,
    ),
    data_options=DataOptions(split="train[:80%]", test_split="train[80%:]"),
    steps=60,
    batch_size=32,
    log_interval=20,
    save_interval=60,
)


# The beginning of a .npy that declares more than any memory holds.
HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 9999999), }"
TERABYTES = b"\x93NUMPY\x01\x00v\x00" + HEADER.ljust(117).encode() + b"\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "stylegan2"
    genjax.train(RECIPE, run)
    return run


def test_mixed_images_have_layers_of_both(trained):
    """Images at the top and on the left differ; one inside is nearer to that of more layers."""
    figure = genjax.mix(trained, rows=2, columns=3, seed=1)
    assert figure.shape == (7, 4, 8, 8, 1) and figure.dtype == np.uint8
    assert not figure[0, 0].any()
    top, left, inside = figure[0, 1:], figure[1:, 0], figure[1:, 1:]
    assert len({image.tobytes() for image in [*top, *left]}) == 9
    # With three of the four layers an image is nearer to the column's, with one to the row's.
    figure = genjax.mix(trained, rows=2, columns=3, seed=1, cuts=(2, 3)).astype(float)
    top, left, inside = figure[:1, 1:], figure[1:, :1], figure[1:, 1:]
    to_top, to_left = (np.mean((inside - ends) ** 2, axis=(2, 3, 4)) for ends in (top, left))
    assert to_top[:2].mean() < to_left[:2].mean()  # its coarse layers
    assert to_top[4:].mean() > to_left[4:].mean()  # its last layer alone
    assert np.all(to_top[:2] > 0)


def test_the_mean_style_is_mixed_to_itself(trained):
    """Truncation 0 leaves one style, so all images are the same."""
    figure = genjax.mix(trained, rows=1, columns=2, truncation=0.0)
    images = figure.reshape(-1, 64)[1:]
    assert np.ptp(images.astype(int), axis=0).max() <= 1


@pytest.mark.slow
def test_a_projection_finds_the_image_of_a_style(trained, tmp_path):
    """The model's own image comes back; another comes nearer in w+ than in w."""
    own = genjax.sample(trained, n=1, seed=3, truncation=0.9)
    path = tmp_path / "own.png"
    Image.fromarray(own[0, ..., 0]).save(path)
    images, found, values = genjax.project(trained, images=(path,), steps=200)
    np.testing.assert_array_equal(images, own)
    assert values.shape == (1, 4, 8) and values.dtype == np.float32
    assert np.all(values == values[:, :1])  # one style for all layers
    others = genjax.sample(trained, n=64, seed=4)
    error = np.mean((found - own.astype(float)) ** 2)
    assert error < 0.5 * np.mean((others - own.astype(float)) ** 2)

    errors = {}
    for space in ("w", "w+"):
        images, found, values = genjax.project(trained, n=4, space=space, steps=150)
        errors[space] = np.mean((found - images.astype(float)) ** 2)
    assert errors["w+"] < errors["w"]


def test_the_command_projects_files_and_keeps_their_styles(trained, tmp_path, capsys):
    given = genjax.sample(trained, n=2)
    for i, image in enumerate(given):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{i}.png")
    files, output = [str(tmp_path / f"{i}.png") for i in range(2)], tmp_path / "pairs.npy"
    options = ["--steps", "2", "--styles", str(tmp_path / "styles.npy"), "-o", str(output)]
    assert cli(["project", str(trained), "--images", *files, *options]) == 0
    assert capsys.readouterr().out.strip() == str(output)
    pairs, styles = np.load(output), np.load(tmp_path / "styles.npy")
    assert pairs.shape == (2, 2, 8, 8, 1)  # a row of images, a row of copies
    np.testing.assert_array_equal(pairs[0], given)
    assert len(styles) == 2 and styles.dtype == np.float32


def test_paths_of_styles_are_a_video(trained, tmp_path, capsys):
    output = tmp_path / "paths.gif"
    arguments = ["--path", "style", "-n", "3", "--steps", "5", "-o", str(output)]
    assert cli(["interpolate", str(trained), *arguments]) == 0
    assert capsys.readouterr().out.strip() == str(output)
    with Image.open(output) as video:
        assert video.n_frames == 8  # there and back, without the ends twice
    images = genjax.interpolate(trained, n=3, steps=5, path="style")
    assert images.shape == (3, 5, 8, 8, 1)
    spherical = genjax.interpolate(trained, n=3, steps=5)
    np.testing.assert_allclose(images[:, 0].astype(int), spherical[:, 0], atol=1)
    np.testing.assert_allclose(images[:, -1].astype(int), spherical[:, -1], atol=1)


def test_path_length_is_the_squared_speed_of_the_features(trained):
    """Features that are half the pixels give a quarter of the length that pixels give."""
    model = load(trained)
    recipe, state = model.recipe, model.state
    key = jax.random.key(0)

    def length(factor):
        def net(images):
            flat = factor * images.reshape(len(images), -1)
            return flat, flat

        return styles.perceptual_path_length(recipe, state, net, 60, key)

    whole, half = length(1.0), length(0.5)
    name = "perceptual_path_length"
    assert whole[name] > 0
    assert half[name] == pytest.approx(whole[name] / 4, rel=0.01)
    assert half[f"{name}_error"] == pytest.approx(whole[f"{name}_error"] / 4, rel=0.05)


@pytest.mark.slow
def test_an_evaluation_has_the_path_length(trained):
    result = genjax.evaluate(trained, n=200, truncation=0.7, truncation_cutoff=2)
    assert result["metrics"]["perceptual_path_length"] > 0
    assert result["protocol"]["truncation_cutoff"] == 2
    rows = genjax.tradeoff(trained, values=(0.0, 1.0), n=200)
    assert rows[0]["recall"] < rows[1]["recall"]


def test_mistakes_are_refused_by_name(trained, tmp_path):
    for call, message in (
        (lambda: genjax.mix(trained, rows=0), "rows = 0"),
        (lambda: genjax.mix(trained, cuts=(3, 2)), "cuts = "),
        (lambda: genjax.project(trained, steps=0), "steps = 0"),
        (lambda: genjax.project(trained, space="z"), r"space = 'z': wanted w or w\+"),
        (lambda: genjax.project(trained, images=(tmp_path / "none.png",)), "none.png"),
        (lambda: genjax.sample(trained, truncation_cutoff=2), "wanted both"),
        (lambda: genjax.sample(trained, truncation=-1.0), "truncation = -1"),
        (lambda: cli(["project", str(trained), "--styles", "a.txt"]), r"end in \.npy"),
        (lambda: cli(["interpolate", str(trained), "-o", "a.mp4"]), r"\.gif \(a video\)"),
    ):
        with pytest.raises(UsageError, match=message):
            call()
    other = tmp_path / "gan"
    genjax.train(
        Recipe(family="gan", model=GanConfig(), steps=1, log_interval=1, save_interval=1), other
    )
    with pytest.raises(UsageError, match="no styles; wanted a run of stylegan, stylegan2"):
        genjax.mix(other)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04" + bytes(100), TERABYTES, TERABYTES[:9]],
    ids=["empty", "zip", "terabytes", "cut"],
)
def test_a_file_without_styles_is_refused_by_its_name(trained, tmp_path, content):
    path = tmp_path / "w.npy"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"styles .*w\.npy: cannot be read"):
        genjax.sample(trained, styles=path)


def test_styles_of_a_file_are_drawn_mixed_and_interpolated(trained, tmp_path):
    model = load(trained)
    recipe, state = model.recipe, model.state
    drawn = styles.draw_styles(recipe, state, jax.random.key(5), np.zeros(3, np.int32))
    path = tmp_path / "w.npy"
    np.save(path, drawn)
    images = genjax.sample(trained, styles=path)
    assert images.shape == (3, 8, 8, 1) and len(np.unique(images, axis=0)) == 3
    between = genjax.interpolate(trained, steps=3, styles=path)
    assert between.shape == (2, 3, 8, 8, 1)
    np.testing.assert_allclose(between[:, 0].astype(int), images[:2], atol=1)
    np.testing.assert_allclose(between[:, -1].astype(int), images[1:], atol=1)
    mixed = genjax.mix(trained, styles=path)
    assert mixed.shape == (10, 4, 8, 8, 1)
    np.testing.assert_allclose(mixed[0, 1:].astype(int), images, atol=1)
    for row in range(1, 10):  # in all layers a style mixed with itself is itself
        own = (row - 1) % 3
        np.testing.assert_allclose(mixed[row, 1 + own].astype(int), images[own], atol=1)
    np.save(path, drawn[:1, :2])
    with pytest.raises(UsageError, match=r"\[1, 2, 8\]; wanted finite numbers \[n, 4, 8\]"):
        genjax.sample(trained, styles=path)
    np.save(path, np.full((1, 4, 8), np.nan))
    with pytest.raises(UsageError, match="wanted finite numbers"):
        genjax.mix(trained, styles=path)
    path.write_bytes(b"")
    with pytest.raises(UsageError, match="cannot be read"):
        genjax.interpolate(trained, styles=path)


def test_the_command_draws_the_styles_that_it_projected(trained, tmp_path):
    Image.fromarray(genjax.sample(trained, n=1)[0, ..., 0]).save(tmp_path / "own.png")
    path, output = tmp_path / "w.npy", tmp_path / "out"
    options = ["--steps", "2", "--styles", str(path), "-o", str(tmp_path / "pair.png")]
    cli(["project", str(trained), "--images", str(tmp_path / "own.png"), *options])
    assert cli(["sample", str(trained), "--styles", str(path), "-o", str(output)]) == 0
    assert sorted(p.name for p in output.iterdir()) == ["00000000.png", "dataset.json"]


def test_a_projected_file_gets_the_border_of_the_training_data(trained, tmp_path):
    model = load(trained)
    recipe, state = model.recipe, model.state
    bordered = dataclasses.replace(
        recipe, data_options=dataclasses.replace(recipe.data_options, border=2)
    )
    Image.new("L", (30, 30), 200).save(tmp_path / "bright.png")
    (image,) = read_own(bordered, state.spec, (tmp_path / "bright.png",)).images
    assert np.all(image[2:-2, 2:-2] == 200)
    assert image.sum() == 200 * 16
