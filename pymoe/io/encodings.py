"""What a file is that is not UTF-8: the encoding that its bytes look like, or the program that reads it.

Nothing is ever read by a guess made here; a guess only makes the advice in an error the right one.  Of GB 18030, Big5
and Shift JIS that one is named in which most characters beyond ASCII are everyday ones (the first level of GB 2312 and
of Big5, kana) and punctuation; Latin-1, in which every byte is a character, is what is left.
"""

from __future__ import annotations

import codecs

_LOOKED_AT = 1 << 16  # bytes
_ICONV = {
    "utf-16": "UTF-16", "utf-16-le": "UTF-16LE", "utf-16-be": "UTF-16BE", "gb18030": "GB18030", "big5": "BIG5",
    "shift_jis": "SHIFT_JIS", "latin-1": "LATIN1",
}  # fmt: skip
_EVERYDAY = {  # encoding -> the first bytes of its everyday characters, punctuation among them
    "gb18030": frozenset({0xA1, 0xA3, *range(0xB0, 0xD8)}),
    "big5": frozenset({0xA1, *range(0xA4, 0xC7)}),
    "shift_jis": frozenset({0x81, 0x82, 0x83}),
}
_PROGRAMS = {
    b"PK\x03\x04": "a zip archive, as .xlsx, .docx and .ods files are",
    b"\xd0\xcf\x11\xe0": "an old Office file (.xls, .doc)",
    b"%PDF": "a PDF",
    b"PAR1": "a Parquet file",
    b"SQLite format 3": "an SQLite database",
}


def likely(raw: bytes) -> str:
    """Python's name of the encoding that ``raw``, which is not UTF-8, most likely has.

    >>> likely("今天天气很好，我们去公园。".encode("gbk")), likely("今天天氣很好".encode("big5"))
    ('gb18030', 'big5')
    >>> likely("Füße, café".encode("latin-1")), likely("text,label".encode("utf-16-le"))
    ('latin-1', 'utf-16-le')
    """
    raw = raw[:_LOOKED_AT]
    if (found := utf_16(raw)) is not None:
        return found
    shares = {encoding: _share(raw, encoding) for encoding in _EVERYDAY}
    best = max(shares, key=lambda encoding: shares[encoding])
    return best if shares[best] >= 0.5 else "latin-1"


def utf_16(raw: bytes) -> str | None:
    """Which UTF-16 ``raw`` is, by its mark or by its many zero bytes; None if it is none.

    >>> utf_16("text,label".encode("utf-16-be")), utf_16(b"text,label"), utf_16(b"a stray \\0")
    ('utf-16-be', None, None)
    """
    raw = raw[:_LOOKED_AT]
    if raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    even, odd = raw[0::2].count(0), raw[1::2].count(0)  # of ASCII every second byte is 0; a stray NUL is another thing
    if len(raw) % 2 == 0 and max(even, odd) > 3 + 4 * min(even, odd) and 20 * max(even, odd) >= len(raw):
        return "utf-16-be" if even > odd else "utf-16-le"
    return None


def _share(raw: bytes, encoding: str) -> float:
    """Of the characters beyond ASCII, those that are everyday ones; 0 where the bytes are no text in ``encoding``."""
    text = codecs.getincrementaldecoder(encoding)()  # the last character may be cut
    try:
        beyond = [c for c in text.decode(raw) if not c.isascii()]
    except UnicodeDecodeError:
        return 0.0
    return sum(c.encode(encoding)[0] in _EVERYDAY[encoding] for c in beyond) / len(beyond) if beyond else 0.0


def command(raw: bytes, path: str) -> str:
    """What converts the file ``path`` of these bytes to UTF-8.

    >>> command(b"caf\\xe9", "a.txt")
    '`iconv -f LATIN1 -t UTF-8 a.txt`'
    """
    return f"`iconv -f {_ICONV[likely(raw)]} -t UTF-8 {path}`"


def program(raw: bytes) -> str | None:
    """What the first bytes say that ``raw`` is, if it is no text at all.

    >>> program(b"PK\\x03\\x04..."), program(b"text,label")
    ('a zip archive, as .xlsx, .docx and .ods files are', None)
    """
    return next((what for start, what in _PROGRAMS.items() if raw.startswith(start)), None)
