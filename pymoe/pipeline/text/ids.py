"""Texts as rows of ids of one length, for the models that embed tokens (``pymoe.models.classifier``).

id 0 is padding, id 1 an unknown token; then the tokens of the fit, the most frequent first, of equals the first by code
point.  The bytes and the pieces of "bpe" are all known, seen or not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend.errors import DataError, check_integer
from pymoe.pipeline import _sklearn as learn
from pymoe.pipeline.text import settings, strings
from pymoe.pipeline.text.bpe import BytePairs
from pymoe.pipeline.text.counting import Rows, distinct
from pymoe.pipeline.text.inputs import as_texts
from pymoe.pipeline.text.preparation import Preparation

PAD, UNKNOWN = 0, 1


class Padded(NamedTuple):
    ids: np.ndarray  # (N, L) int64
    mask: np.ndarray  # (N, L) bool, True = a token, False = padding


class TextIds(learn.BaseEstimator):  # type: ignore[misc]
    """N texts -> (ids (N, L) int64, mask (N, L)), L the longest text of the call, at most ``length``.

    length          tokens beyond it are left out
    min_count       a token is known if it stands in at least this many texts of the fit
    max_size        at most this many known tokens
    the others      as in ``TextEncoder``

    A text without tokens is one unknown token, so that a mean over its tokens exists.

    >>> from pymoe.models import classifier
    >>> coder = TextIds(min_count=1).fit(["今天天气很好", "good weather today"])
    >>> ids, mask = coder.transform(["天气很好", "good weather"])
    >>> coder.decode(ids), mask.tolist()
    ([['<unknown>', '很', '好'], ['good', 'weather']], [[True, True, True], [True, True, False]])
    >>> cfg = classifier.ClassifierConfig(
    ...     vocab=coder.vocab, n_classes=2, d_model=6, n_layers=1, n_heads=3, d_ff=4, context=coder.length
    ... )
    >>> p = classifier.init(np.random.default_rng(0), cfg)
    >>> classifier.forward(ids, p, cfg, mask=mask)[0].logits.shape
    (2, 2)
    """

    def __init__(
        self,
        tokens: str = "auto",
        *,
        length: int = 128,
        min_count: int = 2,
        max_size: int | None = 30000,
        stop_words: str | Collection[str] | None = None,
        clean: bool | Mapping[str, Any] = True,
        lowercase: bool = True,
        punctuation: bool = True,
        bpe_size: int = 8000,
    ) -> None:
        self.tokens = tokens
        self.length = length
        self.min_count = min_count
        self.max_size = max_size
        self.stop_words = stop_words
        self.clean = clean
        self.lowercase = lowercase
        self.punctuation = punctuation
        self.bpe_size = bpe_size

    @property
    def vocab(self) -> int:
        """How many ids there are, with those of padding and the unknown."""
        learn.check_is_fitted(self)
        return len(self.terms_) + 2

    def fit(self, X: Iterable[str], y: Any = None) -> TextIds:
        """Number the tokens."""
        texts = as_texts(X)
        prepared = self._prepared()
        prepared.learn(texts)
        rows = prepared.rows(texts)
        prepared.check_some(rows)
        self.bpe_ = prepared.pieces
        self.terms_ = prepared.inventory() or self._frequent(rows)
        return self

    def transform(self, X: Iterable[str]) -> Padded:
        """(ids, mask)."""
        learn.check_is_fitted(self)
        texts = as_texts(X)
        prepared = self._prepared()
        prepared.pieces = self.bpe_
        rows = [row[: self.length] or [""] for row in prepared.rows(texts)]
        number = {term: i for i, term in enumerate(self.terms_, start=2)}
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, PAD, np.int64)
        ids[mask] = np.fromiter((number.get(token, UNKNOWN) for token in chain(*rows)), np.int64)
        return Padded(ids, mask)

    def decode(self, ids: np.ndarray) -> list[list[str]]:
        """The tokens of each row, without the padding."""
        learn.check_is_fitted(self)
        names = ["<padding>", "<unknown>", *self.terms_]
        return [[names[i] for i in row if i != PAD] for row in np.asarray(ids).tolist()]

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """(settings, arrays): all that ``from_state`` needs, without pickle."""
        learn.check_is_fitted(self)
        arrays = strings.pack("terms", self.terms_)
        if self.bpe_ is not None:
            arrays |= strings.pack("bpe", [self.bpe_.json])
        return {"settings": settings.to_json(self.get_params(deep=False))}, arrays

    @classmethod
    def from_state(cls, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> TextIds:
        """The fitted coder that ``state`` described."""
        made = cls(**settings.from_json(meta["settings"]))
        made.terms_ = strings.unpack("terms", arrays)
        made.bpe_ = BytePairs(strings.unpack("bpe", arrays)[0]) if "bpe" in arrays else None
        return made

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags

    def _prepared(self) -> Preparation:
        check_integer("length", self.length)
        check_integer("min_count", self.min_count)
        if self.max_size is not None:
            check_integer("max_size", self.max_size)
        return settings.preparation(self)

    def _frequent(self, rows: Rows) -> list[str]:
        a, words = distinct(rows)
        texts, uses = np.bincount(a.indices, minlength=len(words)), np.asarray(a.sum(axis=0)).ravel()
        found = [(-uses[i], words[i]) for i in np.flatnonzero(texts >= self.min_count)]
        if not found:
            raise DataError(
                f"no token stands in {self.min_count} of the {len(rows)} texts: lower min_count, or give more texts"
            )
        return [word for _, word in sorted(found)[: self.max_size]]
