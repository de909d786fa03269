"""Tables of commands: whole, whatever the width, and in words."""

import pytest
from rich.console import Console
from rich.text import Text

from adapters import tables

DIGEST = "0123456789abcdef" * 4
PLACE = "a/place/that/is/long" * 3
KEY_ID = "0f1e2d3c4b5a6978"


@pytest.fixture
def terminal(monkeypatch):
    """Standard output is a terminal of 80 columns."""
    monkeypatch.setattr(tables, "Console", lambda: Console(force_terminal=True, width=80))


def _lines(capsys):
    return Text.from_ansi(capsys.readouterr().out).plain.splitlines()


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("revoked_at", None, ""),
        ("pinned", True, "yes"),
        ("pinned", False, "no"),
        ("created_at", 1_764_130_642.75, "2025-11-26T04:17:22Z"),
        ("created_at", 0, "1970-01-01T00:00:00Z"),
        ("expires_at", 1e300, "1e+300"),
        ("percent", 10.0, "10"),
        ("scopes", ["manage", "predict"], "manage, predict"),
        ("canary", {"version": 3, "percent": 2.5}, "version 3, percent 2.5"),
        ("limits", {"tasks": None, "weight": 0.5}, "tasks none, weight 0.5"),
        ("sites", [{"name": "a"}, {"name": "b"}], "name a\nname b"),
        ("size", 195_692, "195692"),
    ],
)
def test_values_are_told_in_words(name, value, wanted):
    """Times as UTC, nothing for nothing, yes and no, lists without brackets."""
    assert tables.cell(name, value) == wanted


def test_what_is_no_terminal_has_no_width(capsys):
    """A file gets each row on one line, and the values whole."""
    long = "x" * 500
    tables.print_rows(["id", "digest", "name"], [[KEY_ID, DIGEST, long]])
    assert any(KEY_ID in line and DIGEST in line and long in line for line in _lines(capsys))


@pytest.mark.usefixtures("terminal")
def test_a_terminal_folds_what_does_not_fit(capsys):
    """All characters are there, in lines of at most 80."""
    tables.print_rows(["image", "digest", "name"], [["x.jpg", DIGEST, "y" * 90]])
    lines = _lines(capsys)
    assert max(map(len, lines)) <= 80
    assert "".join(lines).count("y") == 90
    columns = [line.split("│") for line in lines if "│" in line]
    assert "".join(cells[2].strip() for cells in columns) == DIGEST


@pytest.mark.usefixtures("terminal")
def test_a_list_that_does_not_fit_is_told_one_by_one(capsys):
    """A row for each field, so that ids stay in one piece; a list that fits is a table."""
    columns = ["id", "place", "created_at"]
    tables.print_list(columns, [[KEY_ID, PLACE, 0], ["f" * 16, PLACE, 0]])
    lines = _lines(capsys)
    assert max(map(len, lines)) <= 80
    for value in (KEY_ID, "f" * 16):
        assert any(line.split("│")[1:2] == [" id         "] and value in line for line in lines)
    assert sum(PLACE in line for line in lines) == 2
    tables.print_list(["id", "created_at"], [[KEY_ID, 0]])
    (row,) = [line for line in _lines(capsys) if KEY_ID in line]
    assert "1970-01-01T00:00:00Z" in row


def test_fields_of_nested_things_have_rows_of_their_own(capsys):
    """By their path; and what looks like markup is text."""
    tables.print_fields({"head": {"classes": 4}, "labels": ["[red]a[/red]"]}, title="[b]x")
    out = "\n".join(_lines(capsys))
    assert "head.classes │ 4" in out
    assert "[red]a[/red]" in out
    assert "[b]x" in out


@pytest.mark.usefixtures("terminal")
def test_nothing_that_a_stranger_wrote_speaks_to_the_terminal(capsys):
    """Escape sequences, in values, names, lists and titles, are shown as escapes; no markup."""
    hostile = "a\x1b[2J\x9b31m\x07\r\u202eb"
    shown = r"a\x1b[2J\x9b31m\x07\r\u202eb"
    tables.print_fields({hostile: [hostile, {hostile: 1}], "[/red]": hostile}, title=hostile)
    tables.print_rows(["name"], [[hostile]], title=hostile)
    tables.print_list(["name"], [[hostile]])
    out = capsys.readouterr().out
    # What is left are the styles that rich itself sets.
    plain = Text.from_ansi(out).plain
    assert plain.replace("\n", "").isprintable()
    assert plain.count(shown) == 8
    assert "[/red]" in plain
    assert "\x1b[2J" not in out
