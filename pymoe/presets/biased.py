"""Routers with a bias that selects and does not weigh, or with scores that are no softmax.

s the scores, b the selection bias: idx = top-k of s + b, g = s[idx], never (s + b)[idx], and never
(s + b)[idx] - b[idx], which loses the digits of s.  b is a buffer: no gradient, moved by ``moe.bias_update`` once an
optimiser step (arXiv:2408.15664), and it belongs in the widest precision there is: in bfloat16 238 distinct values
collapse to 8.
"""

from __future__ import annotations

from typing import Any

from pymoe.moe.config import MoEConfig
from pymoe.presets.make import make

SIGMOID = {"score": "sigmoid", "selection_bias": True, "norm": "l1"}


def deepseek_v3(d_model: int, d_ff: int, n_experts: int = 256, k: int = 8, **settings: Any) -> MoEConfig:
    """Sigmoid, selection bias, groups by the sum of their two best, renormalised, times 2.5.

    arXiv:2412.19437, eq. 12-16.  s = σ(z);  g = 2.5 s[idx] / Σ s[idx];  dz = s (1 - s) ds.  The other groups count as
    -inf: with 0 in its place a forbidden expert enters as soon as a kept s + b is negative.  The authors have no ε,
    ports add 1e-20.  ``balance_over="sequence"`` is the paper's loss, eq. 17-20, with f of the *unbiased* scores; a
    port that took softmax shares for it balanced another router.  As released: ``n_group=8, topk_group=4,
    d_shared=d_ff``; here one group and no shared expert unless said, since not every E has eight groups.
    """
    defaults = {
        **SIGMOID,
        "select": "group_limited",
        "group_score": "top2",
        "scale": 2.5,
        "losses": ("balance",),
    }
    return make(d_model, d_ff, n_experts, k, defaults, settings)


def sigmoid_bias(d_model: int, d_ff: int, n_experts: int = 256, k: int = 8, **settings: Any) -> MoEConfig:
    """Sigmoid and selection bias without groups, renormalised: MiniMax-M2, LFM2, Laguna, MuseSpark and others.

    arXiv:2412.19437 with one group.  What the models differ in: ``eps`` (none, 1e-6 LFM2, 1e-15 MuseSpark, 1e-20),
    ``logit_multiplier`` (MuseSpark), ``soft_cap`` (Laguna), ``scale`` and ``scale_at`` (Laguna, Step and MiniMax-M3
    scale the routed output).  Trap: σ in bfloat16 ties at the cut for most tokens (LFM2), and in float32 it is exactly
    1 beyond 17.
    """
    return make(d_model, d_ff, n_experts, k, {**SIGMOID, "losses": ()}, settings)


def logit_bias(d_model: int, d_ff: int, n_experts: int = 384, k: int = 6, **settings: Any) -> MoEConfig:
    """Kolibri: the selection bias is added to the *logits*; the weights are σ of the unbiased chosen logits.

    idx = top-k of z + b;  g = σ(z[idx]) / Σ.  transformers, ``models/kolibri1``.
    """
    defaults = {**SIGMOID, "score_at": "chosen", "select_on": "logits", "losses": ()}
    return make(d_model, d_ff, n_experts, k, defaults, settings)


def deepseek_v4(d_model: int, d_ff: int, n_experts: int = 256, k: int = 6, **settings: Any) -> MoEConfig:
    """Square root of softplus, selection bias, renormalised with 1e-20, times 1.5; experts clamped at 10.

    s = √log(1 + e^z);  dz = σ(z) / (2 s) ds, which tends to e^(z/2) / 2.  transformers, ``models/deepseek_v4``.  Trap:
    written as that quotient it is 0/0 where e^z rounds to 0, and one logit of -104 in float32 puts NaN into dx and into
    the row of an expert that was not even chosen; ``ops.sqrt_softplus`` has no quotient.
    """
    defaults = {
        **SIGMOID, "score": "sqrtsoftplus", "eps": 1e-20, "scale": 1.5, "limit": 10.0, "d_shared": d_ff, "losses": ()
    }  # fmt: skip
    return make(d_model, d_ff, n_experts, k, defaults, settings)


def ernie(d_model: int, d_ff: int, n_experts: int = 64, k: int = 6, **settings: Any) -> MoEConfig:
    """Ernie 4.5: softmax with a selection bias on the probabilities, renormalised by max(Σ, 1e-12).

    g = p[idx] / max(Σ p[idx], ε);  where Σ < ε the denominator is a constant and dv = dg / ε.  transformers,
    ``models/ernie4_5_moe``.
    """
    defaults = {"selection_bias": True, "norm": "clamp", "eps": 1e-12, "d_shared": d_ff, "losses": ("balance",)}
    return make(d_model, d_ff, n_experts, k, defaults, settings)


def longcat(d_model: int, d_ff: int, n_experts: int = 512, k: int = 12, **settings: Any) -> MoEConfig:
    """LongCat-Flash: softmax and bias over experts and half as many identities, times 6, not renormalised.

    y = Σ_{e < E} g_e f_e(x) + Σ_{e >= E} g_e x;  dg of an identity is ⟨dy, x⟩.  arXiv:2509.01322.  Trap: transformers
    5.23 builds a logit bias on request and ignores it.
    """
    defaults = {"selection_bias": True, "scale": 6.0, "null_experts": ("identity",) * (n_experts // 2), "losses": ()}
    return make(d_model, d_ff, n_experts, k, defaults, settings)


def inkling(d_model: int, d_ff: int, n_experts: int = 256, k: int = 6, **settings: Any) -> MoEConfig:
    """Inkling: the chosen and the shared experts weighted together, σ(L) / Σ σ(L) over both, times a trained scale.

    L = [z[idx], z_shared];  w = softmax(log σ(L));  dL = (1 - σ(L)) ⊙ w ⊙ (dw - ⟨dw, w⟩).  The bias selects among the
    routed.  transformers, ``models/inkling``.  Trap: its slice ``[..., :-n_shared]`` is empty at n_shared = 0.
    """
    n = int(settings.get("n_shared", 2))
    defaults = {
        "score": "sigmoid", "selection_bias": True, "norm": "joint", "n_shared_logits": n, "global_scale": True,
        "shared": "joint", "n_shared": n, "d_shared": n * d_ff, "losses": (),
    }  # fmt: skip
    return make(d_model, d_ff, n_experts, k, defaults, settings)
