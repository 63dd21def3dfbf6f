"""From a text to the tokens that are counted: cleaned, in lower case, cut, stop words out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from pymoe.backend.errors import ConfigError, DataError
from pymoe.pipeline.text import stopping
from pymoe.pipeline.text import tokens as cutting
from pymoe.pipeline.text.bpe import BytePairs
from pymoe.pipeline.text.cleaning import clean as _clean

KINDS = (*cutting.KINDS, "bpe")
WORDS = ("auto", "words", "chinese")  # kinds whose tokens are words


class Preparation:
    """The settings that every transformer of texts has, checked; ``tokens_of`` a text is the result.

    >>> Preparation(stop_words="en").tokens_of("<b>The weather</b> is FINE")
    ['weather', 'fine']
    """

    def __init__(
        self,
        *,
        clean: bool | Mapping[str, Any] = True,
        lowercase: bool = True,
        tokens: str = "auto",
        punctuation: bool = False,
        stop_words: str | Collection[str] | None = None,
        bpe_size: int = 8000,
    ) -> None:
        if tokens not in KINDS:
            raise ConfigError(f"tokens must be one of {', '.join(KINDS)}, got {tokens!r}")
        if not isinstance(clean, (bool, Mapping)):
            raise ConfigError(f"clean must be True, False or switches such as {{'urls': False}}, got {clean!r}")
        self.switches: dict[str, Any] | None = dict(clean) if isinstance(clean, Mapping) else {} if clean else None
        unknown = set(self.switches or ()) - set(_clean.__kwdefaults__ or ())
        if unknown:
            raise ConfigError(
                f"clean has no switch {sorted(unknown)[0]!r}; it has {', '.join(_clean.__kwdefaults__ or ())}"
            )
        self.lowercase, self.kind, self.bpe_size = bool(lowercase), tokens, bpe_size
        self.punctuation = bool(punctuation)
        self.stop: frozenset[str] = _stop(stop_words)
        self.pieces: BytePairs | None = None

    def plain(self, text: str) -> str:
        """The text, cleaned and in lower case."""
        if self.switches is not None:
            text = _clean(text, **self.switches)
        return text.lower() if self.lowercase else text

    def learn(self, texts: Collection[str]) -> None:
        """Train what is trained: the pieces of "bpe"."""
        if self.kind == "bpe":
            self.pieces = BytePairs.train((self.plain(text) for text in texts), self.bpe_size)

    def tokens_of(self, text: str) -> list[str]:
        """The tokens of one text."""
        return self.rows([text])[0]

    def rows(self, texts: Collection[str]) -> list[list[str]]:
        """The tokens of each text."""
        cut = self._cut()
        found = [cut(self.plain(text)) for text in texts]
        if self.stop:
            found = [[token for token in row if token not in self.stop] for row in found]
        return found

    def check_some(self, rows: Collection[list[str]]) -> None:
        """DataError unless a token is left."""
        if not any(rows):
            raise DataError(
                f"none of the {len(rows)} texts has a token left after cleaning (tokens={self.kind!r}): check that "
                f"this is the column of the text, or clean less, such as clean={{'markup': False}}"
            )

    def inventory(self) -> list[str] | None:
        """All the tokens there can be, where that is known before any text is."""
        if self.kind == "bytes":
            return list(cutting.BYTES)
        return None if self.pieces is None else self.pieces.all

    def _cut(self) -> Callable[[str], list[str]]:
        if self.kind != "bpe":
            return cutting.cutter(self.kind, self.punctuation)
        assert self.pieces is not None, "learn() first"
        return self.pieces.cut


def _stop(stop_words: Any) -> frozenset[str]:
    """A set holds the words themselves; a str or a list holds codes of languages."""
    if stop_words is None:
        return frozenset()
    if isinstance(stop_words, (set, frozenset)):
        return frozenset(stop_words)
    return stopping.stop_words(stop_words)
