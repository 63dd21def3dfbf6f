"""The advice for a text that is not UTF-8: everyday texts in the encodings that people have."""

from __future__ import annotations

import pytest

from pymoe.io import encodings

TEXTS = {
    "gb18030": ["我要退款，发票金额不对。屏幕坏了", "please 退款 now, 发票", "text,label\n钱还没有退,退款\n"],
    "big5": ["我要退款，發票金額不對。螢幕壞了"],
    "shift_jis": ["今日はいい天気ですね。カメラ", "text,label\nカメラが届かない,配送\n"],
    "latin-1": ["Füße laufen heiß, für Jörg", "où êtes-vous né à l'été", "¿Qué? ¡Mañana señor!", "ação", "café,x\n"],
    "utf-16": ["text,label\n钱还没有退,退款\n", "ascii"],
    "utf-16-le": ["text,label\n钱还没有退,退款\n", "ascii"],
    "utf-16-be": ["text,label\n钱还没有退,退款\n", "ascii"],
}


@pytest.mark.parametrize("encoding", TEXTS)
def test_the_encoding_is_named(encoding):
    for text in TEXTS[encoding]:
        raw = text.encode(encoding)
        assert encodings.likely(raw) == encoding, text
        assert encodings.likely(raw * 9999) == encoding  # what is cut at the end of the look is no error
        assert f"iconv -f {encoding.upper().replace('-', '')[:3]}" in encodings.command(raw, "f").replace("F-", "F")


@pytest.mark.parametrize("raw", [b"a\0b", b"a\0bc", b"abc\0def" * 99, bytes(40), b"\0a" * 3, b""])
def test_a_stray_nul_is_no_utf_16(raw):
    assert encodings.likely(raw) == "latin-1"


def test_what_is_no_text_is_named():
    assert "PDF" in str(encodings.program(b"%PDF-1.7 ...")) and encodings.program(b"") is None
