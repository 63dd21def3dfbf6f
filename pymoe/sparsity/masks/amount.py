"""How many entries a sparsity means: one rounding rule for every mask.

n = ⌊s N⌋, with s read as the decimal number it prints as.  Why not ``int(s * N)``: 0.29 · 100 is 28.999999999999996 in
doubles, and the caller who wrote 0.29 means 29.

Other rules in use: ``torch.nn.utils.prune`` takes round(s N), halves to even; locuslab/wanda prunes everything up to
and including the value at place int(s N) of the sorted magnitudes, that is ⌊s N⌋ + 1 entries and every tie.
"""

from __future__ import annotations

from fractions import Fraction

from pymoe.backend.errors import ConfigError, check_share


def count(s: float, size: int) -> int:
    """⌊s · size⌋ exactly, s in [0, 1] read as the shortest decimal that prints it; else ConfigError.

    A float32 prints as what it is in double precision: give 0.29, not np.float32(0.29) (28 of 100).

    >>> count(0.29, 100), count(1.0, 7), count(0.5, 7), count(0.0, 7)
    (29, 7, 3, 0)
    """
    share = Fraction(repr(check_share("sparsity", s)))
    if size < 0:
        raise ConfigError(f"size, the number of entries, must not be negative, got {size}")
    return int(share * int(size))
