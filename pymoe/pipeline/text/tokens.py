r"""Tokens: a text cut into words, characters or bytes.

============ ===========================================================================================================
auto         words; runs of Han characters cut by jieba: English, Chinese and texts of both
words        runs of letters, marks and digits, ' and joiners within them; a run of Han is one word
chinese      the whole text cut by jieba, whose dictionary has words such as T恤
characters   what a reader calls a character: a letter with its marks, an emoji of several codes (\X, UAX 29)
bytes        of UTF-8, as <0xE4>
============ ===========================================================================================================

Emoji are tokens of their own.  Other punctuation is left out, or with ``punctuation=True`` a run of it is a token, so
that "!!!" and ":-)" are one.  Pieces learnt from a text (byte-level BPE): ``pymoe.pipeline.text.bpe``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from pymoe.backend.errors import ConfigError, DataError
from pymoe.pipeline.text import library

KINDS = ("auto", "words", "chinese", "characters", "bytes")
BYTES = tuple(f"<0x{b:02X}>" for b in range(256))
_RUN = 256  # jieba takes n² steps for n unknown characters in a row


def tokenize(text: str, kind: str = "auto", *, punctuation: bool = False) -> list[str]:
    """The tokens of ``text``, in order, upper and lower case as they are.

    >>> tokenize("今天天气很好"), tokenize("Don't worry, 天气 is 😀!")
    (['今天天气', '很', '好'], ["Don't", 'worry', '天气', 'is', '😀'])
    >>> tokenize("Good :-) !!", punctuation=True), tokenize("né", "bytes")
    (['Good', ':-)', '!!'], ['<0x6E>', '<0xC3>', '<0xA9>'])
    """
    if not isinstance(text, str):
        raise DataError(f"tokenize takes one str, got {type(text).__name__}: for a list, [tokenize(t) for t in texts]")
    return cutter(kind, punctuation)(text)


def cutter(kind: str, punctuation: bool = False) -> Callable[[str], list[str]]:
    """The function from a text to its tokens."""
    if kind not in KINDS:
        raise ConfigError(f"tokens must be one of {', '.join(KINDS)}, got {kind!r}")
    return functools.partial(_CUT[kind], punctuation=punctuation)


def _words(text: str, *, punctuation: bool) -> list[str]:
    found: list[str] = _pattern(False, punctuation).findall(_straight(text))
    return found


def _auto(text: str, *, punctuation: bool) -> list[str]:
    found: list[str] = _pattern(True, punctuation).findall(_straight(text))
    if text.isascii() or _han().search(text) is None:
        return found
    tokens: list[str] = []
    for token in found:
        if _han().match(token):
            tokens += _segment(token)
        else:
            tokens.append(token)
    return tokens


def _chinese(text: str, *, punctuation: bool) -> list[str]:
    wanted = _spoken(punctuation)
    return [token for token in _segment(text) if wanted(token)]


def _characters(text: str, *, punctuation: bool) -> list[str]:
    # \X alone takes n² steps for n flags
    graphemes: list[str] = _regex().findall(r"\p{Regional_Indicator}{1,2}+\p{M}*+|\X", text)
    if punctuation:
        return graphemes
    wanted = _spoken(False)
    return [c for c in graphemes if c == " " or wanted(c)]


def _bytes(text: str, *, punctuation: bool) -> list[str]:
    return [BYTES[b] for b in text.encode("utf-8", "surrogatepass")]


_CUT: dict[str, Any] = {
    "auto": _auto,
    "words": _words,
    "chinese": _chinese,
    "characters": _characters,
    "bytes": _bytes,
}


def _regex() -> Any:
    return library.load("regex", "Cutting text into words")


def _straight(text: str) -> str:
    """The apostrophe that a typesetter sets is the one that a keyboard has."""
    return text.replace("\u2019", "'")


@functools.cache
def _pattern(han: bool, punctuation: bool) -> Any:
    """All tokens but those of jieba; with ``han`` a run of Han is a token of its own."""
    first = r"[\p{L}\p{N}--\p{Han}]" if han else r"[\p{L}\p{N}]"
    more = r"[\p{L}\p{M}\p{N}--\p{Han}]" if han else r"[\p{L}\p{M}\p{N}]"
    kinds = [rf"{first}{more}*+(?:['\u200c\u200d]{more}++)*+"]
    if han:
        kinds.append(r"\p{Han}++")
    emoji = r"\p{Extended_Pictographic}[\p{M}\p{Emoji_Modifier}]*+"
    kinds.append(rf"\p{{Regional_Indicator}}{{2}}|{emoji}(?:\u200d{emoji})*+")
    if punctuation:
        kinds.append(r"[[\p{P}\p{S}]--[\p{Extended_Pictographic}\p{Regional_Indicator}]]++")
    return _regex().compile("|".join(kinds), _regex().V1)


@functools.cache
def _han() -> Any:
    return _regex().compile(r"\p{Han}")


@functools.cache
def _long() -> Any:
    return _regex().compile(rf"\p{{Han}}{{{_RUN + 1}}}")


def _spoken(punctuation: bool) -> Callable[[str], Any]:
    """Whether a token is said aloud (or, with ``punctuation``, is anything but whitespace)."""
    if punctuation:
        return str.strip
    search: Callable[[str], Any] = (
        _regex().compile(r"[\p{L}\p{N}\p{Extended_Pictographic}\p{Regional_Indicator}]").search
    )
    return search


@functools.cache
def _jieba() -> Any:
    """A tokenizer of our own, so that words that the user adds to jieba's do not change ours.

    Its dictionary is read as jieba's own ``initialize`` would, without the message and the cache file in the shared
    temporary folder, which anyone could have written.
    """
    jieba = library.load("jieba", "Cutting Chinese into words")
    own = jieba.Tokenizer()
    own.FREQ, own.total = own.gen_pfdict(own.get_dict_file())
    own.initialized = True
    return own


def _segment(text: str) -> list[str]:
    parts = [text]
    if len(text) > _RUN and _long().search(text) is not None:
        parts = _regex().findall(rf"\p{{Han}}{{1,{_RUN}}}|\P{{Han}}+", text)
    tokens: list[str] = []
    for part in parts:
        tokens += _jieba().lcut(part)
    return tokens
