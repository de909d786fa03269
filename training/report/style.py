"""What the pictures have in common: colours that the colour-blind tell apart, PNG bytes."""

import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

# From the palette of Okabe and Ito.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
INK, PALE = "#333333", "#DDDDDD"
DPI = 150


def blank(width: float, height: float) -> Figure:
    """A figure of so many inches that keeps its parts from overlapping."""
    return Figure((width, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))


def png(figure: Figure) -> bytes:
    """The figure as a PNG file, the same bytes for the same figure and matplotlib."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    return buffer.getvalue()


def plain(axes: Axes) -> None:
    """Take away the frame but for the two axis lines, and add a pale grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)
    axes.tick_params(color=PALE, labelcolor=INK)
    axes.grid(color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
