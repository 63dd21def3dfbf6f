"""The text a model learns from: read, checked, split 90/10, and cut into batches by an explicit key.

The batch of step s depends on (seed, s) alone, so a resumed run reads what the uninterrupted one would have read.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pymoe.backend.errors import DataError
from pymoe.backend.rng import generator
from pymoe.io import encodings
from pymoe.train import vocabulary
from pymoe.train.vocabulary import Vocabulary

TOPICS = "pydoc_data.topics"
_BATCHES = 1  # the key of this use of the generator, so that no other draw of the same seed shares its numbers


class Corpus(NamedTuple):
    """A text as ids, split into its first 90 % (train) and its last 10 % (held out), like nanoGPT."""

    source: str  # TOPICS or the absolute path of a file
    sha256: str  # of the text in UTF-8
    n_bytes: int  # of the text in UTF-8
    vocabulary: Vocabulary
    train: np.ndarray  # (N,) uint8
    held_out: np.ndarray  # (M,) uint8


def topics() -> str:
    """The reference text inside every Python (its wording differs a little between Python versions)."""
    from pydoc_data.topics import topics as pages

    return "\n".join(pages.values())


def read(path: str) -> str:
    """The text of a file (plain or gzip), or a DataError that says what is wrong and what to do."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise DataError(f"{path} is a folder: give one text file, e.g. the output of `cat {path}/*.txt`")
        if not stat.S_ISREG(mode):
            raise DataError(f"{path} is not a regular file: write the text to one, so that --resume can read it again")
        with open(path, "rb") as file:
            raw = file.read()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file: check the path") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is a damaged gzip file ({error}): fetch it again") from None
    if not raw:
        raise DataError(f"{path} is empty: give a file with text in it")
    if encodings.utf_16(raw) is not None:
        raise DataError(f"{path} is UTF-16: convert it with {encodings.command(raw, path)}")
    if b"\0" in raw:
        raise DataError(f"{path} is binary (a NUL at byte {raw.index(0)}): give a text file in UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 (byte {error.start} is 0x{raw[error.start]:02x}): convert it, e.g. with "
            f"{encodings.command(raw, path)}"
        ) from None


def load(source: str, *, window: int, known: Vocabulary | None = None) -> Corpus:
    """The corpus of ``source`` (TOPICS or a file); each part must hold a window and the token after it.

    ``known``: the vocabulary of a checkpoint, instead of the text's own.
    """
    text = topics() if source == TOPICS else read(source)
    words = known if known is not None else vocabulary.of(text)
    ids = words.encode(text)
    n = int(len(ids) * 0.9)
    train, held_out = ids[:n], ids[n:]
    if min(len(train), len(held_out)) < window + 1:
        raise DataError(
            f"{source} is too short: of its {len(ids)} tokens the last tenth must hold a window of {window} + 1, so "
            f"{10 * (window + 1)} are needed: give a longer text or a shorter --window"
        )
    raw = text.encode("utf-8")
    where = source if source == TOPICS else os.path.abspath(source)
    return Corpus(where, hashlib.sha256(raw).hexdigest(), len(raw), words, train, held_out)


def batch(ids: np.ndarray, *, seed: int, step: int, rows: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """(x, targets), each (rows, window) int64: windows at random offsets by the key (seed, step); targets are one on.

    >>> x, y = batch(np.arange(100, dtype=np.uint8), seed=0, step=3, rows=2, window=4)
    >>> x.shape, bool((y == x + 1).all())
    ((2, 4), True)
    """
    offsets = generator(seed, _BATCHES, step).integers(0, len(ids) - window, size=rows)
    rows_of = ids[offsets[:, None] + np.arange(window + 1)[None, :]].astype(np.int64)
    return rows_of[:, :-1], rows_of[:, 1:]


def windows(
    ids: np.ndarray, *, window: int, rows: int, limit: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(x, targets) batches that cover ``ids``: every token but the first is a target exactly once.

    Windows lie side by side; the last, shorter one is a batch of its own.  ``limit``: only that many full windows,
    evenly spaced, always the same ones.
    """
    n = len(ids) - 1
    full = n // window
    chosen = np.arange(full)
    if limit is not None and limit < full:
        chosen = np.arange(limit) * full // limit
    for lo in range(0, len(chosen), rows):
        starts = chosen[lo : lo + rows] * window
        block = ids[starts[:, None] + np.arange(window + 1)[None, :]].astype(np.int64)
        yield block[:, :-1], block[:, 1:]
    if len(chosen) == full and n > full * window:
        rest = ids[None, full * window :].astype(np.int64)
        yield rest[:, :-1], rest[:, 1:]
