r"""Finite differences of fourth order: a judge that does not rely on complex arithmetic.

f'(x) ≈ (8 (f(x+h) - f(x-h)) - (f(x+2h) - f(x-2h))) / (12 h), truncation h⁴ f⁽⁵⁾ / 30.  In 80-bit long double with
h = 1e-4 it is good to about 1e-14; in float64 with h = 1e-3 to about 1e-12.  The complex step assumes that forward is
analytic along its path; this does not, so the two together leave no common assumption.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pymoe.backend.errors import ConfigError
from pymoe.verify import complex_step, cotangents, frame
from pymoe.verify.report import Report, judge
from pymoe.verify.subjects import Evaluation, Flat, Subject, same_decisions, subject

EXTENDED = bool(np.finfo(np.longdouble).eps < 2e-19)  # 80-bit: x86 Linux


def differences(
    target: Any,
    *args: Any,
    seed: int = 0,
    tolerance: float | None = None,
    step: float | None = None,
    precision: str = "auto",
    losses: list[str] | tuple[str, ...] | None = None,
    **static: Any,
) -> Report:
    """Check every gradient vector against four-point differences of the forward, for random cotangents.

    precision: "longdouble" (tolerance 1e-12, step 1e-4), "float64" (1e-10, 1e-3), or "auto": long double where it has
    80 bits and the forward runs in it (SciPy's erf does not), else float64.  The inputs must be 2 steps away from every
    tie and kink; a decision that changes on the way is a DecisionError.

    >>> import numpy as np
    >>> from pymoe.ops import swiglu
    >>> differences(swiglu, np.random.default_rng(0).standard_normal((3, 8)), precision="float64").error < 1e-10
    True
    """
    if precision not in ("auto", "longdouble", "float64"):
        raise ConfigError(f"precision must be 'auto', 'longdouble' or 'float64', got {precision!r}")
    s = subject(target, *args, losses=losses, **static)
    at, _, _ = frame.check(s, seed)
    values = s.values
    groups = cotangents.random(np.random.default_rng(seed), at.outputs)
    extended = precision != "float64" and EXTENDED
    if extended:
        try:
            expected = _reference(s, values, groups, at, np.longdouble, step or 1e-4)
        except TypeError:
            if precision == "longdouble":
                raise
            extended = False
    elif precision == "longdouble":
        raise ConfigError("numpy.longdouble is not an 80-bit type on this machine: use precision='float64'")
    if not extended:
        expected = _reference(s, values, groups, at, np.float64, step or 1e-3)
    found = complex_step.analytic(s, values, groups, at)
    limit = tolerance if tolerance is not None else 1e-12 if extended else 1e-10
    method = f"four-point difference ({'longdouble' if extended else 'float64'})"
    errors, zeros = judge(complex_step.blocks(values, found, expected), limit, s.name, method, seed)
    n_in, n_out = sum(v.size for v in values.values()), sum(y.size for y in at.outputs.values())
    return Report(s.name, method, max(errors.values(), default=0.0), errors, limit, seed, n_in, n_out, zeros)


def _reference(
    s: Subject, values: Flat, groups: list[cotangents.Group], at: Evaluation, dtype: Any, h: float
) -> dict[tuple[str, str], np.ndarray]:
    wide = {name: complex_step.frozen(v.astype(dtype)) for name, v in values.items()}
    width = dtype(h)

    def outputs(name: str, i: int, by: Any) -> Flat:
        moved = wide[name].copy()
        moved.reshape(-1)[i] += by
        here = s.forward(wide | {name: complex_step.frozen(moved)})
        same_decisions(
            s.name, at, here, f"after a step of {float(by):.1e}: differences need inputs away from ties and kinks"
        )
        return here.outputs

    def partial(name: str, i: int) -> Flat:
        a, b, c, d = (outputs(name, i, k * width) for k in (1, -1, 2, -2))
        return {o: ((8 * (a[o] - b[o]) - (c[o] - d[o])) / (12 * width)).astype(np.float64) for o in a}

    return complex_step.columns(values, groups, partial)
