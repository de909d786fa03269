"""The confusion matrix as a picture, from 2 classes to thousands."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from torch import Tensor

from training.report.lettering import font, lettering
from training.report.style import INK, PALE, blank, png

# Up to so many classes the cells have room for a number, or the axes for names.
WITH_NUMBERS = 20
WITH_NAMES = 60
_LONGEST_NAME = 24
_INCHES_A_LETTER = 0.085


def confusion_picture(confusion: Tensor, class_names: Sequence[str]) -> bytes:
    """A PNG of the counts [classes, classes], true classes down and answers across.

    Each row is drawn in shares of its class's test images; a gray row has none.
    """
    shares = _shares(confusion)
    names = lettering(class_names, _LONGEST_NAME) if len(shares) <= WITH_NAMES else ()
    side, margin = _side(len(shares)), _INCHES_A_LETTER * max(map(len, names), default=4)
    figure = blank(side + margin + 1.6, side + margin + 0.8)
    axes = figure.subplots()
    gray = " (gray: no test image)" if np.isnan(shares).any() else ""
    axes.set_title(f"Answers in % of each true class{gray}", loc="left", color=INK, fontsize=11)
    colours = colormaps["Blues"].with_extremes(bad=PALE)
    # The square root lifts rare confusions out of the white.
    image = axes.imshow(
        np.ma.masked_invalid(shares), cmap=colours, norm=PowerNorm(0.5, vmin=0, vmax=1)
    )
    _label(axes, names)
    if len(shares) <= WITH_NUMBERS:
        _write_numbers(axes, shares)
    _add_scale(figure, axes, image)
    return png(figure)


def _shares(confusion: Tensor) -> NDArray[np.float64]:
    counts = confusion.numpy().astype(float)
    images = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, images, out=np.full_like(counts, np.nan), where=images > 0)


def _side(classes: int) -> float:
    """Inches of the matrix."""
    if classes <= WITH_NUMBERS:
        return max(3.0, 0.45 * classes)
    return max(9.0, 0.17 * min(classes, WITH_NAMES))


def _label(axes: Axes, names: Sequence[str]) -> None:
    """Write the class names on the axes; without names, some class numbers."""
    axes.set_xlabel("answer", color=INK)
    axes.set_ylabel("true class", color=INK)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=INK)
    if not names:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        return
    letters = font(9 if len(names) <= 30 else 7)
    turned = 0 if max(map(len, names)) <= 3 else 90
    axes.set_xticks(range(len(names)), names, rotation=turned, fontproperties=letters)
    axes.set_yticks(range(len(names)), names, fontproperties=letters)


def _write_numbers(axes: Axes, shares: NDArray[np.float64]) -> None:
    """Percent in each cell that is not empty."""
    for (row, column), share in np.ndenumerate(shares):
        if share > 0:
            text = f"{100 * share:.0f}" if share >= 0.01 else "<1"
            colour = "white" if share > 0.3 else INK
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)


def _add_scale(figure: Figure, axes: Axes, image: AxesImage) -> None:
    scale = figure.colorbar(image, ax=axes, shrink=0.6, ticks=[0, 0.05, 0.25, 0.5, 1])
    scale.ax.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))
    scale.ax.tick_params(color=PALE, labelcolor=INK)
    scale.ax.spines[:].set_visible(False)
