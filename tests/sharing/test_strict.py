"""Splitting, gates, mixing and integration on a library that has the array API standard and nothing more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pymoe.backend import to_numpy, tree
from pymoe.sharing import btx, gates, integrate, split
from pymoe.sharing.split import partition

from .layers import dense, frozen, settings

strict = pytest.importorskip("array_api_strict")
RNG = np.random.default_rng
Z, W, Y = frozen(RNG(0).standard_normal((4, 6, 3))), frozen(RNG(1).random((4, 6))), frozen(RNG(2).integers(0, 3, 6))
MASK = frozen(np.arange(6) < 4)
FF = settings()
GROUPS = partition.random(RNG(0), 12, 4)


def to(a: np.ndarray) -> Any:
    return strict.asarray(a.copy())


def same(expected: Any, got: Any) -> None:
    assert type(got).__module__.startswith("array_api_strict")
    a, b = np.asarray(expected), to_numpy(got)
    assert a.shape == b.shape and a.dtype == b.dtype
    assert np.abs(a - b).max() <= 1e-14 * np.abs(a).max()


ARRAYS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    **{
        f"{f.__name__}-{label}": (f, (Z, w))
        for f in (
            integrate.votes,
            integrate.hard_vote,
            integrate.soft_vote,
            integrate.weighted_average,
            integrate.logit_average,
            integrate.log_mixture,
        )
        for label, w in (("equal", None), ("by_row", W), ("by_model", frozen(W[:, 0].copy())), ("list", [1.0, 2, 3, 4]))
    },
    "responsibilities": (integrate.responsibilities, (Z, W, Y)),
    "cluster_weights": (lambda d: integrate.cluster_weights(d, k=2), (W,)),
    "hidden": (gates.hidden, (Z[0], MASK, Z[1])),
    "cheap_embed": (gates.cheap_embed, (Z[0], Y, MASK)),
    "mean": (lambda *a: btx.mean(a), (Z[0], Z[1], Z[2])),
}
TREES: dict[str, Callable[[Any], Any]] = {
    "upcycle": lambda p: split.upcycle(p, FF, 3, 2, rng=RNG(0)),
    "drop_upcycle": lambda p: split.drop_upcycle(p, FF, 3, 2, ratio=0.5, rng=RNG(0)),
    "granular": lambda p: split.granular(p, FF, pieces=3, copies=2, k=3, rng=RNG(0)),
    "split": lambda p: partition.split(p, GROUPS, True),
    "join": lambda p: partition.join(partition.split(p, GROUPS, True), GROUPS),
    "zero": lambda p: partition.layer(p, FF, GROUPS, 2, router="zero"),
    "centre": lambda p: partition.layer(p, FF, GROUPS, 2),
    "random": lambda p: partition.layer(p, FF, GROUPS, 2, RNG(0), router="random"),
    "shared": lambda p: partition.layer(p, FF, np.arange(2, 12).reshape(5, 2), 2, shared=np.arange(2)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(name: str) -> None:
    f, args = ARRAYS[name]
    same(f(*args), f(*(to(a) if isinstance(a, np.ndarray) else a for a in args)))


@pytest.mark.parametrize("name", TREES)
def test_trees(name: str) -> None:
    p = dense(FF, 0)
    expected, got = TREES[name](p), TREES[name]({n: to(a) for n, a in p.items()})
    if isinstance(expected, tuple):
        assert expected[1] == got[1]
        expected, got = expected[0], got[0]
    expected, got = tree.flatten(expected), tree.flatten(got)
    assert expected.keys() == got.keys()
    for leaf in expected:
        same(expected[leaf], got[leaf])
