"""The report: its words checked through a Markdown reader, its pictures by their pixels."""

import errno
import io
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from markdown_it import MarkdownIt
from PIL import Image
from torch import Tensor

from adapters.errors import BrokenImage
from tests import makers
from training.data.samples import Sample
from training.errors import RunNotWritten
from training.evaluate import evaluate_logits
from training.report import RunReport, write_report
from training.report.confusion_picture import confusion_picture
from training.report.learning_curve import learning_curve
from training.report.lettering import lettering
from training.report.markdown import escape, table
from training.report.mistakes import mistakes_sheet, worst_mistakes
from training.report.text import accuracy_interval, report_text

ODD_NAMES = (
    "a | b",
    "`code` ``x``",
    "**bold** _it_ __x__ snow_leopard",
    "<b>&amp;</b> <!-- -->",
    "[link](http://x) ![i](y)",
    "back\\slash \\| \\",
    "$x^2$ $",
    "# 1. ~~gone~~",
    "猫 кошка قطة 𒀀 🙂",
    "x" * 256,
)
FILES = {"report.md", "learning-curve.png", "confusion-matrix.png", "mistakes.png"}


def solid(number: int, label: int, colour: tuple[int, int, int]) -> Sample:
    """A picture of one colour."""
    data = makers.encode(Image.new("RGB", (40, 30), colour))
    return Sample(f"{number}.png", label, partial(bytes, data))


def answers(labels: Sequence[int], classes: int, confidence: float = 5.0) -> Tensor:
    """Logits that answer `labels`."""
    return confidence * torch.eye(classes)[list(labels)]


def make_report(
    truths: Sequence[int],
    answered: Sequence[int],
    names: Sequence[str] = ("ant", "bee", "cow"),
    counts: Sequence[int] | None = None,
) -> RunReport:
    """A run whose test images of the classes `truths` were `answered`."""
    logits, counts = answers(answered, len(names)), counts or [30] * len(names)
    labels = torch.tensor(truths)
    return RunReport(
        title="insects",
        backbone="test_resnet",
        weights="random",
        method="pro-tuning",
        data="sets/insects.tar",
        config={"epochs": 3, "lr": 0.01},
        class_names=tuple(names),
        train_counts=tuple(counts),
        val_images=12,
        history=[
            {"epoch": 1, "train_loss": 2.0, "val_loss": 2.1, "val_top1": 0.5, "images_per_s": 90.0},
            {"epoch": 2, "train_loss": 1.0, "val_loss": 1.1, "val_top1": 0.8, "images_per_s": 99.0},
            {"epoch": 3, "train_loss": 0.9, "val_loss": 1.2, "val_top1": 0.8, "images_per_s": 98.0},
        ],
        best_epoch=2,
        evaluation=evaluate_logits(logits, labels, classes=len(names), train_counts=counts),
        test_samples=[solid(i, truth, (9 * i, 99, 200)) for i, truth in enumerate(truths)],
        test_logits=logits,
        trained_parameters=2_500,
        total_parameters=100_000,
        seconds=3_725,
        peak_memory_mib=812.4,
    )


def tables(markdown: str) -> list[list[list[str]]]:
    """The tables that a reader sees: rows of cells of plain text."""
    found: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and found and token.level >= 4:
            assert {child.type for child in token.children} <= {"text", "text_special"}
            found[-1][-1].append("".join(child.content for child in token.children))
    return found


def column(rows: list[list[str]], heading: str) -> list[str]:
    """The cells under a heading."""
    place = rows[0].index(heading)
    return [row[place] for row in rows[1:]]


def class_table(report: RunReport) -> list[list[str]]:
    """The table of classes in the finished text."""
    return next(rows for rows in tables(report_text(report, Path("run"))) if rows[0][0] == "class")


def test_headline_tells_accuracy_and_certainty() -> None:
    """8 of 10, with Wilson's interval as worked by hand, and what guessing would reach."""
    report = make_report([0] * 6 + [1] * 4, [0] * 6 + [1, 1, 2, 2])
    text = report_text(report, Path("run"))
    assert "**80.0 % of 10 test images are answered right**" in text
    p, n, z = 0.8, 10, 1.959964
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    assert accuracy_interval(report.evaluation) == pytest.approx((middle - half, middle + half))
    assert "interval 49.0 % to 94.3 %" in text
    assert "most frequent class would be right for 60.0 %" in text
    assert "first five" not in text


def test_classes_come_worst_first() -> None:
    """With their images, their number, and what they are taken for; unmeasured ones at the end."""
    rows = class_table(
        make_report([0, 0, 1, 1, 1], [0, 0, 0, 0, 2], ("ant", "bee", "cow"), [5, 1_500, 7])
    )
    assert column(rows, "class") == ["bee", "ant", "cow"]
    assert column(rows, "number") == ["1", "0", "2"]
    assert column(rows, "right") == ["0.0 %", "100.0 %", "no image"]
    assert column(rows, "test images") == ["3", "2", "0"]
    assert column(rows, "training images") == ["1,500", "5", "7"]
    assert column(rows, "most often taken for") == ["ant (2)", "", ""]


def test_long_class_tables_are_cut() -> None:
    """Fifty rows are enough to read; the text says how many are missing, and gives the top-5."""
    truths = list(range(70))
    report = make_report(truths, [0] * 10 + truths[10:], [f"c{i}" for i in truths])
    assert len(class_table(report)) == 51
    assert "\n20 classes that do as well or better" in report_text(report, Path("run"))
    assert "first five for" in report_text(report, Path("run"))


def test_shot_groups_are_for_long_tails() -> None:
    """Many, medium and few where the classes differ so much; else no such table."""
    long_tail = make_report([0, 1, 2, 2], [0, 1, 1, 2], counts=[500, 60, 5])
    rows = next(rows for rows in tables(report_text(long_tail, Path("r"))) if rows[0][0] == "group")
    assert column(rows, "group") == ["many", "medium", "few"]
    assert column(rows, "right") == ["100.0 %", "100.0 %", "50.0 %"]
    assert "rare classes" not in report_text(make_report([0, 1], [0, 1]), Path("r"))


def test_costs_and_best_epoch() -> None:
    """Parameters against the whole, time, speed, memory; the epoch that was chosen."""
    report = make_report([0, 1], [0, 1])
    text = report_text(report, Path("run"))
    for expected in (
        "2,500 of 100,000 (2.5 %)",
        "1 h 2 min",
        "98 images/s",
        "812 MiB",
        "epoch 2, with 80.0 % answered right",
    ):
        assert expected in text
    chosen = replace(report, best_epoch=3)
    assert "epoch 3, with 80.0 % answered right" in report_text(chosen, Path("run"))
    assert chosen.best == report.history[2]
    without = replace(report, history=[{"epoch": 1, "train_loss": 1.0}], peak_memory_mib=None)
    assert "1 epoch, without validation" in report_text(without, Path("run"))
    assert "peak memory" not in report_text(without, Path("run"))


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.42, "0.4 s"), (59.4, "59.4 s"), (192, "3 min 12 s"), (7200, "2 h 0 min")],
)
def test_durations_read_well(seconds: float, told: str) -> None:
    """Tenths for the short, no seconds for the long."""
    report = replace(make_report([0, 1], [0, 1]), seconds=seconds)
    assert f"| training time | {told} |" in report_text(report, Path("run"))


def test_commands_survive_the_shell() -> None:
    """Copied to a shell, paths with blanks and quotes stay one argument."""
    report = replace(
        make_report([0, 1], [0, 1]),
        data="my 'odd' set.tar",
        weights="w s.safetensors",
        data_root="a;b",
    )
    lines = report_text(report, Path("my runs/$HOME")).splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("protuning ")]
    adapter = "my runs/$HOME/adapter.safetensors"
    options = ["--weights", "w s.safetensors", "--data-root", "a;b"]
    assert commands == [
        ["protuning", "inspect", adapter],
        ["protuning", "evaluate", adapter, "my 'odd' set.tar", *options],
    ]


def test_baselines_promise_no_adapter() -> None:
    """No command for a file that there is not."""
    text = report_text(replace(make_report([0, 1], [0, 1]), adapter=None), Path("run"))
    assert "protuning inspect" not in text
    assert "baseline" in text


def test_a_missing_adapter_is_said_first() -> None:
    """Before the figures, with the reason; and no command for the file that there is not."""
    refused = replace(make_report([0, 1], [0, 1]), adapter=None, refusal="Train longer.")
    text = report_text(refused, Path("run"))
    assert text.split("\n\n")[1] == "**No adapter was written.** Train longer."
    assert "protuning" not in text
    assert "baseline" not in text


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_text_is_shown_as_it_is(name: str) -> None:
    """In a table cell, a Markdown reader gives back the very name, with no markup made of it."""
    rows = tables(table(("class", "twice"), [(escape(name), escape(name))]))
    assert rows[0][1] == [" ".join(name.split())] * 2


def test_odd_names_keep_the_report_in_form() -> None:
    """All of them in one report: the table has a row for each."""
    truths = list(range(len(ODD_NAMES)))
    rows = class_table(make_report(truths, truths, ODD_NAMES))
    assert Counter(column(rows, "class")) == Counter(" ".join(name.split()) for name in ODD_NAMES)
    assert {len(row) for row in rows} == {6}


def test_line_breaks_stay_inside_a_cell() -> None:
    """A note or setting of several lines cannot end its table."""
    assert tables(table(("a", "b"), [("x", escape("1\n\n| 2\t3"))])) == [
        [["a", "b"], ["x", "1 | 2 3"]]
    ]


def test_worst_mistakes_are_the_surest() -> None:
    """Only wrong answers, by falling confidence, so many at most."""
    logits = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    labels = [i % 4 for i in range(40)]
    worst = worst_mistakes(logits, labels, 7)
    sure = {i: max(logits[i].softmax(0).tolist()) for i in range(40)}
    wrong = [i for i in range(40) if int(logits[i].argmax()) != labels[i]]
    assert [mistake.image for mistake in worst] == sorted(wrong, key=lambda i: -sure[i])[:7]
    assert all(mistake.truth == labels[mistake.image] for mistake in worst)
    assert all(mistake.answer == int(logits[mistake.image].argmax()) for mistake in worst)
    assert worst[0].confidence == pytest.approx(sure[worst[0].image])


def colours(png: bytes) -> Counter[tuple[int, int, int]]:
    """How many pixels have each colour."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    found = image.getcolors(maxcolors=image.width * image.height)
    return Counter({colour: count for count, colour in found})


def test_sheet_shows_the_mistakes_only() -> None:
    """The wrongly answered pictures are on it, large; the others are not."""
    seen = [(200, 10, 10), (10, 200, 10), (10, 10, 200)]
    samples = [solid(i, i, colour) for i, colour in enumerate(seen)]
    found = colours(mistakes_sheet(samples, answers([1, 1, 0], 3), ("ant", "bee", "cow")))
    assert found[seen[0]] > 20_000
    assert found[seen[2]] > 20_000
    assert found[seen[1]] == 0


@pytest.mark.parametrize("size", [(9, 900), (900, 9), (3, 3), (640, 480)])
def test_sheet_takes_any_shape(size: tuple[int, int]) -> None:
    """Lines, specks and photos all fit their square."""
    samples = [Sample("x", 0, partial(bytes, makers.encode(Image.new("RGB", size))))]
    assert (
        Image.open(io.BytesIO(mistakes_sheet(samples, answers([1], 2), ("a", "b")))).size[0] > 300
    )


def test_a_faultless_model_has_a_sheet_too() -> None:
    """It says so, instead of being empty."""
    png = mistakes_sheet([solid(0, 0, (1, 2, 3))], answers([0], 2), ("ant", "bee"))
    assert len(colours(png)) > 1


@pytest.mark.parametrize("classes", [2, 20, 21, 60, 61, 1000])
def test_confusion_picture_stays_readable_in_size(classes: int) -> None:
    """From two classes to a thousand, with long names, a picture for a screen."""
    counts = torch.eye(classes, dtype=torch.int64) * 5
    png = confusion_picture(counts, ["a rather long class name " * 3] * classes)
    width, height = Image.open(io.BytesIO(png)).size
    assert 500 < height <= width < 2_500


def test_confusion_picture_grays_unmeasured_classes() -> None:
    """A class without a test image is a gray row, not a row of zeros."""
    gray = (221, 221, 221)
    measured = confusion_picture(torch.tensor([[5, 0], [0, 5]]), ("ant", "bee"))
    unmeasured = confusion_picture(torch.tensor([[5, 0], [0, 0]]), ("ant", "bee"))
    assert colours(unmeasured)[gray] > 30_000 > colours(measured)[gray]


def test_odd_names_can_be_drawn() -> None:
    """No missing glyph, no formula: a warning would fail this test."""
    counts = torch.ones(len(ODD_NAMES), len(ODD_NAMES), dtype=torch.int64)
    confusion_picture(counts, ODD_NAMES)
    samples = [solid(i, i, (i, i, i)) for i in range(len(ODD_NAMES))]
    turned = [*range(1, len(ODD_NAMES)), 0]
    mistakes_sheet(samples, answers(turned, len(ODD_NAMES)), ODD_NAMES)


def test_lettering_keeps_what_it_can() -> None:
    """Plain names stay, long ones are cut, dollars make no formula, lost scripts a number."""
    names = ("ant", "кошка", "x" * 30, "$a$", "𒀀")
    assert lettering(names, 10) == ("ant", "кошка", "x" * 9 + "…", r"\$a\$", "#4")


@pytest.mark.parametrize(
    "history",
    [
        [],
        [{"epoch": 1, "train_loss": 1.0, "val_loss": None, "val_top1": None}],
        [{"epoch": i, "train_loss": float("nan"), "val_top1": 0.5} for i in (1, 2)],
        [
            {"epoch": i, "train_loss": 1 / i, "val_loss": 2 / i, "val_top1": 1.0}
            for i in range(1, 99)
        ],
    ],
)
def test_learning_curve_of_any_history(history: list[dict[str, float | None]]) -> None:
    """No epoch, one, no validation, not a number: always a picture."""
    for best in (None, *history[-1:]):
        assert Image.open(io.BytesIO(learning_curve(history, best))).size == (1500, 600)


def test_same_run_same_pictures() -> None:
    """The files do not change from one writing to the next."""
    history = make_report([0, 1], [0, 1]).history
    assert learning_curve(history, history[1]) == learning_curve(history, history[1])
    assert learning_curve(history, history[1]) != learning_curve(history, history[2])


def test_report_files_are_whole(tmp_path: Path) -> None:
    """Text and three pictures that it shows, and nothing half-written beside them."""
    write_report(tmp_path, make_report([0, 1, 2], [0, 2, 2]))
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert files == FILES
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for name in FILES - {"report.md"}:
        assert f"]({name})" in text
        Image.open(tmp_path / name).load()


def test_undecodable_path_can_be_told(tmp_path: Path) -> None:
    """A path need not be valid Unicode; the report is."""
    report = replace(make_report([0, 1], [0, 1]), data="set\udce4.tar")
    write_report(tmp_path, report)
    assert "set\\udce4.tar" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_lost_test_image_leaves_the_old_report(tmp_path: Path) -> None:
    """Everything is made before anything is written."""
    write_report(tmp_path, make_report([0, 1], [0, 1]))
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    report = make_report([0, 1], [1, 0])
    torn = Sample("torn", 0, lambda: makers.encode(makers.picture())[:-900])
    with pytest.raises(BrokenImage):
        write_report(tmp_path, replace(report, test_samples=[torn, torn]))
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == before


def test_full_disk_is_said_and_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that names the file, and no torn or temporary file."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunNotWritten, match="No space left"):
        write_report(tmp_path, make_report([0, 1], [0, 1]))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
