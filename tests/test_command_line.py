"""The command `protuning` as a user meets it: in a process of its own."""

import json
import subprocess
import sys

from adapters.checkpoint import write
from tests import makers


def _protuning(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "protuning", *arguments], capture_output=True, text=True, check=False
    )


def test_params_prints_json():
    """The documented command line prints one JSON object on stdout."""
    done = _protuning("params", "resnet50", "--classes", "120", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["total"] == 3_862_124


def test_refusals_are_one_line_without_a_traceback(tmp_path):
    """Unknown backbone, impossible head, damaged file: exit code 2, one line, no stack."""
    broken = tmp_path / "adapter.safetensors"
    broken.write_bytes(makers.checkpoint().data[:-1])
    for arguments in (
        ("params", "resnet5O", "--classes", "10"),
        ("params", "resnet50", "--classes", "1000000"),
        ("params", "resnet50", "--classes", "10", "--kernel", "4"),
        ("inspect", str(broken)),
        ("inspect", str(tmp_path / "nothing")),
    ):
        done = _protuning(*arguments)
        assert done.returncode == 2, arguments
        assert done.stdout == ""
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr


def test_inspect_in_a_process(tmp_path):
    """A good file is shown with exit code 0."""
    path = tmp_path / "adapter.safetensors"
    write(path, makers.checkpoint())
    done = _protuning("inspect", str(path), "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["digest"] == makers.checkpoint().digest


def test_help_and_version_load_no_torch():
    """Help must answer at once: torch takes seconds to import."""
    check = (
        "import sys; from typer.testing import CliRunner; from protuning.cli import app; "
        "result = CliRunner().invoke(app, ['--help']); "
        "print(result.exit_code, 'params' in result.stdout, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "True", "False"]
    assert _protuning("--version").stdout.startswith("protuning ")


def test_errors_do_not_speak_to_the_terminal(tmp_path):
    """What a name or a server brings into a message is shown as an escape."""
    done = _protuning("inspect", str(tmp_path / "a\x1b[2Jb"))
    assert done.returncode == 2
    assert r"a\x1b[2Jb" in done.stderr
    assert "\x1b" not in done.stderr
