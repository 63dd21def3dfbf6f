r"""Batches of sentences of about one length: which pairs step s sees is a function of (seed, s) alone.

Pairs are sorted by m = max(source, target) in tokens and cut, in this order, into batches of tokens // (2 m) rows, so
that a padded batch has at most ``tokens`` tokens of both sides together.  In every epoch pairs of equal m change places
(so the cuts stay, and an epoch has always the same number of batches, and every pair once), and the batches come in
another order; both are drawn by (seed, epoch).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pymoe.backend.errors import DataError, check_integer
from pymoe.backend.rng import generator
from pymoe.models import seq2seq
from pymoe.models.inputs import IGNORE
from pymoe.pipeline.translation.bpe import PAD, START, STOP

_BATCHES = 1  # the key of this use of the generator


@dataclass(frozen=True)
class Encoded:
    """Pairs as ids, without start and stop."""

    source: list[np.ndarray]
    target: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.source)

    def take(self, rows: Sequence[int] | np.ndarray) -> Encoded:
        """Some of the pairs."""
        return Encoded([self.source[int(i)] for i in rows], [self.target[int(i)] for i in rows])


class Padded(NamedTuple):
    """A batch as ``seq2seq.forward`` takes it; B pairs, S source tokens, R target tokens, stop included."""

    ids: np.ndarray  # (B, S) int64
    mask: np.ndarray  # (B, S) bool, True = a real token
    decoder_ids: np.ndarray  # (B, R) int64
    decoder_mask: np.ndarray  # (B, R) bool
    targets: np.ndarray  # (B, R) int64, -100 = none

    @property
    def tokens(self) -> int:
        """Real ones, both sides."""
        return int(self.mask.sum() + self.decoder_mask.sum())


def fitting(encoded: Encoded, context: int) -> np.ndarray:
    """The numbers of the pairs whose sides, with their stop tokens, have at most ``context`` tokens."""
    return np.flatnonzero(_longer(encoded) <= context)


def _longer(encoded: Encoded) -> np.ndarray:
    """m of every pair, stop tokens included."""
    both = zip(encoded.source, encoded.target, strict=True)
    return np.array([max(len(s), len(t)) + 1 for s, t in both], dtype=np.int64)


def sources(ids: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(ids (B, S) with stop and padding, mask).

    >>> sources([np.array([7, 8, 9]), np.array([7])])[0]
    array([[7, 8, 9, 2],
           [7, 2, 0, 0]])
    """
    width = 1 + max((len(one) for one in ids), default=0)
    padded = np.full((len(ids), width), PAD, dtype=np.int64)
    mask = np.zeros((len(ids), width), dtype=bool)
    for row, one in enumerate(ids):
        padded[row, : len(one)] = one
        padded[row, len(one)] = STOP
        mask[row, : len(one) + 1] = True
    return padded, mask


def pad(encoded: Encoded, rows: Sequence[int] | np.ndarray) -> Padded:
    """The batch of some pairs."""
    chosen = encoded.take(rows)
    ids, mask = sources(chosen.source)
    labels, real = sources(chosen.target)
    targets = np.where(real, labels, IGNORE)
    return Padded(ids, mask, seq2seq.shift_right(targets, START), real, targets)


class Batches:
    """The batches of a training; ``at(s)`` is the batch of step s, from 0.

    >>> some = [np.arange(3, 3 + n) for n in (2, 5, 2, 4, 3)]
    >>> batches = Batches(Encoded(some, some[::-1]), tokens=24, seed=0)
    >>> len(batches), batches.at(0).ids.shape, np.array_equal(batches.at(7).ids, batches.at(7).ids)
    (2, (2, 6), True)
    """

    def __init__(self, encoded: Encoded, *, tokens: int, seed: int) -> None:
        check_integer("tokens", tokens)
        if not len(encoded):
            raise DataError("no pair is short enough to train on: give shorter sentences, or a longer context")
        self.encoded, self._seed = encoded, seed
        self._m = _longer(encoded)
        m = np.sort(self._m)
        self._cuts = [0]
        while self._cuts[-1] < len(m):
            lo = self._cuts[-1]
            hi = lo + 1
            while hi < len(m) and (hi + 1 - lo) * 2 * m[hi] <= tokens:
                hi += 1
            self._cuts.append(hi)
        self._epoch = -1
        self._order = self._turn = np.empty(0, np.int64)

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self._cuts) - 1

    @property
    def tokens(self) -> float:
        """Real tokens of both sides in the mean batch."""
        both = zip(self.encoded.source, self.encoded.target, strict=True)
        return sum(len(s) + len(t) + 2 for s, t in both) / len(self)

    def rows(self, step: int) -> np.ndarray:
        """The numbers of the pairs of a step's batch."""
        epoch, place = divmod(step, len(self))
        if epoch != self._epoch:  # kept, since the next step wants the same; a function of (seed, epoch)
            rng = generator(self._seed, _BATCHES, epoch)
            self._order = np.lexsort((rng.random(len(self._m)), self._m))
            self._turn = rng.permutation(len(self))
            self._epoch = epoch
        i = int(self._turn[place])
        return self._order[self._cuts[i] : self._cuts[i + 1]]

    def at(self, step: int) -> Padded:
        """The batch of a step."""
        return pad(self.encoded, self.rows(step))


def each_once(encoded: Encoded, tokens: int) -> Iterator[Padded]:
    """Every pair once, in batches by length: for what is measured, not learned."""
    fixed = Batches(encoded, tokens=tokens, seed=0)
    for i in range(len(fixed)):
        yield fixed.at(i)
