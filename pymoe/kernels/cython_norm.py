"""The compiled normalisation kernels for NumPy arrays: the door in front of ``csrc/_norm.pxi`` (see ``cython``)."""

from __future__ import annotations

import numpy as np

from pymoe.backend.namespace import Array
from pymoe.kernels import reference_norm
from pymoe.kernels.door import fused, plain, shared
from pymoe.kernels.parallel import threads

_rms_norm, _rms_norm_backward = map(fused, ("rms_norm", "rms_norm_backward"))
_BLOCK = 64  # rows whose shares in dweight are added before the blocks are; as in csrc/norm.h


def rms_norm(x: Array, weight: Array, eps: float) -> tuple[Array, Array]:
    dtype = shared(x, weight)
    if dtype is None or x.ndim != 2 or weight.shape != x.shape[1:]:
        return reference_norm.rms_norm(x, weight, eps)
    y, r = np.empty(x.shape, dtype=dtype), np.empty(x.shape[0], dtype=dtype)
    _rms_norm[dtype](plain(x, dtype), plain(weight, dtype), eps, y, r, threads(2 * x.size))
    return y, r


def rms_norm_backward(dy: Array, x: Array, weight: Array, r: Array) -> tuple[Array, Array]:
    dtype = shared(dy, x, weight, r)
    if dtype is None or x.ndim != 2 or dy.shape != x.shape or (*r.shape, *weight.shape) != x.shape or r.ndim != 1:
        return reference_norm.rms_norm_backward(dy, x, weight, r)
    rows, columns = x.shape
    dx, dweight = np.empty(x.shape, dtype=dtype), np.empty(columns, dtype=dtype)
    part = np.empty((-(-rows // _BLOCK), columns), dtype=dtype)
    given = plain(dy, dtype), plain(x, dtype), plain(weight, dtype), plain(r, dtype)
    _rms_norm_backward[dtype](*given, dx, part, dweight, threads(4 * x.size))
    return dx, dweight
