r"""Square root of softplus, s = √log(1 + eˣ), the router score of DeepSeek-V4.

Forward, with m = -|x|, t = e^m and r = log1p(t) / t, which is 1 at t = 0::

    s = √(x + log1p(t))   for x > 0,     s = e^{x/2} √r   for x <= 0

Backward, written without the quotient σ(x) / (2 s), which is 0/0 once e^x rounds to 0::

    dx = ds / (2 (1 + t) s)   for x > 0,     dx = ds e^{x/2} / (2 (1 + t) √r)   for x <= 0

The derivative tends to e^{x/2} / 2, never to NaN: a logit of -104 in float32 (-746 in float64) is an ordinary number
here, while a backward through the quotient gives NaN there, even for an expert that was not chosen (0 · inf).
Source: transformers, ``models/deepseek_v4``.  Cost: an exponential, a logarithm and a root an element.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe.backend import is_complex, namespace, real
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks


class Cache(NamedTuple):
    slope: Array  # (...) ds/dx


def forward(x: Array) -> tuple[Array, Cache]:
    """s = √log(1 + eˣ), elementwise; x of any shape.

    >>> import numpy as np
    >>> forward(np.array([-1000.0, 0.0, 9.0]))[0]
    array([7.12457641e-218, 8.32554611e-001, 3.00002057e+000])
    """
    checks.floating("x", x)
    xp = namespace(x)
    positive = real(x) > 0
    zero = xp.zeros_like(x)
    t = xp.exp(xp.where(positive, -x, x))
    log1p = _log1p(t)
    left = real(t) > 0
    r = xp.where(left, log1p / xp.where(left, t, xp.ones_like(t)), xp.ones_like(t))
    half = xp.exp(xp.where(positive, zero, x) * 0.5)  # e^{x/2}: nothing to overflow
    root = xp.sqrt(r)
    s = xp.where(positive, xp.sqrt(xp.where(positive, x, zero) + log1p), half * root)
    slope = xp.where(positive, 1 / xp.where(positive, s, xp.ones_like(s)), half / root) / (2 * (1 + t))
    return s, Cache(slope)


def backward(ds: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dx = ds ⊙ slope; no parameters.

    >>> import numpy as np
    >>> _, cache = forward(np.array([0.0]))
    >>> backward(np.array([4.0]), cache)[0].round(4)  # 1 / √log 2
    array([1.2011])
    """
    (slope,) = cache
    check_shape("ds", ds, tuple(slope.shape))
    return ds * slope, {}


def _log1p(t: Array) -> Array:
    """log(1 + t), complex t too: NumPy's own forms 1 + t there, which rounds away the real part of a small t."""
    xp = namespace(t)
    if not is_complex(t):
        return xp.log1p(t)
    return xp.log1p(real(t)) + xp.log((1 + t) / (1 + real(t)))
