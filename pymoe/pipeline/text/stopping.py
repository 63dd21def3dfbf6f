"""Stop words of 58 languages, by stopwordsiso: the words that any text of a language has."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

from pymoe.backend.errors import ConfigError
from pymoe.pipeline.text import library


def languages() -> list[str]:
    """The ISO 639-1 codes that ``stop_words`` knows.

    >>> [code for code in languages() if code in ("de", "en", "xx", "zh")]
    ['de', 'en', 'zh']
    """
    return sorted(_library().langs())


def stop_words(codes: str | Iterable[str]) -> frozenset[str]:
    """The stop words of one language or of several, in lower case and NFKC, as tokens are.

    They hold "not" and "no", 不 and 好: leave them in where the feeling of a text matters.

    >>> sorted({"the", "weather", "is", "not"} & stop_words("en")), "的" in stop_words(["en", "zh"])
    (['is', 'not', 'the'], True)
    """
    codes = [codes] if isinstance(codes, str) else list(codes)
    known = languages()
    for code in codes:
        if code not in known:
            raise ConfigError(f"there are no stop words for {code!r}; the codes are {', '.join(known)}")
    found = _library().stopwords(codes) if codes else ()
    return frozenset(unicodedata.normalize("NFKC", word).lower().replace("\u2019", "'") for word in found)


def _library() -> Any:
    return library.load("stopwordsiso", "A list of stop words")
