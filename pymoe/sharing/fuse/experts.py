"""An expert by itself: a dict of its matrices without the axis E, in float64 on the host; and back into a stack.

Fusing is surgery, done once: it reads every array as NumPy's, computes in double precision, and rounds once, into the
dtype, the library and on the device of what came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pymoe.backend import to_numpy
from pymoe.backend.errors import ConfigError, NonFiniteError, ShapeError, check_integer, check_shape
from pymoe.backend.namespace import Array
from pymoe.moe.experts import names
from pymoe.sharing import inputs
from pymoe.sharing.split.copies import placed
from pymoe.storage import Weight

Expert = Mapping[str, Array]


def read(name: str, a: Array) -> np.ndarray:
    """``a`` as a float64 NumPy array; NaN or infinity is a NonFiniteError, integers a DtypeError."""
    inputs.finite(name, a)
    return to_numpy(a).astype(np.float64)


def alike(experts: Sequence[Expert], what: str = "expert") -> None:
    """At least one, all with the same names and shapes, floating point and finite; else the error that names which."""
    if not len(experts):
        raise ConfigError(f"there is nothing to merge: give at least one {what}")
    first = experts[0]
    for i, e in enumerate(experts):
        if e.keys() != first.keys():
            raise ShapeError(
                f"{what} {i} has other parameters than {what} 0: only in one of them {sorted(e.keys() ^ first.keys())}"
            )
        for name, a in e.items():
            check_shape(f"{name} of {what} {i}", a, tuple(first[name].shape))
            inputs.finite(f"{name} of {what} {i}", a)


def gated_of(expert: Expert) -> bool:
    """Is this a GLU (its first matrix is called gate_up_proj)?  ShapeError for what is no feed-forward expert."""
    gated = "gate_up_proj" in expert
    up, down = names(gated)
    if not {up, down} <= expert.keys() <= {up, down, up + "_bias", down + "_bias"}:
        raise ShapeError(
            f"an expert has gate_up_proj or up_proj, down_proj, and perhaps their biases, got {sorted(expert)}"
        )
    return gated


def width(expert: Expert) -> int:
    """F, the number of hidden units; ShapeError unless the matrices of the expert fit each other."""
    up, down = names(gated_of(expert))
    check_shape(down, expert[down], (None, None))
    d, f = (int(n) for n in expert[down].shape)
    rows = f * (1 + (up == "gate_up_proj"))
    check_shape(up, expert[up], (rows, d))
    if up + "_bias" in expert:
        check_shape(up + "_bias", expert[up + "_bias"], (rows,))
    if down + "_bias" in expert:
        check_shape(down + "_bias", expert[down + "_bias"], (d,))
    return f


def unstacked(stack: Mapping[str, Any], what: str = "experts.") -> list[dict[str, np.ndarray]]:
    """The experts of a layer, {name: (G, ...)} -> G dicts of float64 arrays; a ``storage.Weight`` is made dense."""
    full = {name: read(what + name, whole(a)) for name, a in stack.items()}
    count = {len(a) for a in full.values()}
    if len(count) != 1:
        raise ShapeError(f"every array of a stack needs the same number of experts, got {sorted(count)}")
    return [{name: a[e] for name, a in full.items()} for e in range(count.pop())]


def stacked(experts: Sequence[Mapping[str, np.ndarray]], like: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of ``unstacked``, in the dtype and library of ``like``, and in the order of its names."""
    return {name: placed(np.stack([e[name] for e in experts]), model(a)) for name, a in like.items()}


def whole(a: Any) -> Array:
    """The array itself; a ``storage.Weight`` made dense."""
    return a.dense() if isinstance(a, Weight) else a


def model(a: Any) -> Array:
    """An array that has the dtype and the library of ``a``: a ``storage.Weight`` is seen through its parts."""
    return next(iter(a.parts().values())) if isinstance(a, Weight) else a


def numbers(values: Any, n: int, what: str = "weights") -> np.ndarray:
    """(n,) finite float64 numbers: ConfigError for another shape, NonFiniteError for NaN or infinity."""
    w = np.asarray(values, dtype=np.float64)
    if w.shape != (n,):
        raise ConfigError(f"{what} must be {n} numbers, one for each that is merged, got shape {w.shape}")
    if not np.isfinite(w).all():
        raise NonFiniteError(f"{what} must be finite, got {w.tolist()}")
    return w


def shares(weights: Any, n: int, what: str = "weights") -> np.ndarray:
    """(n,) weights of a mean, divided by their sum; ConfigError unless they are n numbers >= 0, not all of them 0.

    >>> shares([1, 3], 2)
    array([0.25, 0.75])
    """
    w = numbers(weights, n, what)
    if (w < 0).any() or not w.any():
        raise ConfigError(f"{what} of a mean must not be negative, and not all 0, got {w.tolist()}")
    scaled = w / w.max()  # the sum of very large or very small weights stays a number
    return np.asarray(scaled / scaled.sum())


def numbered(labels: Any) -> np.ndarray:
    """Groups numbered 0, 1, ... by the lowest id in them.

    >>> numbered([7, 3, 7, 3, 5])
    array([0, 1, 0, 1, 2])
    """
    order: dict[int, int] = {}
    return np.array([order.setdefault(int(g), len(order)) for g in labels], dtype=np.int64)


def n_groups(n: Any, experts: int) -> int:
    """The number of groups that ``experts`` can form, 1 to ``experts``; else ConfigError."""
    count: int = check_integer("n_groups", n)
    if count > experts:
        raise ConfigError(f"{experts} experts can form 1 to {experts} groups, got n_groups={count}")
    return count
