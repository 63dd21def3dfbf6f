r"""Texts as rows of numbers, as a scikit-learn transformer: n-grams of words and of characters, counted and weighted.

With c (N, V) how often n-gram v stands in text n, df_v in how many texts of the fit it stands, N texts in the fit::

    tf    = 1 + ln c                      where c > 0 (sublinear; else tf = c)
    idf_v = 1 + ln((1 + N) / (1 + df_v))
    x_n   = tf_n ⊙ idf / ‖tf_n ⊙ idf‖₂    of the word n-grams and of the character n-grams each by itself

A text has few of the n-grams: x is scipy.sparse.  No gradient goes further down than x.

Sources: weights, Salton and Buckley, Information Processing and Management 24, 1988, with the smoothing of
scikit-learn; character n-grams, Cavnar and Trenkle, 1994; hashing, Weinberger et al., arXiv:0902.2206.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import scipy.sparse

from pymoe.backend.errors import ConfigError, DataError, check_integer
from pymoe.pipeline import _sklearn as learn
from pymoe.pipeline.text import library, settings, strings
from pymoe.pipeline.text.bpe import BytePairs
from pymoe.pipeline.text.counting import Characters, Rows, Span, Words
from pymoe.pipeline.text.inputs import as_texts
from pymoe.pipeline.text.preparation import WORDS, Preparation

CODES = ("tfidf", "counts", "binary", "hashing")
_HASHED = 2**18


class TextEncoder(learn.TransformerMixin, learn.BaseEstimator):  # type: ignore[misc]
    """scikit-learn transformer: N texts -> x (N, V), scipy.sparse float32.

    tokens          auto, words, chinese, characters, bytes (``pymoe.pipeline.text.tokens``) or bpe, trained in fit
    ngrams          from how many tokens in a row to how many
    char_ngrams     from how many characters within a word to how many, beside ``ngrams``; None: none
    codes           tfidf; counts: c; binary: c > 0; hashing: the column is the hash of the n-gram, nothing is stored,
                    and idf = 1
    min_count       an n-gram counts if it stands in at least this many texts of the fit
    max_features    V at most: the most frequent n-grams, half of them of words and half of characters, of equals the
                    first by code point; None: all; for hashing it is V, None: 262,144
    sublinear       tf = 1 + ln c for tfidf and hashing
    stop_words      code of a language, list of codes, or a set of words; None: none
    clean           True, False, or switches of ``pymoe.pipeline.text.clean`` such as {"urls": False}
    lowercase       before the text is cut
    punctuation     whether a run of punctuation is a token
    bpe_size        pieces of "bpe"

    >>> texts = ["A fine day, a fine walk", "今天天气很好", "What a day: 天气很好!"]
    >>> encoder = TextEncoder(min_count=1, char_ngrams=None).fit(texts)
    >>> encoder.transform(["天气很好", "unknown"]).toarray().max(axis=1) > 0
    array([ True, False])
    >>> encoder.get_feature_names_out()[-5:].tolist()
    ['天气 很', '好', '好 !', '很', '很 好']
    """

    def __init__(
        self,
        tokens: str = "auto",
        *,
        ngrams: Span = (1, 2),
        char_ngrams: Span | None = (2, 5),
        codes: str = "tfidf",
        min_count: int = 2,
        max_features: int | None = None,
        sublinear: bool = True,
        stop_words: str | Collection[str] | None = None,
        clean: bool | Mapping[str, Any] = True,
        lowercase: bool = True,
        punctuation: bool = True,
        bpe_size: int = 8000,
    ) -> None:
        self.tokens = tokens
        self.ngrams = ngrams
        self.char_ngrams = char_ngrams
        self.codes = codes
        self.min_count = min_count
        self.max_features = max_features
        self.sublinear = sublinear
        self.stop_words = stop_words
        self.clean = clean
        self.lowercase = lowercase
        self.punctuation = punctuation
        self.bpe_size = bpe_size

    def fit(self, X: Iterable[str], y: Any = None) -> TextEncoder:
        """Find the n-grams and their idf."""
        self.fit_transform(X)
        return self

    def fit_transform(self, X: Iterable[str], y: Any = None) -> scipy.sparse.csr_matrix:
        """fit(X) and transform(X), in one pass."""
        texts = as_texts(X)
        counters, prepared = self._settings()
        prepared.learn(texts)
        rows = prepared.rows(texts)
        prepared.check_some(rows)
        self.bpe_ = prepared.pieces
        self.terms_: list[list[str]] = []
        self.idf_: list[np.ndarray] = []
        if self.codes == "hashing":
            blocks = self._count(rows, counters)
        else:
            blocks = self._learn(rows, counters)
        self._n_features_out = sum(block.shape[1] for block in blocks)
        self._keep(counters, prepared)
        return self._weighted(blocks)

    def transform(self, X: Iterable[str]) -> scipy.sparse.csr_matrix:
        """x (N, V); a text without a known n-gram is a row of zeros."""
        learn.check_is_fitted(self)
        texts = as_texts(X)
        return self._weighted(self._count(self._prepared.rows(texts), self._counters))

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The n-gram of each column; with both kinds as word__ and char__ n-grams."""
        learn.check_is_fitted(self)
        if self.codes == "hashing":
            return np.array([f"hash{i}" for i in range(self._n_features_out)], dtype=object)
        if len(self.terms_) == 1:
            return np.array(self.terms_[0], dtype=object)
        words, characters = self.terms_
        return np.array([f"word__{t}" for t in words] + [f"char__{t}" for t in characters], dtype=object)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """(settings, arrays): all that ``from_state`` needs, without pickle."""
        learn.check_is_fitted(self)
        arrays: dict[str, np.ndarray] = {}
        for i, terms in enumerate(self.terms_):
            arrays |= strings.pack(f"terms.{i}", terms)
        arrays |= {f"idf.{i}": idf for i, idf in enumerate(self.idf_)}
        if self.bpe_ is not None:
            arrays |= strings.pack("bpe", [self.bpe_.json])
        return {"settings": settings.to_json(self.get_params(deep=False)), "width": self._n_features_out}, arrays

    @classmethod
    def from_state(cls, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> TextEncoder:
        """The fitted transformer that ``state`` described."""
        made = cls(**settings.from_json(meta["settings"]))
        kinds = range(1 if made.char_ngrams is None else 2)
        made.terms_ = [strings.unpack(f"terms.{i}", arrays) for i in kinds if f"terms.{i}" in arrays]
        made.idf_ = [arrays[f"idf.{i}"] for i in kinds if f"idf.{i}" in arrays]
        made.bpe_ = BytePairs(strings.unpack("bpe", arrays)[0]) if "bpe" in arrays else None
        made._n_features_out = int(meta["width"])
        made._keep(*made._settings())
        return made

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "terms_")

    def _settings(self) -> tuple[list[Words | Characters], Preparation]:
        """Every setting checked; what counts, and what cuts."""
        if self.codes not in CODES:
            raise ConfigError(f"codes must be one of {', '.join(CODES)}, got {self.codes!r}")
        check_integer("min_count", self.min_count)
        if self.max_features is not None:
            check_integer("max_features", self.max_features, least=1 if self.char_ngrams is None else 2)
        prepared = settings.preparation(self)
        glue = "" if self.tokens in ("characters", "bpe") else " "
        counters: list[Words | Characters] = [Words(_span("ngrams", self.ngrams), glue)]
        if self.char_ngrams is not None:
            if self.tokens not in WORDS:
                raise ConfigError(
                    f"character n-grams are cut from words, and tokens={self.tokens!r} are none: give "
                    f"char_ngrams=None, and ngrams=(1, 5) or the like"
                )
            counters.append(Characters(_span("char_ngrams", self.char_ngrams)))
        return counters, prepared

    def _keep(self, counters: list[Words | Characters], prepared: Preparation) -> None:
        """What ``transform`` uses, ready for texts that come one at a time."""
        for counter, terms in zip(counters, self.terms_, strict=self.codes != "hashing"):
            counter.know(terms)
        prepared.pieces = self.bpe_
        self._counters, self._prepared = counters, prepared

    def _learn(self, rows: Rows, counters: list[Words | Characters]) -> list[Any]:
        """The counts of the n-grams that are kept, which become ``terms_``."""
        found = [counter.learn(rows) for counter in counters]
        df = [np.bincount(c.indices, minlength=c.shape[1]) for c, _ in found]
        kept = [np.flatnonzero(d >= self.min_count) for d in df]
        if not sum(map(len, kept)):
            raise DataError(
                f"no n-gram stands in {self.min_count} of the {len(rows)} texts: lower min_count, or give more texts"
            )
        kept = _most(kept, [np.asarray(c.sum(axis=0)).ravel() for c, _ in found], self.max_features)
        self.terms_ = [[names[i] for i in keep] for (_, names), keep in zip(found, kept, strict=True)]
        if self.codes == "tfidf":
            n = len(rows)
            self.idf_ = [(1 + np.log((1 + n) / (1 + d[k]))).astype(np.float32) for d, k in zip(df, kept, strict=True)]
        return [c[:, keep] for (c, _), keep in zip(found, kept, strict=True)]

    def _count(self, rows: Rows, counters: list[Words | Characters]) -> list[Any]:
        if self.codes == "hashing":
            width = self.max_features or _HASHED
            widths = [width] if len(counters) == 1 else [width // 2, width - width // 2]
            return [counter.hashed(rows, w) for counter, w in zip(counters, widths, strict=True)]
        return [counter.count(rows) for counter in counters]

    def _weighted(self, blocks: list[Any]) -> scipy.sparse.csr_matrix:
        for block in blocks:
            block.sort_indices()  # before the sums of squares, whose last bit the order decides
        if self.codes == "binary":
            for block in blocks:
                block.data.fill(1)
        elif self.codes != "counts":
            blocks = [self._normalised(block, self.idf_[i] if self.idf_ else None) for i, block in enumerate(blocks)]
        return blocks[0] if len(blocks) == 1 else scipy.sparse.hstack(blocks, format="csr", dtype=np.float32)

    def _normalised(self, c: Any, idf: np.ndarray | None) -> Any:
        if not c.shape[1]:
            return c
        text = library.load("sklearn.feature_extraction.text", "TF-IDF")
        weigh = text.TfidfTransformer(sublinear_tf=bool(self.sublinear), use_idf=idf is not None)
        if idf is None:
            weigh.fit(c)  # has nothing to learn
        else:
            weigh.idf_ = idf
        return weigh.transform(c, copy=False)


def _most(kept: list[np.ndarray], totals: list[np.ndarray], most: int | None) -> list[np.ndarray]:
    """The columns of the largest totals, half of them of each kind, or more where the other kind has fewer."""
    if most is None:
        return kept
    sizes = [len(k) for k in kept]
    if len(kept) == 1:
        limits = [most]
    else:
        first = min(sizes[0], max(most // 2, most - sizes[1]))
        limits = [first, most - first]
    chosen = []
    for keep, total, limit in zip(kept, totals, limits, strict=True):
        order = np.argsort(-total[keep], kind="stable")[:limit]
        chosen.append(np.sort(keep[order]))
    return chosen


def _span(name: str, span: Any) -> Span:
    try:
        lo, hi = span
    except (TypeError, ValueError):
        raise ConfigError(f"{name} must be two lengths such as (1, 2), got {span!r}") from None
    lo, hi = check_integer(name, lo), check_integer(name, hi)
    if lo > hi:
        raise ConfigError(f"{name} must go from the shorter to the longer, got {span!r}: write ({hi}, {lo})")
    return lo, hi
