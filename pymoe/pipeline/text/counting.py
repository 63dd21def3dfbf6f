r"""How often each n-gram of words, and of characters within words, stands in each text: scipy.sparse float32.

Character n-grams of a word are those of " word ", so that beginnings and ends are seen (the word itself, once, where
it is shorter than n).  They depend on the word alone, so that each distinct word is looked at once: with A (texts,
words) how often a word stands in a text and B (words, n-grams) how often an n-gram stands in a word,

    C = A B                    exact: whole numbers below 2²⁴

Counting is by scikit-learn's CountVectorizer and HashingVectorizer.  Cost: words once per text, characters once per
distinct word, and the sparse product.
"""

from __future__ import annotations

import functools
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


class _Counts:
    """What counts known n-grams; made once, for it takes longer than to count a text."""

    _known: Any = None
    _settings: dict[str, Any]

    def know(self, terms: list[str]) -> None:
        """The n-grams to count from now on, column by column."""
        self._width = len(terms)
        if terms:
            self._known = _counter(vocabulary={term: i for i, term in enumerate(terms)}, **self._settings)


class Words(_Counts):
    """Counts the n-grams of tokens."""

    def __init__(self, span: Span, glue: str = " ") -> None:
        self._settings = {"analyzer": functools.partial(grams, span=span, glue=glue)}

    def learn(self, rows: Rows) -> tuple[scipy.sparse.csr_matrix, list[str]]:
        """(C, the n-grams in the order of code points)."""
        return _learn(_counter(**self._settings), rows)

    def count(self, rows: Rows) -> scipy.sparse.csr_matrix:
        """C of the known n-grams."""
        return self._known.transform(rows) if self._width else _empty(rows, 0)

    def hashed(self, rows: Rows, width: int) -> scipy.sparse.csr_matrix:
        """C with column hash(n-gram) mod width."""
        return _hasher(width, **self._settings).transform(rows)


class Characters(_Counts):
    """Counts the n-grams of characters within words."""

    def __init__(self, span: Span) -> None:
        self._settings = {"analyzer": "char_wb", "ngram_range": span}

    def learn(self, rows: Rows) -> tuple[scipy.sparse.csr_matrix, list[str]]:
        """(C, the n-grams in the order of code points)."""
        a, words = distinct(rows)
        b, names = _learn(_counter(**self._settings), words)
        return _product(a, b), names

    def count(self, rows: Rows) -> scipy.sparse.csr_matrix:
        """C of the known n-grams."""
        return self._of_words(rows, self._known.transform, self._width) if self._width else _empty(rows, 0)

    def hashed(self, rows: Rows, width: int) -> scipy.sparse.csr_matrix:
        """C with column hash(n-gram) mod width."""
        return self._of_words(rows, _hasher(width, **self._settings).transform, width)

    def _of_words(self, rows: Rows, transform: Callable[[list[str]], Any], width: int) -> scipy.sparse.csr_matrix:
        a, words = distinct(rows)
        if not words:
            return _empty(rows, width)
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


def _empty(rows: Rows, width: int) -> scipy.sparse.csr_matrix:
    return scipy.sparse.csr_matrix((len(rows), width), dtype=np.float32)


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
