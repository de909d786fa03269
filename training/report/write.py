"""Write a report's files into a run directory: each appears whole or not at all."""

from pathlib import Path

from training.directory import (
    CONFUSION_MATRIX,
    LEARNING_CURVE,
    MISTAKES,
    REPORT,
    RunDirectory,
)
from training.report.confusion_picture import confusion_picture
from training.report.contents import RunReport
from training.report.learning_curve import learning_curve
from training.report.mistakes import mistakes_sheet
from training.report.text import report_text


def write_report(run_dir: Path, report: RunReport) -> None:
    """Write report.md and its three pictures into `run_dir`, in place of older ones.

    Raises:
        RunNotWritten: the disk is full, or cannot be written; no file is left half-written.
        ImageError: a test image can no longer be read; nothing is written.
    """
    names = report.class_names
    files = {
        LEARNING_CURVE: learning_curve(report.history, report.best),
        CONFUSION_MATRIX: confusion_picture(report.evaluation.confusion, names),
        MISTAKES: mistakes_sheet(report.test_samples, report.test_logits, names),
        # Last: it shows the others. A file name in it need not be valid Unicode.
        REPORT: report_text(report, run_dir).encode(errors="backslashreplace"),
    }
    directory = RunDirectory(run_dir)
    for name, content in files.items():
        directory.write(name, content)
