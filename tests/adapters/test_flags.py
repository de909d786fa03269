"""Flags made from a model: what their help says of defaults."""

from pathlib import Path
from typing import Any, Literal

import pytest
import typer
from pydantic import BaseModel, Field
from typer.testing import CliRunner

from adapters.flags import with_flags
from protuning.cli import app as protuning


class _Options(BaseModel):
    needed: str = Field(description="Without it nothing goes.")
    kind: Literal["a", "b"] = Field(default="a", description="Which.")
    count: int = Field(default_factory=lambda: 7, description="How many.")
    place: Path = Field(default_factory=lambda: Path.home() / "there", description="Where.")
    fast: bool = Field(default=False, description="Whether.")
    limit: int | None = Field(default=None, description="None by default.")


def _help():
    app = typer.Typer(rich_markup_mode=None)

    @app.command()
    @with_flags(_Options)
    def run(**_options: Any) -> None:
        """Run."""

    return " ".join(CliRunner().invoke(app, ["--help"]).output.split())


def test_defaults_are_told_as_they_are(monkeypatch):
    """Those of factories too, the home directory as ~; where there is none, nothing."""
    monkeypatch.setenv("HOME", "/home/somebody")
    told = _help()
    for wanted in (
        "Which. [default: a]",
        "How many. [default: 7]",
        "Where. [default: ~/there]",
        "Whether. [default: no-fast]",
    ):
        assert wanted in told
    assert told.count("[default") == 4


def test_without_a_home_there_is_still_help(monkeypatch):
    """A container's user may have none; only what lies there is not told."""

    def none():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    told = _help()
    assert "[default: a]" in told
    assert "Where. --fast" in told


@pytest.mark.parametrize("flag", ["--backbone", "--cache-dir", "--index", "--store", "--dtype"])
def test_the_server_tells_its_defaults_through_the_whole_command_line(flag):
    """No default is lost between the settings and the terminal."""
    lines = CliRunner().invoke(protuning, ["serve", "--help"]).output.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith(f"  {flag} "))
    entry = [lines[at]]
    for line in lines[at + 1 :]:
        if line.startswith("  --"):
            break
        entry.append(line)
    assert "[default: " in " ".join(" ".join(entry).split())
    assert "Undefined" not in " ".join(entry)
