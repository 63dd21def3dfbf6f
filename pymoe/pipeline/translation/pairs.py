r"""Parallel text: two files line by line, or one file of two columns; plain or gzip, UTF-8.

Rules: a line ends at "\n" or "\r\n" and nowhere else; space around a sentence is no part of it.  A pair with an empty
side is left out and counted.  Two files of different lengths, a file that is not UTF-8, a line without exactly one tab,
and a file in which no pair is left are DataErrors that say where.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pymoe.backend.errors import DataError
from pymoe.backend.rng import generator
from pymoe.train import data

_SPLIT = 5  # the key of this use of the generator
_LONGEST = 60  # characters of a line that a message quotes


@dataclass(frozen=True)
class Pairs:
    """Sentences and their translations, one to one."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    where: tuple[str, ...]  # the files they came from
    empty: int = 0  # pairs that were left out

    def __len__(self) -> int:
        return len(self.source)

    @property
    def sha256(self) -> str:
        """Of all sentences, in order."""
        both = "\0".join(("\n".join(self.source), "\n".join(self.target)))
        return hashlib.sha256(both.encode("utf-8")).hexdigest()

    def take(self, rows: Sequence[int] | np.ndarray) -> Pairs:
        """Some of the pairs, in this order."""
        chosen = [int(i) for i in rows]
        return Pairs(
            tuple(self.source[i] for i in chosen), tuple(self.target[i] for i in chosen), self.where, self.empty
        )


def read(files: Sequence[str]) -> Pairs:
    """Of (source, target), two files line by line, or of (file,), two columns parted by a tab."""
    if len(files) == 1:
        return _columns(files[0])
    if len(files) != 2:
        raise DataError(f"parallel text is one file of two columns, or two files line by line, got {len(files)} files")
    source, target = (lines(path) for path in files)
    if len(source) != len(target):
        raise DataError(
            f"{files[0]} has {len(source)} lines and {files[1]} has {len(target)}: line i of one must be the "
            "translation of line i of the other, so remove what has no partner"
        )
    return of(source, target, files)


def of(source: Sequence[str], target: Sequence[str], where: Sequence[str]) -> Pairs:
    """The pairs of two equally long lists, those with an empty side left out."""
    full = [(s, t) for s, t in zip(source, target, strict=True) if s and t]
    if not full:
        side = "source" if not any(source) else "target" if not any(target) else "one"
        raise DataError(f"{' and '.join(where)}: no pair is left: the {side} side of every pair is empty")
    found = [os.path.abspath(path) if os.path.exists(path) else path for path in where]
    return Pairs(tuple(s for s, _ in full), tuple(t for _, t in full), tuple(found), len(source) - len(full))


def lines(path: str) -> list[str]:
    """The sentences of a file, one a line; a DataError says what is wrong with it."""
    return split(data.read(path))


def split(text: str) -> list[str]:
    r"""A text's lines without the space around them; what follows the last line break is a line if there is anything.

    >>> split("one\r\n two\u2028same line\n\n")
    ['one', 'two\u2028same line', '']
    """
    found = text.split("\n")
    return [line.strip() for line in (found if found[-1] else found[:-1])]


def _columns(path: str) -> Pairs:
    source, target = [], []
    for number, line in enumerate(data.read(path).removesuffix("\n").split("\n"), 1):
        line = line.removesuffix("\r")
        cells = line.split("\t")
        if not line.strip():
            cells = ["", ""]
        if len(cells) != 2:
            shown = line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."
            raise DataError(
                f"{path}, line {number}: columns parted by a tab: {len(cells)}, where two are needed, source <tab> "
                f"target: {shown!r}; "
                "give two files if the languages lie in files of their own"
            )
        source.append(cells[0].strip())
        target.append(cells[1].strip())
    return of(source, target, (path,))


def hold_out(pairs: Pairs, *, share: float, most: int, seed: int) -> tuple[Pairs, Pairs]:
    """(to train on, held out): a ``share`` of the different source sentences, at most ``most``, with all their pairs.

    So no held-out sentence is one that was trained on.
    """
    distinct = sorted(set(pairs.source))
    n = min(most, max(1, round(share * len(distinct))))
    if len(distinct) < 2:
        raise DataError(
            f"{' and '.join(pairs.where)}: all source sentences are the same: to train and to test, two are needed"
        )
    chosen = generator(seed, _SPLIT).permutation(len(distinct))[:n]
    out = {distinct[int(i)] for i in chosen}
    held = [i for i, s in enumerate(pairs.source) if s in out]
    rest = [i for i, s in enumerate(pairs.source) if s not in out]
    return pairs.take(rest), pairs.take(held)
