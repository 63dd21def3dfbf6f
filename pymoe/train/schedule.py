"""Learning rates as pure functions of the step (counted from 0)."""

from __future__ import annotations

import math

from pymoe.backend.errors import ConfigError


def constant(step: int, *, lr: float) -> float:
    """lr."""
    return lr


def warmup_cosine(step: int, *, lr: float, floor: float, warmup: int, steps: int) -> float:
    """Linear warm-up to ``lr``, then half a cosine down to ``floor``, then ``floor``::

        lr (s + 1) / warmup                                              s < warmup
        floor + (lr - floor) (1 + cos(π (s - warmup) / (steps - warmup))) / 2   warmup <= s < steps
        floor                                                            s >= steps

    Source: Loshchilov and Hutter, arXiv:1608.03983, eq. 5, without restarts.

    >>> [round(warmup_cosine(s, lr=1.0, floor=0.1, warmup=2, steps=6), 3) for s in (0, 1, 2, 4, 6, 9)]
    [0.5, 1.0, 1.0, 0.55, 0.1, 0.1]
    """
    if not (0 <= warmup < max(steps, 1) and 0 <= floor <= lr):
        raise ConfigError(f"need 0 <= warmup < steps and 0 <= floor <= lr, got {warmup}, {steps}, {floor}, {lr}")
    if step < warmup:
        return lr * (step + 1) / warmup
    if step >= steps:
        return floor
    return floor + (lr - floor) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
