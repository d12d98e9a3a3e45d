import jax
import numpy as np
import pytest

from genjax import Recipe
from genjax.data.broken import BrokenImage
from genjax.data.source import ArraySource, DataOptions
from genjax.evaluation import images as images_module
from genjax.evaluation import likelihood
from genjax.evaluation.images import Images, images_at_once, over_images, regroup
from genjax.models.vae import VaeConfig
from genjax.objectives.likelihood import samples_at_once
from genjax.run.states import initial_state
from genjax.steps.diagnostics import active_units
from genjax.types import Batch, ImageSpec, UsageError

SPEC = ImageSpec(4, 4, 1, 3)
RECIPE = Recipe(family="vae", model=VaeConfig(hidden_sizes=(8,), latent_size=3))


def _batch(count):
    rng = np.random.default_rng(0)
    return Batch(
        rng.integers(0, 256, (count, *SPEC.shape), np.uint8),
        rng.integers(0, 3, count).astype(np.int32),
    )


def _cut(batch, *ends):
    return [
        Batch(*(array[start:end] for array in batch))
        for start, end in zip((0, *ends), (*ends, len(batch.images)), strict=True)
    ]


def _few_at_once(monkeypatch, devices=8):
    """Let calls have 3 images on each of some devices."""
    monkeypatch.setattr(images_module, "MOST_IMAGES", 3)
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:devices])
    likelihood._evaluator.cache_clear()
    likelihood._measurer.cache_clear()


@pytest.mark.parametrize("sizes", [[7], [1, 1, 5], [3, 4], [0, 6, 1], [2, 0, 0, 5], [6]])
@pytest.mark.parametrize("size", [1, 3, 6, 10])
def test_batches_are_regrouped_in_order(sizes, size):
    whole = _batch(sum(sizes))
    found = list(regroup(_cut(whole, *np.cumsum(sizes[:-1])), size))
    assert all(len(each.images) == len(each.labels) == size for each in found[:-1])
    assert 1 <= len(found[-1].images) <= size
    for array, parts in zip(whole, zip(*found, strict=True), strict=True):
        np.testing.assert_array_equal(np.concatenate(parts), array)
    assert list(regroup([], size)) == []


def test_an_images_likelihood_depends_on_neither_batches_nor_devices(monkeypatch):
    batch, key = _batch(29), jax.random.key(1)
    state = initial_state(RECIPE, SPEC, jax.random.key(0))

    def nll(*batches):
        return likelihood.likelihoods(RECIPE, state, batches, key, 4).nll

    _few_at_once(monkeypatch)
    found = nll(batch)
    np.testing.assert_array_equal(nll(*_cut(batch, 1, 2, 20)), found)
    # Nor on the images after it; but on its own index, with which its draws change.
    np.testing.assert_array_equal(nll(*_cut(batch, 3, 5)[:2]), found[:5])
    assert len(set(nll(Batch(*(np.repeat(array[:1], 5, axis=0) for array in batch))))) == 5
    _few_at_once(monkeypatch, devices=1)  # which XLA compiles to a program of other roundings
    np.testing.assert_allclose(nll(*_cut(batch, 2)), found, rtol=1e-6)


def test_active_units_are_counted_as_images_stream(monkeypatch):
    _few_at_once(monkeypatch)
    batch = _batch(40)
    state = initial_state(RECIPE, SPEC, jax.random.key(0))
    # One latent's mean is large, and the same for all images.
    heads = state.model.params["encoder"]["mean"]
    heads["kernel"] = heads["kernel"].at[:, 1].set(0.0) * 10
    heads["bias"] = heads["bias"].at[1].set(3.0)
    means = []
    monkeypatch.setattr(
        likelihood._ActiveUnits, "add", _also(likelihood._ActiveUnits.add, means.append)
    )
    metrics = likelihood.likelihood(RECIPE, state, _cut(batch, 3, 30), 0, 2)
    assert [len(each) for each in means] == [24, 16]
    assert metrics["active_units"] == int(active_units(np.concatenate(means))) == 2
    assert metrics["nll"] > 0 and metrics["elbo_error"] > 0


def _also(method, tell):
    def both(self, values):
        tell(values)
        return method(self, values)

    return both


def test_large_images_are_measured_a_few_at_a_time():
    at_once = [images_at_once(ImageSpec(side, side, 3)) for side in (8, 32, 64, 256, 1024)]
    assert at_once == [100, 100, 54, 3, 1]
    assert [samples_at_once(5000, side * side * 3) for side in (8, 256, 1024)] == [50, 50, 10]
    assert [samples_at_once(samples, 64) for samples in (1, 7, 53, 100)] == [1, 7, 1, 50]


def test_broken_images_are_left_out_and_indices_are_kept(monkeypatch):
    batch = _batch(6)
    source = ArraySource(*batch, ["a", "b", "c"], DataOptions())
    read = source.read
    monkeypatch.setattr(
        source,
        "read",
        lambda indices: [
            BrokenImage(f"image {i}", "cut short") if i in (0, 3) else read([i])[0] for i in indices
        ],
    )
    images = Images(source, "the images", np.array([5, 6, 7]))
    for _ in range(2):  # it can be read again
        (found,) = images
    np.testing.assert_array_equal(found.images, batch.images[[1, 2, 4, 5]])
    np.testing.assert_array_equal(found.labels, batch.labels[[1, 2, 4, 5]] + 5)
    assert images.names() == ["image 1", "image 2", "image 4", "image 5"]
    assert images.class_names() == [["a", "b", "c"][i] for i in batch.labels[[1, 2, 4, 5]]]
    np.testing.assert_array_equal(images.take([3, 0]), batch.images[[5, 1]])
    assert images.take([]).shape == (0, 4, 4, 1)
    monkeypatch.setattr(source, "read", lambda indices: [BrokenImage("x", "y") for _ in indices])
    with pytest.raises(UsageError, match="the images: not one image can be read"):
        list(images)


def test_a_function_of_one_image_may_return_any_arrays(monkeypatch):
    _few_at_once(monkeypatch)
    state = initial_state(RECIPE, SPEC, jax.random.key(0))
    batch = _batch(30)

    def function(state, one, key):
        del state, key
        return {"sum": one.images.sum(axis=(1, 2, 3)), "label": one.labels}, None

    parts = list(over_images(function)(state, [batch], jax.random.key(0)))
    assert [len(each["label"]) for each, _ in parts] == [24, 6]
    for name, expected in (("sum", batch.images.sum(axis=(1, 2, 3))), ("label", batch.labels)):
        np.testing.assert_array_equal(np.concatenate([each[name] for each, _ in parts]), expected)
