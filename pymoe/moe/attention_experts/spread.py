r"""One matrix for each routed pair: rows of ``a`` through the experts of a plan and, weighted, into rows of ``y``.

The pairs (t, j) of a plan lie in order of t and then j, so that n rows of an array own equal runs of them: T rows all
choices of a token, T K rows one choice each, T H rows the choices of one head.  Forward, row r of the plan of expert
e, read from row i(r) of a and written to row o(r) of y::

    u_r = W[e] a_i(r)            y_o = Σ_{r: o(r) = o} g_r u_r          (g = 1 where there are no weights)

Backward::

    v_r = W[e]ᵀ dy_o(r)          da_i = Σ_{r: i(r) = i} g_r v_r         dg_r = ⟨v_r, a_i(r)⟩
    dW[e] = Σ_r dy_o(r) ⊗ (g_r a_i(r))

An expert without rows gets exactly 0, a dropped pair adds nothing and its dg is exactly 0.  With T rows into T K rows
it is the ``map`` of MoA, with T K rows into T its ``reduce`` (arXiv:2404.07413).  Cost: one product a pair forward, two
backward; a and the plan are kept.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe import kernels
from pymoe.backend import namespace
from pymoe.backend.namespace import Array
from pymoe.moe import grouped
from pymoe.moe.plan import Plan


class Cache(NamedTuple):
    a: Array  # (n_in, A)
    g: Array | None  # (T, P) one weight for each pair
    weight: Array  # (E, B, A)
    plan: Plan
    n_out: int


def forward(a: Array, g: Array | None, weight: Array, plan: Plan, n_out: int) -> tuple[Array, Cache]:
    """y (n_out, B) of a (n_in, A), weights g (T, P) or None, matrices (E, B, A), and the plan of the T P pairs.

    >>> import numpy as np
    >>> from pymoe.moe import plan
    >>> chosen = plan.make(np.array([[1, 0], [0, 1]]), None, 2)
    >>> w = np.array([[[1.0]], [[10.0]]])
    >>> forward(np.array([[1.0], [2.0]]), None, w, chosen, 4)[0].ravel()  # map: each choice of each token
    array([10.,  1.,  2., 20.])
    >>> forward(np.arange(4.0)[:, None], np.full((2, 2), 0.5), w, chosen, 2)[0].ravel()  # reduce
    array([ 0.5, 16. ])
    """
    kernel = kernels.of(a)
    u = grouped.linear(kernel.gather(a, _owner(plan, int(a.shape[0]))), weight, plan.start)
    slot = _slots(plan, n_out)
    return kernel.combine(u, _like(g, slot), slot), Cache(a, g, weight, plan, n_out)


def backward(dy: Array, cache: Cache) -> tuple[Array, Array | None, Array]:
    """(da, dg, dW) of dy (n_out, B); dg is None where there were no weights.

    >>> import numpy as np
    >>> from pymoe.moe import plan
    >>> chosen = plan.make(np.array([[1, 0], [0, 1]]), None, 2)
    >>> w = np.array([[[1.0]], [[10.0]]])
    >>> _, cache = forward(np.arange(4.0)[:, None], np.full((2, 2), 0.5), w, chosen, 2)
    >>> da, dg, dw = backward(np.array([[1.0], [1.0]]), cache)
    >>> da.ravel().tolist(), dg.tolist(), dw.ravel().tolist()
    ([5.0, 0.5, 0.5, 5.0], [[0.0, 1.0], [2.0, 30.0]], [1.5, 1.5])
    """
    a, g, weight, plan, n_out = cache
    xp = namespace(dy, a)
    kernel = kernels.of(a)
    n_in = int(a.shape[0])
    rows = kernel.gather(a, _owner(plan, n_in))
    dy_rows = kernel.gather(dy, _owner(plan, n_out))
    v = grouped.linear_dx(dy_rows, weight, plan.start)
    slot = _slots(plan, n_in)
    da = kernel.combine(v, _like(g, slot), slot)
    if g is None:
        return da, None, grouped.linear_dw(dy_rows, rows, weight, plan.start)
    dg = kernel.combine(xp.sum(v * rows, axis=1, keepdims=True), None, xp.reshape(plan.slot, (-1, 1)))
    g_rows = xp.take(xp.reshape(g, (-1,)), plan.pair)[:, None]
    return da, xp.reshape(dg, g.shape), grouped.linear_dw(dy_rows, g_rows * rows, weight, plan.start)


def _per(plan: Plan, n: int) -> int:
    """How many pairs each of n rows owns."""
    return int(plan.slot.size) // n if n else 1


def _owner(plan: Plan, n: int) -> Array:
    """(N,) the row, of n, that owns the pair of each row of the plan."""
    return plan.pair // _per(plan, n)


def _slots(plan: Plan, n: int) -> Array:
    """(n, pairs a row) the rows of the plan of each owner."""
    return namespace(plan.slot).reshape(plan.slot, (n, _per(plan, n)))


def _like(g: Array | None, slot: Array) -> Array | None:
    return None if g is None else namespace(g).reshape(g, slot.shape)
