r"""Experts that are linear maps of the features themselves, dense or scipy.sparse, for the rows routed to them.

Forward, x (N, V), idx (N, K) the choices, g (N, K) their weights, expert e = (W_e (V, C), b_e (C,))::

    z_nk = x_n W_{e(n,k)} + b_{e(n,k)}           (N, K, C)
    y_n  = Σ_k g_nk z_nk                         (N, C)

Backward::

    dz_nk = g_nk dy_n                            dg_nk = ⟨dy_n, z_nk⟩
    dW_e  = Σ_{n,k: e(n,k) = e} x_n ⊗ dz_nk      db_e = Σ dz_nk
    dx_n  = Σ_k dz_nk W_{e(n,k)}ᵀ                None for a sparse x

Only the K chosen experts are computed: a sparse x moves its columns by e V, and is multiplied with all W as one table
(E V, C).  Source: Jacobs et al., *Adaptive mixtures of local experts*, Neural Computation 3, 1991, with the top-k of
arXiv:1701.06538.  Cost: 2 K nnz C flops forward, twice that backward.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from pymoe.backend import namespace, real
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array


class Cache(NamedTuple):
    x: Any  # (N, V)
    g: Array  # (N, K)
    weight: Array  # W (E, V, C)
    idx: Array  # (N, K)
    z: Array  # (N, K, C)


def forward(x: Any, g: Array, weight: Array, bias: Array, *, idx: Array) -> tuple[Array, Cache]:
    """y (N, C) of x (N, V), g and idx (N, K), weight (E, V, C), bias (E, C).

    >>> x, idx = scipy.sparse.csr_array([[2.0, 0.0]]), np.array([[1, 0]])
    >>> weight = np.array([[[1.0], [9.0]], [[10.0], [9.0]]])
    >>> forward(x, np.array([[0.75, 0.25]]), weight, np.array([[0.0], [4.0]]), idx=idx)[0]  # 0.75 · 24 + 0.25 · 2
    array([[18.5]])
    """
    e, v, c = (int(size) for size in weight.shape)
    check_shape("x", x, (None, v))
    check_shape("bias", bias, (e, c))
    check_shape("idx", idx, (int(x.shape[0]), None))
    check_shape("g", g, tuple(idx.shape))
    xp = namespace(weight)
    z = [said + bias[idx[:, k]] for k, said in enumerate(_said(x, weight, idx))]
    z = xp.stack(z, axis=1)
    return xp.sum(g[:, :, None] * z, axis=1), Cache(x, g, weight, idx, z)


def backward(dy: Array, cache: Cache) -> tuple[Any, dict[str, Array]]:
    """dy (N, C) -> dx (N, V), None for a sparse x, {"g": (N, K), "weight": (E, V, C), "bias": (E, C)}.

    >>> one, weight = np.ones((1, 1)), np.full((2, 1, 1), 3.0)
    >>> _, cache = forward(one, one, weight, np.zeros((2, 1)), idx=np.array([[1]]))
    >>> dx, d = backward(np.array([[5.0]]), cache)
    >>> dx.item(), d["g"].item(), d["bias"].tolist()
    (15.0, 15.0, [[0.0], [5.0]])
    """
    x, g, weight, idx, z = cache
    e, v, c = (int(size) for size in weight.shape)
    check_shape("dy", dy, (int(x.shape[0]), c))
    xp = namespace(dy)
    dz = g[:, :, None] * dy[:, None, :]  # (N, K, C)
    chosen = xp.arange(e)[:, None, None] == idx[None, :, :]  # (E, N, K)
    db = xp.stack([xp.sum(dz[chosen[i]], axis=0) for i in range(e)])
    d = {"g": xp.sum(dy[:, None, :] * z, axis=2), "bias": db}
    if scipy.sparse.issparse(x):
        parts = [np.asarray(_moved(x, idx[:, k], v, e, dz.real.dtype).T @ dz[:, k]) for k in range(idx.shape[1])]
        return None, d | {"weight": sum(parts[1:], parts[0]).reshape(e, v, c)}
    of = [xp.sum(xp.where(chosen[i][:, :, None], dz, xp.zeros_like(dz)), axis=1) for i in range(e)]  # (N, C) each
    dx = sum((of[i] @ weight[i].T for i in range(1, e)), of[0] @ weight[0].T)
    return dx, d | {"weight": xp.stack([x.T @ part for part in of])}


def _said(x: Any, weight: Array, idx: Array) -> list[Array]:
    """x_n W_{e(n,k)} (N, C) for each k."""
    e, v, c = (int(size) for size in weight.shape)
    choices = range(idx.shape[1])
    if scipy.sparse.issparse(x):
        table, dtype = weight.reshape(e * v, c), real(weight).dtype
        return [np.asarray(_moved(x, idx[:, k], v, e, dtype) @ table) for k in choices]
    out = [np.empty((x.shape[0], c), np.result_type(x, weight)) for _ in choices]
    for i in range(e):
        for k in choices:
            rows = np.flatnonzero(idx[:, k] == i)
            out[k][rows] = x[rows] @ weight[i]
    return out


def _moved(x: Any, expert: Array, v: int, e: int, dtype: Any) -> Any:
    """CSR (N, E V): row n of x stands in the columns of its expert."""
    x = x if x.format == "csr" else x.tocsr()
    shift = np.repeat(expert * v, np.diff(x.indptr))
    index = np.int32 if e * v < 2**31 and x.nnz < 2**31 else np.int64
    data = x.data if x.dtype == dtype else x.data.astype(dtype)
    return scipy.sparse.csr_array(
        (data, (x.indices + shift).astype(index), x.indptr.astype(index, copy=False)), shape=(x.shape[0], e * v)
    )
