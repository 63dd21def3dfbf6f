r"""Derivatives by the complex step: ∂f/∂θ = Im f(θ + i h) / h with h = 1e-200.

There is no difference of nearly equal numbers, so nothing cancels, and the truncation error h² f'''/6 ~ 1e-400 is
below the smallest double: the result is as exact as the forward itself.  And no step of 1e-200 can cross a routing
boundary: real parts are those of the real evaluation, which is asserted by comparing all decisions of the two.

Source: Squire & Trapp, *Using complex variables to estimate derivatives of real functions*, SIAM Review 40 (1998).
Cost: one complex forward (about four real ones) for each input element.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pymoe.verify.cotangents import Group
from pymoe.verify.report import Block
from pymoe.verify.subjects import Evaluation, Subject, same_decisions

Flat = dict[str, np.ndarray]
STEP = 1e-200
_WHY = "in the real and in the complex evaluation: a comparison looks at the imaginary part"


def complexified(values: Flat) -> Flat:
    """The values with zero imaginary parts, read-only."""
    return {name: frozen(v.astype(np.complex128)) for name, v in values.items()}


def frozen(a: np.ndarray) -> np.ndarray:
    a.setflags(write=False)
    return a


def along(s: Subject, values: Flat, direction: Flat, at: Evaluation) -> Flat:
    """J v for every output: one complex forward at θ + i h v (``direction`` may leave tensors out)."""
    moved = {
        name: frozen(v + 1j * STEP * direction[name]) if name in direction else frozen(v.astype(np.complex128))
        for name, v in values.items()
    }
    stepped = s.forward(moved)
    same_decisions(s.name, at, stepped, _WHY)
    return {name: y.imag / STEP for name, y in stepped.outputs.items()}


def columns(
    values: Flat, groups: list[Group], partial: Callable[[str, int], Flat]
) -> dict[tuple[str, str], np.ndarray]:
    """(group, input) -> (rows, elements): ``partial(name, i)`` differentiates the outputs in element i."""
    table = {(g.name, name): np.empty((g.n_rows, v.size)) for g in groups for name, v in values.items()}
    for name, v in values.items():
        for i in range(v.size):
            parts = partial(name, i)
            for g in groups:
                table[g.name, name][:, i] = g.contract(parts)
    return table


def reference(s: Subject, values: Flat, groups: list[Group], at: Evaluation) -> dict[tuple[str, str], np.ndarray]:
    """The Jacobian rows of ``groups`` by one complex forward for each input element."""
    base = complexified(values)

    def partial(name: str, i: int) -> Flat:
        moved = base[name].copy()
        moved.reshape(-1)[i] += 1j * STEP
        stepped = s.forward(base | {name: frozen(moved)})
        same_decisions(s.name, at, stepped, _WHY)
        return {key: y.imag / STEP for key, y in stepped.outputs.items()}

    return columns(values, groups, partial)


def analytic(s: Subject, values: Flat, groups: list[Group], at: Evaluation) -> dict[tuple[str, str], np.ndarray]:
    """The same rows by one backward for each."""
    table = {(g.name, name): np.empty((g.n_rows, v.size)) for g in groups for name, v in values.items()}
    for g in groups:
        for r in range(g.n_rows):
            for name, gradient in s.backward(g.cotangents(r, at.outputs), at.cache).items():
                table[g.name, name][r] = gradient.reshape(-1)
    return table


def blocks(
    values: Flat, found: dict[tuple[str, str], np.ndarray], expected: dict[tuple[str, str], np.ndarray]
) -> list[Block]:
    return [
        Block(group, name, values[name].shape, found[group, name], expected[group, name]) for group, name in expected
    ]
