"""The learning curve: loss and validation accuracy by epoch."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from training.report.contents import EpochRow
from training.report.style import BLUE, GREEN, INK, ORANGE, blank, plain, png

# Beyond so many epochs the dots would make one thick line.
_DOTTED_EPOCHS = 40


def learning_curve(history: Sequence[EpochRow], best: EpochRow | None) -> bytes:
    """A PNG with two panels, the row `best` marked; what was not measured is left out."""
    figure = blank(10, 4)
    loss, accuracy = figure.subplots(1, 2)
    for axes, title in ((loss, "Loss"), (accuracy, "Top-1 on validation images")):
        plain(axes)
        axes.set_title(title, loc="left", color=INK, fontsize=11)
        axes.set_xlabel("epoch", color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _plot(loss, history, "train_loss", "training", BLUE)
    _plot(loss, history, "val_loss", "validation", ORANGE)
    _plot(accuracy, history, "val_top1", "validation", ORANGE)
    accuracy.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=" %"))
    _mark_best(accuracy, best)
    if loss.lines:
        loss.legend(frameon=False, labelcolor=INK)
    return png(figure)


def _plot(axes: Axes, history: Sequence[EpochRow], key: str, name: str, colour: str) -> None:
    points = [(row["epoch"], row[key]) for row in history if row.get(key) is not None]
    if not points:
        return
    epochs, values = zip(*points, strict=True)
    marker = "o" if len(points) <= _DOTTED_EPOCHS else ""
    axes.plot(epochs, values, color=colour, label=name, marker=marker, markersize=4)


def _mark_best(axes: Axes, best: EpochRow | None) -> None:
    if best is None:
        return
    epoch, top1 = best["epoch"] or 0.0, best["val_top1"] or 0.0
    axes.scatter([epoch], [top1], s=90, facecolors="none", edgecolors=GREEN, linewidths=2, zorder=3)
    text = f"best: {100 * top1:.1f} % in epoch {epoch:.0f}"
    axes.set_title(text, loc="right", color=GREEN, fontsize=10)
