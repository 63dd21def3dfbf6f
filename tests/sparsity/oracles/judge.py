"""How an answer of pymoe is held against an oracle's: to rounding for numbers, to the bit for decisions.

Every verdict carries its negative control: the same verdict on an answer that is 0.1 % off, or has one bit flipped,
must be no.
"""

from __future__ import annotations

import numpy as np

TOLERANCE = {"float64": 1e-13, "float32": 64 * 2.0**-24}


def numbers(want) -> np.ndarray:
    """Nested lists of rationals or floats as float64."""
    return np.array(want, dtype=object).astype(np.float64) if not isinstance(want, np.ndarray) else want


def close(got, want, tolerance: float) -> bool:
    got, want = np.asarray(got), np.asarray(want)
    if got.shape != want.shape or not np.all(np.isfinite(got)):
        return False
    scale = np.max(np.abs(want), initial=0.0)
    return bool(np.max(np.abs(got.astype(np.float64) - want), initial=0.0) <= tolerance * scale)


def agree(got, want, dtype: str | None = None) -> None:
    """Equal to rounding of the dtype; and a copy that is 0.1 % off somewhere would have been noticed."""
    got, want = np.asarray(got), numbers(want)
    tolerance = TOLERANCE[dtype or (str(got.dtype) if str(got.dtype) in TOLERANCE else "float64")]
    assert close(got, want, tolerance), f"\ngot  {got}\nwant {want}\noff by {np.max(np.abs(got - want), initial=0)}"
    if want.size and np.any(want):
        worst = np.unravel_index(np.argmax(np.abs(want)), want.shape)
        off = want.astype(np.float64).copy()
        off[worst] *= 1.001
        assert not close(got, off, tolerance)


def same(got, want) -> None:
    """The same decisions; one flipped or shifted entry would have been noticed."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape and got.dtype.kind == want.dtype.kind, (got, want)
    assert np.array_equal(got, want), f"\ngot  {got}\nwant {want}"
    if want.size:
        off = want.copy()
        off.flat[-1] = not off.flat[-1] if want.dtype.kind == "b" else off.flat[-1] + 1
        assert not np.array_equal(got, off)


def locked(*arrays):
    """Read-only: whoever writes into what it was given fails."""
    for a in arrays:
        a.setflags(write=False)
    return arrays if len(arrays) > 1 else arrays[0]
