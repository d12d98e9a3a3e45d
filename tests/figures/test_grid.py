import io

import numpy as np
import pytest
from PIL import Image

from genjax.figures.grid import GAP, GAP_GRAY, grid, to_png, to_uint8


def test_images_go_left_to_right_top_to_bottom():
    values = np.arange(5, dtype=np.uint8) * 40
    images = np.broadcast_to(values[:, None, None, None], (5, 3, 4, 1))
    picture = np.asarray(grid(images))
    scale = picture.shape[1] // (3 * (4 + GAP))
    small = picture[::scale, ::scale]
    assert small.shape == (2 * (3 + GAP), 3 * (4 + GAP))
    cells = small[:: 3 + GAP, :: 4 + GAP].ravel()
    assert cells.tolist() == [0, 40, 80, 120, 160, GAP_GRAY]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_can_be_read_back(channels):
    images = np.random.default_rng(0).integers(0, 256, (4, 6, 6, channels), np.uint8)
    with Image.open(io.BytesIO(to_png(grid(images)))) as picture:
        assert picture.mode == ("L" if channels == 1 else "RGB")
        assert np.asarray(picture)[0, 0].tolist() == (
            images[0, 0, 0].tolist() if channels == 3 else images[0, 0, 0, 0]
        )


def test_to_uint8_rounds_and_clips():
    values = np.array([-2, -1, -1 + 0.9 / 127.5, 0.0, 1, 2])
    assert to_uint8(values).tolist() == [0, 0, 1, 128, 255, 255]
