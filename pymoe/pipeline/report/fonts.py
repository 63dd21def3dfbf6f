"""Which installed fonts can draw the labels of a picture, and what stands for a label that none can draw.

matplotlib draws a box where a font lacks a character, so the charmaps are read first.  DejaVu Sans, which comes with
matplotlib, has Latin, Greek, Cyrillic, Arabic and more, and no Chinese, Japanese or Korean; for what it lacks the
fonts of the system are searched, also those installed after matplotlib made its list.  A label with a character that
no font has stands as its number, "class 3", and the legend says which label that is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pymoe.pipeline.report.text import short

OWN = "DejaVu Sans"
# the first that is there is taken, since a font that merely has the characters may be one for headlines
_PREFERRED = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "PingFang SC",
    "Hiragino Sans GB", "Microsoft YaHei", "SimHei", "Arial Unicode MS", "Droid Sans Fallback", "Noto Sans CJK JP",
)  # fmt: skip
_NO_LETTERS = ("Last Resort", "LastResort", "Adobe Blank")  # have every character, as a sign that there is none
_LONGEST = 24  # cells of a label in a picture


class Drawn(NamedTuple):
    """Labels as a picture has them."""

    families: list[str]  # for matplotlib's font.family, in the order in which a character is looked for
    labels: list[str]  # whole, shortened, or numbered
    legend: list[str]  # "class 3: 天气" of each that is numbered


def drawn(labels: Sequence[str], what: str) -> Drawn:
    """``labels`` as they can be drawn here; ``what`` goes before the number of one that cannot, from 1.

    >>> drawn(["Größe", "a\\U0010FFFEb"], "class").labels  # a control character is left out before a font is asked
    ['Größe', 'a b']
    """
    texts = [short(label, _LONGEST) for label in labels]
    families, missing = _families({ord(c) for text in texts for c in text})
    shown, legend = [], []
    for i, text in enumerate(texts, 1):
        if text and not any(ord(c) in missing for c in text):
            shown.append(text.replace("$", "\\$"))  # no formula
        else:
            shown.append(f"{what} {i}")
            legend.append(f"{what} {i}: {text}")
    return Drawn(families, shown, legend)


def _families(needed: set[int]) -> tuple[list[str], set[int]]:
    """(the fonts to use, the characters that none of them has)."""
    families, missing = [OWN], needed - _glyphs(_path(OWN))
    if missing:
        for name, path in _others():
            found = missing & _glyphs(path)
            if found:
                families.append(name)
                missing -= found
            if not missing:
                break
    return families, missing


def _others() -> Iterator[tuple[str, str]]:
    """(name, file) of one upright face of each other family, the preferred ones first."""
    from matplotlib import font_manager

    manager = font_manager.fontManager
    known = {os.path.realpath(font.fname) for font in manager.ttflist}
    for path in sorted(font_manager.findSystemFonts()):
        if os.path.realpath(path) not in known:
            try:
                manager.addfont(path)
            except Exception:  # noqa: S112 - a font that cannot be read is none; FreeType raises what it likes
                continue
    rank = {name: i for i, name in enumerate(_PREFERRED)}
    faces: dict[str, str] = {}
    for font in sorted(manager.ttflist, key=lambda f: (rank.get(f.name, len(rank)), f.name, str(f.weight) != "400")):
        if font.name != OWN and font.style == "normal" and not font.name.startswith(_NO_LETTERS):
            faces.setdefault(font.name, font.fname)
    yield from faces.items()


def _path(family: str) -> str:
    from matplotlib import font_manager

    return str(font_manager.findfont(font_manager.FontProperties(family=[family]), fallback_to_default=True))


def _glyphs(path: str) -> set[int]:
    """The characters of a font."""
    from matplotlib import font_manager

    try:
        font: Any = font_manager.get_font(path)
    except (OSError, RuntimeError):  # deleted since the list was made, or damaged
        return set()
    return set(font.get_charmap())
