"""The chart of docs/performance.md: every figure that has a goal, and which of them miss it."""

from matplotlib.colors import to_hex

from benchmarks.chart import DOCS, MISSED, REACHED, Row, draw, read


def test_misses_have_a_colour_of_their_own():
    """Whether more is better or less, and exactly at the goal it is reached."""
    rows = [Row("a", 0.9, 1.0), Row("b", 1.0, 1.0), Row("c", 1.2, 1.1, at_most=True)]
    bars = draw(rows).axes[0].containers[0]
    assert [to_hex(bar.get_facecolor()) for bar in bars] == [MISSED, REACHED, MISSED]
    assert [row.text for row in rows] == ["0.9 (≥ 1)", "1 (≥ 1)", "1.2 (≤ 1.1)"]


def test_the_drawing_shows_what_is_written():
    """docs/performance.svg was drawn from the figures that stand beside it."""
    drawn = (DOCS / "performance.svg").read_text()
    assert all(f"<!-- {row.text} -->" in drawn for row in read(DOCS / "performance.json"))
