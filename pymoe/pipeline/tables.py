"""Tables of texts as people have them: csv, tsv, jsonl, plain lines; the form is seen from the content, gzip too.

=======  =====================================================================================
form     a row
=======  =====================================================================================
csv      fields between , or ; or tabs or |: the one that cuts all rows alike, or that a first
         line "sep=;" names; quotes as usual, newlines inside them
tsv      fields between tabs; where quotes do not close, they are plain characters
jsonl    a JSON object a line (or one JSON array of objects)
lines    the whole line is the text
=======  =====================================================================================

What cannot be read is a DataError that names the line and says what to do.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import json
import os
import re
import stat
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from pymoe.backend.errors import ConfigError, DataError
from pymoe.io import encodings

FORMS = ("csv", "tsv", "jsonl", "lines")
LONGEST = 100_000  # characters of one text: beyond, a file is more often broken than long
_DELIMITERS = ",;\t|"
_ENDINGS = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
STDIN = "standard input"


class Row(NamedTuple):
    line: int  # where it begins in the file, from 1
    cells: list[str]


class Sheet(NamedTuple):
    """A table before anyone knows which column is what; the first row of csv and tsv, header or not, is in ``rows``."""

    where: str
    form: str
    sha256: str  # of the text in UTF-8
    names: tuple[str, ...] | None  # of the columns; None: a header, if there is one, is the first of the rows
    rows: list[Row]
    notes: tuple[str, ...]  # what was found out, and what was left out

    @property
    def width(self) -> int:
        return len(self.names) if self.names is not None else max((len(r.cells) for r in self.rows), default=0)


def read(
    path: str,
    *,
    encoding: str = "utf-8",
    form: str | None = None,
    skip_bad: bool = False,
    longest: int = LONGEST,
    cut: bool = False,
) -> Sheet:
    """The table in ``path`` ("-": standard input).

    ``skip_bad``: leave out rows that cannot be read.  ``longest``: characters of a field; a longer one is refused, or,
    with ``cut``, shortened and noted.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "a.csv")
    ...     _ = path.write_text('text;label\\n"gut, sehr gut";ja\\n')
    ...     sheet = read(str(path))
    >>> sheet.form, sheet.rows[1], sheet.notes
    ('csv', Row(line=2, cells=['gut, sehr gut', 'ja']), ('fields between semicolons',))
    """
    if form is not None and form not in FORMS:
        raise ConfigError(f"--format must be one of {', '.join(FORMS)}, got {form!r}")
    text, where = decoded(path, encoding), STDIN if path == "-" else path
    if not text.strip():
        raise DataError(f"{where} is empty: give a table with a row for each text")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{where}, line {line} has a NUL character: not a text file, or a broken one; remove the NULs")
    form = form or _seen(path, text)
    notes: list[str] = []
    names: tuple[str, ...] | None = None
    if form == "jsonl":
        names, rows = _json(text, where, skip_bad, notes)
    elif form == "lines":
        names = ("text",)
        rows = [Row(i, [line]) for i, line in enumerate(lines(text), 1)]
    else:
        rows = _cut(text, where, form, skip_bad, notes)
    rows = [_not_too_long(row, where, longest, cut, notes) for row in rows]
    return Sheet(where, form, hashlib.sha256(text.encode("utf-8", "replace")).hexdigest(), names, rows, tuple(notes))


def decoded(path: str, encoding: str = "utf-8") -> str:
    """The text of a file, plain or gzip, or of standard input ("-")."""
    where, raw = STDIN if path == "-" else path, _raw(path)
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{where} is a damaged gzip file ({error}): fetch it again") from None
    if what := encodings.program(raw):
        raise DataError(f"{where} is {what}, and no table of text: open it where it was made, save it as csv in UTF-8")
    name = encoding_name(encoding)
    if name == "utf-8":
        if (seen := encodings.utf_16(raw)) is not None:
            raise DataError(f"{where} is UTF-16, as some spreadsheets write it: say --encoding {seen}")
        name = "utf-8-sig"
    try:
        return raw.decode(name)
    except UnicodeDecodeError as error:
        raise DataError(undecoded(where, encoding, error.object, error.start)) from None
    except (UnicodeError, LookupError, AssertionError) as error:  # utf-16 without a mark, idna, ...
        raise DataError(f"{where} cannot be read as {encoding} ({error}): name another one with --encoding") from None


def undecoded(where: str, encoding: str, raw: bytes, at: int, line: int | None = None) -> str:
    """The complaint about byte ``at`` of ``raw``."""
    line = raw.count(b"\n", 0, at) + 1 if line is None else line
    what, cure = encoding, "name another one with --encoding"
    if encoding_name(encoding) == "utf-8":
        seen, by = encodings.likely(raw), encodings.command(raw, where.replace(STDIN, "FILE"))
        what = "UTF-8"
        cure = f"its bytes look like {seen}, so say --encoding {seen}, or convert it: {by}"
    return f"{where} is not {what} (byte {at}, in line {line}, is 0x{raw[at]:02x}): {cure}"


def encoding_name(encoding: str) -> str:
    """Python's name of a text encoding, or a ConfigError."""
    try:
        found = codecs.lookup(encoding)
        if not getattr(found, "_is_text_encoding", True):
            raise LookupError
        return found.name
    except (LookupError, ValueError):
        raise ConfigError(
            f"--encoding {encoding!r} is not known: utf-8, utf-16, latin-1, cp1252, gb18030, big5, shift_jis, ..."
        ) from None


def _raw(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise DataError(f"{path} is a folder: give one file (csv, tsv or jsonl)")
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file: check the path") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}: check its permissions") from None


def _seen(path: str, text: str) -> str:
    """The form, by the ending of the name, or by looking."""
    name = path[:-3] if path.endswith(".gz") else path
    ending = os.path.splitext(name)[1].lower()
    if ending in _ENDINGS:
        return _ENDINGS[ending]
    head = text.lstrip()[:1]
    return "jsonl" if head in ("{", "[") and _is_json(text) else "csv"


def _is_json(text: str) -> bool:
    for candidate in (text.lstrip().split("\n", 1)[0], text):
        try:
            return isinstance(json.loads(candidate), (dict, list))
        except (ValueError, RecursionError):
            continue
    return False


# ---------------------------------------------------------------------------------------------------- csv and tsv


def _cut(text: str, where: str, form: str, skip_bad: bool, notes: list[str]) -> list[Row]:
    said = re.match(rf"sep=([{_DELIMITERS}])[ \t]*\r?\n", text, re.IGNORECASE)  # as a spreadsheet writes it for itself
    if said and form == "csv":
        text = "\n" + text[said.end() :]
    delimiter = "\t" if form == "tsv" else said[1] if said else _delimiter(text)
    if form == "csv" and delimiter != ",":
        notes.append(f"fields between {_NAMES[delimiter]}")
    rows, opened, strict = parsed(text, delimiter)
    if not rows and opened is None:
        raise DataError(f"{where} has no fields, only delimiters: give a row for each text")
    plain = [] if strict and not (form == "tsv" and _ragged(rows)) else _plain(text, delimiter)
    if len(plain) > len(rows) and len(plain[0].cells) > 1 and not _ragged(plain):
        notes.append("quotes are not closed, so they are taken as plain characters")
        rows, opened = plain, None
    if opened is not None:
        raise DataError(
            f"{where}, line {opened}: a quote is opened and never closed: close it, or double a quote inside a field "
            '("")'
        )
    width = len(rows[0].cells)
    rows = [Row(r.line, r.cells[:width]) if not any(r.cells[width:]) else r for r in rows]  # empty ones at the end
    good = [r for r in rows if len(r.cells) == width]
    if len(good) < len(rows):
        bad = next(r for r in rows if len(r.cells) != width)
        if not skip_bad:
            raise DataError(
                f"{where}, line {bad.line} has {len(bad.cells)} fields, the first line has {width} (between "
                f"{_NAMES[delimiter]}; such rows: {len(rows) - len(good)}): put fields with a delimiter or a newline "
                "in quotes, or leave such rows out with --skip-bad"
            )
        n = len(rows) - len(good)
        notes.append(f"left out {n} row{'s'[: n > 1]} of more or fewer than {width} fields (first: line {bad.line})")
    return good


def parsed(text: str, delimiter: str) -> tuple[list[Row], int | None, bool]:
    """(rows with a field, the line of a quote that is never closed, whether quotes are used as they should be)."""
    for strict in (True, False):
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict)
        rows: list[Row] = []
        line = 1
        try:
            with unlimited():
                for cells in reader:
                    if any(cell.strip() for cell in cells):
                        rows.append(Row(line, cells))
                    line = reader.line_num + 1
        except csv.Error as error:
            if "unexpected end" in str(error):
                return rows, line, False
            continue  # text after a closing quote: the lenient reader takes it as it stands
        return rows, None, strict
    return rows, None, False


def _plain(text: str, delimiter: str) -> list[Row]:
    return [Row(i, line.split(delimiter)) for i, line in enumerate(lines(text), 1) if line.strip()]


def lines(text: str) -> list[str]:
    """Cut at \\n and \\r\\n only: ``splitlines`` would cut a text at a form feed or U+2028 too.

    >>> lines("a\\r\\n\\nb\\x0cc\\n")
    ['a', '', 'b\\x0cc']
    """
    found = [line.removesuffix("\r") for line in text.split("\n")]
    return found if found[-1] else found[:-1]


def _ragged(rows: list[Row]) -> bool:
    return any(len(r.cells) != len(rows[0].cells) for r in rows)


def _delimiter(text: str) -> str:
    """The one that cuts most of the first rows into the same number of fields, more than one."""
    head = "".join(text.splitlines(keepends=True)[:200])
    best, found = 0.0, ","
    for delimiter in _DELIMITERS:
        rows, _, _ = parsed(head, delimiter)
        widths = Counter(len(r.cells) for r in rows)
        width, n = widths.most_common(1)[0] if widths else (1, 0)
        share = n / max(len(rows), 1) if width > 1 else 0.0
        if share > best + 1e-9:
            best, found = share, delimiter
    return found


@contextmanager
def unlimited() -> Iterator[None]:
    """Python's csv refuses fields of 128 KiB, a limit of the whole process; here ``longest`` does it, and says more."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _not_too_long(row: Row, where: str, longest: int, cut: bool, notes: list[str]) -> Row:
    if all(len(cell) <= longest for cell in row.cells):
        return row
    n = max(map(len, row.cells))
    if not cut:
        raise DataError(
            f"{where}, line {row.line} has a field of {n:,} characters, more than {longest:,}: if it is one text, say "
            f"--longest {n}; else look for a quote that is not closed, or the wrong --format"
        )
    notes.append(f"line {row.line} has {n:,} characters: only the first {longest:,} were read (--longest)")
    return Row(row.line, [cell[:longest] for cell in row.cells])


# ---------------------------------------------------------------------------------------------------------- json


def _json(text: str, where: str, skip_bad: bool, notes: list[str]) -> tuple[tuple[str, ...], list[Row]]:
    found: list[tuple[int, dict[str, Any]]] = []
    bad: list[tuple[int, str]] = []
    for line, value, problem in _objects(text):
        if problem:
            bad.append((line, problem))
        else:
            found.append((line, value))
    if bad and not (skip_bad and found):
        line, problem = bad[0]
        raise DataError(
            f"{where}, line {line} {problem}: write one JSON object a line, such as "
            '{"text": "...", "label": "..."}' + (", or leave such rows out with --skip-bad" if found else "")
        )
    if bad:
        notes.append(f"left out {len(bad)} line{'s'[: len(bad) > 1]} without a JSON object (first: line {bad[0][0]})")
    names = tuple(dict.fromkeys(valid(name) for _, value in found for name in value))
    rows = [Row(line, [cell(value.get(name)) for name in names]) for line, value in found]
    return names, rows


def _objects(text: str) -> Iterator[tuple[int, dict[str, Any], str]]:
    """(line, object, what is wrong)."""
    if text.lstrip().startswith("["):
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            values = None
        if isinstance(values, list):
            for i, value in enumerate(values, 1):
                problem = "" if isinstance(value, dict) else f"(the entry {i}) is no object but {type(value).__name__}"
                yield i, value, problem
            return
    for i, line in enumerate(lines(text), 1):
        if line.strip():
            yield (i, *json_object(line))


def json_object(line: str) -> tuple[dict[str, Any], str]:
    """(the object, "") or ({}, what is wrong)."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {}, f"is no JSON ({error})"
    return (value, "") if isinstance(value, dict) else ({}, f"is no JSON object but {type(value).__name__}")


def cell(value: Any) -> str:
    """A JSON value as a field: null is empty, a number or a list is written as JSON writes it."""
    if value is None:
        return ""
    return valid(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def valid(text: str) -> str:
    """Half a surrogate pair, which JSON can spell and no file can hold, becomes a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def joined(cells: Iterable[str], delimiter: str) -> str:
    """One row as csv or tsv, with quotes where they are needed."""
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerow(list(cells))
    return out.getvalue()
