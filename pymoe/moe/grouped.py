r"""Each expert's rows times its matrix, and the two gradients, whatever the matrices are stored as.

Rows start[e] to start[e+1] belong to expert e (``plan.start``)::

    linear       y[r]  = W[e] a[r]
    linear_dx    da[r] = W[e]ᵀ dy[r]
    linear_dw    dW[e] = Σ_r dy[r] ⊗ a[r]          a Weight: at its stored places only

An array is the kernels' business; a ``storage.Weight`` makes one product for each expert that has rows.  The gradient
of a Weight is a Weight of the same structure, and that of an expert without rows is exactly 0 in both.
"""

from __future__ import annotations

from pymoe import kernels
from pymoe.backend import namespace
from pymoe.backend.namespace import Array
from pymoe.storage import Weight


def linear(a: Array, weight: Array | Weight, start: Array) -> Array:
    """a (N, D), weight (E, F, D) -> (N, F).

    >>> import numpy as np
    >>> from pymoe import storage
    >>> w = np.array([[[1.0, 0.0]], [[0.0, 2.0]]])
    >>> a, start = np.array([[3.0, 4.0], [5.0, 6.0]]), np.array([0, 1, 2])
    >>> linear(a, w, start).tolist(), linear(a, storage.csr.from_dense(w), start).tolist()
    ([[3.0], [12.0]], [[3.0], [12.0]])
    """
    if isinstance(weight, Weight):
        return weight.grouped(a, start)
    namespace(a, weight, start)  # two libraries at once are an error
    return kernels.of(a).grouped_linear(a, weight, start)


def linear_dx(dy: Array, weight: Array | Weight, start: Array) -> Array:
    """dy (N, F), weight (E, F, D) -> (N, D).

    >>> import numpy as np
    >>> linear_dx(np.array([[3.0], [5.0]]), np.array([[[1.0, 0.0]], [[0.0, 2.0]]]), np.array([0, 1, 2])).tolist()
    [[3.0, 0.0], [0.0, 10.0]]
    """
    if isinstance(weight, Weight):
        return weight.grouped_dx(dy, start)
    return kernels.of(dy).grouped_linear_dx(dy, weight, start)


def linear_dw(dy: Array, a: Array, weight: Array | Weight, start: Array) -> Array | Weight:
    """dy (N, F), a (N, D) -> like weight (E, F, D), which only says how it is stored.

    >>> import numpy as np
    >>> from pymoe import storage
    >>> w = storage.csr.from_dense(np.array([[[1.0, 0.0]], [[0.0, 2.0]]]))
    >>> dw = linear_dw(np.array([[1.0], [1.0]]), np.array([[3.0, 4.0], [5.0, 6.0]]), w, np.array([0, 1, 2]))
    >>> dw.dense().tolist()
    [[[3.0, 0.0]], [[0.0, 6.0]]]
    """
    if isinstance(weight, Weight):
        return weight.like(weight.grouped_dparts(dy, a, start))
    return kernels.of(a).grouped_linear_dw(dy, a, start)
