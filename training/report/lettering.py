"""Any name as lettering that matplotlib can draw: no missing glyph, no formula, no endless line."""

from collections.abc import Sequence
from functools import cache

from matplotlib import font_manager
from matplotlib.font_manager import FontProperties

# Matplotlib ships the first; of the others, those that are installed add their scripts.
_FAMILIES = (
    "DejaVu Sans",
    "Noto Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "PingFang SC",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Arial Unicode MS",
)


def lettering(class_names: Sequence[str], longest: int) -> tuple[str, ...]:
    """The class names as matplotlib texts of at most `longest` characters.

    A name in a script that no font here has becomes its class number, `#7`.
    """
    return tuple(
        shorten(name, longest).replace("$", r"\$") if _drawable(name) else f"#{number}"
        for number, name in enumerate(class_names)
    )


def shorten(text: str, longest: int) -> str:
    """`text`, or its beginning and an ellipsis, `longest` characters in all."""
    return text if len(text) <= longest else f"{text[: longest - 1].rstrip()}…"


def font(size: float) -> FontProperties:
    """The fonts that `lettering` counts on, in points."""
    return FontProperties(family=[*_installed()], size=size)


def _drawable(name: str) -> bool:
    return all(ord(character) in _glyphs() for character in name)


@cache
def _installed() -> tuple[str, ...]:
    known = {entry.name for entry in font_manager.fontManager.ttflist}
    return tuple(family for family in _FAMILIES if family in known)


@cache
def _glyphs() -> frozenset[int]:
    """The code points that the installed families draw, together."""
    paths = (font_manager.findfont(FontProperties(family=name)) for name in _installed())
    return frozenset(point for path in paths for point in font_manager.get_font(path).get_charmap())
