"""Pieces of Markdown that any text goes through unharmed."""

import re
from collections.abc import Iterable, Sequence

# An underscore within a word means nothing in Markdown.
_SPECIAL = re.compile(r"([\\`*{}\[\]<>#|~&!$]|(?<![^\W_])_|_(?![^\W_]))")


def escape(text: object) -> str:
    """`text` on one line, shown as it is by any Markdown viewer."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is set to the left and the others to the right.

    Headings and cells are Markdown: what is not one's own text goes through `escape` first.
    """
    lines = [headings, [":--", *("--:" for _ in headings[1:])], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
