import io
import re

import numpy as np
import pytest

from genjax.figures.terminal import HALF, draw


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("shape", [(16, 16, 1), (28, 28, 3), (100, 200, 3)])
def test_text_fits_a_terminal(shape):
    images = np.full((20, *shape), 255, np.uint8)
    images[:, : shape[0] // 2] = 0
    lines = draw(images, io.StringIO()).splitlines()
    assert max(map(len, lines)) <= 80
    assert set(lines[0]) == {" "}
    assert "@" in lines[len(lines) // 2 - 2]


@pytest.fixture
def in_colour(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")


def test_a_terminal_with_colours_gets_those_of_the_images(in_colour):
    """Each character has the colour of a pixel above that of the one below it."""
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 6, 3), np.uint8)
    lines = draw(images, Terminal(), rows=2).splitlines()
    assert len(lines) == 2 * (4 // 2) + 1 and not lines[2]
    code = r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m" + HALF
    colours = np.array(re.findall(code, lines[1]), int).reshape(80 // 7, 6, 2, 3)
    np.testing.assert_array_equal(colours, images[:11, 2:4].swapaxes(1, 2))
    plain = re.sub(r"\x1b\[[\d;]*m", "", lines[0])
    assert plain == (HALF * 6 + " ") * 11


def test_colours_are_left_where_they_are_not_wanted(in_colour, monkeypatch):
    images = np.full((4, 8, 8, 1), 255, np.uint8)
    latin = Terminal()
    latin.encoding = "latin-1"
    shades = draw(images, io.StringIO())
    assert draw(images, latin) == shades and set(shades) == set("@ \n")
    monkeypatch.setenv("NO_COLOR", "1")
    assert draw(images, Terminal()) == shades
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.delenv("COLORTERM")
    monkeypatch.setenv("TERM", "xterm")  # 16 colours, of which 4 are gray
    assert draw(images, Terminal()) == shades


def test_a_narrow_terminal_gets_fewer_images_in_a_row(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    lines = draw(np.zeros((8, 12, 12, 1), np.uint8), io.StringIO()).splitlines()
    assert {len(line) for line in lines if line} == {2 * 12 + 1}
