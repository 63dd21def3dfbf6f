r"""The gradient check for a model of a million parameters: ⟨∇L, v⟩ against one complex forward, a few directions.

L(θ) = ⟨ct, f(θ)⟩ for one random cotangent; along a random direction v::

    backward says  ⟨g, v⟩           the complex step says  ⟨ct, Im f(θ + i h v)⟩ / h

for all tensors jointly and for each alone (v zero elsewhere), ``directions`` times.

**Its scale.**  For v with independent standard normal entries ⟨g, v⟩ is a number of size ‖g‖ (its variance is ‖g‖²),
which is ‖g‖ ‖v‖ / √n, the form used here: measured errors are a few u of it, the tolerance of 1e-13 leaves a
hundredfold head-room.  Neither |⟨g, v⟩| itself (it may be near 0 by chance: flaky) nor ‖g‖ ‖v‖ (√n too lax) would do.

**What it can see.**  An error δ of the gradient shifts ⟨g, v⟩ by ⟨δ, v⟩ ~ ‖δ‖.  So it is seen when ‖δ‖ > 1e-13 ‖g‖ of
its tensor, unless v happens to be orthogonal to δ: probability about 1e-13 ‖g‖ / ‖δ‖ a direction, to the 5th power
for five.  0.1 % in one row among 2,560 equal rows has ‖δ‖ = 2e-5 ‖g‖: seen, with eight digits to spare.

**What it cannot see.**  An error below 1e-13 of its tensor's *norm*, be it all of a tiny entry: an entry 1e-14 of the
norm may be wrong altogether.  The full Jacobian on a small instance of the same code has no such blind spot; do both.
When it fails, bisection finds the worst element in 2 log₂ n more forwards.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pymoe.backend.errors import GradientError
from pymoe.verify import complex_step, frame
from pymoe.verify.report import NOISE, Report
from pymoe.verify.subjects import Evaluation, Subject, subject

Flat = dict[str, np.ndarray]


def directional(
    target: Any,
    *args: Any,
    seed: int = 0,
    tolerance: float = 1e-13,
    directions: int = 5,
    losses: list[str] | tuple[str, ...] | None = None,
    **static: Any,
) -> Report:
    """Check ⟨∇L, v⟩ in random directions, jointly and tensor by tensor; see the module for what this can see.

    >>> import numpy as np
    >>> from pymoe.ops import swiglu
    >>> directional(swiglu, np.random.default_rng(0).standard_normal((300, 64))).error < 1e-13
    True
    """
    s = subject(target, *args, losses=losses, **static)
    at, ct, gradients = frame.check(s, seed)
    return compare(s, at, ct, gradients, seed, tolerance, directions)


def compare(
    s: Subject,
    at: Evaluation,
    ct: Flat,
    gradients: Flat,
    seed: int,
    tolerance: float,
    directions: int,
    known: dict[tuple[str, int], float] | None = None,
) -> Report:
    """The comparison itself; ``known`` keeps the complex-step numbers for another gradient of the same forward."""
    known = {} if known is None else known
    values = s.values
    n = sum(v.size for v in values.values())
    whole = _norm(list(gradients.values()))
    if not math.isfinite(whole):
        bad = [name for name, g in gradients.items() if not np.all(np.isfinite(g))]
        raise GradientError(f"{s.name}: backward gives NaN or infinity in the gradients of {bad}, seed {seed}")
    together = [list(values)] if len(values) > 1 else []
    errors: dict[str, float] = {}
    zeros = []
    for names in [*together, *([name] for name in values)]:
        label = names[0] if len(names) == 1 else "(jointly)"
        size = sum(values[name].size for name in names)
        if not size:
            continue
        norm = _norm([gradients[name] for name in names])
        for k in range(directions):
            v = _direction(values, names, seed, k)
            length = _norm(list(v.values()))
            if (label, k) not in known:
                known[label, k] = _inner(ct, complex_step.along(s, values, v, at))
            forward, backward = known[label, k], _inner(gradients, v)
            zero = max(norm, abs(forward)) <= NOISE * whole  # nothing but rounding: its own scale is noise
            scale = (whole if zero else max(norm, abs(forward) if norm == 0 else 0.0)) * length / math.sqrt(size)
            e = abs(backward - forward) / scale if scale else abs(backward - forward)
            errors[label] = max(errors.get(label, 0.0), e)
            if zero and label not in zeros:
                zeros.append(label)
            if not e <= tolerance:
                where = _locate(s, values, gradients, ct, v, at)
                raise GradientError(
                    f"{s.name}: the gradient of {where} is wrong: along direction {k} of {label!r} "
                    f"backward says {backward:.17g}, complex step says {forward:.17g}; error {e:.2e} of "
                    f"|g||v|/sqrt(n), tolerance {tolerance:.0e}, seed {seed}"
                )
    n_out = sum(y.size for y in at.outputs.values())
    return Report(
        s.name,
        "directional",
        max(errors.values(), default=0.0),
        errors,
        tolerance,
        seed,
        n,
        n_out,
        tuple(zeros),
        (f"{directions} directions for each line",),
    )


def _direction(values: Flat, names: list[str], seed: int, k: int) -> Flat:
    rng = np.random.default_rng([seed, k, 1 if len(names) > 1 else 2 + list(values).index(names[0])])
    return {name: rng.standard_normal(values[name].shape) for name in names}


def _norm(parts: list[np.ndarray]) -> float:
    return math.sqrt(math.fsum(float(np.sum(p * p)) for p in parts))


def _inner(a: Flat, b: Flat) -> float:
    return math.fsum(float(np.sum(a[name] * b[name])) for name in b)


def _locate(s: Subject, values: Flat, gradients: Flat, ct: Flat, v: Flat, at: Evaluation) -> str:
    """Bisect: keep the half of the direction along which the two disagree more, down to one element."""

    def gap(name: str, lo: int, hi: int) -> tuple[float, float, float]:
        part = np.zeros(values[name].size)
        part[lo:hi] = v[name].reshape(-1)[lo:hi]
        d = {name: part.reshape(values[name].shape)}
        forward, backward = _inner(ct, complex_step.along(s, values, d, at)), _inner(gradients, d)
        return abs(backward - forward), backward, forward

    name = max(v, key=lambda key: gap(key, 0, values[key].size)[0])
    lo, hi = 0, values[name].size
    while hi - lo > 1:
        middle = (lo + hi) // 2
        lo, hi = (lo, middle) if gap(name, lo, middle)[0] >= gap(name, middle, hi)[0] else (middle, hi)
    _, backward, forward = gap(name, lo, hi)
    unit = v[name].reshape(-1)[lo]
    position = [int(i) for i in np.unravel_index(lo, values[name].shape)]
    there = f"{name!r} at {position} of shape {values[name].shape}"
    return f"{there} (there {backward / unit:.17g} for {forward / unit:.17g})"
