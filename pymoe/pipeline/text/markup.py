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
from typing import Any

from pymoe.pipeline.text import library

_NAMES = (
    "a abbr acronym address applet area article aside audio b base basefont bdi bdo big blink blockquote body br "
    "button canvas caption center cite code col colgroup data datalist dd del details dfn dialog dir div dl dt em "
    "embed fieldset figcaption figure font footer form frame frameset h1 h2 h3 h4 h5 h6 head header hgroup hr html "
    "i iframe img input ins kbd label legend li link main map mark marquee menu meta meter nav nobr noframes "
    "noscript object ol optgroup option output p param picture pre progress q rp rt ruby s samp script section "
    "select slot small source span strike strong style sub summary sup svg table tbody td template textarea tfoot "
    "th thead time title tr track tt u ul var video wbr"
)
_BARE = "allowfullscreen async autofocus autoplay checked compact controls defer disabled hidden loop multiple muted"
_BARE += " noshade nowrap open readonly required reversed selected"
_ENDS = {"<!--": "-->", "script": "</script", "style": "</style"}  # what hides everything up to its end


@functools.cache
def _tag() -> Any:
    names, bare = _NAMES.replace(" ", "|"), _BARE.replace(" ", "|")
    value = r"""(?:"[^"<]*+"|'[^'<]*+'|[^\s"'<>]++)"""
    attribute = rf"(?:\s++(?:[a-z_@:][\w.:@-]*+\s*+=\s*+{value}|(?:{bare})\b))"
    compiled = library.load("regex", "Cleaning text")
    return compiled.compile(
        rf"<(?:(?P<hides>!--)|!doctype\b[^<>]*+>|/(?:{names})\s*+>|(?P<name>{names}){attribute}*+\s*+/?>)", compiled.I
    )


@functools.cache
def _entity() -> Any:
    return library.load("regex", "Cleaning text").compile(r"&(?:#[0-9]{1,8}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});", 2)


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
    folded: str | None = None
    endless: set[str] = set()  # kinds whose end does not come any more
    kept, at, look = [], 0, 0
    while (m := _tag().search(text, look)) is not None:
        kind = "<!--" if m.group("hides") else (m.group("name") or "").lower()
        after = m.end()
        if kind in _ENDS:
            if folded is None:
                folded = _ascii_lower(text)
            end = -1 if kind in endless else folded.find(_ENDS[kind], m.end())
            if end < 0:
                endless.add(kind)
                if kind == "<!--":  # no comment, then: text
                    look = m.end()
                    continue
            elif kind == "<!--":
                after = end + len(_ENDS[kind])
            else:
                after = end  # the closing tag is the next one found
        kept += [text[at : m.start()], " "]
        at = look = after
    return "".join(kept) + text[at:]


def _ascii_lower(text: str) -> str:
    """Lower case in ASCII only, so that no position moves ('İ'.lower() has two characters)."""
    return text.translate({c: c + 32 for c in range(65, 91)})
