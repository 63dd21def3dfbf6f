r"""Cleaning, in this order: mojibake, entities, control characters, NFKC, markup, e-mail addresses, URLs, whitespace.

``clean(clean(text)) == clean(text)`` (without ``mojibake``), and the time is linear in the length, on hostile text too.
The first could fail where a step uncovers work for an earlier one (``&amp;lt;b&amp;gt;`` is ``&lt;b&gt;`` is ``<b>``),
so the steps are repeated until nothing changes; what still changes after three rounds is no text, and its ``<`` and
``&`` become spaces.  For the second: patterns that cannot backtrack, and no more than 30 combining marks in a row, as
in the Stream-Safe Text Format (Unicode Standard Annex 15, section 13), for sorting n of them takes n² steps.
"""

from __future__ import annotations

import functools
import unicodedata
from typing import Any, NamedTuple

from pymoe.backend.errors import ConfigError, DataError
from pymoe.pipeline.text import library
from pymoe.pipeline.text import markup as _markup

FORMS = ("NFKC", "NFC", "NFKD", "NFD")
_ROUNDS = 3
_MARKS = 30


class _Patterns(NamedTuple):
    control: Any
    marks: Any
    email: Any
    url: Any


@functools.cache
def _patterns() -> _Patterns:
    regex = library.load("regex", "Cleaning text")
    # Controls that are no whitespace, lone surrogates, and the format characters that only steer the display; the
    # joiners U+200C and U+200D stay, for they are part of Persian words and of emoji.
    hidden = r"\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    control = regex.compile(rf"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff{hidden}]+")
    marks = regex.compile(rf"(\p{{M}}{{{_MARKS}}})\p{{M}}++")
    # The local part has at most 64 characters and starts where no such character stands before it.
    letter = "[A-Za-z0-9._%+-]"
    email = regex.compile(
        rf"(?<!{letter}){letter}{{1,64}}+@[A-Za-z0-9-]++(?:\.[A-Za-z0-9-]++)++(?:[A-Za-z0-9._%+@-]*[A-Za-z0-9_%+@-])?"
    )
    # Scripts that put no space between words end a URL: 请看http://x.com谢谢.
    ends = r"\s<>\"“”《》「」\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
    url = regex.compile(rf"(?<![A-Za-z0-9_])(?:(?:https?|ftp)://|www\.)[^{ends}]++", regex.I)
    return _Patterns(control, marks, email, url)


def clean(
    text: str,
    *,
    mojibake: bool = False,
    entities: bool = True,
    control: bool = True,
    unicode: str | None = "NFKC",
    markup: bool = True,
    emails: bool = True,
    urls: bool = True,
    whitespace: bool = True,
) -> str:
    """``text`` with what carries no meaning taken out; each step has its switch.

    mojibake   UTF-8 that was read as another encoding is mended, by ftfy (schÃ¶n is schön)
    entities   &lt; is <, &#20170; is 今; only with their semicolon
    control    control characters, lone surrogates, zero-width and direction marks go; no mark piles higher than 30
    unicode    the normal form, None for none: in NFKC ＡＢＣ is ABC, ﬁ is fi, and é has one code
    markup     HTML tags, comments, scripts and styles become a space; ``a < b`` and ``<user>`` stay
    emails, urls   become a space
    whitespace every run of it becomes one space, none at the ends

    >>> clean("<p>Ｈｅｌｌｏ&nbsp;&amp; welcome,\\x00 3 < 4!</p> See https://example.org/a?b=1.")
    'Hello & welcome, 3 < 4! See .'
    >>> clean("今天天气很好！\u3000请看 www.example.com谢谢", urls=False)
    '今天天气很好! 请看 www.example.com谢谢'
    """
    if not isinstance(text, str):
        raise DataError(f"clean takes one str, got {type(text).__name__}: for a list, [clean(t) for t in texts]")
    if unicode is not None and unicode not in FORMS:
        raise ConfigError(f"unicode must be one of {', '.join(FORMS)} or None, got {unicode!r}")
    if mojibake:
        text = library.load("ftfy", "Mending mojibake").fix_encoding(text)
    switches = (entities, control, unicode, markup, emails, urls, whitespace)
    for _ in range(_ROUNDS):
        before, text = text, _once(text, *switches)
        if text == before or not ("<" in text and markup or "&" in text and entities):
            return text
    again = _once(text, *switches)
    if again == text:
        return text
    return _once(again.translate({ord("<"): " ", ord("&"): " "}), *switches)


def _once(
    text: str,
    entities: bool,
    control: bool,
    unicode: str | None,
    markup: bool,
    emails: bool,
    urls: bool,
    whitespace: bool,
) -> str:
    find = _patterns()
    if entities:
        text = _markup.unescape(text)
    if control:
        text = find.control.sub("", text)
    if not text.isascii():
        if control:
            text = find.marks.sub(r"\1", text)
        if unicode is not None:
            text = unicodedata.normalize(unicode, text)  # type: ignore[arg-type]
        if control:
            text = find.marks.sub(r"\1", text)
    if markup:
        text = _markup.strip(text)
    if emails and "@" in text:
        text = find.email.sub(" ", text)
    if urls and ("//" in text or "ww." in text.lower()):
        text = find.url.sub(_after_url, text)
    if whitespace:
        text = " ".join(text.split())
    return text


def _after_url(m: Any) -> str:
    """A space, and the punctuation that ends the sentence and not the address."""
    address: str = m.group()
    return " " + address[len(address.rstrip(".,;:!?…'\")]}、。，；：！？")) :]
