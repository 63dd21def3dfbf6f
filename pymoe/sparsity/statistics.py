r"""What a forward over calibration tokens says about the experts of one MoE layer: sums that add up over batches.

With R_e the rows that were routed to expert e (kept choices of real tokens), f_e(x) its output before weighting, g the
combine weight as the layer uses it (after any renormalisation), h the hidden activations, in float64::

    count_e = |R_e|                norm_e          = Σ_{r in R_e} ‖f_e(x_r)‖₂
    weight_e = Σ g_r               weighted_norm_e = Σ g_r ‖f_e(x_r)‖₂
    x_sumsq_ej = Σ x_rj²           h_sumsq_ef      = Σ h_rf²
    x_gram_e = Σ x_r x_rᵀ          h_gram_e        = Σ h_r h_rᵀ            (with ``hessians``)

An expert that no token reached has zeros everywhere: its means are defined as 0 by who divides (``experts.scores``),
and its second moments are singular, so who inverts them must damp them.  With tied experts E is the number of stored
ones.  Cost: the way down once more for the outputs, which the layer's cache does not keep; with hessians also
N (D² + F²) multiply-adds.  Merging methods ask about ALL tokens, routed or not: ``mean_outputs``, ``activations``,
``logits`` (give them real tokens only).  Sources: Wanda, arXiv:2306.11695; REAP, arXiv:2510.13999; SparseGPT,
arXiv:2301.00774; RegMean, arXiv:2212.09849.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from pymoe import moe
from pymoe.backend import namespace, to_numpy
from pymoe.backend.errors import ConfigError, NonFiniteError, ShapeError, check_shape
from pymoe.backend.namespace import Array
from pymoe.moe import MoEConfig, parameters
from pymoe.moe.experts import names
from pymoe.storage import Weight


class Statistics(NamedTuple):
    """See the module; arrays are NumPy's, float64, count int64."""

    count: np.ndarray  # type: ignore[assignment]  # (E,); hides the method of tuples
    weight: np.ndarray  # (E,)
    norm: np.ndarray  # (E,)
    weighted_norm: np.ndarray  # (E,)
    x_sumsq: np.ndarray  # (E, D)
    h_sumsq: np.ndarray  # (E, F)
    tokens: int  # that at least one expert took: no padding, nothing that was dropped altogether
    x_gram: np.ndarray | None = None  # (E, D, D)
    h_gram: np.ndarray | None = None  # (E, F, F)


def observe(cache: moe.Cache, cfg: MoEConfig, *, hessians: bool = False) -> Statistics:
    """The statistics of one forward, from its cache (of ``moe.forward``); padding counts nowhere.

    NonFiniteError, with the expert and the token, where an output or a weight is NaN or infinite; ShapeError if the
    cache is of other settings; ConfigError for experts in a latent space, weighted at their input, or normalised.

    >>> from pymoe import presets
    >>> cfg = presets.mixtral(d_model=5, d_ff=6, n_experts=4, k=2)
    >>> p = moe.init(np.random.default_rng(0), cfg)
    >>> _, cache = moe.forward(np.random.default_rng(1).standard_normal((7, 5)), p, cfg)
    >>> seen = observe(cache, cfg)
    >>> int(seen.count.sum()), round(float(seen.weight.sum()), 6), seen.h_sumsq.shape
    (14, 7.0, (4, 6))
    """
    _plain(cfg)
    c = cache.experts
    token, start, pair = (to_numpy(a) for a in (c.plan.token, c.plan.start, c.plan.pair))
    up, _ = names(cfg.gated)
    if up not in c.p or c.p[up].shape[:2] != (cfg.n_stored, cfg.d_ff * (2 if cfg.gated else 1)):
        shapes = {name: tuple(w.shape) for name, w in c.p.items()}
        raise ShapeError(f"the cache is of a layer with experts {shapes}, not of these settings: {cfg}")
    x, g = to_numpy(c.x), to_numpy(c.g).astype(np.float64)
    h = to_numpy(hidden(c.a, cfg))
    rows, g_rows = x[token].astype(np.float64), g.reshape(-1)[pair]
    h = h.astype(np.float64)
    output = _outputs(h, c.p, cfg, start)
    length = np.sqrt((output * output).sum(1))
    for what, value in (("puts out", length), ("is weighted with", g_rows)):
        if not np.isfinite(value).all():
            bad = int(np.flatnonzero(~np.isfinite(value))[0])
            raise NonFiniteError(
                f"expert {int(np.searchsorted(start, bad, side='right')) - 1} {what} NaN or infinity for token "
                f"{int(token[bad])}: statistics over it say nothing; find the weight that is not finite"
            )

    def summed(a: np.ndarray) -> np.ndarray:
        return np.stack([a[lo:hi].sum(0) for lo, hi in pairwise(start)])

    def grams(a: np.ndarray) -> np.ndarray | None:
        return np.stack([a[lo:hi].T @ a[lo:hi] for lo, hi in pairwise(start)]) if hessians else None

    return Statistics(
        count=np.diff(start).astype(np.int64), weight=summed(g_rows), norm=summed(length),
        weighted_norm=summed(g_rows * length), x_sumsq=summed(rows * rows), h_sumsq=summed(h * h),
        tokens=int(np.unique(token).size),
        x_gram=grams(rows), h_gram=grams(h),
    )  # fmt: skip


def _plain(cfg: MoEConfig) -> None:
    """ConfigError unless an expert is a function of x itself and its output is that of its matrices."""
    if cfg.weight_at == "input" or cfg.d_latent or cfg.post_expert_norm is not None:
        raise ConfigError(
            "statistics are of experts that read x and are weighted afterwards: got "
            f"weight_at={cfg.weight_at!r}, d_latent={cfg.d_latent}, post_expert_norm={cfg.post_expert_norm}"
        )


def add(a: Statistics, b: Statistics) -> Statistics:
    """The statistics of both batches together; ShapeError if they are of different layers."""
    if a.x_sumsq.shape != b.x_sumsq.shape or a.h_sumsq.shape != b.h_sumsq.shape:
        raise ShapeError(
            f"statistics of one layer add up, got experts of shape {a.x_sumsq.shape} and {b.x_sumsq.shape}, "
            f"hidden {a.h_sumsq.shape} and {b.h_sumsq.shape}"
        )
    sums: list[Any] = [None if u is None or v is None else u + v for u, v in zip(a, b, strict=True)]
    return Statistics(*sums)


def hidden(a: Array, cfg: MoEConfig) -> Array:
    """h = act(gate) ⊙ up of pre-activations a (N, 2F), act(a), or a variant of it."""
    return moe.hidden.forward(a, cfg.form)


def activations(x: Array, p: Mapping[str, Any], cfg: MoEConfig) -> Array:
    """h (E, T, F): the hidden activations of every stored expert on every token of x (T, D)."""
    return namespace(x).stack(list(_activations(x, p, cfg)))


def _activations(x: Array, p: Mapping[str, Any], cfg: MoEConfig) -> Iterator[Array]:
    """h (T, F) of one expert after the other."""
    _plain(cfg)
    check_shape("x", x, (None, cfg.d_model))
    parameters.check(p, cfg)
    xp = namespace(x)
    up, _ = names(cfg.gated)
    w = p["experts"][up]
    for e in range(cfg.n_stored):
        a = w.expert(e).linear(x) if isinstance(w, Weight) else x @ xp.matrix_transpose(w[e, :, :])
        if cfg.bias:
            a = a + p["experts"][up + "_bias"][e, :]
        yield hidden(a, cfg)


def mean_outputs(x: Array, p: Mapping[str, Any], cfg: MoEConfig) -> np.ndarray:
    """(E, D): the mean output of every stored expert over ALL tokens of x (T, D), whoever was routed there.

    What HC-SMoE clusters by (arXiv:2410.08589).  The way down is linear, so it is the mean of h that goes through it.
    0 for no tokens.
    """
    _, down = names(cfg.gated)
    tokens = int(x.shape[0])
    rows = []
    for e, h in enumerate(_activations(x, p, cfg)):
        mean = to_numpy(h).astype(np.float64).sum(0) / max(tokens, 1)
        rows.append(_matrix(p["experts"][down], e) @ mean)
    out = np.stack(rows)
    return out + to_numpy(p["experts"][down + "_bias"]) if cfg.bias and tokens else out


def logits(x: Array, p: Mapping[str, Any], cfg: MoEConfig) -> np.ndarray:
    """(T, E): the clean router logits of x (T, D), without noise and selection bias (M-SMoE, arXiv:2310.01334)."""
    router = p["router"]
    z = to_numpy(x).astype(np.float64) @ to_numpy(router["weight"]).astype(np.float64).T
    biased: np.ndarray = z + to_numpy(router["bias"]) if cfg.router.bias else z
    return biased


def _matrix(w: Any, e: int) -> np.ndarray:
    """W[e] in float64, whatever it is stored as."""
    one = w.expert(e).dense() if isinstance(w, Weight) else w[e, :, :]
    wide: np.ndarray = to_numpy(one).astype(np.float64)
    return wide


def _outputs(h: np.ndarray, p: Mapping[str, Any], cfg: MoEConfig, start: np.ndarray) -> np.ndarray:
    """(N, D) f_e(x_r) of every row, not weighted."""
    _, down = names(cfg.gated)
    w = p[down]
    out = np.zeros((len(h), int(w.shape[1])))
    for e in range(start.size - 1):
        lo, hi = start[e], start[e + 1]
        if hi > lo:
            out[lo:hi] = h[lo:hi] @ _matrix(w, e).T
            if cfg.bias:
                out[lo:hi] += to_numpy(p[down + "_bias"][e, :])
    return out
