"""Which expert took which kind of token: counted on held-out text, as a table of shares."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from pymoe.train.evaluate import Choice
from pymoe.train.vocabulary import Vocabulary

KINDS = ("vowel", "consonant", "capital", "digit", "space", "newline", "punctuation", "bracket/quote", "other")


def kind(token: str) -> str:
    """The kind of a token of one character (``\\xNN``, a byte that is not ASCII, is "other").

    >>> [kind(c) for c in "ebE7 \\n,(é"]
    ['vowel', 'consonant', 'capital', 'digit', 'space', 'newline', 'punctuation', 'bracket/quote', 'vowel']
    """
    if len(token) != 1:
        return "other"
    if token == "\n":
        return "newline"
    if token.isspace():
        return "space"
    if token.isdigit():
        return "digit"
    if token.isalpha():
        if token != token.lower():
            return "capital"
        base = unicodedata.normalize("NFD", token)[0]
        return "vowel" if base in "aeiou" else "consonant" if "a" <= base <= "z" else "other"
    if token in "()[]{}<>\"'`" or unicodedata.category(token) in ("Ps", "Pe", "Pi", "Pf"):
        return "bracket/quote"
    return "punctuation" if token.isprintable() else "other"


class Layer(NamedTuple):
    layer: int  # index of the block
    counts: np.ndarray  # (V, E) choices of each token by each expert


def count(choices: Iterable[Choice], vocabulary: Vocabulary) -> list[Layer]:
    """One table of counts for each MoE layer; dropped choices are not counted."""
    tables: dict[int, np.ndarray] = {}
    for c in choices:
        table = tables.setdefault(c.layer, np.zeros((vocabulary.size, c.n_experts), np.int64))
        token = np.broadcast_to(c.ids[:, None], c.idx.shape)
        flat = (token * c.n_experts + c.idx)[c.idx >= 0]
        tables[c.layer] = table + np.bincount(flat, minlength=table.size).reshape(table.shape)
    return [Layer(layer, tables[layer]) for layer in sorted(tables)]


def by_kind(layer: Layer, vocabulary: Vocabulary) -> tuple[list[str], np.ndarray]:
    """(kinds that occur, share (E, kinds)): of a kind's choices, the share of each expert; columns sum to 1."""
    names = [kind(vocabulary.token(i)) for i in range(vocabulary.size)]
    sums = np.stack([layer.counts[[n == k for n in names]].sum(axis=0) for k in KINDS], axis=1)
    present = sums.sum(axis=0) > 0
    return [k for k, yes in zip(KINDS, present, strict=True) if yes], sums[:, present] / sums[:, present].sum(axis=0)


def favourites(layer: Layer, vocabulary: Vocabulary, expert: int, n: int = 4) -> str:
    """The tokens an expert takes far more of than its share, best first: ranked by observed minus expected count."""
    expected = np.outer(layer.counts.sum(axis=1), layer.counts.sum(axis=0)) / max(layer.counts.sum(), 1)
    surplus = (layer.counts - expected)[:, expert]
    best = [i for i in np.argsort(-surplus, kind="stable")[:n] if surplus[i] > 0]
    return " ".join(_visible(vocabulary.token(int(i))) for i in best)


def table(layer: Layer, vocabulary: Vocabulary) -> str:
    """The table as text: a row for each expert, a column for each kind, in percent of the kind."""
    kinds, share = by_kind(layer, vocabulary)
    load = layer.counts.sum(axis=0) / max(layer.counts.sum(), 1)
    width = [max(len(k), 6) for k in kinds]
    head = "  ".join(f"{k:>{w}}" for k, w in zip(kinds, width, strict=True))
    lines = [f"  expert   load  {head}   takes above all"]
    for e in range(layer.counts.shape[1]):
        cells = "  ".join(f"{100 * s:>{w - 1}.0f}%" for s, w in zip(share[e], width, strict=True))
        lines.append(f"  {e:>6}  {100 * load[e]:>4.0f}%  {cells}   {favourites(layer, vocabulary, e)}")
    return "\n".join(lines)


def _visible(token: str) -> str:
    return {"\n": "\\n", " ": "space", "\t": "\\t"}.get(token, token)
