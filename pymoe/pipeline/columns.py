"""Which column of a table is the text, which the label: named, or guessed and said with the reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from pymoe.backend.errors import DataError
from pymoe.pipeline.tables import Row, Sheet

TEXT = (
    "text sentence review content body message comment tweet document utterance question description docstring "
    "summary title headline input name 文本 内容 评论 句子 文字 正文 标题"
).split()
LABEL = (
    "label class category target sentiment topic language lang intent polarity tag rating stars score output y "
    "标签 类别 分类 情感 情绪 主题 语言"
).split()
_SHORT = 40  # characters: a name of a column is not longer
_MOST_CLASSES = 1000


class Table(NamedTuple):
    """Texts with what stands beside them."""

    where: str
    sha256: str
    texts: list[str]
    labels: list[str] | None
    groups: list[str] | None
    lines: list[int]
    names: dict[str, str]  # of the columns: text, label, group
    notes: tuple[str, ...]

    def take(self, rows: Sequence[int]) -> Table:
        """These rows, in this order."""
        of = [None if part is None else [part[i] for i in rows] for part in (self.labels, self.groups)]
        texts, lines = [self.texts[i] for i in rows], [self.lines[i] for i in rows]
        return Table(self.where, self.sha256, texts, of[0], of[1], lines, self.names, self.notes)


def choose(
    sheet: Sheet,
    *,
    text: str | None = None,
    label: str | None = None,
    group: str | None = None,
    header: bool | None = None,
    need: tuple[str, ...] = ("text", "label"),
    known: dict[str, str] | None = None,
) -> Table:
    """The table of ``sheet``; a column is a name, or its number from 1.

    ``need``: what must be there; of it, what is not named is looked for, first under the name in ``known`` (of the
    model), then by its usual names, then by its content.

    >>> rows = [Row(1, ["id", "review", "stars"]), Row(2, ["7", "a fine film", "5"]), Row(3, ["8", "a bore", "1"])]
    >>> table = choose(Sheet("f.csv", "csv", "", None, rows, ()))
    >>> table.texts, table.labels
    (['a fine film', 'a bore'], ['5', '1'])
    >>> print(*table.notes, sep="; ")
    text is the column 'review': its name says so; label is the column 'stars': its name says so
    """
    asked = {"text": text, "label": label, "group": group}
    expected = [c for c in asked.values() if c is not None]
    expected += [c for c in [(known or {}).get("text")] if c is not None and not c.isdigit()]
    names, rows, notes = _header(sheet, expected, header)
    if not rows:
        raise DataError(f"{sheet.where} has a header and no rows: give a row for each text")
    twice = [n for n, times in Counter(names).items() if times > 1]
    by_number = all(c is None or (c.isdigit() and c not in names) for c in asked.values()) and text is not None
    if twice and not (by_number and (label is not None or "label" not in need)):
        raise DataError(
            f"{sheet.where} has more than one column named {twice[0]!r}: rename it, or say the columns by number, such "
            f"as --text {names.index(twice[0]) + 1}"
        )
    at: dict[str, int] = {}
    for role, column in asked.items():
        if column is not None:
            at[role] = _named(sheet, names, role, column)
    for role in need:
        if role in at:
            continue
        if known and role in known and known[role] in names:
            at[role] = names.index(known[role])
            continue
        if role == "group":  # nothing else needs it
            continue
        at[role], why = _guess(sheet, names, rows, role, at)
        if known and role in known and not known[role].isdigit():
            why += f" (the model learned from {known[role]!r}, which is not there)"
        notes.append(f"{role} is the column {names[at[role]]!r}: {why}")
    if at.get("text") == at.get("label"):
        raise DataError(f"{sheet.where}: --text and --label are the same column: name two")
    return _filled(sheet, names, rows, at, notes)


def _filled(sheet: Sheet, names: list[str], rows: list[Row], at: dict[str, int], notes: list[str]) -> Table:
    """Rows without a text or without a label are left out of what has labels."""
    kept = rows
    if "label" in at:
        kept = [r for r in rows if r.cells[at["text"]].strip() and r.cells[at["label"]].strip()]
        if not kept:
            raise DataError(f"{sheet.where} has no row with both a text and a label: check --text and --label")
        if len(kept) < len(rows):
            out = next(r for r in rows if not (r.cells[at["text"]].strip() and r.cells[at["label"]].strip()))
            n = len(rows) - len(kept)
            notes.append(f"left out {n} row{'s'[: n > 1]} without a text or a label (first: line {out.line})")
    column = {role: [r.cells[i] for r in kept] for role, i in at.items()}
    labels = [" ".join(v.split()) for v in column["label"]] if "label" in column else None
    return Table(
        sheet.where,
        sheet.sha256,
        column["text"],
        labels,
        [v.strip() for v in column["group"]] if "group" in column else None,
        [r.line for r in kept],
        {role: names[i] for role, i in at.items()},
        (*sheet.notes, *notes),
    )


def _header(sheet: Sheet, asked: list[str], header: bool | None) -> tuple[list[str], list[Row], list[str]]:
    """(names of the columns, rows below, notes); without a header the names are numbers."""
    if sheet.names is not None:
        return list(sheet.names), sheet.rows, []
    if not sheet.rows:
        raise DataError(f"{sheet.where} has no rows: give a row for each text")
    first, rest = sheet.rows[0], sheet.rows[1:]
    numbers = [str(i + 1) for i in range(sheet.width)]
    names = [cell.strip() for cell in first.cells]
    if header is True or (header is None and any(c in names for c in asked)):
        return [n or str(i + 1) for i, n in enumerate(names)], rest, []
    if header is False:
        return numbers, sheet.rows, []
    why = _looks_like_names(names, rest)
    if why:
        return [n or str(i + 1) for i, n in enumerate(names)], rest, []
    note = "no header: the first row does not look like names of columns (say --header if it is one)"
    return numbers, sheet.rows, [note]


def _looks_like_names(names: list[str], rest: list[Row]) -> bool:
    if any(len(n) > _SHORT for n in names) or not any(names):
        return False
    words = {word for n in names for word in _words(n)}
    if words & {*TEXT, *LABEL}:
        return not any(names[i] == r.cells[i].strip() for r in rest for i in range(len(names)) if r.cells[i].strip())
    for i, name in enumerate(names):  # a name over a column of few values, none of which it is
        values = Counter(r.cells[i].strip() for r in rest)
        if rest and 2 <= len(values) <= len(rest) / 2 and name and name not in values:
            return True
    return not rest and all(re.fullmatch(r"[^\W\d][\w .-]*", n) for n in names)


def _words(name: str) -> list[str]:
    """
    >>> _words("ReviewText_2")
    ['review', 'text', 'reviewtext']
    """
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_a-zA-Z]+", name)
    return [p.lower() for p in parts] + (["".join(parts).lower()] if len(parts) != 1 else [])


def _named(sheet: Sheet, names: list[str], role: str, column: str) -> int:
    if column in names:
        return names.index(column)
    if column.isdigit() and 1 <= int(column) <= len(names):
        return int(column) - 1
    lower = [n.lower() for n in names]
    hint = f" (did you mean {names[lower.index(column.lower())]!r}?)" if column.lower() in lower else ""
    raise DataError(
        f"{sheet.where} has no column {column!r}{hint}: --{role} must be one of "
        f"{', '.join(repr(n) for n in names[:20])}{', ...' if len(names) > 20 else ''}, or its number from 1"
    )


def _guess(sheet: Sheet, names: list[str], rows: list[Row], role: str, at: dict[str, int]) -> tuple[int, str]:
    """(column, why)."""
    free = [i for i in range(len(names)) if i not in at.values()]
    if not free or (role == "label" and len(names) < 2):
        raise DataError(
            f"{sheet.where} has one column, and a text and a label are needed in each row: put a comma or a tab "
            "between them, or say --format"
        )
    if len(names) == 1:
        return 0, "it is the only one"
    usual = TEXT if role == "text" else LABEL
    if role == "label":
        values = {i: Counter(r.cells[i].strip() for r in rows if r.cells[i].strip()) for i in free}
    for exact in (True, False):
        for word in usual:
            for i in free:
                if (names[i].lower() == word) if exact else (word in _words(names[i])):
                    if role == "label" and len(values[i]) > max(2, len(rows) / 2, _few(rows)):
                        continue  # a "title" of its own in each row is no label
                    return i, "its name says so"
    if role == "text":
        length = {i: sum(len(r.cells[i]) for r in rows) / len(rows) for i in free}
        best = max(free, key=lambda i: (length[i], -i))
        return best, f"its fields are the longest ({length[best]:.0f} characters on average)"
    able = [i for i in free if 2 <= len(values[i]) <= min(len(rows) / 2, _MOST_CLASSES)]
    if not able:
        constant = [i for i in free if len(values[i]) == 1]
        if len(constant) == len(free):
            i = constant[0]
            return i, f"no other is left; its {len(rows)} rows have one value"
        if len(free) == 1 and len(rows) < 2 * _few(rows):
            return free[0], "no other is left"
        raise DataError(
            f"{sheet.where}: no column looks like a label, with few different values: name it with --label; the "
            f"columns are {', '.join(repr(n) for n in names[:20])}"
        )
    best = min(able, key=lambda i: (len(values[i]), i))
    others = ", ".join(repr(names[i]) for i in able if i != best)
    also = f"; {others} could be it too: name it with --label" if others else ""
    return best, f"its {len(rows):,} rows have {len(values[best])} different values{also}"


def _few(rows: list[Row]) -> int:
    return min(len(rows), 10)
