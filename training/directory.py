"""The directory of one run: which files it has, who may use it, and writing them whole."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapters.durable import write_durably
from training.errors import NothingToResume, NotServable, RunBusy, RunExists, RunNotWritten

CONFIG = "config.toml"
METRICS = "metrics.json"
HISTORY = "history.csv"
ADAPTER = "adapter.safetensors"
MODEL = "model.safetensors"
STATE = "state.safetensors"
REPORT = "report.md"
LEARNING_CURVE = "learning-curve.png"
CONFUSION_MATRIX = "confusion-matrix.png"
MISTAKES = "mistakes.png"
TENSORBOARD = "tensorboard"
_INCOMING = "incoming"
_UNFINISHED = (STATE, _INCOMING)
_RESULTS = (ADAPTER, MODEL, HISTORY, REPORT, LEARNING_CURVE, CONFUSION_MATRIX, MISTAKES)
# In the order of removal: what is left of a half-removed run is a run still.
_OF_A_RUN = (METRICS, *_RESULTS, TENSORBOARD, *_UNFINISHED, CONFIG)


@dataclass(frozen=True)
class RunDirectory:
    """A run's files under `path`: config.toml is first, metrics.json marks a finished run."""

    path: Path

    def file(self, name: str) -> Path:
        """The path of one of the run's files."""
        return self.path / name

    def check_free(self, *, overwrite: bool = False) -> None:
        """Let a new run have the directory, or not; nothing is changed yet.

        Raises:
            RunExists: there is a run (unless to `overwrite`), or something that is none.
            RunNotWritten: it cannot be looked into.
        """
        with _errors_at(self.path):
            if not self.path.exists():
                return
            names = {path.name for path in self.path.iterdir()} if self.path.is_dir() else {""}
        if not names:
            return
        if CONFIG not in names:
            raise RunExists(f"{self.path} is not empty, and holds no run. Pass another --out.")
        if not overwrite:
            raise RunExists(
                f"{self.path} holds a run. Pass --resume to go on with it, --overwrite to replace "
                "it, or another --out."
            )
        if others := sorted(names.difference(_OF_A_RUN)):
            raise RunExists(
                f"{self.path} holds {others[0]!r}, which is no part of a run, and would be lost. "
                "Move it away, or pass another --out."
            )

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Make the directory if need be, and keep other processes from running in it meanwhile.

        Raises:
            RunBusy: another process does.
            RunNotWritten: the directory cannot be made.
        """
        with _errors_at(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDONLY)
        try:
            # The system takes the lock back whenever the process ends, killed or not.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise RunBusy(
                f"Another process is training in {self.path}. Wait for it, or pass another --out."
            ) from error
        try:
            yield
        finally:
            os.close(handle)

    def create(self, *, overwrite: bool = False) -> None:
        """Make the directory empty for a new run.

        Raises:
            RunExists: as `check_free`.
            RunNotWritten: the directory cannot be made or emptied.
        """
        self.check_free(overwrite=overwrite)
        with _errors_at(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            for name in _OF_A_RUN:
                _remove(self.file(name))

    def reopen(self) -> Path:
        """The config.toml of a run to be resumed.

        Raises:
            NothingToResume: there is no run, or it is finished.
        """
        if not self.file(CONFIG).is_file():
            raise NothingToResume(
                f"{self.path} holds no run (no {CONFIG}). Start one without --resume."
            )
        if self.file(METRICS).is_file():
            raise NothingToResume(
                f"The run in {self.path} is finished. Pass --overwrite to train again, or another "
                "--out."
            )
        return self.file(CONFIG)

    def write(self, name: str, data: bytes) -> None:
        """Write one of the run's files: whole, or not at all.

        Raises:
            RunNotWritten: the disk is full, or cannot be written.
        """
        try:
            write_durably(self.file(name), data, root=self.path)
            self.file(name).chmod(0o644)
        except OSError as error:
            raise RunNotWritten(
                f"{self.file(name)} cannot be written ({error.strerror}); what was there before "
                "still is. Free some space, then go on with --resume."
            ) from error

    def finish(self) -> None:
        """Remove what only an unfinished run needs."""
        with _errors_at(self.path):
            for name in _UNFINISHED:
                _remove(self.file(name))

    def adapter(self) -> Path:
        """The adapter to publish.

        Raises:
            NotServable: the run is a baseline, or has no adapter yet.
        """
        if self.file(ADAPTER).is_file():
            return self.file(ADAPTER)
        if self.file(MODEL).is_file():
            raise NotServable(
                f"The run in {self.path} has changed the backbone itself, which all tasks share: "
                "it is a baseline to compare with and cannot be served. Train with --method "
                "pro-tuning or head to get an adapter."
            )
        if self.file(METRICS).is_file():
            raise NotServable(
                f"The run in {self.path} ended without an adapter. {REPORT} says why at its top."
            )
        raise NotServable(
            f"{self.path} holds no adapter. Finish its run (protuning train --resume --out "
            f"{self.path}), or train one."
        )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _errors_at(path: Path) -> Iterator[None]:
    """Say in a run's words that a place cannot be used."""
    try:
        yield
    except OSError as error:
        raise RunNotWritten(
            f"The run directory {path} cannot be used ({error.strerror}). Pass --out with a place "
            "that you may write."
        ) from error
