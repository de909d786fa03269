"""How people follow a run: a progress bar, a line per epoch, history.csv, TensorBoard."""

import csv
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from training.directory import HISTORY, RunDirectory
from training.errors import MissingPackage
from training.state import EpochRow


class Observer(Protocol):
    """Whoever wants to know how training goes on."""

    def begin(self, updates: int, done: int) -> None:
        """Training begins, with `updates` in all, of which `done` lie behind."""
        ...

    def update(self, loss: float | None, images_per_s: float | None) -> None:
        """One more update is done; now and then with the epoch's mean loss and speed so far."""
        ...

    def epoch(self, history: Sequence[EpochRow]) -> None:
        """An epoch is finished; `history` holds all of them."""
        ...

    def end(self) -> None:
        """Training ends, well or not."""
        ...


class Observers:
    """Several observers as one."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def begin(self, updates: int, done: int) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.begin(updates, done)

    def update(self, loss: float | None, images_per_s: float | None) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.update(loss, images_per_s)

    def epoch(self, history: Sequence[EpochRow]) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.epoch(history)

    def end(self) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.end()


class ConsoleObserver:
    """A bar with the time left, images/s and loss on a terminal; lines of epochs everywhere."""

    def __init__(self, console: Console, epochs: int, lines: int = 20) -> None:
        """Print every k-th of `epochs` and the last, so that there are some `lines`."""
        self._console = console
        self._epochs = epochs
        self._every = -(-epochs // lines)
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def begin(self, updates: int, done: int) -> None:
        """Show the bar, or else say that it has begun."""
        if not self._console.is_terminal:
            self._console.print(f"training: {self._epochs} epochs, {updates - done} updates to go")
        self._task = self._bar.add_task("", total=updates, completed=done, figures="")
        self._bar.start()

    def update(self, loss: float | None, images_per_s: float | None) -> None:
        """Advance the bar."""
        if self._task is None:
            return
        self._bar.advance(self._task)
        if loss is not None and images_per_s is not None:
            figures = f"{_speed(images_per_s)}  loss {loss:.4f}"
            self._bar.update(self._task, figures=figures)

    def epoch(self, history: Sequence[EpochRow]) -> None:
        """Print the epoch's line, if it is its turn."""
        row = history[-1]
        if row.epoch % self._every and row.epoch != self._epochs:
            return
        measured = "" if row.val_top1 is None else f"  val top-1 {row.val_top1:.2%}"
        self._console.print(
            f"epoch {row.epoch}  loss {row.train_loss:.4f}{measured}  lr {row.lr:.2e}  "
            f"{_speed(row.images_per_s)}",
            highlight=False,
        )

    def end(self) -> None:
        """Take the bar away."""
        self._bar.stop()


def _speed(images_per_s: float) -> str:
    return f"{images_per_s:,.{0 if images_per_s >= 10 else 1}f} images/s"


class CsvObserver:
    """history.csv, written whole after every epoch."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory

    def begin(self, updates: int, done: int) -> None:
        """Nothing to show."""

    def update(self, loss: float | None, images_per_s: float | None) -> None:
        """Nothing to write."""

    def epoch(self, history: Sequence[EpochRow]) -> None:
        """Write the file."""
        text = io.StringIO()
        writer = csv.DictWriter(text, EpochRow.model_fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row.model_dump() for row in history)
        self._directory.write(HISTORY, text.getvalue().encode())

    def end(self) -> None:
        """Nothing is open."""


class TensorBoardObserver:
    """TensorBoard's event files under `folder`; the package comes with protuning[tensorboard]."""

    def __init__(self, folder: Path) -> None:
        """Look for the package.

        Raises:
            MissingPackage: it is not installed.
        """
        if importlib.util.find_spec("tensorboard") is None:
            raise MissingPackage(
                "--tensorboard needs the package tensorboard. Install it: "
                "pip install 'protuning[tensorboard]'"
            )
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))
        self._written = 0

    def begin(self, updates: int, done: int) -> None:
        """Nothing to show."""

    def update(self, loss: float | None, images_per_s: float | None) -> None:
        """Nothing to write."""

    def epoch(self, history: Sequence[EpochRow]) -> None:
        """Write the figures of the epochs not yet written."""
        for row in history[self._written :]:
            for name, value in row.model_dump(exclude={"epoch"}, exclude_none=True).items():
                self._writer.add_scalar(name, value, row.epoch)
        self._written = len(history)
        self._writer.flush()

    def end(self) -> None:
        """Close the files."""
        self._writer.close()
