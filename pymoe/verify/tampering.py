"""Negative controls: a check that has never failed has proven nothing, so break the backward and watch it fail.

Each fault touches one gradient tensor: its largest entry times 1.001, its sign, its size (zero), two of its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from pymoe.backend.errors import GradientError
from pymoe.verify import frame
from pymoe.verify.subjects import Flat, Subject, subject


@dataclass(frozen=True)
class Controls:
    """How many planted faults a check caught."""

    caught: int
    of: int
    size: float

    def __str__(self) -> str:
        kinds = f"one entry by {self.size:.1%}, sign, zero, rows swapped"
        return f"{self.caught} of {self.of} planted faults caught ({kinds})"


def faults(gradients: Flat, size: float = 1e-3) -> Iterator[tuple[str, Callable[[Flat], Flat]]]:
    """(description, what to do to the gradients) for every fault that changes something in this sample."""
    largest = max((float(np.max(np.abs(g))) for g in gradients.values() if g.size), default=0.0)
    for name, g in gradients.items():
        if not g.size:
            continue
        at = int(np.argmax(np.abs(g)))
        live = bool(np.max(np.abs(g)) > 1e-12 * largest)  # below: zero to rounding, only an addition is a fault
        if live:
            yield f"one entry of {name!r} by {size:.1%}", _on(name, partial(_scaled, i=at, factor=1 + size))
            yield f"sign of {name!r}", _on(name, np.negative)
            yield f"zero for {name!r}", _on(name, np.zeros_like)
        else:
            yield f"something in the zero {name!r}", _on(name, partial(_added, i=at, amount=size * (largest or 1.0)))
        if live and g.ndim and g.shape[0] > 1:
            j = _other_row(g)
            if j:
                yield f"rows 0 and {j} of {name!r} swapped", _on(name, partial(_swapped, j=j))


def controls(
    check: Callable[..., Any], target: Any, *args: Any, size: float = 1e-3, seed: int = 0, **keywords: Any
) -> Controls:
    """Run ``check`` on every broken version of ``target``; GradientError if it lets one of them pass.

    ``check`` is any of this package: ``gradcheck``, ``directional``, ``taylor``, ...; it must pass on the unbroken one.

    >>> import numpy as np
    >>> from pymoe import verify
    >>> from pymoe.ops import swiglu
    >>> print(controls(verify.gradcheck, swiglu, np.array([[0.3, -1.0, 2.0, 0.7], [1.3, 0.4, -0.6, 1.1]])))
    4 of 4 planted faults caught (one entry by 0.1%, sign, zero, rows swapped)
    """
    own = {k: keywords.pop(k) for k in ("tolerance", "mode", "directions", "start") if k in keywords}
    s = subject(target, *args, **keywords)
    check(s, seed=seed, **own)
    return run(s, lambda broken: check(broken, seed=seed, **own), size, seed)


def run(s: Subject, check: Callable[[Subject], Any], size: float = 1e-3, seed: int = 0) -> Controls:
    _, _, gradients = frame.check(s, seed)
    missed, n = [], 0
    for what, break_ in faults(gradients, size):
        n += 1
        try:
            check(replace(s, tamper=break_))
        except GradientError:
            continue
        missed.append(what)
    if missed:
        raise GradientError(f"{s.name}: the check passes although the gradient was broken on purpose: {missed}")
    return Controls(n, n, size)


def _on(name: str, f: Callable[[np.ndarray], np.ndarray]) -> Callable[[Flat], Flat]:
    return lambda gradients: gradients | {name: f(gradients[name])}


def _scaled(a: np.ndarray, i: int, factor: float) -> np.ndarray:
    b: np.ndarray = np.array(a)
    b.reshape(-1)[i] *= factor
    return b


def _added(a: np.ndarray, i: int, amount: float) -> np.ndarray:
    b: np.ndarray = np.array(a)
    b.reshape(-1)[i] += amount
    return b


def _other_row(g: np.ndarray) -> int:
    """The row that differs most from row 0, 0 if all are equal."""
    rows = g.reshape(g.shape[0], -1)
    distance = np.max(np.abs(rows - rows[0]), axis=1)
    return int(np.argmax(distance)) if np.max(distance) > 1e-3 * np.max(np.abs(rows)) else 0


def _swapped(a: np.ndarray, j: int) -> np.ndarray:
    b: np.ndarray = np.array(a)
    b[0], b[j] = a[j], a[0]
    return b
