import io

import numpy as np
import pytest
from PIL import Image

from genjax.data.images import to_8_bit, to_array
from genjax.types import UsageError

LANCZOS = Image.Resampling.LANCZOS


def _gradient(mode):
    return Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8) * 5).convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_mode_becomes_uint8(mode, channels):
    array = to_array(_gradient(mode), (6, 8, channels), "crop", LANCZOS)
    assert array.shape == (6, 8, channels)
    assert array.dtype == np.uint8
    if mode in ("L", "LA", "P", "RGB", "RGBA", "CMYK"):
        gray = np.asarray(_gradient("L"))
        np.testing.assert_allclose(array[..., 0].astype(int), gray, atol=1)


def test_16_bit_gray_keeps_its_high_byte():
    values = np.array([[0, 255, 256, 65535]], np.uint16)
    array = np.asarray(to_8_bit(Image.fromarray(values)))
    np.testing.assert_array_equal(array, [[0, 0, 1, 255]])


def test_transparency_is_composited_over_white():
    rgba = np.zeros((1, 2, 4), np.uint8)
    rgba[0, 0] = 10, 20, 30, 0
    rgba[0, 1] = 10, 20, 30, 255
    array = np.asarray(to_8_bit(Image.fromarray(rgba)))
    np.testing.assert_array_equal(array[0], [[255, 255, 255], [10, 20, 30]])


def test_exif_orientation_is_applied(tmp_path):
    image = Image.fromarray(np.array([[0, 255]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as turned:
        np.testing.assert_array_equal(np.asarray(to_8_bit(turned)), [[0], [255]])


def test_floating_point_pixels_are_refused():
    with pytest.raises(UsageError, match="floating-point"):
        to_8_bit(Image.fromarray(np.zeros((2, 2), np.float32)))


def test_fit():
    image = Image.fromarray(np.repeat(np.array([[0, 100, 200, 255]], np.uint8), 2, axis=0))

    def columns(fit):
        return to_array(image, (2, 2, 1), fit, Image.Resampling.NEAREST)[0, :, 0].tolist()

    assert columns("crop") == [100, 200]
    assert columns("stretch") == [100, 255]
    padded = to_array(image, (2, 2, 1), "pad", Image.Resampling.NEAREST)
    assert (padded == 0).any(axis=1).any()


def test_values_of_fewer_bits_fill_the_range():
    values = np.array([[0, 15, 16, 4095]], np.uint16)
    array = np.asarray(to_8_bit(Image.fromarray(values), bit_depth=12))
    np.testing.assert_array_equal(array, [[0, 0, 1, 255]])
    with pytest.raises(UsageError, match=r"^values of 12 bits, more than 11: give --bit-depth 12$"):
        to_8_bit(Image.fromarray(values), bit_depth=11)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_large_jpeg_is_scaled_while_it_is_decoded(fit, orientation):
    noise = [
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (s, s, 3), np.uint8))
        for s in (8, 64, 512)
    ]
    coarse, fine, dots = (each.resize((512, 320), Image.Resampling.BICUBIC) for each in noise)
    picture = Image.blend(Image.blend(coarse, fine, 0.4), dots, 0.03)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90, exif=exif)

    def scaled(image, shape=(64, 48, 3)):
        return to_array(image, shape, fit, LANCZOS).astype(int)

    with Image.open(buffer) as image:
        found = scaled(image)
        assert image.size == (256, 160)
    with Image.open(buffer) as image:
        image.load()  # from here on it cannot be
        whole = scaled(image)
    assert np.abs(found - whole).mean() < 1.1
    assert np.abs(found - whole).max() <= 6
    if orientation == 1:  # it is no farther from the picture than what the whole file gives
        expected = scaled(picture)
        assert np.abs(found - expected).mean() < np.abs(whole - expected).mean()
    with Image.open(buffer) as image:
        scaled(image, (200, 200, 3))
        assert image.size == (512, 320)  # too near to the wanted size
