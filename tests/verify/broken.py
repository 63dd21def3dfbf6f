"""Small functions with a right backward, and ways to make it, or the forward, wrong."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

RNG = np.random.default_rng(5)


def frozen(a: np.ndarray) -> np.ndarray:
    a.setflags(write=False)
    return a


X = frozen(RNG.standard_normal((7, 5)))
W = frozen(RNG.standard_normal((3, 5)))
B = frozen(RNG.standard_normal(3))


class Op:
    """y = tanh(x wᵀ + b); replace any part of it by keyword."""

    __name__ = "tanh_linear"

    def __init__(self, **replaced: Callable[..., Any]) -> None:
        for name, f in replaced.items():
            setattr(self, name, f)

    def forward(self, x: Any, w: Any, b: Any) -> Any:
        y = np.tanh(x @ w.T + b)
        return y, (x, w, y)

    def backward(self, dy: Any, cache: Any) -> Any:
        x, w, y = cache
        dz = dy * (1 - y * y)
        return dz @ w, {"w": dz.T @ x, "b": np.sum(dz, axis=0)}


OP = Op()


def backward_with(change: Callable[[Any, dict[str, Any], Any], Any]) -> Op:
    """OP whose backward returns change(dx, gradients, cache)."""

    def backward(dy: Any, cache: Any) -> Any:
        dx, g = OP.backward(dy, cache)
        return change(dx, g, cache)

    return Op(backward=backward)


def one_entry(name: str, position: tuple[int, ...], factor: float) -> Op:
    def change(dx: Any, g: dict[str, Any], cache: Any) -> Any:
        a = (dx if name == "x" else g[name]).copy()
        a[position] *= factor
        return (a, g) if name == "x" else (dx, {**g, name: a})

    return backward_with(change)


class Out(NamedTuple):
    y: np.ndarray
    losses: dict[str, Any]
    routing: Any


class Layer:
    """A layer with a tree, integer ids chosen on the way, and two losses: y = x aᵀ max-gated, losses of the logits."""

    __name__ = "gate"

    def forward(self, x: Any, p: Any, cfg: Any, mask: Any = None) -> Any:
        z = x @ p["router"]["weight"].T
        idx = np.argmax(z.real, axis=1)
        g = np.take_along_axis(z, idx[:, None], axis=1)
        y = g * (x @ p["value"].T) * cfg
        losses = {"z": np.sum(z * z) / len(x), "mean": np.mean(y)}
        return Out(y, losses, SimpleNamespace(idx=idx)), (x, p, z, idx, g, cfg)

    def backward(self, dy: Any, cache: Any, dlosses: Any = None) -> Any:
        x, p, z, idx, g, cfg = cache
        dlosses = dlosses or {}
        dy = dy + dlosses.get("mean", 0.0) / dy.size
        dv = dy * g * cfg
        dg = np.sum(dy * (x @ p["value"].T), axis=1) * cfg
        dz = 2 * z / len(x) * dlosses.get("z", 0.0)
        dz[np.arange(len(x)), idx] += dg
        dx = dz @ p["router"]["weight"] + dv @ p["value"]
        return dx, {"router": {"weight": dz.T @ x}, "value": dv.T @ x}


P = {"router": {"weight": frozen(RNG.standard_normal((4, 5)))}, "value": frozen(RNG.standard_normal((6, 5)))}
