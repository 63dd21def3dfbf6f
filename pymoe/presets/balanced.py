"""Routers whose choice itself is balanced, by prices that are computed from the batch and have no gradient."""

from __future__ import annotations

from typing import Any

from pymoe.moe.config import MoEConfig
from pymoe.presets.make import make


def s_base(d_model: int, d_ff: int, n_experts: int = 8, k: int = 1, **settings: Any) -> MoEConfig:
    """S-BASE: top-k of a transport plan that gives every expert the same share of the batch.  arXiv:2202.01169.

    idx = top-k of z + log v, v by Sinkhorn's iteration over the tokens of the batch (``select.sinkhorn``);  g = σ(z) of
    the chosen for k = 1, softmax(z) for more, as in Megatron;  dz = σ (1 - σ) dg;  idx and v are constants.  No balance
    loss.  In evaluation a token must not depend on others: take the same settings with ``select="topk"``.  Traps: the
    choice looks at later tokens; exp(z) overflows unless the iteration stays in logarithms, as it does here.
    """
    defaults = {
        "select": "sinkhorn", "select_on": "logits", "score": "sigmoid" if k == 1 else "softmax", "losses": (),
        "gated": False, "activation": "relu",
    }  # fmt: skip
    return make(d_model, d_ff, n_experts, k, defaults, settings)


def quantile_balancing(d_model: int, d_ff: int, n_experts: int = 64, k: int = 6, **settings: Any) -> MoEConfig:
    """Quantile balancing: top-k of s - β, β_e the price at which T k / E tokens still want expert e.

    β comes from the scores of this very batch (``select.quantile``), or, as trained in Megatron-LM
    (``qb_dual_update``), from the step before: then ``select="topk"``, ``selection_bias=True``, and
    ``select.quantile.update`` moves β = -bias once per step.  g = s / Σ s of the chosen, of the scores without β.
    β and idx are constants; no loss, no step size.
    """
    defaults = {"select": "quantile", "score": "sigmoid", "norm": "l1", "losses": ()}
    return make(d_model, d_ff, n_experts, k, defaults, settings)
