"""TextIds: padded ids, their order, and back."""

import json
import pickle

import numpy as np
import pytest
from sklearn.base import clone

from pymoe.backend.errors import ConfigError, DataError
from pymoe.pipeline import TextIds

TEXTS = ["b a c", "a b a", "今天天气很好", "天气 很 好 b"]


def test_the_most_frequent_come_first_and_equals_by_code_point():
    coder = TextIds(min_count=1).fit(TEXTS)
    assert coder.terms_ == ["a", "b", "好", "很", "c", "今天天气", "天气"]
    assert coder.vocab == 9
    assert TextIds(min_count=2).fit(TEXTS).terms_ == ["a", "b", "好", "很"]
    assert TextIds(min_count=1, max_size=2).fit(TEXTS).terms_ == ["a", "b"]
    assert TextIds(min_count=1).fit(TEXTS[::-1]).terms_ == coder.terms_


def test_ids_against_a_loop():
    coder = TextIds(min_count=2, length=3).fit(TEXTS)
    ids, mask = coder.transform(["A, b z 好", "", "很"])
    assert ids.dtype == np.int64 and mask.dtype == bool
    assert ids.tolist() == [[2, 1, 3], [1, 0, 0], [5, 0, 0]]  # "," and z are unknown; no text is padding only
    np.testing.assert_array_equal(mask, ids != 0)
    assert coder.decode(ids) == [["a", "<unknown>", "b"], ["<unknown>"], ["很"]]


@pytest.mark.parametrize("kind", ["auto", "words", "chinese", "characters", "bytes", "bpe"])
def test_every_kind_comes_back(kind):
    coder = TextIds(kind, bpe_size=280, min_count=1).fit(TEXTS)
    meta, arrays = coder.state()
    others = [TextIds.from_state(json.loads(json.dumps(meta)), arrays), pickle.loads(pickle.dumps(coder))]
    for other in [*others, clone(coder).fit(TEXTS)]:
        for a, b in zip(other.transform(["a 天气 龘"]), coder.transform(["a 天气 龘"]), strict=True):
            np.testing.assert_array_equal(a, b)
    if kind in ("bytes", "bpe"):
        assert (coder.transform(["never seen: 龘"]).ids != 1).all()
        assert coder.vocab >= 258


def test_errors_say_what_to_do():
    with pytest.raises(DataError, match="no token stands in 3 of the 2 texts: lower min_count"):
        TextIds(min_count=3).fit(["a", "a"])
    with pytest.raises(ConfigError, match="length must be an integer of at least 1, got 0"):
        TextIds(length=0).fit(TEXTS)
    with pytest.raises(ConfigError, match="max_size"):
        TextIds(max_size=0).fit(TEXTS)
