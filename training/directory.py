"""The directory of one run: which files it has, who may use it, and writing them whole."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from adapters.durable import write_durably
from training.errors import NothingToResume, NotServable, RunExists, RunNotWritten

CONFIG = "config.toml"
METRICS = "metrics.json"
HISTORY = "history.csv"
ADAPTER = "adapter.safetensors"
MODEL = "model.safetensors"
STATE = "state.safetensors"
_UNFINISHED = (STATE, "incoming")


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
        """
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return
        if not self.file(CONFIG).is_file():
            raise RunExists(f"{self.path} is not empty, and holds no run. Pass another --out.")
        if not overwrite:
            raise RunExists(
                f"{self.path} holds a run. Pass --resume to go on with it, --overwrite to replace "
                "it, or another --out."
            )

    def create(self, *, overwrite: bool = False) -> None:
        """Make the directory empty for a new run.

        Raises:
            RunExists: as `check_free`.
            RunNotWritten: the directory cannot be made.
        """
        self.check_free(overwrite=overwrite)
        try:
            if self.path.exists():
                shutil.rmtree(self.path)
            self.path.mkdir(parents=True)
        except OSError as error:
            raise RunNotWritten(
                f"The run directory {self.path} cannot be made ({error.strerror}). Pass --out "
                "with a place that you may write."
            ) from error

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
        shutil.rmtree(self.file("incoming"), ignore_errors=True)
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
        for name in _UNFINISHED:
            path = self.file(name)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

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
        raise NotServable(
            f"{self.path} holds no adapter. Finish its run (protuning train --resume --out "
            f"{self.path}), or train one."
        )
