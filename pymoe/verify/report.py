"""What a check returns, what it raises, and the one comparison all of them share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from pymoe.backend.errors import GradientError


class DecisionError(GradientError):
    """Two evaluations that had to take the same decisions (chosen experts, masks, plans) did not."""


@dataclass(frozen=True)
class Report:
    """A check that passed, with what it measured.

    ``error`` is the largest entry of ``errors``; each of these is max|backward - reference| / max|reference| of one
    gradient tensor.  ``zeros`` names the gradients that were zero here (to rounding): nothing is proven about their
    size, so a test that wants them looked at needs another sample.
    """

    subject: str
    mode: str
    error: float
    errors: Mapping[str, float]
    tolerance: float
    seed: int
    n_inputs: int
    n_outputs: int
    zeros: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        width = max([len(name) for name in self.errors] + [8])

        def zero(name: str) -> str:
            return "  (zero)" if name in self.zeros else ""

        lines = [
            f"{self.subject}: {self.mode}, {self.n_inputs} inputs, {self.n_outputs} outputs, seed {self.seed}",
            *(f"  {name:<{width}}  {e:.1e}{zero(name)}" for name, e in self.errors.items()),
            f"  {'largest':<{width}}  {self.error:.1e}  (tolerance {self.tolerance:.0e})",
            *(f"  {note}" for note in self.notes),
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class Block:
    """One gradient tensor of one group of functionals: rows are functionals, columns the tensor's elements."""

    group: str  # "y", "losses.z", "all": which output the rows differentiate
    gradient: str  # which input the columns are
    shape: tuple[int, ...]  # of that input
    analytic: np.ndarray  # (rows, elements)
    reference: np.ndarray  # (rows, elements)


def worst(blocks: list[Block]) -> tuple[dict[str, float], tuple[str, ...]]:
    """(errors by gradient, names of the gradients that are zero), without judging them."""
    largest = max((_max(b.reference) for b in blocks), default=0.0)
    errors: dict[str, float] = {}
    alive: set[str] = set()
    for b in blocks:
        e, zero = _error(b, largest)
        errors[b.gradient] = max(errors.get(b.gradient, 0.0), e)
        if not zero:
            alive.add(b.gradient)
    return errors, tuple(name for name in errors if name not in alive)


def judge(
    blocks: list[Block], tolerance: float, subject: str, method: str, seed: int
) -> tuple[dict[str, float], tuple[str, ...]]:
    """``worst``, and a GradientError for the worst block when it is over ``tolerance``.

    A block is measured against its own largest entry.  Only a block that is nothing but rounding, below 1e-14 of the
    largest entry of all blocks in the reference (a key bias under softmax, a loss at its minimum), is measured against
    that largest entry: its own scale is noise.
    """
    largest = max((_max(b.reference) for b in blocks), default=0.0)
    failing = [(e, b) for b in blocks if not (e := _error(b, largest)[0]) <= tolerance]
    if failing:
        e, b = max(failing, key=lambda pair: pair[0])
        raise GradientError(describe(b, e, tolerance, subject, method, seed))
    return worst(blocks)


def describe(b: Block, e: float, tolerance: float, subject: str, method: str, seed: int) -> str:
    distance = np.where(np.isfinite(b.analytic), np.abs(b.analytic - b.reference), np.inf)
    row, column = np.unravel_index(int(np.argmax(distance)), distance.shape)
    position = [int(i) for i in np.unravel_index(int(column), b.shape)]
    return (
        f"{subject}: the gradient of {b.gradient!r} is wrong: backward says {b.analytic[row, column]:.17g}, {method} "
        f"says {b.reference[row, column]:.17g} at {position} of shape {b.shape} (output {b.group!r}, row {int(row)}); "
        f"error {e:.2e} "
        f"of the tensor's largest entry {_max(b.reference):.3e}, tolerance {tolerance:.0e}, seed {seed}"
    )


def _max(a: np.ndarray) -> float:
    return float(np.max(np.abs(a))) if a.size else 0.0


NOISE = 1e-14  # of the largest reference entry: below it a whole tensor is rounding


def _error(b: Block, largest: float) -> tuple[float, bool]:
    """(relative error, is the block zero to rounding?)"""
    if not b.analytic.size:
        return 0.0, True
    distance = np.abs(b.analytic - b.reference)
    if not np.all(np.isfinite(distance)):
        return float("inf"), False
    top = _max(b.reference)
    zero = top <= NOISE * largest
    scale = largest if zero else top
    gap = float(np.max(distance))
    if scale == 0.0:
        return (0.0 if gap == 0.0 else float("inf")), True
    return gap / scale, zero
