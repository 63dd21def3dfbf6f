"""The adjoint test of a linear map: ⟨A x, y⟩ = ⟨x, Aᵀ y⟩, with equality and not a tolerance, on small integers.

Integers of magnitude <= m whose sums stay below 2^53 (2^24 in float32) are exact in floating point, in any order and
with any number of threads: dispatch, combine, gather, permutation, padding and matrix products can be held to this.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pymoe.backend.errors import ConfigError, GradientError
from pymoe.verify import walk
from pymoe.verify.report import Report
from pymoe.verify.subjects import Flat, Subject, subject


def adjoint(target: Any, *args: Any, seed: int = 0, of: str | None = None, magnitude: int = 8, **static: Any) -> Report:
    """Check that backward is the transpose of a forward linear in ``of`` (the first float argument unless named).

    The tensor is replaced by random integers in [-magnitude, magnitude] of its shape, and so is every other float
    argument (they are constants of the map).  Also demanded, exactly: A(x₁ + x₂) = A x₁ + A x₂ and A 0 = 0.

    >>> import numpy as np
    >>> from pymoe.ops import linear
    >>> adjoint(linear, np.ones((7, 5)), np.ones((3, 5))).error
    0.0
    """
    s = subject(target, *args, **static)
    rng = np.random.default_rng(seed)
    drawn = {name: _integers(rng, v.shape, magnitude) for name, v in s.values.items()}
    name = next(iter(drawn)) if of is None else of
    if name not in drawn:
        raise ConfigError(f"of must be one of {sorted(drawn)}, got {of!r}")
    first, second = _integers(rng, drawn[name].shape, magnitude), _integers(rng, drawn[name].shape, magnitude)
    at = s.forward(drawn | {name: first})
    _linear(s, drawn, name, first, second, at.outputs)
    walk.freeze(at.cache)
    ct = {o: _integers(rng, y.shape, magnitude) for o, y in at.outputs.items()}
    dx = s.backward(ct, at.cache)[name]
    left = sum(_dot(y, ct[o]) for o, y in at.outputs.items())
    right = _dot(first, dx)
    if left != right or not _whole(dx):
        raise GradientError(
            f"{s.name}: backward is not the transpose of forward in {name!r}: <A x, y> = {left}, <x, A^T y> = {right}, "
            f"shape {first.shape}, seed {seed} (integers: these must be equal)"
        )
    n_out = sum(y.size for y in at.outputs.values())
    return Report(
        s.name, "adjoint", 0.0, {name: 0.0}, 0.0, seed, first.size, n_out, notes=(f"<A x, y> = {left} exactly",)
    )


def _linear(s: Subject, drawn: Flat, name: str, a: np.ndarray, b: np.ndarray, ya: Flat) -> None:
    s = replace(s, tamper=None)
    yb, yab = s.forward(drawn | {name: b}).outputs, s.forward(drawn | {name: _frozen(a + b)}).outputs
    zero = s.forward(drawn | {name: _frozen(np.zeros_like(a))}).outputs
    for o in ya:
        if not np.array_equal(yab[o], ya[o] + yb[o]) or np.any(zero[o]):
            raise GradientError(f"{s.name}: output {o!r} is not linear in {name!r}: A(a + b) != A a + A b, or A 0 != 0")


def _integers(rng: np.random.Generator, shape: tuple[int, ...], m: int) -> np.ndarray:
    return _frozen(rng.integers(-m, m, size=shape, endpoint=True).astype(np.float64))


def _frozen(a: np.ndarray) -> np.ndarray:
    a.setflags(write=False)
    return a


def _whole(a: np.ndarray) -> bool:
    return bool(np.all(np.isfinite(a)) and np.all(a == np.rint(a)))


def _dot(a: np.ndarray, b: np.ndarray) -> int | float:
    """⟨a, b⟩ in Python integers."""
    if not (_whole(a) and _whole(b)):
        return float("nan")
    return sum(int(p) * int(q) for p, q in zip(a.reshape(-1), b.reshape(-1), strict=True))
