"""The rules of this house that no linter knows, checked on the source itself."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("adapters", "service", "training", "benchmarks", "protuning")
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


def _pickling(node: ast.AST) -> bool:
    """Whether `node` is torch's or numpy's way to read or write pickles."""
    match node:
        case ast.Attribute(value=ast.Name(id="torch"), attr="load" | "save"):
            return True
        case ast.ImportFrom(module="torch", names=names):
            return bool({alias.name for alias in names} & {"load", "save"})
        case ast.keyword(arg="allow_pickle"):
            return True
    return False


def _packages(requirements: list[str]) -> set[str]:
    """The distributions' names, as indexes of packages normalise them (PEP 503)."""
    names = (re.split(r"[\[><=~ ]", requirement)[0] for requirement in requirements)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


def _drawn_parents(drawing: str) -> dict[str, str]:
    """Each class that an error tree draws under another, and that other one."""
    parents: dict[str, str] = {}
    above: list[str] = []
    for line in drawing.splitlines():
        if branch := re.match(r"^((?:[│ ] {3})*)[├└]── (\w+)", line):
            depth = len(branch[1]) // 4 + 1
            parents[branch[2]] = above[depth - 1]
            above[depth:] = [branch[2]]
        elif root := re.fullmatch(r"\w+", line):
            above = [root[0]]
    return parents


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
    """No pickle in any form, and no import of tests, deploy or examples."""
    tree = _tree(path)
    forbidden = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    outside = {"tests", "deploy", "examples"}
    assert not {name.split(".")[0] for name in _imported(tree)} & (forbidden | outside)
    assert not [ast.unparse(node) for node in ast.walk(tree) if _pickling(node)]


def test_every_import_is_declared():
    """The product imports nothing that only another package happens to bring along."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project.get("optional-dependencies", {}).values()
    declared = _packages(sum(extras, project["dependencies"]))
    owners = importlib.metadata.packages_distributions()
    # Peers are measured in environments of their own, by programs that import what is there.
    peers = set((ROOT / "benchmarks/peers").glob("[a-z]*_[a-z]*.py"))
    own = [path for path in SOURCES if path not in peers]
    tops = {name.split(".")[0] for path in own for name in _imported(_tree(path))}
    foreign = tops - set(sys.stdlib_module_names) - set(PRODUCT)
    assert {top for top in foreign if not declared & _packages(owners.get(top, []))} == set()


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
    root, *classes = (node for node in tree.body if isinstance(node, ast.ClassDef))
    assert [ast.unparse(base) for base in root.bases] == ["Exception"]
    drawn = _drawn_parents(ast.get_docstring(tree) or "")
    written = {node.name: ast.unparse(node.bases[0]) for node in classes}
    assert list(drawn.items()) == list(written.items())


def test_every_dependency_is_explained():
    """docs/dependencies.md and pyproject.toml name the same packages, and none of them twice."""
    toml = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = toml["project"].get("optional-dependencies", {})
    lists = [toml["project"]["dependencies"], *toml["dependency-groups"].values(), *extras.values()]
    assert [len(_packages(wanted)) for wanted in lists] == [len(wanted) for wanted in lists]
    page = (ROOT / "docs/dependencies.md").read_text()
    explained = re.findall(r"^\| `([^`]+)`", page, re.MULTILINE)
    assert len(_packages(explained)) == len(explained)
    assert _packages(explained) == _packages([name for wanted in lists for name in wanted])
