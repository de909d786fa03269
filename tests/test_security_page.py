"""docs/security.md names a test for each of its claims."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_claim_has_its_test():
    """Each test that the page names exists, and no row of its tables is without one."""
    page = (ROOT / "docs/security.md").read_text()
    written = {
        node.name
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    named = re.findall(r"`(test_\w+)`", page)
    assert {name for name in named if name not in written} == set()
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    claims = [row for row in rows if not row.endswith("| test |")]
    assert len(claims) > 40
    assert [row for row in claims if "`test_" not in row] == []
