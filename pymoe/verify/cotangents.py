"""Which linear functionals of the outputs a check differentiates: rows of cotangents, grouped by what they look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Flat = dict[str, np.ndarray]


@dataclass(frozen=True)
class Group:
    """Rows of cotangents: ``rows[output]`` is (n_rows, elements of that output), ``None`` for outputs not looked at."""

    name: str
    n_rows: int
    rows: dict[str, np.ndarray]

    def cotangents(self, r: int, outputs: Flat) -> Flat:
        """Row r as an array for each output, zero where the group does not look, read-only."""
        given: Flat = {}
        for name, y in outputs.items():
            ct = self.rows[name][r].reshape(y.shape).astype(y.dtype) if name in self.rows else np.zeros_like(y)
            ct = np.asarray(ct)
            ct.setflags(write=False)
            given[name] = ct
        return given

    def contract(self, parts: Flat) -> np.ndarray:
        """Σ_o rows[o] · parts[o]: the functionals of one column of the Jacobian."""
        total = np.zeros(self.n_rows)
        for name, rows in self.rows.items():
            total = total + rows @ parts[name].reshape(-1)
        return total


def basis(outputs: Flat) -> list[Group]:
    """Every element of every output alone: the full Jacobian."""
    return [Group(name, y.size, {name: np.eye(y.size)}) for name, y in outputs.items()]


def random(rng: np.random.Generator, outputs: Flat, joint: int = 3) -> list[Group]:
    """``joint`` random cotangents on everything together, and one on each output alone when there are several."""
    groups = [Group("all", joint, {name: rng.standard_normal((joint, y.size)) for name, y in outputs.items()})]
    if len(outputs) > 1:
        groups += [Group(name, 1, {name: rng.standard_normal((1, y.size))}) for name, y in outputs.items()]
    return groups


def one(rng: np.random.Generator, outputs: Flat) -> Flat:
    """One random cotangent for each output, read-only."""
    return Group("all", 1, {name: rng.standard_normal((1, y.size)) for name, y in outputs.items()}).cotangents(
        0, outputs
    )
