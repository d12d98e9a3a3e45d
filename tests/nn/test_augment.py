import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from genjax.nn import augment
from genjax.nn.augment import OperationName, ada, diff_augment

OPERATIONS = OperationName.__args__  # type: ignore[attr-defined]
KEY = jax.random.key(0)
WARP = jax.jit(augment.warp)
DIFF_AUGMENT = jax.jit(diff_augment)


def _images(n=4, height=24, width=32, channels=3):
    """Return noise that is smooth enough for any good way of resampling to agree on it."""
    noise = np.random.default_rng(0).normal(size=(n, height, width, channels))
    smooth = ndimage.gaussian_filter(noise, (0, 2.5, 2.5, 0), mode="mirror")
    return (smooth / np.abs(smooth).max()).astype(np.float32)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_without_probability_it_is_the_identity(operation):
    images = [_images(channels=channels) for channels in (1, 3)]
    found = jax.jit(lambda images, p: [ada(KEY, each, p, (operation,)) for each in images])(
        images, jnp.zeros(())
    )
    for one, other in zip(found, images, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_image_is_changed_with_the_probability(operation):
    images = jnp.asarray(np.repeat(_images(1, 16, 16), 400, axis=0))
    p = 0.3
    found = jax.jit(functools.partial(ada, operations=(operation,)))(KEY, images, jnp.array(p))
    changed = np.mean(np.any(found != images, axis=(1, 2, 3)))
    # The shares that every transformation of a kind leaves. Half of the flips are none, a quarter
    # of the turns, and of the shifts by -2 to 2 pixels one in 16; two rotations share one p.
    left = {
        "blit": (1 - p / 2) * (1 - p * 3 / 4) * (1 - p * 15 / 16),
        "geometric": (1 - p) ** 4,
        "color": (1 - p) ** 4 * (1 - p / 2),
        "filter": (1 - p) ** 4,
        "noise": 1 - p,
        "cutout": 1 - p,
    }[operation]
    assert changed == pytest.approx(1 - left, abs=0.07)  # three standard errors


@pytest.mark.device
def test_all_is_differentiable_and_finite():
    grad = jax.jit(
        jax.grad(lambda images: jnp.sum(ada(KEY, images, jnp.array(0.8), OPERATIONS) ** 2))
    )
    found = grad(_images())
    assert np.all(np.isfinite(found)) and np.any(found)
    grad = jax.jit(jax.grad(lambda images: jnp.sum(diff_augment(KEY, images) ** 2)))
    assert np.all(np.isfinite(grad(_images())))


@pytest.mark.device
@pytest.mark.parametrize(
    "matrix",
    [
        augment._scaling(jnp.array([1.3]), jnp.array([0.8])),
        augment._rotation(jnp.array([0.7])),
        augment._shift(jnp.array([[2.3, -1.6]])),
        augment._rotation(jnp.array([2.0])) @ augment._scaling(jnp.array([0.7]), jnp.array([1.2])),
    ],
    ids=["scaling", "rotation", "shift", "both"],
)
def test_warp_is_that_of_scipy(matrix):
    """SciPy resamples a smooth image with cubic splines and mirrored borders."""
    images = _images(1)
    found = WARP(jnp.asarray(images), matrix)[0]
    # SciPy's matrix is of (row, column), counted from the corner.
    swap = np.array([[0, 1], [1, 0]])
    inverse = swap @ np.asarray(matrix[0, :2, :2]) @ swap
    centre = (np.array(images.shape[1:3]) - 1) / 2
    offset = centre + swap @ np.asarray(matrix[0, :2, 2]) - inverse @ centre
    expected = np.stack(
        [
            ndimage.affine_transform(images[0, ..., c], inverse, offset, order=3, mode="mirror")
            for c in range(3)
        ],
        axis=2,
    )
    # Beyond the border the kinks of the mirrored image are no longer smooth.
    assert np.abs(found - expected).mean() < 0.004
    assert np.abs(found - expected).max() < 0.06
    assert np.abs(found - images[0]).mean() > 0.1


def test_blits_are_those_of_numpy():
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    blit = jax.jit(augment.blit)
    flipped = blit(images, augment._scaling(-jnp.ones(2), jnp.ones(2)))
    np.testing.assert_array_equal(flipped, images[:, :, ::-1])
    turned = blit(images, augment._rotation(jnp.full(2, jnp.pi / 2)))
    np.testing.assert_array_equal(turned, np.rot90(images, 1, (1, 2)))
    shifted = blit(images, augment._shift(jnp.array([[3.0, -2.0]] * 2)))
    np.testing.assert_array_equal(shifted[:, :-2, 3:], images[:, 2:, :-3])


def test_colors_are_those_of_pillow_and_colorsys():
    images = np.random.default_rng(0).uniform(-1, 1, (1, 8, 8, 3)).astype(np.float32)
    bytes_ = np.round((images + 1) * 127.5)

    def pillow(matrix):
        """Transform colours by Pillow, on values from 0 to 255 in place of -1 to 1."""
        m = np.asarray(matrix[0], float)
        shift = (m[:3, 3] + 1 - m[:3, :3].sum(axis=1)) * 127.5
        image = Image.fromarray(bytes_[0].astype(np.uint8))
        rows = np.concatenate([m[:3, :3], shift[:, None]], axis=1)
        return np.asarray(image.convert("RGB", tuple(rows.ravel())), float)

    recolor = jax.jit(augment.recolor)
    for matrix in (
        augment._brightness(jnp.array([0.3])),
        augment._contrast(jnp.array([0.6])),
        augment._luma_flip(jnp.ones(1)),
        augment._hue(jnp.array([0.9])),
        augment._saturation(jnp.array([0.4])),
    ):
        found = recolor(jnp.asarray(images), matrix)[0]
        expected = pillow(matrix)
        np.testing.assert_allclose(
            np.clip((found + 1) * 127.5, 0, 255), expected, atol=1.6, err_msg=str(matrix)
        )
    # A third of a turn takes red to green to blue, and so does a hue of a third.
    red = jnp.array([[[[0.7, -0.2, -0.2]]]])
    turned = recolor(red, augment._hue(jnp.array([2 * np.pi / 3])))[0, 0, 0]
    hue, lightness, saturation = colorsys.rgb_to_hls(*np.asarray((red[0, 0, 0] + 1) / 2))
    expected = colorsys.hls_to_rgb(hue + 1 / 3, lightness, saturation)
    np.testing.assert_allclose((turned + 1) / 2, expected, atol=1e-5)
    # Without saturation all is gray, of the mean; the luma flip mirrors the mean.
    gray = recolor(jnp.asarray(images), augment._saturation(jnp.zeros(1)))
    mean = images.mean(axis=3, keepdims=True)
    np.testing.assert_allclose(gray, np.broadcast_to(mean, images.shape), atol=1e-5)
    flipped = recolor(jnp.asarray(images), augment._luma_flip(jnp.ones(1)))
    np.testing.assert_allclose(flipped.mean(axis=3, keepdims=True), -mean, atol=1e-5)


def test_bands_are_octaves_and_add_up():
    """The filters' sum is the identity; by the Fourier transform, each lets one octave pass."""
    bands = augment.BAND_FILTERS
    response = np.abs(np.fft.rfft(bands, 1024, axis=1))
    np.testing.assert_allclose(response.sum(axis=0), 1, atol=1e-6)
    middle = np.array([1 / 32, 3 / 32, 3 / 16, 3 / 8])  # of octaves, in cycles a pixel
    at = response[:, np.round(middle * 1024).astype(int)]
    assert np.all(at.argmax(axis=0) == np.arange(4)) and np.all(np.diag(at) > 0.7)

    images = _images()
    gains = jnp.array([[1.0, 1, 1, 1], [2, 1, 1, 1], [0.5, 1, 2, 1], [1, 1, 1, 3]])
    found = jax.jit(augment.amplify)(jnp.asarray(images), gains)
    for image, gain, result in zip(images, gains, found, strict=True):
        kernel = np.asarray(gain) @ bands
        expected = ndimage.correlate1d(image, kernel, axis=0, mode="mirror")
        expected = ndimage.correlate1d(expected, kernel, axis=1, mode="mirror")
        np.testing.assert_allclose(result, expected, atol=2e-5)


def test_cut_is_a_rectangle():
    images = jnp.ones((2, 20, 10, 1))
    found = jax.jit(augment.cutout)(
        images, jnp.array([[0.5, 0.5], [0.0, 1.0]]), jnp.array([0.5, 0.5])
    )
    expected = np.ones((2, 20, 10, 1))
    expected[0, 5:15, 3:7] = 0  # the middle of a pixel decides: 2.5 to 7.5 are columns 3 to 6
    expected[1, :5, 8:] = 0
    assert np.mean(found[0] == 0) == pytest.approx(0.25, abs=0.06)
    np.testing.assert_array_equal(found[1, :5, 8:], expected[1, :5, 8:])
    assert not np.any(found[0, 5:15, 3:7])
    assert np.all(found[1, 5:] == 1) and np.all(found[1, :, :7] == 1)


def test_diff_augment_shifts_by_an_eighth_and_cuts_a_quarter():
    images = jnp.ones((300, 16, 16, 1))
    found = np.asarray(DIFF_AUGMENT(KEY, images))
    assert not np.array_equal(found[0], found[1])
    is_cut = np.mean(found == 0, axis=(1, 2, 3))
    # The cutout is half of both sides, less what lies beyond the border; a shift adds up to 2 rows.
    assert is_cut.min() > 0.05 and is_cut.max() < 0.25 + 0.25
    values = np.array([image[image != 0].mean() for image in found])
    assert 0.5 <= values.min() < 0.6 and 1.4 < values.max() <= 1.5  # a brightness of half


def test_a_generator_cannot_hide_in_it():
    """Augmentation with p < 1 leaves visible which way up the images are.

    The mean of augmented images is bright at the top if the images are. If each were turned, images
    that are upside down would give the same distribution, and the generator could draw those.
    """
    image = jnp.tile(jnp.linspace(1, -1, 16).reshape(1, 16, 1, 1), (2000, 1, 16, 1))
    found = jax.jit(functools.partial(ada, operations=("blit",)))(KEY, image, jnp.array(0.6))
    mean = np.mean(found, axis=(0, 2, 3))
    assert mean[:4].mean() - mean[-4:].mean() > 0.4


def test_half_of_the_images_are_mirrored():
    images = np.random.default_rng(0).integers(0, 256, (400, 3, 4, 1), np.uint8)
    found = np.asarray(augment.mirror(KEY, images))
    is_same = np.all(found == images, axis=(1, 2, 3))
    is_mirrored = np.all(found == images[:, :, ::-1], axis=(1, 2, 3))
    assert np.all(is_same ^ is_mirrored)
    assert 0.4 < is_mirrored.mean() < 0.6
    assert found.dtype == np.uint8
