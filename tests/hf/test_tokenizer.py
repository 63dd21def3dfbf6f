"""Text of a folder's own tokens, by the tokenizers library; without it a sentence that says what to install."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from pymoe.backend.errors import CheckpointError, MissingExtraError
from pymoe.hf.tokenizer import Tokenizer


@pytest.fixture
def folder(tmp_path):
    """A tokenizer.json with a special token at the front of every text."""
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import decoders, models, pre_tokenizers, processors

    words = {"<s>": 0, "the": 1, "fox": 2, "jumps": 3, "?": 4}
    own = tokenizers.Tokenizer(models.WordLevel(words, unk_token="?"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.decoder = decoders.Fuse()
    own.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    own.save(str(tmp_path / "tokenizer.json"))
    return str(tmp_path)


def test_text_becomes_ids_without_special_tokens_and_back(folder):
    words = Tokenizer.of(folder)
    assert words is not None
    ids = words.encode("the fox jumps over")
    assert ids.dtype == np.int64 and ids.tolist() == [1, 2, 3, 4]
    assert words.decode(ids[:3]) == "thefoxjumps"
    assert words.encode("").shape == (0,)


def test_without_the_library_the_folder_is_read_and_a_text_is_refused(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    words = Tokenizer.of(folder)
    assert words is not None
    with pytest.raises(MissingExtraError, match=r"needs the tokenizers library .*\[text\]"):
        words.encode("the")


def test_a_folder_without_one_and_one_that_is_damaged(tmp_path):
    assert Tokenizer.of(str(tmp_path)) is None
    pytest.importorskip("tokenizers")
    (tmp_path / "tokenizer.json").write_text("{")
    words = Tokenizer.of(str(tmp_path))
    assert words is not None
    with pytest.raises(CheckpointError, match="cannot be read"):
        words.encode("a")
