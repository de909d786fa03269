"""The worst mistakes: which they are, and a sheet of their pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from training.data.samples import Sample, labels_of
from training.report.lettering import font, lettering
from training.report.style import BLUE, INK, ORANGE, png

_COLUMNS = 5
_ROWS = 4
_LONGEST_NAME = 20
_PIXELS = 320
_MAT = "#EEEEEE"
# Inches: a picture is a square, with two lines of text under it.
_PICTURE = 2.1
_GAP = 0.2
_TEXT = 0.5


@dataclass(frozen=True)
class Mistake:
    """A wrong answer: the image's index, both classes' indices, and the answer's confidence."""

    image: int
    truth: int
    answer: int
    confidence: float


def worst_mistakes(logits: Tensor, labels: Sequence[int], at_most: int) -> list[Mistake]:
    """The most confident wrong answers among logits [N, classes], the most confident first."""
    confidences, answers = logits.softmax(dim=1).max(dim=1)
    rows = zip(labels, answers.tolist(), confidences.tolist(), strict=True)
    mistakes = [
        Mistake(image, truth, answer, confidence)
        for image, (truth, answer, confidence) in enumerate(rows)
        if answer != truth
    ]
    return sorted(mistakes, key=lambda mistake: -mistake.confidence)[:at_most]


def mistakes_sheet(samples: Sequence[Sample], logits: Tensor, class_names: Sequence[str]) -> bytes:
    """A PNG of the worst mistakes among `samples`, with truth, answer and confidence under each.

    Raises:
        ImageError: a picture can no longer be read.
    """
    mistakes = worst_mistakes(logits, labels_of(samples), _COLUMNS * _ROWS)
    if not mistakes:
        return _no_mistakes(len(samples))
    columns = min(_COLUMNS, len(mistakes))
    rows = -(-len(mistakes) // columns)
    figure = Figure((columns * (_PICTURE + _GAP) + _GAP, rows * (_PICTURE + _TEXT + _GAP) + _GAP))
    names = lettering(class_names, _LONGEST_NAME)
    for place, mistake in enumerate(mistakes):
        row, column = divmod(place, columns)
        _draw(figure, row, column, samples[mistake.image], mistake, names)
    return png(figure)


def _draw(
    figure: Figure, row: int, column: int, sample: Sample, mistake: Mistake, names: Sequence[str]
) -> None:
    width, height = figure.get_size_inches()
    left = _GAP + column * (_PICTURE + _GAP)
    bottom = height - (row + 1) * (_PICTURE + _GAP) - row * _TEXT
    axes = figure.add_axes((left / width, bottom / height, _PICTURE / width, _PICTURE / height))
    axes.set_axis_off()
    axes.imshow(_on_square(sample.image()))
    truth = f"truth: {names[mistake.truth]}"
    answer = f"answer: {names[mistake.answer]}, {100 * mistake.confidence:.0f} %"
    for inches, text, colour in ((0.06, truth, BLUE), (0.24, answer, ORANGE)):
        x, y = left / width, (bottom - inches) / height
        figure.text(x, y, text, color=colour, va="top", fontproperties=font(9))


def _on_square(picture: Image.Image) -> Image.Image:
    """The whole picture as large as a pale square can hold it."""
    scale = _PIXELS / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    square = Image.new("RGB", (_PIXELS, _PIXELS), _MAT)
    resized = picture.resize((width, height), Image.Resampling.LANCZOS)
    square.paste(resized, ((_PIXELS - width) // 2, (_PIXELS - height) // 2))
    return square


def _no_mistakes(images: int) -> bytes:
    figure = Figure(figsize=(6, 1))
    text = f"No mistake on {images:,} test images."
    figure.text(0.5, 0.5, text, ha="center", va="center", color=INK)
    return png(figure)
