r"""Identities every backward obeys whatever its formula, most of them bit for bit.

- backward(0) = 0 exactly; backward(-G) = -backward(G) and backward(2^m G) = 2^m backward(G) bitwise: it is linear in
  its cotangent, and sign and powers of two commute with rounding.
- backward(G₁ + G₂) = backward(G₁) + backward(G₂) to rounding.
- pure: read-only inputs, nothing written into, two calls with equal bits (``pymoe.verify.frame``).
- keys, shapes and dtypes of the gradients, in float64 and in float32.
- Euler: y homogeneous of degree m in θ (y(c θ) = c^m y(θ))  =>  ⟨θ, dθ⟩ = m ⟨y, G⟩.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pymoe.backend.errors import ConfigError, GradientError
from pymoe.verify import cotangents, frame
from pymoe.verify.report import Report
from pymoe.verify.subjects import Flat, Subject, subject

POWERS = (1, 7, -9)


def identities(
    target: Any,
    *args: Any,
    seed: int = 0,
    tolerance: float = 1e-13,
    homogeneous: Mapping[str, int] | None = None,
    losses: list[str] | tuple[str, ...] | None = None,
    **static: Any,
) -> Report:
    """Check the identities; ``homogeneous`` gives the degree of the main output in some tensors, e.g. {"weight": 1}.

    >>> import numpy as np
    >>> from pymoe.ops import linear
    >>> r = np.random.default_rng(0)
    >>> report = identities(linear, r.standard_normal((7, 5)), r.standard_normal((3, 5)), homogeneous={"x": 1})
    >>> sorted(report.errors)
    ['additive', 'euler x']
    """
    for dtype in (np.float32, np.float64) if not isinstance(target, Subject) else ():
        frame.dtypes(subject(target, *args, losses=losses, dtype=dtype, **static))
    s = subject(target, *args, losses=losses, **static)
    at, ct, g = frame.check(s, seed)
    _scaled(s, at.cache, ct, g, 0.0, seed)
    _scaled(s, at.cache, ct, g, -1.0, seed)
    for m in POWERS:
        _scaled(s, at.cache, ct, g, 2.0**m, seed)
    errors = {"additive": _additive(s, at.cache, at.outputs, ct, g, seed)}
    errors |= _euler(s, at.cache, at.outputs, ct, homogeneous or {})
    for what, e in errors.items():
        if not e <= tolerance:
            raise GradientError(
                f"{s.name}: the identity {what!r} fails: error {e:.2e}, tolerance {tolerance:.0e}, seed {seed}"
            )
    n_in, n_out = sum(v.size for v in s.values.values()), sum(y.size for y in at.outputs.values())
    return Report(s.name, "identities", max(errors.values()), errors, tolerance, seed, n_in, n_out)


def _frozen(flat: Flat) -> Flat:
    for a in flat.values():
        a.setflags(write=False)
    return flat


def _scaled(s: Subject, cache: Any, ct: Flat, g: Flat, c: float, seed: int) -> None:
    """backward(c G) = c backward(G), every bit (zeros of either sign are equal)."""
    scaled = s.backward(_frozen({k: np.asarray(c * v) for k, v in ct.items()}), cache)
    for name, expected in g.items():
        if not np.array_equal(scaled[name], c * expected):
            where = np.unravel_index(int(np.argmax(scaled[name] != c * expected)), expected.shape)
            raise GradientError(
                f"{s.name}: backward({c:g} G) is not {c:g} backward(G) in {name!r}: {scaled[name][where]!r} for "
                f"{(c * expected)[where]!r} at {[int(i) for i in where]} of shape {expected.shape}, seed {seed}"
            )


def _additive(s: Subject, cache: Any, outputs: Flat, ct: Flat, g: Flat, seed: int) -> float:
    other = cotangents.one(np.random.default_rng([seed, 1]), outputs)
    h = s.backward(other, cache)
    both = s.backward(_frozen({k: np.asarray(v + other[k]) for k, v in ct.items()}), cache)
    worst = 0.0
    for name in g:
        scale = float(np.max(np.abs(g[name]) + np.abs(h[name]))) if g[name].size else 0.0
        gap = float(np.max(np.abs(both[name] - (g[name] + h[name])))) if g[name].size else 0.0
        worst = max(worst, gap / scale if scale else gap)
    return worst


def _euler(s: Subject, cache: Any, outputs: Flat, ct: Flat, homogeneous: Mapping[str, int]) -> dict[str, float]:
    main = {k: v if not k.startswith("losses.") else np.zeros_like(v) for k, v in ct.items()}
    g = s.backward(_frozen(main), cache)
    pairing = [(main[k] * outputs[k]).reshape(-1) for k in main]
    yg = np.concatenate(pairing)
    errors = {}
    for name, degree in homogeneous.items():
        if name not in g:
            raise ConfigError(f"homogeneous names {name!r}, which is not one of {sorted(g)}")
        products = s.values[name] * g[name]
        scale = float(np.sum(np.abs(products)) + degree * np.sum(np.abs(yg)))
        errors[f"euler {name}"] = abs(float(np.sum(products) - degree * np.sum(yg))) / (scale or 1.0)
    return errors
