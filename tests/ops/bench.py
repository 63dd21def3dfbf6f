"""What the checks share: an op in both directions, distance relative to the largest entry, the complex step."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from .cases import Case

U64, U32 = 2.0**-53, 2.0**-24
STEP = 1e-200


def frozen(a: Any) -> np.ndarray:
    a = np.asarray(a)
    a.setflags(write=False)
    return a


def names(case: Case, args: tuple[Any, ...]) -> list[str]:
    """The names of ``args`` in the signature of forward."""
    return list(inspect.signature(case.op.forward).parameters)[: len(args)]


def cotangent(y: np.ndarray, seed: int = 1) -> np.ndarray:
    """Random, of the shape and dtype of y, the same numbers in both precisions."""
    return frozen(np.random.default_rng(seed).standard_normal(np.shape(y)).astype(np.float32).astype(y.dtype))


def both(
    case: Case, args: tuple[Any, ...], dy: Any = None, static: dict[str, Any] | None = None
) -> tuple[Any, dict[str, Any], Any]:
    """(y, gradients by the name of the argument, dy); ``static``: the case's settings as another library's arrays."""
    y, cache = case.op.forward(*args, **(case.static if static is None else static))
    dy = cotangent(y) if dy is None else dy
    first, rest = case.op.backward(dy, cache)
    gradients = dict(rest)
    if first is not None:
        gradients[names(case, args)[0]] = first
    return y, gradients, dy


def distance(a: Any, b: Any) -> float:
    """max |a - b| / max |b|; infinite where shapes differ or one is not finite where the other is."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return np.inf
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite]) or not finite.any():
        return 0.0 if np.array_equal(a, b) else np.inf
    gap, size = np.max(np.abs(a[finite] - b[finite])), np.max(np.abs(b[finite]))
    return float(gap / size) if gap else 0.0


def complex_gradient(forward: Callable[..., Any], args: tuple[Any, ...], position: int, dy: Any) -> np.ndarray:
    """d⟨dy, forward(args)⟩ / d args[position], one complex evaluation for each element."""
    x = args[position].astype(complex)
    gradient = np.empty(x.shape)
    for i in np.ndindex(*x.shape):
        moved = x.copy()
        moved[i] += 1j * STEP
        y = forward(*args[:position], frozen(moved), *args[position + 1 :])
        gradient[i] = np.sum(dy * np.imag(y)) / STEP
    return gradient
