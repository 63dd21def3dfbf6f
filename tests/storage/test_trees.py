"""split and join: a tree with stored weights as a tree of arrays, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pymoe import storage
from pymoe.backend import tree
from pymoe.backend.errors import ShapeError

from .cases import KINDS, weight


def sample() -> dict[str, Any]:
    return {
        "layers": {"0": {"mlp": {"up": weight("csr", stack=True), "down": weight("delta", stack=True)}}},
        "norm": np.ones(3),
    }


def test_there_and_back() -> None:
    p = sample()
    arrays, templates = storage.split(p)
    assert list(tree.flatten(arrays)) == [
        "layers.0.mlp.up.data",
        "layers.0.mlp.down.mean",
        "layers.0.mlp.down.a",
        "layers.0.mlp.down.b",
        "norm",
    ]
    assert set(templates) == {"layers.0.mlp.up", "layers.0.mlp.down"}
    doubled = storage.join(tree.map(lambda a: 2 * a, arrays), templates)
    assert np.array_equal(doubled["layers"]["0"]["mlp"]["up"].dense(), 2 * p["layers"]["0"]["mlp"]["up"].dense())
    assert np.array_equal(doubled["norm"], 2 * p["norm"])
    assert list(tree.flatten(doubled)) == list(tree.flatten(p))
    assert p["layers"]["0"]["mlp"]["up"] is templates["layers.0.mlp.up"], "nothing was copied"


@pytest.mark.parametrize("kind", KINDS)
def test_a_tree_of_one(kind: str) -> None:
    w = weight(kind, stack=False)
    arrays, templates = storage.split({"w": w})
    assert arrays == {"w": w.parts()} and list(templates) == ["w"]
    assert np.array_equal(storage.join(arrays, templates)["w"].dense(), w.dense())


def test_without_weights_nothing_changes() -> None:
    p = {"a": {"b": np.ones(2)}, "c": np.zeros(1)}
    arrays, templates = storage.split(p)
    assert arrays == p and templates == {} and storage.join(arrays, {}) == p


def test_what_does_not_fit() -> None:
    arrays, templates = storage.split({"w": weight("csr", stack=True)})
    with pytest.raises(ShapeError, match=r"no place for the stored weights \['other'\]"):
        storage.join(arrays, templates | {"other": templates["w"]})
    with pytest.raises(ShapeError, match="w must be the parts of a CSR"):
        storage.join({"w": np.ones(3)}, templates)
    with pytest.raises(ShapeError, match="data must have shape"):
        storage.join({"w": {"data": np.ones(3)}}, templates)
    with pytest.raises(ShapeError, match="the parts of a CSR"):
        storage.join({"w": {"values": np.ones(3)}}, templates)
