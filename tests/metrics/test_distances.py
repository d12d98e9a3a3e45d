import functools
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from genjax.metrics import neighbours
from genjax.metrics.classes import class_coverage, inception_score
from genjax.metrics.frechet import Moments, frechet_distance, frechet_distance_error
from genjax.metrics.kernel import kernel_distance, squared_mmd
from genjax.metrics.neighbours import prdc
from genjax.metrics.sharpness import sharpness
from genjax.types import UsageError


def _features(n, seed, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, (n, 6))


@pytest.fixture
def vectors(shared):
    return np.load(shared / "reference/a/metrics_a.npz")


def test_frechet_distance_is_the_references(vectors):
    real, fake, real_low, fake_low = (
        Moments.of(vectors[f"in/{name}"])
        for name in ("real", "fake", "real_low_rank", "fake_low_rank")
    )
    np.testing.assert_allclose(frechet_distance(real, fake), vectors["out/frechet"], rtol=1e-9)
    # SciPy takes the root of a product of rank-deficient matrices, which keeps half of the digits.
    found = frechet_distance(real_low, fake_low)
    np.testing.assert_allclose(found, vectors["out/frechet_low_rank"], rtol=1e-8)
    assert abs(frechet_distance(real, real)) < 1e-10


def test_kernel_distance_is_the_references(vectors):
    found = squared_mmd(vectors["in/real"], vectors["in/fake"])
    # Products of the features are rounded to float32.
    np.testing.assert_allclose(found, vectors["out/kid_one_block"], rtol=1e-7)


@pytest.mark.parametrize("shift", [0, 10])
def test_rounding_of_products_hardly_moves_the_kernel_distance(shift):
    """Also far from the origin, where the kernels of pairs are a million times their difference."""
    rng = np.random.default_rng(0)
    x, y = (rng.normal(shift, 1, (500, 64)).astype(np.float32) for _ in range(2))

    def kernel(a, b):
        return (a.astype(np.float64) @ b.T.astype(np.float64) / 64 + 1) ** 3

    pairs = [(k.sum() - np.trace(k)) / (500 * 499) for k in (kernel(x, x), kernel(y, y))]
    expected = sum(pairs) - 2 * kernel(x, y).mean()
    np.testing.assert_allclose(squared_mmd(x, y), expected, rtol=1e-5)


def test_inception_score_is_the_references(vectors):
    for splits, names in ((1, ("1", None)), (10, ("10_mean", "10_std"))):
        for value, name in zip(inception_score(vectors["in/logits"], splits), names, strict=True):
            if name:
                expected = vectors[f"out/inception_score_{name}"]
                np.testing.assert_allclose(value, expected, rtol=1e-9)


def test_prdc_are_the_references(vectors):
    found = prdc(vectors["in/real"], vectors["in/fake"], nearest_k=5)
    for name in ("precision", "recall", "density", "coverage"):
        np.testing.assert_allclose(getattr(found, name), vectors[f"out/{name}"], rtol=1e-9)


@pytest.mark.parametrize("shift", [0, 30])
def test_prdc_are_exact_on_the_surface_of_a_ball(shift):
    """Samples that are copies of the k-th neighbours lie on the balls, where rounding decides."""
    rng = np.random.default_rng(0)
    real = rng.normal(shift, 1, (300, 100)).astype(np.float32)
    gaps = np.linalg.norm(real[:, None].astype(np.float64) - real, axis=-1)
    order = np.argsort(gaps, axis=1)
    fake = real[order[:, 3]]
    radii = np.take_along_axis(gaps, order, axis=1)[:, 3]
    inside = gaps[:, order[:, 3]] <= radii[:, None]
    found = prdc(real, fake, nearest_k=3)
    assert found.density == pytest.approx(inside.sum(axis=0).mean() / 3, rel=1e-12)
    assert (found.precision, found.coverage) == (1, 1)


def test_collapsed_samples_take_no_longer_and_are_as_before():
    """Distances of equal samples are all within rounding of 0, and are computed as one product."""
    real = _features(300, 0)
    found = prdc(real, np.repeat(real[:1], 2000, axis=0))
    assert (found.precision, found.recall) == (1, 1 / 300)
    assert prdc(np.ones((50, 3)), np.ones((60, 3)))[:4] == (1, 1, 10, 1)


@pytest.mark.parametrize("scale", [1e-24, 1, 1e20])
def test_prdc_do_not_depend_on_the_scale_or_kind_of_arrays(scale):
    real, fake = _features(100, 0), _features(90, 1)
    expected = prdc(real, fake)
    assert prdc(real * scale, fake * scale) == expected
    assert prdc(jnp.asarray(real), jnp.asarray(fake)) == expected
    assert prdc((1000 * real).astype(np.float16), (1000 * fake).astype(np.float16)).precision < 1
    found = kernel_distance(jnp.asarray(real), jnp.asarray(fake))
    np.testing.assert_allclose(found, kernel_distance(real, fake), rtol=1e-4)


def test_features_that_are_not_finite_are_refused():
    real, fake = _features(20, 0), _features(20, 1)
    fake[3, 2] = np.nan
    for function in (prdc, squared_mmd, kernel_distance):
        with pytest.raises(UsageError, match=r"(fake|y): holds NaN or infinities"):
            function(real, fake)


def test_errors_of_prdc_are_those_of_other_samples():
    """A standard error is the spread over samples that are drawn anew, against the same data."""
    real = _features(400, 0)
    found = [prdc(real, _features(300, seed, 0.3)) for seed in range(1, 41)]
    for name in ("precision", "density"):  # of samples that count one by one
        spread = np.std([getattr(each, name) for each in found])
        error = np.mean([getattr(each, f"{name}_error") for each in found])
        assert error == pytest.approx(spread, rel=0.4)
    assert all(0 < each.coverage_error < 0.05 and 0 < each.recall_error < 0.05 for each in found)


def test_moments_of_parts_merge_to_those_of_the_whole():
    features = _features(100, 0, shift=1e3)
    whole = Moments.of(features)
    parts = [Moments.of(part) for part in np.split(features, [10, 40, 41])]
    for order in (parts, parts[::-1]):
        merged = functools.reduce(Moments.merge, order)
        assert merged.examples == 100
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
        np.testing.assert_allclose(merged.scatter, whole.scatter, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(whole.covariance, np.cov(features.T), rtol=1e-9, atol=1e-9)
    with pytest.raises(UsageError, match="1 example"):
        _ = parts[2].covariance


def test_frechet_distance_against_the_root_of_the_product():
    a, b = Moments.of(_features(500, 0)), Moments.of(_features(400, 1, 0.3) * np.arange(1, 7))
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    gap = a.mean - b.mean
    expected = gap @ gap + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_kernel_distance_is_seeded_and_has_an_error():
    x, y = _features(500, 0), _features(400, 1)
    same = kernel_distance(x, y, subsets=50, subset_size=100)
    assert same == kernel_distance(x, y, subsets=50, subset_size=100)
    assert same != kernel_distance(x, y, subsets=50, subset_size=100, seed=1)
    assert abs(same[0]) < 5 * same[1] + 0.02
    far, error = kernel_distance(x, _features(400, 1, 0.5), subsets=50, subset_size=100)
    assert far > 3 * error > 0
    with pytest.raises(UsageError, match="of 1 examples"):
        kernel_distance(x[:3], y)


def test_the_error_of_the_kernel_distance_is_that_of_other_sets():
    """Over sets of one kind the distances spread as the error says, more or less."""
    found = [
        kernel_distance(_features(200, 2 * seed), _features(200, 2 * seed + 1, 0.3), subset_size=50)
        for seed in range(30)
    ]
    values, errors = np.transpose(found)
    assert 0.7 < np.mean(errors) / np.std(values) < 1.5


def test_prdc_tell_fidelity_from_diversity():
    """The data have two clusters; samples are of one of them, of both, or far away."""
    clusters = [_features(200, seed, shift) for seed, shift in ((0, 0.0), (1, 20.0))]
    real = np.concatenate(clusters)
    both = np.concatenate([_features(200, 2, 0.0), _features(200, 3, 20.0)])
    half, far = prdc(real, _features(400, 4, 0.0)), prdc(real, both - 100)
    whole = prdc(real, both)
    assert min(whole.precision, whole.recall, whole.coverage) > 0.85
    assert half.precision > 0.85
    assert half.recall == pytest.approx(0.5, abs=0.05)
    assert half.coverage == pytest.approx(0.5, abs=0.05)
    assert far == (0,) * 8
    assert whole.density == pytest.approx(1, abs=0.2)
    with pytest.raises(UsageError, match="nearest_k = 5: should be from 1 to 4"):
        prdc(real, both[:5])


def test_prdc_in_blocks_are_the_same(monkeypatch):
    real, fake = _features(300, 0), _features(200, 1, 0.5)
    expected = prdc(real, fake)
    monkeypatch.setattr(neighbours, "BLOCK_MIB", 0.05)  # about 20 rows at once
    assert prdc(real, fake) == expected


def test_inception_score_at_its_ends():
    certain = 1e3 * np.eye(10)
    assert inception_score(np.repeat(certain, 5, axis=0)[::1], 1)[0] == pytest.approx(10)
    assert inception_score(np.repeat(certain[:1], 50, axis=0), 1)[0] == pytest.approx(1)
    assert inception_score(np.zeros((50, 10)), 5) == pytest.approx((1, 0))
    with pytest.raises(UsageError, match="splits = 11"):
        inception_score(certain, 11)


def test_class_coverage_counts_modes_and_weighs_shares():
    real = np.repeat(np.arange(4), 25)
    assert class_coverage(real, real, 4) == (4, 0)
    modes, divergence = class_coverage(np.array([0, 0, 1, 1]), real, 4)
    assert (modes, divergence) == (2, pytest.approx(np.log(2)))
    assert class_coverage(np.array([3]), real[:75], 4) == (1, np.inf)


def test_sharpness_falls_with_blur():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 12, 12, 3), np.uint8)
    blurred = (images[:, 1:].astype(float) + images[:, :-1]) / 2
    assert np.all(sharpness(blurred) < 0.7 * sharpness(images))
    flat = np.full((1, 5, 5, 1), 7)
    ramp = np.arange(25).reshape(1, 5, 5, 1)
    assert sharpness(flat) == sharpness(ramp) == 0
    dot = np.zeros((1, 3, 3, 1))
    assert sharpness(dot) == 0


def test_copies_of_the_data_lie_where_the_data_are():
    """Also where all neighbours of a point are its copies, as with images that are repeated."""
    some = np.repeat(_features(20, 0, shift=5.0), 10, axis=0)
    for real in (np.ones((100, 8)), some):
        # Features of equal images differ by rounding.
        rounding = 1 + 1e-7 * np.random.default_rng(0).normal(size=real.shape)
        found = prdc(real, real * rounding)
        assert found.precision == found.recall == found.coverage == 1
    assert prdc(some, some + 9).precision == 0


def test_memory_of_prdc_grows_with_the_examples_not_with_their_square(monkeypatch):
    """All distances of 3,000 points would take 69 MiB."""
    monkeypatch.setattr(neighbours, "BLOCK_MIB", 1)
    points = _features(3000, 0)[:, :2]
    prdc(points[:50], points[:60])  # imports
    tracemalloc.start()
    prdc(points, points + 0.1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 * 2**20


@pytest.mark.parametrize("examples", [5, 400])
def test_the_error_of_the_frechet_distance_is_that_of_resampled_sets(examples):
    """Its distances are those of `frechet_distance`, of few examples and of many."""
    a, b = _features(examples, 0), _features(examples, 1, 0.5)
    expected, rng = [], np.random.default_rng(0)
    for _ in range(5):
        rows = [rng.integers(0, examples, examples) for _ in range(2)]
        expected.append(frechet_distance(Moments.of(a[rows[0]]), Moments.of(b[rows[1]])))
    error = frechet_distance_error(a, b, np.random.default_rng(0), resamplings=5)
    assert error == pytest.approx(np.std(expected, ddof=1), rel=1e-5)
