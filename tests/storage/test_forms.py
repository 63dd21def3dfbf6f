"""A stored weight as plain values and arrays, and back; a tree of them as dense arrays and as masks."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from pymoe import storage
from pymoe.backend.errors import ConfigError, ShapeError
from pymoe.storage import forms

from .cases import KINDS, SPARSE, weight


@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_through_json(kind: str, stack: bool) -> None:
    w = weight(kind, stack=stack)
    said = json.loads(json.dumps(forms.describe(w)))
    again = forms.restore(said, {k: v.copy() for k, v in forms.arrays(w).items()})
    assert type(again) is type(w) and again.shape == w.shape and np.array_equal(again.dense(), w.dense())
    assert said["form"] == kind


@pytest.mark.parametrize(
    "changes, error, words",
    [
        ({"form": "coo"}, ConfigError, "one of the forms"),
        ({"form": None}, ConfigError, "one of the forms"),
        ({"shape": [3, 6, 9]}, ConfigError, "must divide|multiple|came as"),
    ],
)
@pytest.mark.parametrize("kind", ["bsr", "nm", "delta"])
def test_what_does_not_fit(kind: str, changes: dict[str, Any], error: type[Exception], words: str) -> None:
    w = weight(kind, stack=True)
    with pytest.raises(error, match=words):
        forms.restore(forms.describe(w) | changes, forms.arrays(w))


def test_a_csr_of_another_shape() -> None:
    w = weight("csr", stack=True)
    with pytest.raises(ShapeError, match="indptr must have shape"):
        forms.restore(forms.describe(w) | {"shape": [3, 7, 8]}, forms.arrays(w))


@pytest.mark.parametrize("kind", KINDS)
def test_trees(kind: str) -> None:
    w = weight(kind, stack=True)
    p = {"mlp": {"up": w}, "norm": np.ones(2)}
    assert np.array_equal(forms.dense(p)["mlp"]["up"], w.dense()) and forms.dense(p)["norm"] is p["norm"]
    found = forms.masks(p)
    assert (list(found) == ["mlp.up"]) == (kind in SPARSE)
    assert kind not in SPARSE or np.array_equal(found["mlp.up"], w.mask())
    assert storage.forms is forms
