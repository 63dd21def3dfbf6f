"""Linear algebra in exact rationals: small, slow, and without a rounding error to argue about."""

from __future__ import annotations

from fractions import Fraction

Matrix = list[list[Fraction]]


def exact(a) -> Matrix:
    """A 2-D array as rationals; a float is the rational that it is."""
    return [[Fraction(v) for v in row] for row in a.tolist()]


def solve(a: Matrix, b: Matrix) -> Matrix:
    """a⁻¹ b by elimination with the first non-zero pivot."""
    n = len(a)
    work = [list(a[i]) + list(b[i]) for i in range(n)]
    for c in range(n):
        pivot = next(r for r in range(c, n) if work[r][c] != 0)
        work[c], work[pivot] = work[pivot], work[c]
        head = work[c][c]
        work[c] = [v / head for v in work[c]]
        for r in range(n):
            if r != c and work[r][c] != 0:
                factor = work[r][c]
                work[r] = [v - factor * u for v, u in zip(work[r], work[c], strict=True)]
    return [row[n:] for row in work]


def inverse(a: Matrix) -> Matrix:
    n = len(a)
    return solve(a, [[Fraction(int(i == j)) for j in range(n)] for i in range(n)])


def part(a: Matrix, rows, columns) -> Matrix:
    return [[a[i][j] for j in columns] for i in rows]


def quadratic(h: Matrix, v: list[Fraction]) -> Fraction:
    """v h vᵀ."""
    n = range(len(v))
    return sum((v[i] * h[i][j] * v[j] for i in n for j in n), Fraction(0))
