"""The texts of a training: read once at its start, read again and compared when it goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from pymoe.pipeline.translation import cldr, pairs
from pymoe.pipeline.translation.job import Text
from pymoe.pipeline.translation.pairs import Pairs

SHARE, MOST = 0.05, 1000  # of the different source sentences, held out where no validation text is given


class Texts(NamedTuple):
    """Pairs to train on, held-out pairs, and by name what is scored at the end."""

    train: Pairs
    valid: Pairs
    tests: dict[str, Pairs]
    about: Text


def built_in(pair: str, seed: int) -> Texts:
    """Names and dates of Babel's CLDR."""
    parts = cldr.load(pair, seed=seed)
    tests = {"dates": parts.dates, "names": parts.names}
    return _texts(parts.train, parts.held_out, tests, (cldr.PREFIX + pair,), (), ())


def from_files(
    train: Sequence[str], valid: Sequence[str] | None = None, test: Sequence[str] | None = None, *, seed: int
) -> Texts:
    """Of files (``pairs.read``); without ``valid`` a part of the training text is held out."""
    learned = pairs.read(train)
    if valid:
        held = pairs.read(valid)
    else:
        learned, held = pairs.hold_out(learned, share=SHARE, most=MOST, seed=seed)
    tests = {"test": pairs.read(test)} if test else {"held-out": held}
    files = (learned.where, held.where if valid else (), tests["test"].where if test else ())
    return _texts(learned, held, tests, *files)


def again(about: Text, seed: int) -> Texts:
    """The texts that ``about`` names, as they are now."""
    if about.train[0].startswith(cldr.PREFIX):
        return built_in(about.train[0].removeprefix(cldr.PREFIX), seed)
    return from_files(about.train, about.valid, about.test, seed=seed)


def _texts(
    train: Pairs,
    valid: Pairs,
    tests: dict[str, Pairs],
    of_train: tuple[str, ...],
    of_valid: tuple[str, ...],
    of_test: tuple[str, ...],
) -> Texts:
    all_of_it = "".join(part.sha256 for part in (train, valid, *tests.values()))
    about = Text(of_train, of_valid, of_test, hashlib.sha256(all_of_it.encode()).hexdigest())
    return Texts(train, valid, tests, about)
