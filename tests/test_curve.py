"""grader/curve.py: a curve in the terminal and as a picture."""

from __future__ import annotations

from PIL import Image

from grader.curve import draw, sparkline


def test_blocks_follow_the_values():
    """The lowest value is the lowest block, the highest the highest."""
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"


def test_a_long_curve_is_shortened_with_its_last_value():
    """However many values there are, the line keeps its length, and the last one is in it."""
    line = sparkline(range(1000), columns=20)

    assert len(line) == 20 and line[-1] == "█"


def test_equal_values_and_none():
    """A flat curve is low, and no values are no curve."""
    assert sparkline([5, 5, 5]) == "▁▁▁" and sparkline([]) == ""


def test_a_picture_is_drawn(tmp_path):
    """The PNG can be opened and has more than the background on it."""
    path = tmp_path / "new" / "curve.png"

    draw([(0, 40_000), (10, 40_080), (20, 40_160)], path, "refunds: +8.00 KiB a task")

    with Image.open(path) as picture:
        assert picture.format == "PNG" and len(picture.getcolors(100_000)) > 3


def test_a_single_point_is_drawn(tmp_path):
    """A curve of one point, and one without height, have a picture too."""
    draw([(5, 1)], tmp_path / "one.png", "one")

    assert (tmp_path / "one.png").stat().st_size
