"""Text <-> token ids: characters where a text has at most 256 different ones, UTF-8 bytes otherwise.

Either way an id fits in one byte, and no merge table has to be learned or stored.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pymoe.backend.errors import CheckpointError, DataError

_PIECE = 1 << 20  # characters encoded at a time


class Vocabulary(NamedTuple):
    """``characters`` in ascending order; empty means UTF-8 bytes, id = byte."""

    characters: str

    @property
    def size(self) -> int:
        return len(self.characters) or 256

    @property
    def kind(self) -> str:
        return "characters" if self.characters else "UTF-8 bytes"

    def encode(self, text: str) -> np.ndarray:
        """ids (N,) uint8; a character outside the vocabulary is a DataError that names it."""
        if not self.characters:
            return np.array(np.frombuffer(text.encode("utf-8"), dtype=np.uint8))
        points = np.array([ord(c) for c in self.characters], dtype=np.uint32)
        pieces = [np.empty(0, np.uint8)]
        for lo in range(0, len(text), _PIECE):
            codes = np.frombuffer(text[lo : lo + _PIECE].encode("utf-32-le", "surrogatepass"), dtype="<u4")
            ids = np.minimum(np.searchsorted(points, codes), len(points) - 1)
            wrong = np.flatnonzero(points[ids] != codes)
            if len(wrong):
                raise DataError(
                    f"the character {chr(int(codes[wrong[0]]))!r} at position {lo + int(wrong[0])} is not among the "
                    f"{self.size} that this model was trained on: leave it out"
                )
            pieces.append(ids.astype(np.uint8))
        return np.concatenate(pieces)

    def decode(self, ids: np.ndarray) -> str:
        """The text of ids; an incomplete UTF-8 sequence (a sample cut in a character) becomes U+FFFD."""
        flat = np.asarray(ids).reshape(-1)
        if self.characters:
            return "".join(self.characters[i] for i in flat.tolist())
        return flat.astype(np.uint8).tobytes().decode("utf-8", errors="replace")

    def token(self, i: int) -> str:
        """One token as text, for tables: a character, or ``\\xNN`` for a byte that is not ASCII."""
        if self.characters:
            return self.characters[i]
        return chr(i) if i < 128 else f"\\x{i:02x}"


def of(text: str) -> Vocabulary:
    """The vocabulary of ``text``.

    >>> v = of("banana")
    >>> v, v.encode("nab").tolist(), v.decode(v.encode("nab"))
    (Vocabulary(characters='abn'), [2, 0, 1], 'nab')
    """
    found = set(text)
    return Vocabulary("".join(sorted(found)) if len(found) <= 256 else "")


def restore(characters: object) -> Vocabulary:
    """From a checkpoint."""
    if not isinstance(characters, str) or len(characters) > 256 or list(characters) != sorted(set(characters)):
        raise CheckpointError("the stored vocabulary is not a string of at most 256 ascending characters")
    return Vocabulary(characters)
