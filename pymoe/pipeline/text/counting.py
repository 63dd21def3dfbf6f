r"""How often each n-gram of words, and of characters within words, stands in each text: scipy.sparse float32.

Character n-grams of a word are those of " word ", so that beginnings and ends are seen (the word itself, once, where
it is shorter than n).  They depend on the word alone, so that each distinct word is looked at once: with A (texts,
words) how often a word stands in a text and B (words, n-grams) how often an n-gram stands in a word,

    C = A B                    exact: whole numbers below 2²⁴

Counting is by scikit-learn's CountVectorizer and HashingVectorizer.  Cost: words once per text, characters once per
distinct word, and the sparse product.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse

from pymoe.pipeline.text import library

Rows = Sequence[list[str]]  # the tokens of each text
Span = tuple[int, int]  # n-grams from the first length to the last


def grams(tokens: list[str], span: Span, glue: str = " ") -> list[str]:
    """The n-grams of a list of tokens, shortest first.

    >>> grams(["very", "good", "film"], (1, 2))
    ['very', 'good', 'film', 'very good', 'good film']
    """
    found = list(tokens) if span[0] == 1 else []
    for n in range(max(span[0], 2), span[1] + 1):
        found += map(glue.join, zip(*(itertools.islice(tokens, i, None) for i in range(n)), strict=False))
    return found


class Words:
    """Counts the n-grams of tokens."""

    def __init__(self, span: Span, glue: str = " ") -> None:
        self._analyzer = lambda tokens: grams(tokens, span, glue)

    def learn(self, rows: Rows) -> tuple[scipy.sparse.csr_matrix, list[str]]:
        """(C, the n-grams in the order of code points)."""
        return _learn(_counter(analyzer=self._analyzer), rows)

    def count(self, rows: Rows, known: dict[str, int]) -> scipy.sparse.csr_matrix:
        """C for the n-grams that are known, {n-gram: column}."""
        return _counter(analyzer=self._analyzer, vocabulary=known).transform(rows)

    def hashed(self, rows: Rows, width: int) -> scipy.sparse.csr_matrix:
        """C with column hash(n-gram) mod width."""
        return _hasher(width, analyzer=self._analyzer).transform(rows)


class Characters:
    """Counts the n-grams of characters within words."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def learn(self, rows: Rows) -> tuple[scipy.sparse.csr_matrix, list[str]]:
        """(C, the n-grams in the order of code points)."""
        a, words = distinct(rows)
        b, names = _learn(_counter(analyzer="char_wb", ngram_range=self._span), words)
        return _product(a, b), names

    def count(self, rows: Rows, known: dict[str, int]) -> scipy.sparse.csr_matrix:
        """C for the n-grams that are known, {n-gram: column}."""
        vectorizer = _counter(analyzer="char_wb", ngram_range=self._span, vocabulary=known)
        return self._of_words(rows, vectorizer.transform, len(known))

    def hashed(self, rows: Rows, width: int) -> scipy.sparse.csr_matrix:
        """C with column hash(n-gram) mod width."""
        return self._of_words(rows, _hasher(width, analyzer="char_wb", ngram_range=self._span).transform, width)

    def _of_words(self, rows: Rows, transform: Callable[[list[str]], Any], width: int) -> scipy.sparse.csr_matrix:
        a, words = distinct(rows)
        if not words:
            return scipy.sparse.csr_matrix((len(rows), width), dtype=np.float32)
        return _product(a, transform(words))


def distinct(rows: Rows) -> tuple[scipy.sparse.csr_matrix, list[str]]:
    """(A (texts, distinct tokens) how often each stands in each text, the tokens in the order of their first use).

    >>> a, words = distinct([["to", "be"], ["be", "be"]])
    >>> a.toarray().tolist(), words
    ([[1.0, 1.0], [0.0, 2.0]], ['to', 'be'])
    """
    ids: defaultdict[str, int] = defaultdict()
    ids.default_factory = ids.__len__
    flat = np.fromiter((ids[token] for row in rows for token in row), dtype=np.int64)
    ends = np.cumsum([0, *map(len, rows)])
    a = scipy.sparse.csr_matrix((np.ones(len(flat), np.float32), flat, ends), shape=(len(rows), len(ids)))
    a.sum_duplicates()
    return a, list(ids)


def _product(a: Any, b: Any) -> scipy.sparse.csr_matrix:
    c = scipy.sparse.csr_matrix(a @ b)
    c.sort_indices()
    return c


def _learn(vectorizer: Any, documents: Any) -> tuple[scipy.sparse.csr_matrix, list[str]]:
    c = vectorizer.fit_transform(documents)
    return c, vectorizer.get_feature_names_out().tolist()


def _counter(**settings: Any) -> Any:
    text = library.load("sklearn.feature_extraction.text", "Counting tokens")
    return text.CountVectorizer(lowercase=False, dtype=np.float32, **settings)


def _hasher(width: int, **settings: Any) -> Any:
    text = library.load("sklearn.feature_extraction.text", "Hashing tokens")
    return text.HashingVectorizer(
        n_features=width, lowercase=False, norm=None, alternate_sign=False, dtype=np.float32, **settings
    )
