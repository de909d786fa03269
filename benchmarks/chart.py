"""`python -m benchmarks.chart`: draws docs/performance.json, figures and goals, as an SVG."""

import json
from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

DOCS = Path(__file__).parents[1] / "docs"
REACHED, MISSED = "#2a7f62", "#b5541c"
HEIGHT_OF_A_BAR = 0.42


@dataclass(frozen=True)
class Row:
    """A ratio and its goal, which it must reach or, where `at_most`, may not exceed."""

    what: str
    measured: float
    goal: float
    at_most: bool = False

    @property
    def margin(self) -> float:
        """How far it is on the good side: 1 at the goal, more beyond it."""
        return self.goal / self.measured if self.at_most else self.measured / self.goal

    @property
    def text(self) -> str:
        """The figure beside its goal."""
        sign = "≤" if self.at_most else "≥"
        return f"{self.measured:g} ({sign} {self.goal:g})"


def read(path: Path) -> list[Row]:
    """The rows of a file."""
    return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def draw(rows: list[Row]) -> Figure:
    """A bar for each row, as long as its margin; the line is the goal."""
    figure = Figure(figsize=(9, 1 + HEIGHT_OF_A_BAR * len(rows)), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    places = range(len(rows), 0, -1)
    colours = [REACHED if row.margin >= 1 else MISSED for row in rows]
    axes.barh(places, [row.margin for row in rows], height=0.6, color=colours)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(list(places), [row.what for row in rows])
    axes.set_xlabel("measured over its goal (goal over measured where less is better)")
    for place, row in zip(places, rows, strict=True):
        axes.text(0.02, place, row.text, va="center", color="white", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Draw it anew."""
    figure = draw(read(DOCS / "performance.json"))
    # The same figures make the same file: without a date, and with names that are not random.
    with rc_context({"svg.hashsalt": "protuning"}):
        figure.savefig(DOCS / "performance.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
