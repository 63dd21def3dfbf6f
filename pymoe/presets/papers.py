"""Routers by softmax, with and without places, as their papers and the authors' code define them.

p = softmax(z), z = W x.  Constant everywhere: the choice, the places, the counts f.  ``capacity`` is part of the
training rule: ``dataclasses.replace`` gives the one of evaluation.
"""

from __future__ import annotations

from typing import Any

from pymoe.moe.config import MoEConfig
from pymoe.moe.router_config import Capacity
from pymoe.presets.make import make

MLP = {"gated": False, "activation": "relu"}
TORCH_EPS = 2.0**-23  # torch.finfo(torch.float32).eps, what several ports clamp with


def mixtral(d_model: int, d_ff: int, n_experts: int = 8, k: int = 2, **settings: Any) -> MoEConfig:
    """Softmax, top-k, renormalised (= softmax over the k chosen logits).  arXiv:2401.04088, sec. 2.1.

    g = p[idx] / Σ p[idx];  dz[idx] = g ⊙ (dg - ⟨g, dg⟩), every other logit exactly 0.  Traps: with k = 1 the router
    learns nothing from the output; an ε in the denominator lets a gradient of order ε / Σ reach the others; weights in
    float32 (HF Mixtral) and in the dtype of the logits (HF Qwen3) differ by one ulp, both are right.
    """
    return make(d_model, d_ff, n_experts, k, {"norm": "l1"}, settings)


def olmoe(d_model: int, d_ff: int, n_experts: int = 64, k: int = 8, **settings: Any) -> MoEConfig:
    """Softmax, top-k, not renormalised.  arXiv:2409.02060, sec. 2.

    g = p[idx];  dz = p ⊙ (dp - ⟨p, dp⟩) with dp[idx] = dg: every logit has a gradient.
    """
    return make(d_model, d_ff, n_experts, k, {}, settings)


def switch(d_model: int, d_ff: int, n_experts: int = 8, k: int = 1, **settings: Any) -> MoEConfig:
    """Switch: top-1, weight p_e, capacity in token order, ReLU MLP experts.  arXiv:2101.03961, eq. 1-6.

    C = max(min(T, int(T cf / E)), 4), cf 1.25 in training and 2.0 in evaluation; a dropped token gets 0 (the residual
    passes); f counts before the drop.  The four policies of the authors' code: this one, ``jitter=1e-2`` (the
    paper's), ``jitter=0.1, jitter_form="dropout"``, ``sample="all"``.  Traps: the jitter is the router's alone, ports
    leak it into the experts; renormalised with k = 1 the router would not learn.
    """
    defaults = {
        "capacity": Capacity(factor=1.25, minimum=4, rounding="floor", order="token"),
        "losses": ("balance",),
        **MLP,
    }
    return make(d_model, d_ff, n_experts, k, defaults, settings)


def gshard(d_model: int, d_ff: int, n_experts: int = 8, k: int = 2, **settings: Any) -> MoEConfig:
    """GShard top-2: renormalised before the drop, first choices first, f from first choices.  arXiv:2006.16668, alg. 1.

    The family of mesh, which adds ``eps=1e-9`` to the sum and has the capacity of ``switch``.
    Its policies for the second choice, of renormalised weight g₂: all; ``second_policy="none"``;
    ``second_policy="threshold"`` and "random" with ``second_threshold`` (mesh 0.2; with draws kept with probability
    min(1, g₂ / threshold); fastmoe's 2 g₂ >= U is 0.5).  A dropped choice still has a gradient through the sum.
    ``losses=("balance", "balance_second")`` is mesh's second place, its weight 0.5.  Trap: the second choices queue
    behind the *kept* first ones here, behind all of them at fairscale and DeepSpeed: the same places.
    """
    defaults = {
        "norm": "l1",
        "capacity": Capacity(factor=1.0, rounding="ceil", order="choice"),
        "losses": ("balance",),
        "balance_choices": "first",
        **MLP,
    }
    return make(d_model, d_ff, n_experts, k, defaults, settings)


def fairscale_top2(d_model: int, d_ff: int, n_experts: int = 8, k: int = 2, **settings: Any) -> MoEConfig:
    """GShard as fairscale has it: renormalised *after* the drop, C = 2 T // E, a sampled second choice.

    g = v / max(Σ_kept v, ε): the survivor of a half-dropped token weighs 1, and where the clamp acts the sum has no
    gradient.  The second choice is argmax of the other logits plus Gumbel noise (with draws).  arXiv:2006.16668;
    ``fairscale/nn/moe/top2gate.py``.  Trap: its loss lacks the factor E², so a coefficient does not carry over.
    """
    defaults = {
        "norm": "clamp",
        "eps": TORCH_EPS,
        "sample": "second",
        "capacity": Capacity(rule="gshard", order="choice", renorm="after"),
        "losses": ("balance",),
        "balance_choices": "first",
        "balance_factor": "fairscale",
        **MLP,
    }
    return make(d_model, d_ff, n_experts, k, defaults, settings)


def deepspeed_top2(d_model: int, d_ff: int, n_experts: int = 8, k: int = 2, **settings: Any) -> MoEConfig:
    """GShard as DeepSpeed has it: as fairscale, C = max(ceil(2 T / E cf), 4), and the loss with its factor.

    arXiv:2006.16668; ``deepspeed/moe/sharded_moe.py``, top2gating.
    """
    defaults = {
        "norm": "clamp",
        "eps": TORCH_EPS,
        "sample": "second",
        "capacity": Capacity(factor=1.0, minimum=4, rule="deepspeed", order="choice", renorm="after"),
        "losses": ("balance",),
        "balance_choices": "first",
        **MLP,
    }
    return make(d_model, d_ff, n_experts, k, defaults, settings)


def deepspeed_topk(d_model: int, d_ff: int, n_experts: int = 8, k: int = 4, **settings: Any) -> MoEConfig:
    """DeepSpeed for k > 2: each expert keeps its C most probable tokens, then the weights are renormalised.

    C = max(ceil(k T / E cf), 4); ``capacity.order="token"`` is the policy by position.  The loss E Σ f P, f over all k
    choices.  arXiv:2201.05596; ``deepspeed/moe/sharded_moe.py``, topkgating.  Trap: its mask of dropped choices once
    came from logits instead of probabilities, so tokens of negative logits vanished.
    """
    defaults = {
        "norm": "clamp",
        "eps": TORCH_EPS,
        "capacity": Capacity(factor=1.0, minimum=4, rule="deepspeed", order="probability", renorm="after"),
        "losses": ("balance",),
        **MLP,
    }
    return make(d_model, d_ff, n_experts, k, defaults, settings)


def deepspeed_top1(d_model: int, d_ff: int, n_experts: int = 8, k: int = 1, **settings: Any) -> MoEConfig:
    """DeepSpeed top-1: weight p_e, and places given out at random, so that no position is always the one dropped.

    With draws each expert keeps the C tokens of the largest draws, without them the first C.  ``sample="all"`` is its
    RSample; its ``used_token`` is the padding mask.  arXiv:2201.05596; ``deepspeed/moe/sharded_moe.py``, top1gating.
    """
    defaults = {
        "capacity": Capacity(factor=1.0, minimum=4, rule="deepspeed", order="random"),
        "losses": ("balance",),
        **MLP,
    }
    return make(d_model, d_ff, n_experts, k, defaults, settings)


def noisy_topk(d_model: int, d_ff: int, n_experts: int = 8, k: int = 2, **settings: Any) -> MoEConfig:
    """Noisy top-k gating: learned noise, softmax over the chosen, importance and load losses.  arXiv:1701.06538.

    h = c + ε ⊙ (softplus(W_n x) + 0.01), eq. 4;  load_e = Σ_t Φ((c_te - θ_te) / σ_te), eq. 8-10, and θ, the (k+1)-th
    or k-th largest of h, *has* a gradient.  Constant: ε.  Without draws h = c and the load is the count.  Traps: ports
    use the unbiased variance and 1e-10 (``cv_ddof=1, cv_eps=1e-10``); one softmaxes before it compares with raw logits
    (its loads sum to 175, not 124), one tests membership with the noise alone, one divides 0/0 in evaluation; the load
    loss needs k < E.
    """
    defaults = {"norm": "l1", "noise": "learned", "losses": ("importance", "load"), **MLP}
    return make(d_model, d_ff, n_experts, k, defaults, settings)


def vmoe(d_model: int, d_ff: int, n_experts: int = 32, k: int = 2, **settings: Any) -> MoEConfig:
    """V-MoE: noise of deviation 1 / E, weights p of the noisy logits without renormalisation.  arXiv:2106.05974.

    Importance of the clean softmax; load with one threshold, the k-th largest of h for every expert, which has a
    gradient.  C = ceil(k T cf / E) up to a multiple of 4; ``order="score"`` is batch prioritised routing.  Trap:
    written as (std / mean)² the losses have NaN gradients at perfect balance and with a router of zeros; as
    Var / mean² they have none.
    """
    defaults = {
        "noise": "gaussian",
        "importance_of": "scores",
        "capacity": Capacity(factor=1.05, rounding="ceil", order="choice", rule="vmoe", multiple=4),
        "losses": ("importance", "load"),
        "gated": False,
        "activation": "gelu",
        "bias": True,
    }
    return make(d_model, d_ff, n_experts, k, defaults, settings)


def megablocks(d_model: int, d_ff: int, n_experts: int = 8, k: int = 1, **settings: Any) -> MoEConfig:
    """MegaBlocks: softmax, top-k, no choice dropped.  arXiv:2211.15841.

    ``norm="lp", norm_p=p`` is its moe_normalize_expert_weights;  ``capacity=Capacity(factor=cf, rule="megablocks")``
    drops, C = int(cf k T / E), and cf = 0 does not.  The loss over L layers is the mean of the layers' E Σ f P: give
    each the coefficient divided by L.
    """
    return make(d_model, d_ff, n_experts, k, {"gated": False, "activation": "gelu_tanh"}, settings)


def dbrx(d_model: int, d_ff: int, n_experts: int = 16, k: int = 4, **settings: Any) -> MoEConfig:
    """DBRX: softmax, top-k, divided by the p-norm, p = 1 as released.  transformers, ``models/dbrx``.

    g = v / ‖v‖_p;  dv = (dg - ⟨dg, g⟩ sign(g) |g|^(p-1)) / ‖v‖_p.  Trap: with p = 2 the weights do not sum to 1.
    """
    return make(d_model, d_ff, n_experts, k, {"norm": "lp", "norm_p": 1.0}, settings)


def deepseek_v2(d_model: int, d_ff: int, n_experts: int = 64, k: int = 6, **settings: Any) -> MoEConfig:
    """Softmax, groups by their best expert, top-k, scaled and not renormalised.  arXiv:2405.04434, sec. 2.2.

    The authors' code renormalises *or* scales (``norm="l1", scale=1.0`` if k > 1 and norm_topk_prob, else the scale),
    transformers 5.23 only scales.  The other groups count as -inf; 0 would do here, since p > 0, and only here.
    """
    defaults = {"select": "group_limited", "group_score": "max", "n_group": 1, "topk_group": 1}
    return make(d_model, d_ff, n_experts, k, defaults, settings)


def gpt_oss(d_model: int, d_ff: int, n_experts: int = 128, k: int = 4, **settings: Any) -> MoEConfig:
    """gpt-oss: top-k of the logits *with* their bias, softmax over the chosen; biased, clamped experts.

    z = W x + b, b trained;  g = softmax(z[idx]);  dz[idx] = g ⊙ (dg - ⟨g, dg⟩).  transformers, ``models/gpt_oss``.
    Traps: the down projection has a bias, so a weight before it is not a weight after it; a softmax in bfloat16 ties.
    """
    experts = {"bias": True, "limit": 7.0, "gate_alpha": 1.702, "up_offset": 1.0}
    return make(
        d_model, d_ff, n_experts, k, {"score_at": "chosen", "select_on": "logits", "router_bias": True, **experts},
        settings,
    )  # fmt: skip


def llama4(d_model: int, d_ff: int, n_experts: int = 16, k: int = 1, **settings: Any) -> MoEConfig:
    """Llama 4: top-1 of the logits, σ of the chosen one, which multiplies the expert's *input*; a shared expert.

    y = f_e(σ(z_e) x) + f_shared(x);  dg = ⟨dx', x⟩ of x' = g x.  transformers, ``models/llama4``.  Trap: f is not
    linear, so neither the value nor the gradient is that of a weighted output.  transformers runs every expert on every
    token, inputs of 0 where it was not chosen: the same numbers, as long as an expert has no bias.
    """
    defaults = {
        "score": "sigmoid", "score_at": "chosen", "select_on": "logits", "weight_at": "input", "d_shared": d_ff,
        "losses": (),
    }  # fmt: skip
    return make(d_model, d_ff, n_experts, k, defaults, settings)


def gemma4(d_model: int, d_ff: int, n_experts: int = 128, k: int = 8, **settings: Any) -> MoEConfig:
    """Gemma 4: a normed and scaled router input, softmax, top-k, renormalised, times a trained scale of each expert.

    x' = x / √(mean x² + ε) ⊙ a / √D;  g = β[idx] p[idx] / Σ p[idx];  dβ_e = Σ_{idx = e} dg g / β_e.  transformers,
    ``models/gemma4``.  Trap: β may be negative, a port that clamped it had another model.
    """
    defaults = {
        "norm": "l1", "input_norm": "rms", "input_multiplier": d_model**-0.5, "expert_scale": True,
        "activation": "gelu_tanh", "losses": (),
    }  # fmt: skip
    return make(d_model, d_ff, n_experts, k, defaults, settings)


def expert_choice(d_model: int, d_ff: int, n_experts: int = 8, k: int = 2, **settings: Any) -> MoEConfig:
    """Each expert takes its k·T/E best tokens; no balance loss is needed.  Not causal.  arXiv:2202.09368, sec. 3.2.

    S = softmax over the *experts* (flaxformer, V-MoE); g = S at the chosen places.  A token may get 0 to E experts.
    """
    return make(d_model, d_ff, n_experts, k, {"select": "expert_choice", "losses": ()}, settings)
