"""The tokenizer of a folder: tokenizer.json, by the tokenizers library, imported when a text has to be encoded."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from pymoe.backend.errors import CheckpointError, MissingExtraError, install

FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model", "added_tokens.json",
    "generation_config.json", "chat_template.jinja",
)  # fmt: skip


class Tokenizer:
    """Text <-> ids of one folder."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._own: Any = None

    @staticmethod
    def of(folder: str) -> Tokenizer | None:
        path = os.path.join(folder, "tokenizer.json")
        return Tokenizer(path) if os.path.isfile(path) else None

    def encode(self, text: str) -> np.ndarray:
        """ids (N,) int64, without special tokens."""
        return np.asarray(self._library().encode(text, add_special_tokens=False).ids, dtype=np.int64)

    def decode(self, ids: Any) -> str:
        decoded: str = self._library().decode([int(i) for i in ids], skip_special_tokens=False)
        return decoded

    def _library(self) -> Any:
        if self._own is None:
            try:
                from tokenizers import Tokenizer as Library
            except ImportError as error:
                raise MissingExtraError(
                    f"text for this model needs the tokenizers library ({error}): {install('text')}"
                ) from None
            try:
                self._own = Library.from_file(self._path)
            except Exception as error:  # the library raises plain Exception
                raise CheckpointError(f"{self._path} cannot be read ({error}): use another copy") from None
        return self._own
