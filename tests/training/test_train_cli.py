"""The commands `train` and `evaluate`: flags, messages, exit codes, JSON."""

import io
import json
import os
import re
import shlex
import signal
import tomllib
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from training import cli, progress, results
from training.config import TrainConfig
from training.directory import ADAPTER, METRICS, STATE
from training.errors import InvalidConfig, NothingToResume, OtherRun
from training.state import EpochRow

ROOT = Path(__file__).parents[2]


def _run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    """Leave the report and its pictures out, which take most of a small run's time."""
    monkeypatch.setattr(results, "write_report", lambda *_: None)


@pytest.fixture
def flags(pictures, weights):
    """The arguments of a small training."""
    return [
        *("train", pictures, "--backbone", "test_vit", "--weights", weights("test_vit")),
        *("--method", "head", "--epochs", 2, "--batch-size", 6, "--device", "cpu"),
    ]


def _flags_of(command):
    parameters = typer.main.get_command(cli.app).commands[command].params
    return {flag for parameter in parameters for flag in parameter.opts}


def test_every_option_of_a_run_is_a_flag():
    """All of them are there, and the help has an example."""
    shown = _flags_of("train")
    wanted = {f"--{name.replace('_', '-')}" for name in TrainConfig.model_fields if name != "data"}
    wanted |= {"--out", "--config", "--resume", "--overwrite", "--json"}
    assert wanted <= shown
    assert "Example: protuning train" in _run("train", "--help").stdout
    assert "Example: protuning evaluate" in _run("evaluate", "--help").stdout


def test_every_flag_that_an_error_names_exists():
    """An error that says how to go on names a real flag."""
    text = "".join(path.read_text() for path in (ROOT / "training").rglob("*.py"))
    named = set(re.findall(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*(?![\w-])", text))
    assert named <= _flags_of("train") | _flags_of("evaluate")


def test_train_then_evaluate(flags, pictures, weights, tmp_path):
    """The metrics as JSON; the adapter's accuracy measured again is the same."""
    trained = _run(*flags, "--out", tmp_path, "--json")
    assert trained.exit_code == 0, trained.output
    metrics = json.loads(trained.stdout)
    assert metrics == json.loads((tmp_path / METRICS).read_text())
    adapter = tmp_path / ADAPTER
    options = ("--weights", weights("test_vit"), "--device", "cpu")
    measured = json.loads(_run("evaluate", adapter, pictures, *options, "--json").stdout)
    assert measured["top1"] == metrics["test_top1"]
    assert measured["images"] == 9
    assert measured["per_class"].keys() == {"blue", "green", "red"}
    (tmp_path / "map.txt").write_text("blue\nred\n")
    options = (*options, "--class-map", tmp_path / "map.txt")
    restricted = json.loads(_run("evaluate", adapter, pictures, *options, "--json").stdout)
    assert restricted["images"] == 6
    shown = _run("evaluate", adapter, pictures, *options).stdout
    assert shown.splitlines()[0] == str(adapter)
    assert f"{100 * restricted['top1']:.1f} %" in shown


def test_a_finished_run_says_what_to_do_next(flags, weights, tmp_path):
    """Figures by readable names, the files in one piece each, and commands that serve them."""
    out = tmp_path / ("a long name " * 10)
    done = _run(*flags, "--out", out)
    lines = done.stdout.splitlines()
    assert "test top-1" in done.stdout
    assert "_" not in "".join(line for line in lines if "│" in line)
    assert f"adapter  {out / ADAPTER}" in lines
    assert f"report   {out / 'report.md'}" in lines
    commands = [shlex.split(line) for line in lines if line.startswith("  protuning ")]
    assert commands[0][1:] == ["serve", "--backbone", "test_vit", "--weights", weights("test_vit")]
    assert commands[1][1:] == ["register", "NAME", str(out / ADAPTER)]


@pytest.mark.parametrize("epochs", [1, 20, 21, 100])
def test_long_runs_print_some_twenty_epochs(epochs):
    """The last of them is always there."""
    text = io.StringIO()
    observer = progress.ConsoleObserver(Console(file=text), epochs)
    measured = {"train_loss": 1.0, "val_loss": None, "val_top1": None, "lr": 0.1, "seconds": 1.0}
    rows = [
        EpochRow(epoch=number, images_per_s=9.0, peak_memory_mib=1.0, **measured)
        for number in range(1, epochs + 1)
    ]
    for number in range(1, epochs + 1):
        observer.epoch(rows[:number])
    lines = text.getvalue().splitlines()
    assert min(epochs, 10) <= len(lines) <= 21
    assert lines[-1].startswith(f"epoch {epochs} ")
    assert lines[-1].endswith(" 9.0 images/s"), "as slow a run is not said to stand still"


def test_a_run_says_without_a_terminal_that_it_has_begun():
    """The first epoch may take minutes."""
    text = io.StringIO()
    observer = progress.ConsoleObserver(Console(file=text), 20)
    observer.begin(updates=100, done=40)
    observer.end()
    assert text.getvalue() == "training: 20 epochs, 60 updates to go\n"


def test_corruptions_are_measured_on_request(flags, pictures, weights, tmp_path, monkeypatch):
    """Each kind with its figures, and their mean."""
    from training import evaluate
    from training.evaluate import CorruptionTable

    _run(*flags, "--out", tmp_path)
    table = CorruptionTable((1, 2), {"fog": (0.5, 0.25)})
    monkeypatch.setattr(evaluate, "evaluate_corruptions", lambda *_, **__: table)
    options = ("--weights", weights("test_vit"), "--device", "cpu", "--corruptions", "--json")
    measured = json.loads(_run("evaluate", tmp_path / ADAPTER, pictures, *options).stdout)
    assert measured["corruptions"] == {"fog": [0.5, 0.25]}
    assert measured["corruption_top1"] == 0.375


def test_a_configuration_file_gives_way_to_flags(flags, tmp_path):
    """--config starts from a run's file; what a flag says comes first."""
    _run(*flags, "--out", tmp_path / "one")
    again = ("train", "--config", tmp_path / "one" / "config.toml", "--epochs", 1)
    done = _run(*again, "--skip-broken", "--out", tmp_path / "two", "--json")
    assert json.loads(done.stdout)["epochs"] == 1
    written = tomllib.loads((tmp_path / "two" / "config.toml").read_text())
    assert (written["method"], written["skip_broken"]) == ("head", True)


def test_ctrl_c_exits_130_and_says_how_to_go_on(flags, tmp_path, monkeypatch):
    """The run is then resumed by the very flags of the message."""
    with monkeypatch.context() as patch:
        patch.setattr(
            progress.ConsoleObserver, "update", lambda *_: os.kill(os.getpid(), signal.SIGINT)
        )
        stopped = _run(*flags, "--out", tmp_path)
    assert stopped.exit_code == 130
    assert (tmp_path / STATE).is_file()
    advice = re.search(r"protuning (train .*)", stopped.stderr.replace("\n", " "))[1].split()
    resumed = _run(*advice, "--json")
    assert json.loads(resumed.stdout)["epochs"] == 2
    assert isinstance(_run(*advice).exception, NothingToResume)


def test_a_resumed_run_keeps_its_options(flags, tmp_path, monkeypatch):
    """The same flags again are welcome, others are refused by name."""
    with monkeypatch.context() as patch:
        patch.setattr(
            progress.ConsoleObserver, "update", lambda *_: os.kill(os.getpid(), signal.SIGINT)
        )
        _run(*flags, "--out", tmp_path)
    refused = _run("train", "--resume", "--out", tmp_path, "--lr", 0.5)
    assert isinstance(refused.exception, OtherRun)
    assert "lr" in str(refused.exception)
    assert _run(*flags, "--resume", "--out", tmp_path).exit_code == 0


def test_a_missing_option_and_a_wrong_one_are_named(pictures, tmp_path):
    """No backbone, no data, no such device or optimiser: and nothing is written."""
    for arguments, named in (
        ((pictures,), "Name the backbone with --backbone"),
        (("--backbone", "test_vit"), "Name the data set"),
        (("", "--backbone", "test_vit"), "data: it is empty"),
        ((pictures, "--backbone", "test_vit", "--weights", " "), "weights: it is empty"),
        ((pictures, "--backbone", "test_vit", "--device", "abacus"), "abacus"),
        ((pictures, "--backbone", "test_vit", "--optimizer", "adamwow"), "adamwow"),
    ):
        error = _run("train", *arguments, "--out", tmp_path / "run").exception
        assert isinstance(error, InvalidConfig)
        assert named in str(error)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("evaluate", "", "flowers"), "adapter"),
        (("evaluate", "a.safetensors", ""), "data"),
        (("evaluate", "a.safetensors", "flowers", "--weights", ""), "weights"),
        (("train", "flowers", "--out", ""), "out"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(arguments, named):
    """Nothing at all, as from an unset variable of the shell, is refused by name."""
    refused = _run(*arguments)
    assert refused.exit_code == 2
    assert re.search(rf"Invalid value for '\W*{named}\W*'", refused.stderr, re.IGNORECASE)
    assert "It is empty" in refused.stderr
