"""Routers that look the choice up, or that let a token take as many experts as it needs."""

from __future__ import annotations

from typing import Any

from pymoe.moe.config import MoEConfig
from pymoe.presets.make import make


def hash_layer(d_model: int, d_ff: int, n_experts: int = 64, k: int = 1, **settings: Any) -> MoEConfig:
    """Hash layers: the experts of a token stand in router.table at its id.  arXiv:2106.04426.

    idx[t] = table[id[t]], a constant (``moe.forward(..., given=Given(token_ids=ids))``);  g = s[idx] / Σ s[idx] of the
    learned scores as in DeepSeek-V4, so z has a gradient; with k = 1 the weight is 1, the paper's layer, and it has
    none.  ``table_size`` is the number of token ids.  Trap: all chosen scores can underflow, 0/0; here g is then 0.
    """
    defaults = {"select": "table", "table_size": 32000, "score": "sqrtsoftplus", "norm": "l1", "losses": ()}
    return make(d_model, d_ff, n_experts, k, defaults, settings)


def top_p(d_model: int, d_ff: int, n_experts: int = 16, k: int | None = None, **settings: Any) -> MoEConfig:
    """Top-p: a token takes the fewest experts that hold the share ``top_p`` of its softmax.  arXiv:2403.07652.

    The expert at which the sum reaches the share is taken; g = p on the set.  Beside the balance loss the entropy of p,
    dz = -p (log p + H) / T, without which the router takes more and more experts.  k is the most a token may take,
    n_experts unless given.
    """
    defaults = {"select": "top_p", "top_p": 0.4, "losses": ("balance", "entropy")}
    return make(d_model, d_ff, n_experts, n_experts if k is None else k, defaults, settings)


def adamoe(d_model: int, d_ff: int, n_experts: int = 8, k: int = 2, **settings: Any) -> MoEConfig:
    """AdaMoE: k choices among the true experts and as many null ones that give 0; renormalised over the true ones.

    g_e = p_e / Σ_{true chosen} p;  a null choice has weight 0 and no gradient; a token of null choices only gets 0.  In
    the balance loss all null experts have the mean of their f, since which of them is taken does not matter.
    arXiv:2406.13233.  Trap: k counts null choices too, so a token has fewer than k true ones on average.
    """
    defaults = {
        "norm": "l1", "null_norm": "true", "null_balance": "mean", "null_experts": ("zero",) * n_experts,
        "losses": ("balance",),
    }  # fmt: skip
    return make(d_model, d_ff, n_experts, k, defaults, settings)


def moe_plus_plus(d_model: int, d_ff: int, n_experts: int = 8, k: int = 2, **settings: Any) -> MoEConfig:
    """MoE++: a zero expert, a copy expert and constant experts beside the true ones.  arXiv:2410.07348.

    copy x;  constant α x + β v, (α, β) = softmax(W_c x), v trained;  zero 0: its weight is 0 and the others are
    renormalised without it.  ``gate_residual=True`` adds W_g times the logits of the layer before,
    which only the layers after the first can have (``moe.gate_residual``).
    """
    defaults = {
        "norm": "l1", "null_norm": "nonzero", "null_experts": ("zero", "copy", "constant", "constant"),
        "losses": ("balance",),
    }  # fmt: skip
    return make(d_model, d_ff, n_experts, k, defaults, settings)
