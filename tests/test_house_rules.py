"""The rules of this house that no linter knows, checked on the source itself."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("adapters", "service", "training", "protuning")
SOURCES = sorted(path for part in PRODUCT for path in (ROOT / part).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 60


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=_name)
def test_every_module_says_its_job(path):
    """A module docstring in every file, and no drawer for everything."""
    assert ast.get_docstring(_tree(path)), "write a module docstring"
    assert path.stem not in {"utils", "util", "helpers", "misc", "common"}


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_files_and_functions_stay_short(path):
    """Nothing in the product outgrows a reader."""
    assert len(path.read_text().splitlines()) <= MOST_LINES_OF_A_FILE
    for function in _functions(_tree(path)):
        lines = (function.end_lineno or 0) - function.lineno + 1
        assert lines <= MOST_LINES_OF_A_FUNCTION, function.name


@pytest.mark.parametrize("path", TESTS, ids=_name)
def test_every_test_says_what_it_shows(path):
    """One sentence for each test function."""
    for function in _functions(_tree(path)):
        if function.name.startswith("test_"):
            assert ast.get_docstring(function), function.name


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_nothing_is_unpickled_and_nobody_imports_the_outside(path):
    """No pickle in any form, and no import of tests, benchmarks or deploy."""
    tree = _tree(path)
    forbidden = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    outside = {"tests", "benchmarks", "deploy", "examples"}
    assert not {name.split(".")[0] for name in _imported(tree)} & (forbidden | outside)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save")}


def test_imports_go_one_way():
    """The contracts in pyproject.toml hold."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("module", ["adapters", "training", "service"])
def test_error_trees_are_complete(module):
    """Every error class stands in the tree at the top of its file, and in the right place."""
    path = ROOT / module / "errors.py"
    if not path.exists():
        pytest.skip(f"not run: {module} has no errors of its own yet")
    tree = _tree(path)
    drawn = re.findall(r"^[│├└─ ]*([A-Z]\w+)", ast.get_docstring(tree) or "", re.MULTILINE)
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    assert [name for name in drawn if name in classes] == classes


def test_every_dependency_is_explained():
    """docs/dependencies.md and pyproject.toml name the same packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = list(project["project"]["dependencies"])
    for group in project["dependency-groups"].values():
        wanted += group
    for extra in project["project"].get("optional-dependencies", {}).values():
        wanted += extra
    names = {re.split(r"[\[><=~ ]", requirement)[0] for requirement in wanted}
    explained = re.findall(
        r"^\| `([^`]+)`", (ROOT / "docs/dependencies.md").read_text(), re.MULTILINE
    )
    assert sorted(explained) == sorted(names)
