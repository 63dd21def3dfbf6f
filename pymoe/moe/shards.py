r"""Experts spread over workers, simulated in one process: each works on its own experts, and the sum is the whole.

Worker s of S holds the experts lo_s <= e < hi_s.  Forward::

    id_s[t, j] = idx[t, j] - lo_s   if lo_s <= idx[t, j] < hi_s,   else hi_s - lo_s: the sentinel, nobody's expert
    y = Σ_s y_s,                    y_s the experts of s, on the choices that are not the sentinel

Backward, the same dy on every worker::

    dx = Σ_s dx_s        dg = Σ_s dg_s        dW_e is that of the worker that holds e

A choice of another worker's expert gives exactly 0 here: no value, no dg, no row in any gradient, whatever stands in
its place.  So the sums have one term each that is not 0, and equal the whole to the rounding of the sum over choices.
The router, the drop and the losses are decided once, before: a capacity is that of an expert, not of a worker.
Sources: arXiv:2006.16668, sec. 3; the sentinel: transformers, ``integrations/moe.py``.  Cost: that of the whole, and
S T K to tell the ids apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pymoe.backend import namespace
from pymoe.backend.errors import ConfigError, check_integer
from pymoe.backend.namespace import Array
from pymoe.moe import experts, plan
from pymoe.moe.form import Form, Norm


class Cache(NamedTuple):
    bounds: tuple[tuple[int, int], ...]  # lo, hi of each worker
    parts: tuple[experts.Cache, ...]


def bounds(n_experts: int, workers: int) -> tuple[tuple[int, int], ...]:
    """lo, hi of each worker: equal shares, the first ones one larger where they do not divide.

    >>> bounds(7, 3)
    ((0, 3), (3, 5), (5, 7))
    """
    check_integer("workers", workers)
    if workers > n_experts:
        raise ConfigError(f"each worker holds an expert at least: got {workers} workers for {n_experts} experts")
    size, more = divmod(n_experts, workers)
    edges = [s * size + min(s, more) for s in range(workers + 1)]
    return tuple(zip(edges, edges[1:], strict=False))


def local(idx: Array, lo: int, hi: int) -> Array:
    """The ids that the holder of lo <= e < hi sees: 0 to hi - lo - 1 for its own, hi - lo for all others.

    >>> import numpy as np
    >>> local(np.array([[0, 3], [4, 2]]), 2, 4)
    array([[2, 1],
           [2, 0]])
    """
    xp = namespace(idx)
    own = (idx >= lo) & (idx < hi)
    return xp.where(own, idx - lo, xp.full_like(idx, hi - lo))


def plan_of(ids: Array, kept: Array | None, held: int) -> plan.Plan:
    """The plan of local ids: a sentinel (id == held) has no row, nor has what is not kept.

    >>> import numpy as np
    >>> plan_of(np.array([[2, 1], [2, 0]]), None, 2).slot
    array([[-1,  1],
           [-1,  0]])
    """
    xp = namespace(ids)
    own = ids < held
    return plan.make(xp.where(own, ids, xp.zeros_like(ids)), own if kept is None else own & kept, held)


def held_by(p: Mapping[str, Any], lo: int, hi: int) -> dict[str, Any]:
    """The parameters of one worker: its experts' slices; a norm that all experts share is on every worker."""
    return {name: a if name == experts.NORM else a[lo:hi, ...] for name, a in p.items()}


def forward(
    x: Array,
    g: Array,
    idx: Array,
    kept: Array | None,
    p: Mapping[str, Any],
    *,
    workers: int,
    form: Form,
    weight_at: str = "output",
    norm: Norm | None = None,
) -> tuple[Array, Cache]:
    """y (T, D) of x (T, D), weights g, ids idx and kept (T, K), p the experts' parameters as arrays (E, ...).

    >>> import numpy as np
    >>> p = {"up_proj": np.array([[[1.0]], [[10.0]]]), "down_proj": np.array([[[2.0]], [[1.0]]])}
    >>> x, g, idx = np.array([[3.0], [1.0]]), np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[0, 1], [1, 0]])
    >>> forward(x, g, idx, None, p, workers=2, form=Form("relu", False))[0]
    array([[18.],
           [10.]])
    """
    up, _ = experts.names(form.gated)
    edges = bounds(int(p[up].shape[0]), workers)
    y, parts = None, []
    for lo, hi in edges:
        own = plan_of(local(idx, lo, hi), kept, hi - lo)
        part, cache = experts.forward(x, g, held_by(p, lo, hi), own, form=form, weight_at=weight_at, norm=norm)
        y = part if y is None else y + part
        parts.append(cache)
    return y, Cache(edges, tuple(parts))


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Any]]:
    """dx (T, D) and {"g": dg (T, K), and the gradient of each parameter, gathered from its holders}.

    >>> import numpy as np
    >>> p = {"up_proj": np.array([[[1.0]], [[10.0]]]), "down_proj": np.array([[[2.0]], [[1.0]]])}
    >>> x, g, idx = np.array([[3.0], [1.0]]), np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[0, 1], [1, 0]])
    >>> _, cache = forward(x, g, idx, None, p, workers=2, form=Form("relu", False))
    >>> dx, d = backward(np.array([[1.0], [0.0]]), cache)
    >>> dx.tolist(), d["g"].tolist(), d["down_proj"].ravel().tolist()
    ([[6.0], [0.0]], [[6.0, 30.0], [0.0, 0.0]], [1.5, 15.0])
    """
    xp = namespace(dy)
    found = [experts.backward(dy, part) for part in cache.parts]
    dx, grads = found[0][0], [d for _, d in found]
    for other, _ in found[1:]:
        dx = dx + other
    summed = {}
    for name in grads[0]:
        if name in ("g", experts.NORM):  # on every worker: the all-reduce
            total = grads[0][name]
            for d in grads[1:]:
                total = total + d[name]
            summed[name] = total
        else:
            summed[name] = xp.concat([d[name] for d in grads], axis=0)
    return dx, summed
