"""The Dockerfile: what its linter says, what reaches the builder, and what it pins."""

import importlib.metadata
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
INSTRUCTIONS = (ROOT / "Dockerfile").read_text()


def _pins():
    lines = (ROOT / "deploy/constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_the_linter_finds_nothing():
    """By hadolint's rules, which know a shell and Docker's best practice."""
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [str(hadolint), "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_everything_that_runs_is_pinned_to_a_release_that_the_project_allows():
    """A rebuild installs what was tried; deploy/pin-requirements.sh renews the pins."""
    pins = _pins()
    for line in PROJECT["project"]["dependencies"]:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is not pinned. Run deploy/pin-requirements.sh"
        assert requirement.specifier.contains(pins[name]), line


def test_pinned_torch_and_torchvision_belong_together():
    """Another pair does not import."""
    pins = _pins()
    if importlib.metadata.version("torchvision").split("+")[0] == pins["torchvision"]:
        assert f"torch (=={pins['torch']})" in importlib.metadata.requires("torchvision")
    major, minor, _patch = map(int, pins["torch"].split("."))
    assert pins["torchvision"].startswith(f"0.{15 + minor}."), (major, minor)


def test_every_package_reaches_the_builder_and_nothing_secret_does():
    """The list of what is not ignored names all packages that are installed."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert "*" in lines
    for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]:
        assert any(fnmatch(name, pattern) for name in kept), pattern
    assert not [name for name in kept if fnmatch(name, "*env*") or fnmatch(name, "*.git*")]
    assert all((ROOT / name).exists() for name in kept)


def test_the_image_runs_as_nobody_special():
    """A numeric user, which Kubernetes can check, and no root after it."""
    users = [line.split()[1] for line in INSTRUCTIONS.splitlines() if line.startswith("USER ")]
    assert users == ["10001:10001"]
