r"""A dense feed-forward cut into experts of F/E hidden units, put together again, and made a sparse layer.

With S_e the units of expert e (a unit f is row f of gate and up and column f of down)::

    W_gate,e = W_gate[S_e, :],   W_up,e = W_up[S_e, :],   W_down,e = W_down[:, S_e]
    FFN(x) = Σ_e FFN_e(x)                          over *all* pieces: exact, only the order of the sum changes (√F u)

The bias of down_proj belongs to no unit: expert 0 holds it, so that the pieces still add up, and ``join`` gives back
the very bits.  In a layer of which k experts run, no expert may hold it alone: ``layer`` gives each b / k.

``layer`` keeps the sum when all experts run: its gates are g = 2 σ(z), which are exactly 1 at z = 0 whatever E and k
(k · softmax over the chosen is 1 only to rounding: 1/E and E · (1/E) are rounded).  With k < E the layer is what the
chosen pieces say, and what the others would have said is lost.  Which are chosen:

=========== ========================================================================================================
router      rows of W_r
=========== ========================================================================================================
"zero"      0: all gates 1, and the k lowest ids are chosen for every token.  The choice with k = E
"centre"    along the mean of the group's (unit) gate rows: the expert whose units point most along x, MoEfication's
            similarity selection.  Their length is std / √D, so that |z| <= std for a token of mean square 1 (what an
            RMSNorm gives out): gates start within std / 2 of 1, 1 %, and are free to move.  The choice with k < E
"random"    N(0, std²), trained afterwards: LLaMA-MoE's
(E, D)      rows of your own, e.g. ``gates.fitted``: MoEfication's selector trained on data
=========== ========================================================================================================

MoEfication adds up the chosen experts with weight 1; LLaMA-MoE weighs them by a softmax over the chosen and scales the
sum; 2 σ(z) starts at the first and can learn the second.  Sources: Zhang et al., arXiv:2110.01786, eq. 4-6 and section
3.3; Zhu et al., arXiv:2406.16554, eq. 5-7.  Cost: one copy of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pymoe.backend import device, namespace, to_numpy
from pymoe.backend.errors import ConfigError, ShapeError, check_shape
from pymoe.backend.namespace import Array
from pymoe.moe import MoEConfig
from pymoe.moe.experts import names
from pymoe.nn.feed_forward import FeedForwardConfig
from pymoe.sharing import gates, inputs
from pymoe.sharing.split import copies
from pymoe.sharing.split.partition import grouping
from pymoe.sharing.split.partition.kmeans import unit_rows

ROUTERS = ("zero", "centre", "random")


def split(dense_p: Mapping[str, Array], groups: np.ndarray, gated: bool) -> dict[str, Any]:
    """The experts {name: (E, ...)} of a dense feed-forward; groups (E, F/E), each unit once (else ConfigError).

    >>> dense = {"up_proj": np.array([[1.0], [2.0], [3.0], [4.0]]), "down_proj": np.array([[5.0, 6.0, 7.0, 8.0]])}
    >>> experts = split(dense, np.array([[0, 2], [1, 3]]), gated=False)
    >>> experts["up_proj"].tolist(), experts["down_proj"].tolist()
    ([[[1.0], [3.0]], [[2.0], [4.0]]], [[[5.0, 7.0]], [[6.0, 8.0]]])
    """
    up, down = names(gated)
    for name in (up, down):
        if name not in dense_p:
            raise ShapeError(f"a {'gated' if gated else 'plain'} feed-forward needs {name!r}, got {sorted(dense_p)}")
        inputs.finite(name, dense_p[name])
    groups = grouping.check(groups, int(dense_p[down].shape[-1]))
    check_shape(up, dense_p[up], ((2 if gated else 1) * groups.size, None))
    xp = namespace(*dense_p.values())
    pieces = [take(dense_p, units, gated) for units in groups]
    experts = {name: xp.stack([piece[name] for piece in pieces]) for name in pieces[0]}
    if down + "_bias" in dense_p:
        bias = dense_p[down + "_bias"]
        experts[down + "_bias"] = xp.stack([bias] + [xp.zeros_like(bias)] * (len(groups) - 1))
    return experts


def take(dense_p: Mapping[str, Array], units: np.ndarray, gated: bool) -> dict[str, Any]:
    """The narrower feed-forward of the hidden ``units`` (F',), without down_proj's bias, which belongs to none.

    >>> dense = {"up_proj": np.array([[1.0], [2.0], [3.0]]), "down_proj": np.array([[5.0, 6.0, 7.0]])}
    >>> {name: a.tolist() for name, a in take(dense, np.array([2, 0]), gated=False).items()}
    {'up_proj': [[3.0], [1.0]], 'down_proj': [[7.0, 5.0]]}
    """
    up, down = names(gated)
    xp = namespace(*dense_p.values())
    columns = xp.asarray(units, device=device(dense_p[down]))
    rows = xp.concat([columns, columns + int(dense_p[down].shape[-1])]) if gated else columns
    piece = {up: xp.take(dense_p[up], rows, axis=0)}
    if up + "_bias" in dense_p:
        piece[up + "_bias"] = xp.take(dense_p[up + "_bias"], rows, axis=0)
    return piece | {down: xp.take(dense_p[down], columns, axis=-1)}


def join(experts: Mapping[str, Array], groups: np.ndarray) -> dict[str, Any]:
    """The dense feed-forward of which ``experts`` are the pieces: the inverse of ``split``, bit for bit.

    Biases of down_proj are added up, in the order of the experts: that is what a sum over all pieces says.

    >>> groups = np.array([[0, 2], [1, 3]])
    >>> dense = {"up_proj": np.array([[1.0], [2.0], [3.0], [4.0]]), "down_proj": np.array([[5.0, 6.0, 7.0, 8.0]])}
    >>> {name: bool((a == dense[name]).all()) for name, a in join(split(dense, groups, False), groups).items()}
    {'up_proj': True, 'down_proj': True}
    """
    gated = "gate_up_proj" in experts
    up, down = names(gated)
    if up not in experts or down not in experts:
        raise ShapeError(f"experts need 'down_proj' and 'gate_up_proj' or 'up_proj', got {sorted(experts)}")
    w = experts[down]
    check_shape(down, w, (None, None, None))
    e, _, size = (int(n) for n in w.shape)
    groups = grouping.check(groups, e * size, e)
    check_shape("groups", groups, (e, size))
    check_shape(up, experts[up], (e, (2 if gated else 1) * size, None))
    xp = namespace(*experts.values())
    back = xp.asarray(np.argsort(groups.ravel()), device=device(w))  # place of unit f among all pieces

    def rows(a: Array) -> Array:
        """(E, F'...) or (E, 2F', ...) -> (F, ...) or (2F, ...)."""
        halves = [a[:, :size, ...], a[:, size:, ...]] if gated else [a]
        flat = [xp.reshape(half, (e * size, *half.shape[2:])) for half in halves]
        return xp.concat([xp.take(half, back, axis=0) for half in flat])

    joined = {up: rows(experts[up])}
    if up + "_bias" in experts:
        joined[up + "_bias"] = rows(experts[up + "_bias"])
    flat = xp.reshape(xp.permute_dims(w, (1, 0, 2)), (int(w.shape[1]), e * size))
    joined[down] = xp.take(flat, back, axis=-1)
    if down + "_bias" in experts:
        first, *others = (experts[down + "_bias"][i, ...] for i in range(e))
        for other in others:
            first = xp.where(other == 0, first, first + other)  # -0 stays -0
        joined[down + "_bias"] = xp.asarray(first, copy=True)
    return joined


def layer(
    dense_p: Mapping[str, Array],
    ff_cfg: FeedForwardConfig,
    groups: np.ndarray,
    k: int,
    rng: np.random.Generator | None = None,
    *,
    router: Any = None,
    shared: np.ndarray | None = None,
    std: float = 0.02,
) -> tuple[dict[str, Any], MoEConfig]:
    """(p, MoEConfig) of the sparse layer whose experts are the pieces; k = E is the dense layer.

    groups (E, F/E) of range(F); with ``shared`` (S,) units for a shared expert, groups are of the others.  router: a
    name of the table above, or rows (E, D); None: "zero" if k = E, else "centre".  ``rng`` only for "random".

    >>> from pymoe import moe
    >>> from pymoe.nn import feed_forward
    >>> rng, ff = np.random.default_rng(0), FeedForwardConfig(d_model=3, d_ff=8)
    >>> dense = feed_forward.init(rng, ff, np.float64)
    >>> x = rng.standard_normal((5, 3))
    >>> y, _ = feed_forward.forward(x, dense, ff)
    >>> groups = grouping.random(rng, 8, 4)
    >>> for k in (4, 2):
    ...     p, cfg = layer(dense, ff, groups, k)
    ...     out, _ = moe.forward(x, p, cfg)
    ...     print(k, bool(np.max(np.abs(out.y - y)) <= 1e-15 * np.max(np.abs(y))))
    4 True
    2 False
    """
    inputs.dense(dense_p, ff_cfg)
    groups = to_numpy(groups)
    if groups.ndim != 2:
        raise ShapeError(f"groups must have shape (E, F/E), got {groups.shape}")
    e, size = groups.shape
    units = np.zeros(0, np.int64) if shared is None else to_numpy(shared)
    grouping.once(
        np.concatenate([groups.ravel(), units]), ff_cfg.d_ff, "groups" if shared is None else "groups, shared"
    )
    cfg = copies.config(ff_cfg, size, e, k, score="sigmoid", norm="none", scale=2.0)
    xp = namespace(*dense_p.values())
    pieces = [take(dense_p, group, ff_cfg.gated) for group in groups]
    experts = {name: xp.stack([piece[name] for piece in pieces]) for name in pieces[0]}
    p: dict[str, Any] = {
        "router": {"weight": _router(dense_p, ff_cfg, groups, k, rng, router, std)},
        "experts": experts,
    }
    if units.size:
        cfg = MoEConfig(cfg.d_model, size, cfg.router, cfg.gated, cfg.activation, cfg.bias, d_shared=int(units.size))
        p["shared"] = take(dense_p, units, ff_cfg.gated)
    if ff_cfg.bias:
        bias = dense_p["down_proj_bias"]
        if units.size:  # the shared expert always runs: it alone says the bias
            p["shared"]["down_proj_bias"] = xp.asarray(bias, copy=True)
            bias = xp.zeros_like(bias)
        experts["down_proj_bias"] = xp.stack([bias / float(k) if k > 1 else bias] * e)
    return p, cfg


def _router(
    dense_p: Mapping[str, Array],
    cfg: FeedForwardConfig,
    groups: np.ndarray,
    k: int,
    rng: np.random.Generator | None,
    router: Any,
    std: float,
) -> Array:
    """(E, D) rows of the router."""
    e, d = len(groups), cfg.d_model
    rule = ("zero" if k == e else "centre") if router is None else router
    if not isinstance(rule, str):
        check_shape("router", rule, (e, d))
        inputs.finite("router", rule)
        return copies.placed(to_numpy(rule), dense_p["down_proj"])
    if rule not in ROUTERS:
        raise ConfigError(f"router must be one of {ROUTERS} or rows ({e}, {d}), got {rule!r}")
    if rule == "zero":
        rows = np.zeros((e, d))
    elif rule == "random":
        if rng is None:
            raise ConfigError("router='random' needs rng, e.g. numpy.random.default_rng(0)")
        rows = gates.random(rng, e, d, std=std)
    else:
        up = unit_rows(to_numpy(dense_p[cfg.up_name])[: cfg.d_ff].astype(np.float64))  # of a gated layer the gate
        rows = unit_rows(np.stack([up[units].mean(0) for units in groups])) * (std / np.sqrt(d))
    return copies.placed(rows, dense_p["down_proj"])
