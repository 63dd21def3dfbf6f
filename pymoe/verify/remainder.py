r"""The Taylor test: |L(θ + t v) - L(θ) - t ⟨g, v⟩| must fall as t².

With the right gradient each halving of t divides the remainder by 4, so the rate log₂(r(t) / r(t/2)) goes to 2; with a
wrong one it goes to 1.  Where L is linear in θ there is no second order: then the remainder itself must be rounding,
at most 32 u |L|, with |L| = Σ |ct ⊙ y| (no cancellation in the scale).

A picture for documents more than a detector: an error below the remainder at the smallest step is not seen (the
complex step sees it).  It is independent of complex arithmetic, which is why it is here.
Source: the test of adjoint codes (e.g. Farrell et al., arXiv:1204.5577, section 6).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pymoe.backend.errors import GradientError
from pymoe.verify import frame
from pymoe.verify.complex_step import frozen
from pymoe.verify.report import DecisionError
from pymoe.verify.subjects import Evaluation, Flat, Subject, same_decisions, subject

U = 2.0**-53
LINEAR = 32 * U  # a remainder below this part of |L| is rounding


@dataclass(frozen=True)
class Row:
    """One step: t, the remainder, and the rate from the step before (nan in the first)."""

    t: float
    remainder: float
    rate: float


@dataclass(frozen=True)
class Taylor:
    """``rows`` by direction ("(jointly)" or a tensor); ``rate`` is the smallest last one, ``linear`` who has none."""

    subject: str
    rate: float
    rows: dict[str, list[Row]]
    linear: tuple[str, ...]
    seed: int
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        lines = [f"{self.subject}: Taylor remainders, seed {self.seed}"]
        for name, rows in self.rows.items():
            if name in self.linear:
                lines.append(f"  {name}: linear, largest remainder {max(r.remainder for r in rows):.1e}")
            else:
                lines.append(f"  {name}")
                lines += [f"    t = {r.t:.2e}   remainder {r.remainder:.3e}   rate {r.rate:.3f}" for r in rows]
        return "\n".join(lines)


def taylor(
    target: Any,
    *args: Any,
    seed: int = 0,
    rate: float = 1.95,
    start: float = 1e-2,
    halvings: int = 7,
    losses: list[str] | tuple[str, ...] | None = None,
    **static: Any,
) -> Taylor:
    """Taylor remainders along one random direction, jointly and for each tensor; the last rate must reach ``rate``.

    ``start`` shrinks while a step changes a decision (chosen experts) and grows while the remainder is mere rounding.

    >>> import numpy as np
    >>> from pymoe.ops import swiglu
    >>> taylor(swiglu, np.random.default_rng(0).standard_normal((3, 8))).rate > 1.95
    True
    """
    s = subject(target, *args, losses=losses, **static)
    at, ct, gradients = frame.check(s, seed)
    values = s.values
    rng = np.random.default_rng([seed, 1])
    directions = {name: rng.standard_normal(v.shape) for name, v in values.items()}
    wanted = {name: {name: directions[name]} for name in values}
    if len(values) > 1:
        wanted = {"(jointly)": directions, **wanted}
    rows: dict[str, list[Row]] = {}
    linear = []
    for label, v in wanted.items():
        slope = math.fsum(float(np.sum(gradients[name] * v[name])) for name in v)
        rows[label], flat = _measure(s, at, ct, values, v, slope, start, halvings)
        last, largest = rows[label][-1], max(r.remainder for r in rows[label])
        if flat:
            linear.append(label)
        elif not last.rate >= rate:
            raise GradientError(
                f"{s.name}: the gradient of {label!r} is wrong: the Taylor remainder falls with order {last.rate:.3f} "
                f"at t = {last.t:.2e} (from {largest:.3e} to {last.remainder:.3e}), needed {rate}, "
                f"<g, v> = {slope:.17g}, seed {seed}"
            )
    rates = [r[-1].rate for label, r in rows.items() if label not in linear]
    return Taylor(s.name, min(rates, default=math.inf), rows, tuple(linear), seed)


def _measure(
    s: Subject, at: Evaluation, ct: Flat, values: Flat, v: Flat, slope: float, start: float, halvings: int
) -> tuple[list[Row], bool]:
    """(rows, is it linear to rounding?), from the largest start at which the remainder can be read."""
    scale = math.fsum(float(np.sum(np.abs(ct[o] * y))) for o, y in at.outputs.items())
    t, up = start, True
    while True:
        try:
            r = [_remainder(s, at, ct, values, v, slope, t / 2**i) for i in range(halvings + 1)]
        except DecisionError:
            up = False
            if t < start * 1e-6:
                raise
            t /= 2
            continue
        out_of_rounding = r[-1] > 1e3 * U * scale  # the last rate is then good to about 1e-3
        flat = max(r) <= LINEAR * scale
        if flat or out_of_rounding or not up or t >= 1:
            break
        t *= 4
    while len(r) > 2 and not flat and r[-1] <= 1e3 * U * scale:
        r.pop()  # steps at which only rounding is left
    pairs = zip(r, r[1:], strict=False)
    rates = [math.nan, *(math.log2(a / b) if a > 0 and b > 0 else math.nan for a, b in pairs)]
    return [Row(t / 2**i, x, rates[i]) for i, x in enumerate(r)], flat


def _remainder(s: Subject, at: Evaluation, ct: Flat, values: Flat, v: Flat, slope: float, t: float) -> float:
    moved = s.forward({name: frozen(a + t * v[name]) if name in v else a for name, a in values.items()})
    same_decisions(s.name, at, moved, f"after a step of {t:.1e}: the Taylor test needs inputs away from ties and kinks")
    terms = [(ct[o] * (moved.outputs[o] - y)).reshape(-1) for o, y in at.outputs.items()]
    return abs(math.fsum(np.concatenate(terms)) - t * slope)
