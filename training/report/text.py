"""The report in words and tables, as Markdown. Pure."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from scipy.stats import binomtest

from training.data.scenarios import shot_groups
from training.directory import CONFUSION_MATRIX, LEARNING_CURVE, MISTAKES
from training.evaluate import Evaluation
from training.report.contents import RunReport
from training.report.markdown import escape, table

_CLASS_ROWS = 50
_GROUP_RULES = {
    "many": "over 100 training images",
    "medium": "20 to 100",
    "few": "under 20",
}


def report_text(report: RunReport, run_dir: Path) -> str:
    """The whole report; the commands in it name the adapter in `run_dir`."""
    sections = (
        f"# {escape(report.title)}",
        *_refusal(report),
        _headline(report),
        "## What it was trained on",
        _training(report),
        *_long_tail(report),
        "## Class by class",
        _classes(report),
        f"![Confusion matrix]({CONFUSION_MATRIX})",
        "## The worst mistakes",
        "The test images on which it was surest of a wrong answer.",
        f"![Worst mistakes]({MISTAKES})",
        "## How it learned",
        _learning(report),
        f"![Learning curve]({LEARNING_CURVE})",
        "## What it cost",
        _cost(report),
        "## How to use it",
        _use(report, run_dir),
        *_notes(report),
        *_settings(report),
    )
    return "\n\n".join(sections) + "\n"


def accuracy_interval(evaluation: Evaluation) -> tuple[float, float]:
    """Wilson's 95 % confidence interval of the top-1, 0 to 1."""
    right = int(evaluation.confusion.trace())
    interval = binomtest(right, evaluation.images).proportion_ci(0.95, method="wilson")
    return interval.low, interval.high


def _refusal(report: RunReport) -> Iterator[str]:
    if report.refusal:
        yield f"**No adapter was written.** {escape(report.refusal)}"


def _headline(report: RunReport) -> str:
    evaluation = report.evaluation
    low, high = accuracy_interval(evaluation)
    most_frequent = int(evaluation.confusion.sum(dim=1).max()) / evaluation.images
    headline = (
        f"**{_percent(evaluation.top1)} of {evaluation.images:,} test images are answered right** "
        f"(top-1; 95 % confidence interval {_percent(low)} to {_percent(high)}).\n"
        f"Always naming the most frequent class would be right for {_percent(most_frequent)}."
    )
    if len(report.class_names) <= 5:
        return headline
    return f"{headline}\nThe right class is among the first five for {_percent(evaluation.top5)}."


def _training(report: RunReport) -> str:
    fewest, most = min(report.train_counts), max(report.train_counts)
    per_class = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
    rows = (
        ("image set", escape(report.data)),
        ("classes", f"{len(report.class_names):,}"),
        ("training images", f"{sum(report.train_counts):,} ({per_class} a class)"),
        ("validation images", f"{report.val_images:,}"),
        ("test images", f"{report.evaluation.images:,}"),
        ("backbone", escape(report.backbone)),
        ("weights", escape(report.weights)),
        ("method", escape(report.method)),
    )
    return table(("what", "value"), rows)


def _long_tail(report: RunReport) -> Iterator[str]:
    """Accuracy by shot group, where the classes fall into more than one."""
    group_of = shot_groups(report.train_counts)
    if len(set(group_of)) < 2 or not report.evaluation.groups:
        return
    yield "## Frequent and rare classes"
    rows = (
        (name, _GROUP_RULES[name], f"{group_of.count(name):,}", _percent(top1))
        for name, top1 in report.evaluation.groups.items()
    )
    yield table(("group", "training images a class", "classes", "right"), rows)


def _classes(report: RunReport) -> str:
    per_class = report.evaluation.per_class
    worst_first = sorted(
        range(len(per_class)), key=lambda index: (per_class[index] is None, per_class[index] or 0.0)
    )
    text = table(
        ("class", "number", "right", "test images", "training images", "most often taken for"),
        (_class_row(report, index) for index in worst_first[:_CLASS_ROWS]),
    )
    if left_out := worst_first[_CLASS_ROWS:]:
        more = f"{len(left_out):,} classes that do" if len(left_out) > 1 else "1 class that does"
        text += f"\n\n{more} as well or better {'are' if len(left_out) > 1 else 'is'} not listed."
    return text


def _class_row(report: RunReport, index: int) -> tuple[str, ...]:
    row = report.evaluation.confusion[index].clone()
    images, row[index] = int(row.sum()), 0
    wrong, answer = (int(value) for value in row.max(dim=0))
    return (
        escape(report.class_names[index]),
        f"{index}",
        _percent(report.evaluation.per_class[index]),
        f"{images:,}",
        f"{report.train_counts[index]:,}",
        f"{escape(report.class_names[answer])} ({wrong:,})" if wrong else "",
    )


def _learning(report: RunReport) -> str:
    best = report.best
    epochs = f"{len(report.history):,} epochs" if len(report.history) != 1 else "1 epoch"
    if best is None:
        return f"{epochs}, without validation."
    return (
        f"Best of {epochs} on the validation images: epoch {best['epoch']:.0f}, with "
        f"{_percent(best['val_top1'])} answered right."
    )


def _cost(report: RunReport) -> str:
    share = report.trained_parameters / report.total_parameters
    rows = [
        (
            "trained parameters",
            f"{report.trained_parameters:,} of {report.total_parameters:,} ({_percent(share)})",
        ),
        ("training time", _duration(report.seconds)),
    ]
    if speeds := [speed for row in report.history if (speed := row.get("images_per_s"))]:
        rows.append(("training speed", f"{median(speeds):,.0f} images/s"))
    if report.peak_memory_mib is not None:
        rows.append(("peak memory", f"{report.peak_memory_mib:,.0f} MiB"))
    return table(("what", "value"), rows)


def _use(report: RunReport, run_dir: Path) -> str:
    if report.refusal:
        return "There is no adapter to use yet: the top of this report says why, and what to do."
    if report.adapter is None:
        return (
            f"The method {escape(report.method)} is a baseline to compare with: it makes no "
            "adapter that could be served. Train with pro-tuning or head for that."
        )
    adapter = str(run_dir / report.adapter)
    root = ("--data-root", report.data_root) if report.data_root else ()
    commands = (
        ("protuning", "inspect", adapter),
        ("protuning", "evaluate", adapter, report.data, "--weights", report.weights, *root),
    )
    return (
        "What the adapter is and where it comes from; and its accuracy on the test images of this "
        "or another set (where a set has no splits: on all its images, trained on or not):\n\n"
        "```sh\n" + "\n".join(shlex.join(command) for command in commands) + "\n```"
    )


def _notes(report: RunReport) -> Iterator[str]:
    if report.notes:
        yield "## Notes"
        yield "\n".join(f"- {escape(note)}" for note in report.notes)


def _settings(report: RunReport) -> Iterator[str]:
    if report.config:
        yield "## Settings"
        rows = ((escape(name), escape(value)) for name, value in report.config.items())
        yield table(("setting", "value"), rows)


def _percent(share: float | None) -> str:
    return "no image" if share is None else f"{100 * share:.1f} %"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
