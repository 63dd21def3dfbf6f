"""One vocabulary for both languages: byte-level BPE, trained on the spot with ``tokenizers``; every text round-trips.

A text begins with a space that ``decode`` takes away again, so that a word is the same tokens first in a sentence and
later.  Ids 0, 1, 2 are padding, start and stop; they stand outside the merges, so no text can contain them, and the 256
bytes are always there, so no text is unknown.

Source: byte pairs, Sennrich et al., arXiv:1508.07909; over bytes, Radford et al., 2019 (GPT-2), section 2.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pymoe.backend.errors import CheckpointError, ConfigError, MissingExtraError, install

PAD, START, STOP = 0, 1, 2
SPECIAL = 3  # ids before those of the merges


class BPE:
    """Text <-> ids.

    >>> bpe = train(["the cat sat", "die Katze sitzt"] * 9, 300)
    >>> ids = bpe.encode("the Katze \u2603")
    >>> bpe.decode(ids), int(ids.min()) >= SPECIAL, bpe.size
    ('the Katze ☃', True, 278)
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @property
    def size(self) -> int:
        """V, the special ids included."""
        return SPECIAL + int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> np.ndarray:
        """ids (n,) int64, without start and stop."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
        """``encode`` of many, in parallel."""
        found = self._tokenizer.encode_batch([" " + text for text in texts], add_special_tokens=False)
        return [np.array(one.ids, dtype=np.int64) + SPECIAL for one in found]

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """The text of ids; special ids say nothing, and bytes that are not UTF-8 become U+FFFD."""
        text = self._tokenizer.decode([int(i) - SPECIAL for i in ids if i >= SPECIAL], skip_special_tokens=False)
        return str(text[1:] if text.startswith(" ") else text)

    def to_json(self) -> str:
        """All of it, for a checkpoint."""
        return str(self._tokenizer.to_str())


def train(texts: Iterable[str], size: int) -> BPE:
    """A vocabulary of at most ``size`` tokens of ``texts``; the same texts give the same one."""
    if size < SPECIAL + 256:
        raise ConfigError(f"a byte-level vocabulary needs {SPECIAL} + 256 tokens at least, got size={size}")
    t = _library()
    made = t.Tokenizer(t.models.BPE())
    made.pre_tokenizer = t.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = t.decoders.ByteLevel()
    trainer = t.trainers.BpeTrainer(
        vocab_size=size - SPECIAL, show_progress=False, initial_alphabet=t.pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator((" " + text for text in texts), trainer)
    return BPE(made)


def restore(text: Any) -> BPE:
    """The inverse of ``to_json``; CheckpointError if it is not one."""
    t = _library()
    try:
        return BPE(t.Tokenizer.from_str(text))
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"the stored vocabulary cannot be read ({error})") from None


def _library() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError as error:
        raise MissingExtraError(f"translation needs the tokenizers library ({error}): {install('text')}") from None
    return tokenizers
