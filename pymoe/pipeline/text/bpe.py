"""Byte-level byte-pair encoding trained on the spot, by the library ``tokenizers``; no download.

A token is a run of bytes that is frequent in the texts it was trained on; any text can be cut, in any language, and
nothing is unknown.  Written as in GPT-2: one character for each byte, Ġ for a space.

Source: Sennrich et al., arXiv:1508.07909; over bytes, Radford et al., 2019.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pymoe.backend.errors import check_integer
from pymoe.pipeline.text import library


class BytePairs:
    """Pieces that were learnt; made by ``train`` or from ``json``.

    >>> pieces = BytePairs.train(["low lower lowest", "low low"], 259)
    >>> pieces.cut("lower 低"), pieces.text(pieces.cut("lower 低"))
    (['low', 'e', 'r', 'Ġ', 'ä', '½', 'İ'], 'lower 低')
    """

    def __init__(self, json: str) -> None:
        self._own = library.load("tokenizers", "Byte-level BPE").Tokenizer.from_str(json)

    @classmethod
    def train(cls, texts: Iterable[str], size: int) -> BytePairs:
        """At most ``size`` pieces, 256 of them the bytes; those that occur at least twice."""
        size = check_integer("bpe_size", size, least=257)
        lib = library.load("tokenizers", "Byte-level BPE")
        made = lib.Tokenizer(lib.models.BPE())
        made.pre_tokenizer = lib.pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = lib.decoders.ByteLevel()
        alphabet = lib.pre_tokenizers.ByteLevel.alphabet()
        trainer = lib.trainers.BpeTrainer(
            vocab_size=size, min_frequency=2, initial_alphabet=alphabet, show_progress=False
        )
        made.train_from_iterator(texts, trainer)
        return cls(made.to_str())

    @property
    def json(self) -> str:
        """All there is to know, as the library writes it."""
        written: str = self._own.to_str()
        return written

    @property
    def all(self) -> list[str]:
        """Every piece, the bytes first, then in the order in which they were learnt."""
        number = self._own.get_vocab()
        return sorted(number, key=number.__getitem__)

    def cut(self, text: str) -> list[str]:
        """The pieces of a text."""
        tokens: list[str] = self._own.encode(text).tokens
        return tokens

    def text(self, pieces: list[str]) -> str:
        """The text that pieces make."""
        decoded: str = self._own.decoder.decode(pieces)
        return decoded

    def __reduce__(self) -> Any:
        return BytePairs, (self.json,)
