"""Small experts, what they say token by token in plain Python, and the comparisons of these tests."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import settings

D, F, T = 5, 6, 23
PROPERTY = settings(derandomize=True, database=None, max_examples=25, deadline=None)
FORMS = [(True, False), (False, False), (True, True), (False, True)]  # gated, bias


def expert(seed: int, gated: bool = True, bias: bool = False, *, integer: bool = False, f: int = F) -> dict[str, Any]:
    """Read-only, normal or small integers."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        a = rng.integers(-4, 5, shape).astype(float) if integer else rng.standard_normal(shape)
        a.setflags(write=False)
        return a

    up, rows = ("gate_up_proj", 2 * f) if gated else ("up_proj", f)
    made = {up: draw(rows, D), "down_proj": draw(D, f)}
    return made | {f"{up}_bias": draw(rows), "down_proj_bias": draw(D)} if bias else made


def tokens(seed: int = 9, t: int = T) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((t, D))
    x.setflags(write=False)
    return x


def hidden(e: dict[str, Any], x: np.ndarray, act: str = "silu") -> np.ndarray:
    """(T, F), one number at a time."""
    gated = "gate_up_proj" in e
    up = "gate_up_proj" if gated else "up_proj"
    f = e["down_proj"].shape[1]
    made = np.zeros((len(x), f))
    for t, token in enumerate(x):
        a = [math.fsum(float(w) * float(v) for w, v in zip(row, token, strict=True)) for row in e[up]]
        if f"{up}_bias" in e:
            a = [u + float(b) for u, b in zip(a, e[f"{up}_bias"], strict=True)]
        for i in range(f):
            v = a[i] / (1 + math.exp(-a[i])) if act == "silu" else max(a[i], 0.0)
            made[t, i] = v * a[f + i] if gated else v
    return made


def output(e: dict[str, Any], x: np.ndarray, act: str = "silu") -> np.ndarray:
    y = [
        [math.fsum(float(w) * float(v) for w, v in zip(row, h, strict=True)) for row in e["down_proj"]]
        for h in hidden(e, x, act)
    ]
    return np.array(y) + e.get("down_proj_bias", 0.0)


def off(got: Any, want: Any) -> float:
    """The largest difference over the largest entry of what is wanted."""
    return float(np.abs(np.asarray(got) - want).max() / np.abs(want).max())


def agree(got: Any, want: Any, tolerance: float = 1e-13) -> None:
    """Equal to rounding; and 0.1 % away it would not be."""
    assert np.asarray(got).shape == np.asarray(want).shape
    assert off(got, want) <= tolerance
    assert off(np.asarray(got) * 1.001, want) > tolerance  # negative control


def identical(got: dict[str, Any], want: dict[str, Any]) -> bool:
    return got.keys() == want.keys() and all(np.array_equal(got[n], a) for n, a in want.items())
