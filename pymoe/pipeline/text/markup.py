r"""HTML out of a text: tags, comments, scripts and entities, in time linear in the text.

A tag is ``<`` or ``</`` directly before the name of an HTML element, then attributes that have a value (or are among
the few that need none), then ``>``.  So ``a < b``, ``a<b and c>d``, ``<3``, ``<user>`` and ``<unk>`` stay.  What is
taken out leaves a space.

No tag crosses a ``<``, every repetition is possessive or bounded, and a search that found no end is not made again:
that makes it linear.
"""

from __future__ import annotations

import functools
import html
from collections.abc import Iterator
from typing import Any

from pymoe.pipeline.text import library

_NAMES = frozenset(
    (
        "a abbr acronym address applet area article aside audio b base basefont bdi bdo big blink blockquote body br "
        "button canvas caption center cite code col colgroup data datalist dd del details dfn dialog dir div dl dt em "
        "embed fieldset figcaption figure font footer form frame frameset h1 h2 h3 h4 h5 h6 head header hgroup hr html "
        "i iframe img input ins kbd label legend li link main map mark marquee menu meta meter nav nobr noframes "
        "noscript object ol optgroup option output p param picture pre progress q rp rt ruby s samp script section "
        "select slot small source span strike strong style sub summary sup svg table tbody td template textarea tfoot "
        "th thead time title tr track tt u ul var video wbr"
    ).split()
)
_BARE = "allowfullscreen async autofocus autoplay checked compact controls defer disabled hidden loop multiple muted"
_BARE += " noshade nowrap open readonly required reversed selected"
_ENDS = {"!--": "-->", "script": "</script>", "style": "</style>"}  # what hides everything up to its end


@functools.cache
def _tag() -> Any:
    value = r"""(?:"[^"<]*+"|'[^'<]*+'|[^\s"'<>]++)"""
    attribute = rf"(?:\s++(?:[a-z_@:][\w.:@-]*+\s*+=\s*+{value}|(?:{_BARE.replace(' ', '|')})\b))"
    regex = library.load("regex", "Cleaning text")
    return regex.compile(
        rf"<(?:(?P<mark>!--)|(?P<mark>!doctype)\b[^<>]*+>|/(?P<close>[a-z][a-z0-9]*+)\s*+>"
        rf"|(?P<open>[a-z][a-z0-9]*+){attribute}*+\s*+/?>)",
        regex.IGNORECASE,
    )


@functools.cache
def _entity() -> Any:
    regex = library.load("regex", "Cleaning text")
    return regex.compile(r"&(?:#[0-9]{1,8}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});", regex.IGNORECASE)


def unescape(text: str) -> str:
    """Entities that end in a semicolon as what they stand for, once.

    >>> unescape("AT&T &lt;3 &#20170;&hellip; R&D;"), unescape("?a=1&copy=2")
    ('AT&T <3 今… R&D;', '?a=1&copy=2')
    """
    return _entity().sub(lambda m: html.unescape(m.group()), text) if "&" in text else text


def strip(text: str) -> str:
    """Tags, comments, and what stands in scripts and styles out, each for a space, once.

    >>> strip("<p class='x'>if a < b and b > c:<br/>I <3 it</p><!-- no -->"), strip("a<b and c>d, <user>")
    (' if a < b and b > c: I <3 it  ', 'a<b and c>d, <user>')
    """
    if "<" not in text:
        return text
    kept: list[str] = []
    start = 0  # of what is not kept yet
    for m in _Tags(text):
        kept += [text[start : m[0]], " "]
        start = m[1]
    return "".join(kept) + text[start:]


class _Tags:
    """(start, end) of everything that goes, in order."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._lower = ""  # made when it is needed
        self._endless: set[str] = set()  # what has no end from here on: it is not searched for again

    def __iter__(self) -> Iterator[tuple[int, int]]:
        at = 0
        while (m := _tag().search(self._text, at)) is not None:
            kind, at = (m["mark"] or m["open"] or m["close"]).lower(), m.end()
            if m["close"] is None and kind in _ENDS:
                end = self._end(kind, at)
                if end < 0 and kind == "!--":
                    continue  # no comment, but text
                at = max(at, end)
            elif m["mark"] is None and kind not in _NAMES:
                continue
            yield m.start(), at

    def _end(self, kind: str, at: int) -> int:
        if kind in self._endless:
            return -1
        if not self._lower:  # in ASCII only, so that no position moves: 'İ'.lower() has two characters
            self._lower = self._text.translate({c: c + 32 for c in range(ord("A"), ord("Z") + 1)})
        found = self._lower.find(_ENDS[kind], at)
        if found < 0:
            self._endless.add(kind)
            return -1
        return found + len(_ENDS[kind])
