"""Parameter trees: nested dicts whose leaves are arrays.  A layer's p and dp are two trees of equal keys.

>>> import numpy as np
>>> p = {"router": {"weight": np.ones((4, 5))}, "down_proj": np.ones(3)}
>>> sorted(flatten(p))
['down_proj', 'router.weight']
>>> map(lambda a, b: a + b, p, p)["down_proj"]
array([2., 2., 2.])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pymoe.backend.errors import ShapeError

Tree = Mapping[str, Any]


def flatten(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": x}} -> {"a.b": x}, in the order of the tree.  Keys must not contain a dot."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of ``flatten``."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, leaf = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def map(f: Callable[..., Any], tree: Tree, *others: Tree) -> dict[str, Any]:  # noqa: A001 - tree.map reads best
    """A new tree of f(leaf, leaf of others...); trees of other keys are a ShapeError that names the keys."""
    for other in others:
        if tree.keys() != other.keys():
            alone = sorted(tree.keys() ^ other.keys())
            raise ShapeError(f"two trees must have the same keys; only in one of them: {alone}")
    mapped: dict[str, Any] = {}
    for key, value in tree.items():
        parts = [other[key] for other in others]
        mapped[key] = map(f, value, *parts) if isinstance(value, Mapping) else f(value, *parts)
    return mapped


def add(*trees: Tree) -> dict[str, Any]:
    """The written sum of gradient trees (fan-in); allocates, never writes into its arguments."""
    first, *rest = trees
    return map(lambda *leaves: sum(leaves[1:], leaves[0]), first, *rest)


def size(tree: Tree) -> int:
    """The number of elements of all leaves."""
    return sum(int(leaf.size) for leaf in flatten(tree).values())
