"""The sparsity at a step of training: all at once, or along a cubic."""

from __future__ import annotations

from pymoe.backend.errors import ConfigError, check_share


def one_shot(step: int, *, at: int, final: float, start: float = 0.0) -> float:
    """``start`` before step ``at``, ``final`` from then on: prune once, and train what is left.

    >>> [one_shot(step, at=3, final=0.5) for step in (2, 3, 4)]
    [0.0, 0.5, 0.5]
    """
    _ordered(start, final)
    return float(final if step >= at else start)


def cubic(step: int, *, begin: int, end: int, start: float = 0.0, final: float) -> float:
    """s_t = s_f + (s_i - s_f) (1 - (t - begin) / (end - begin))³, s_i = start, s_f = final; constant outside.

    Fast at first, while there is much that nothing depends on, and slower towards the end.  Exactly ``start`` up to
    step ``begin``, exactly ``final`` from step ``end``.  Masks of a schedule are nested if the score is
    (``masks.by_score``).  ConfigError for a share outside [0, 1], start > final or begin > end.

    Source: Zhu & Gupta, arXiv:1710.01878, eq. 1 (there t moves in strides Δt: call it at those steps).

    >>> [cubic(step, begin=0, end=4, final=0.5) for step in range(6)]
    [0.0, 0.2890625, 0.4375, 0.4921875, 0.5, 0.5]
    """
    _ordered(start, final)
    if begin > end:
        raise ConfigError(f"a schedule must not end before it begins: got begin={begin}, end={end}")
    if step >= end:
        return float(final)
    if step <= begin:
        return float(start)
    left = 1 - (step - begin) / (end - begin)
    return float(final + (start - final) * left**3)


def _ordered(start: float, final: float) -> None:
    if check_share("start", start) > check_share("final", final):
        raise ConfigError(f"start must not exceed final, what is pruned does not come back: got {start} and {final}")
