r"""Load balancing loss of Switch and GShard, of the whole batch or of each sequence, per layer.

Forward, s (T, E) scores in B sequences (1: the whole batch is one) of which b has T_b real tokens::

    q_te = s_te / Σ_e s_te                 (softmax scores: q = s)
    P_be = mean_{t in b} q_te              "total": P_be = Σ_{t in b} s_te / Σ_{t in b} Σ_e s_te
    f_be = count_be / Σ_e count_be, a constant        (Σ_e count_be = K T_b unless tokens take fewer, as in top-p)
    L    = mean_b a Σ_e f_be P_be,         a = E, over sequences that have a real token

Backward, c = a dL / (number of such sequences)::

    ds_te = (c / T_b) (f_be - ⟨f_b, q_t⟩) / Σ_e s_te
    "total":  ds_te = c (f_be - ⟨f_b, P_b⟩) / Σ_{t in b} Σ_e s_te

"balance_second" is the same with what the first choice leaves: s is 0 there (mesh: times 0.5 beside the first).
f counts the choices before any drop; with f of a global batch and P of its parts the mean over the parts is the loss
of the whole (arXiv:2501.11873).  L = 1 when f or P is uniform; it can be below 1 (its infimum for top-1 routing over 8
experts is 0.40), so 1 is not its minimum.  Other factors a met in the wild: 1 / E (fairscale), K E (transformers'
Mixtral, whose balanced value is K); mesh, DeepSpeed, Tutel, Megatron and MegaBlocks write E in other ways.
Sources: arXiv:2101.03961 eq. 4-6; sigmoid scores normalised, and by sequence, as in DeepSeek-V3, arXiv:2412.19437
eq. 17-20; "total": lm-engine and SonicMoE.  No ε in Σ s: a router can learn to hide in it.
Cost: O(T E) each way; the scores are kept by reference, 1 / Σ s anew.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe.backend import accumulator, device, namespace, real
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array


class Cache(NamedTuple):
    s: Array  # (T, E)
    f: Array  # (B, E) constant
    weight: Array  # (T, 1) 1 / Σ_e s for a real token, 0 for padding; "total": 1 / Σ_t Σ_e s
    share: Array  # (B, 1) 1 / T_b, 0 without a real token; "total": 1
    total: Array | None  # (B, 1) ⟨f_b, P_b⟩; None: normalised token by token
    factor: float  # a / number of sequences


def forward(
    s: Array, f: Array, mask: Array | None = None, *, normalise: str = "token", factor: float | None = None
) -> tuple[Array, Cache]:
    """L (0-d) from the scores s (T, E), the fractions f (E,) or (B, E) and the mask (T,) of real tokens.

    factor: a; None is E.

    >>> import numpy as np
    >>> float(forward(np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([1.0, 0.0]))[0])
    1.4
    >>> float(forward(np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([[1.0, 0.0], [0.5, 0.5]]))[0])  # two sequences
    1.0
    """
    xp = namespace(s, f)
    acc = accumulator(s)
    tokens, experts = (int(n) for n in s.shape)
    f = xp.reshape(f, (-1, experts))
    b = int(f.shape[0])
    if tokens % b:
        check_shape("f", f, (1, experts))
    alive = xp.ones((tokens, 1), dtype=xp.bool, device=device(s)) if mask is None else mask[:, None]
    total = xp.sum(s, axis=1, keepdims=True)
    counted = xp.sum(xp.astype(xp.reshape(alive, (b, -1)), xp.float64), axis=1, keepdims=True)
    if normalise == "total":
        total = xp.where(alive, total, xp.zeros_like(total))
        total = xp.sum(xp.reshape(total, (b, -1)), axis=1, keepdims=True)
        total = _rows(total, tokens)
    alive = alive & (real(total) != 0)
    weight = xp.where(alive, 1 / xp.where(alive, total, xp.ones_like(total)), xp.zeros_like(total))
    present = xp.astype(counted > 0, xp.float64)
    share = present if normalise == "total" else present / xp.where(counted > 0, counted, xp.ones_like(counted))
    mean = xp.sum(xp.reshape(s * weight, (b, tokens // b, experts)), axis=1, dtype=acc) * xp.astype(share, acc)
    held = xp.sum(xp.astype(f, acc) * mean, axis=1, keepdims=True)
    a = experts if factor is None else factor
    scale = a / max(int(xp.sum(present)), 1)
    return xp.sum(held) * scale, Cache(s, f, weight, share, held if normalise == "total" else None, scale)


def _rows(per_sequence: Array, tokens: int) -> Array:
    """(B, C) -> (T, C): each token has the row of its sequence."""
    xp = namespace(per_sequence)
    b, width = per_sequence.shape
    if b == 1:
        return xp.broadcast_to(per_sequence, (tokens, width))
    return xp.reshape(xp.broadcast_to(per_sequence[:, None, :], (b, tokens // b, width)), (tokens, width))


def backward(dloss: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """ds (T, E) in the dtype of s; f is a count and has no gradient.

    >>> import numpy as np
    >>> _, cache = forward(np.array([[0.5, 0.5], [0.75, 0.25]]), np.array([1.0, 0.0]))
    >>> backward(np.ones(()), cache)[0]
    array([[ 0.5 , -0.5 ],
           [ 0.25, -0.75]])
    """
    s, f, weight, share, total, factor = cache
    xp = namespace(s, f)
    tokens = int(s.shape[0])
    scale = xp.astype(dloss, s.dtype) * factor
    f = _rows(xp.astype(f, s.dtype), tokens)
    share = _rows(xp.astype(share, s.dtype), tokens)
    if total is None:
        mixed = xp.sum(s * f, axis=1, keepdims=True) * weight  # ⟨f, q_t⟩
    else:
        mixed = _rows(xp.astype(total, s.dtype), tokens)
    return scale * share * weight * (f - mixed), {}
