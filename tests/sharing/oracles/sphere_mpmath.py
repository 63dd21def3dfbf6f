"""Great circles with 50 digits: rotate in the plane of the two vectors; the tangent plane for more than two."""

from __future__ import annotations

import mpmath
import numpy as np


def _vector(a):
    return [mpmath.mpf(v) for v in np.asarray(a, dtype=np.float64).ravel().tolist()]


def _dot(a, b):
    return mpmath.fsum(x * y for x, y in zip(a, b, strict=True))


def _length(a):
    return mpmath.sqrt(_dot(a, a))


def slerp(a, b, t: float) -> np.ndarray:
    """sin((1-t)Ω)/sinΩ a + sin(tΩ)/sinΩ b; Ω from both legs of the triangle, never from an arc cosine."""
    with mpmath.workdps(50):
        u, v, t = _vector(a), _vector(b), mpmath.mpf(t)
        e1 = [x / _length(u) for x in u]
        along = _dot(e1, v)
        across = _length([x - along * y for x, y in zip(v, e1, strict=True)])
        angle = mpmath.atan2(across, along)
        left, right = mpmath.sin((1 - t) * angle) / mpmath.sin(angle), mpmath.sin(t * angle) / mpmath.sin(angle)
        return np.array([float(left * x + right * y) for x, y in zip(u, v, strict=True)]).reshape(np.shape(a))


def multislerp(tensors, weights, iterations: int | None = None) -> np.ndarray:
    """The point of least Σ w Ω²: from the normalised mean, steps of the mean in the tangent plane to the end."""
    with mpmath.workdps(50):
        vectors, c = [_vector(a) for a in tensors], [mpmath.mpf(float(w)) for w in weights]
        c = [w / mpmath.fsum(c) for w in c]
        lengths = [_length(v) for v in vectors]
        units = [[x / n for x in v] for v, n in zip(vectors, lengths, strict=True)]
        mean = [mpmath.fsum(w * u[i] for w, u in zip(c, units, strict=True)) for i in range(len(units[0]))]
        mean = [x / _length(mean) for x in mean]
        for _ in range(500 if iterations is None else iterations):
            step = [mpmath.mpf(0)] * len(mean)
            for w, u in zip(c, units, strict=True):
                cos = _dot(u, mean)
                rest = [x - cos * y for x, y in zip(u, mean, strict=True)]
                if _length(rest) > mpmath.mpf(10) ** -45:
                    angle = mpmath.atan2(_length(rest), cos)
                    step = [s + w * angle * r / _length(rest) for s, r in zip(step, rest, strict=True)]
            n = _length(step)
            if n < mpmath.mpf(10) ** -40:
                break
            mean = [mpmath.cos(n) * m + mpmath.sin(n) * s / n for m, s in zip(mean, step, strict=True)]
        else:
            assert iterations is not None, "the mean on the sphere did not converge"
        size = mpmath.fsum(w * n for w, n in zip(c, lengths, strict=True))
        return np.array([float(size * x) for x in mean]).reshape(np.shape(tensors[0]))
