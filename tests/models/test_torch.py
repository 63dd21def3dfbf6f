"""PyTorch's autograd agrees to 1e-13: dense models with torch's own operators, experts by a loop over tokens."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe.backend import tree
from pymoe.models import ClassifierConfig, LMConfig, Seq2SeqConfig

from .cases import MIXTRAL, SIZES, Case, distance

torch = pytest.importorskip("torch")
F = torch.nn.functional

CASES = (
    Case("lm dense", LMConfig(**SIZES, n_layers=2)),
    Case("lm sparse, masked", LMConfig(**SIZES, n_layers=2, moe=MIXTRAL, moe_layers=(1,)), (1,), True),
    Case("lm layer norm, biases, GELU", LMConfig(**SIZES, n_layers=2, norm="layer", bias=True, gated=False,
         activation="gelu", tie=False, label_smoothing=0.1)),
    Case("classifier sparse, masked", ClassifierConfig(**SIZES, n_layers=2, n_classes=4, moe=MIXTRAL), (0, 1), True),
    Case("seq2seq sparse, masked", Seq2SeqConfig(**SIZES, n_layers=1, moe=MIXTRAL), ((0,), (0,)), True),
)  # fmt: skip


def norm(x, p, cfg):
    if cfg.norm == "rms":
        return F.rms_norm(x, x.shape[-1:], p["weight"], cfg.norm_eps)
    return F.layer_norm(x, x.shape[-1:], p["weight"], p["bias"], cfg.norm_eps)


def turn(x, base):
    """x (B, H, S, d)."""
    d = x.shape[-1]
    angle = torch.arange(x.shape[2], dtype=x.dtype)[:, None] * base ** (-2 * torch.arange(d // 2, dtype=x.dtype) / d)
    z = torch.complex(x[..., : d // 2], x[..., d // 2 :]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag], dim=-1)


def attention(x, source, p, cfg, names, causal, real):
    h, g, d = cfg.n_heads, cfg.n_kv_heads, cfg.head_dim
    if names == "self":
        y = F.linear(x, p["qkv_proj"], p.get("qkv_proj_bias")).unflatten(-1, (-1, d)).transpose(1, 2)
        q, k, v = y.split([h, g, g], dim=1)
        q, k = turn(q, cfg.rope_base), turn(k, cfg.rope_base)
    else:
        q = F.linear(x, p["q_proj"], p.get("q_proj_bias")).unflatten(-1, (-1, d)).transpose(1, 2)
        k, v = F.linear(source, p["kv_proj"], p.get("kv_proj_bias")).unflatten(-1, (-1, d)).transpose(1, 2).chunk(2, 1)
    seen = torch.ones(x.shape[0], 1, q.shape[2], k.shape[2], dtype=torch.bool)
    if causal:
        seen = seen.tril()
    if real is not None:
        seen = seen & real[:, None, None, :]
    dead = ~seen.any(-1, keepdim=True)  # nothing visible: torch gives NaN, the definition 0
    o = F.scaled_dot_product_attention(
        q, k.repeat_interleave(h // g, 1), v.repeat_interleave(h // g, 1), attn_mask=seen | dead
    )
    o = torch.where(dead, torch.zeros_like(o), o)
    return F.linear(o.transpose(1, 2).flatten(2), p["o_proj"], p.get("o_proj_bias"))


def dense(x, p, cfg):
    if cfg.gated:
        gate, up = F.linear(x, p["gate_up_proj"], p.get("gate_up_proj_bias")).chunk(2, -1)
        h = F.silu(gate) * up
    else:
        h = F.gelu(F.linear(x, p["up_proj"], p.get("up_proj_bias")))
    return F.linear(h, p["down_proj"], p.get("down_proj_bias"))


def sparse(x, p, moe, real):
    """Token by token; returns (y, {"balance", "z"})."""
    rows, mask = x.flatten(0, 1), torch.ones(x.shape[:2], dtype=torch.bool) if real is None else real
    out, probabilities, lses, counts = [], [], [], torch.zeros(moe.n_experts, dtype=x.dtype)
    for row, is_real in zip(rows, mask.flatten(), strict=True):
        if not is_real:
            out.append(torch.zeros_like(row))
            continue
        z = p["router"]["weight"] @ row
        s = z.softmax(0)
        w, chosen = s.topk(moe.k)
        w = w / w.sum()
        y = torch.zeros_like(row)
        for weight, e in zip(w, chosen.tolist(), strict=True):
            gate, up = (p["experts"]["gate_up_proj"][e] @ row).chunk(2)
            y = y + weight * (p["experts"]["down_proj"][e] @ (F.silu(gate) * up))
            counts[e] += 1
        out.append(y)
        probabilities.append(s)
        lses.append(z.logsumexp(0))
    f = counts / counts.sum()
    balance = moe.n_experts * (f * torch.stack(probabilities).mean(0)).sum()
    return torch.stack(out).reshape(x.shape), {"balance": balance, "z": (torch.stack(lses) ** 2).mean()}


def stack(x, p, cfg, sparse_layers, causal, real, memory=None, memory_real=None):
    losses = []
    for i, q in p["layers"].items():
        n = norm(x, q["input_layernorm"], cfg)
        x = x + attention(n, n, q["self_attn"], cfg, "self", causal, real)
        if memory is not None:
            n = norm(x, q["cross_attn_layernorm"], cfg)
            x = x + attention(n, memory, q["cross_attn"], cfg, "cross", False, memory_real)
        n = norm(x, q["post_attention_layernorm"], cfg)
        if int(i) in sparse_layers:
            y, layer = sparse(n, q["mlp"], cfg.moe, real)
            losses.append(layer)
        else:
            y = dense(n, q["mlp"], cfg)
        x = x + y
    return norm(x, p["norm"], cfg), losses


def run(case, p, ids, decoder_ids=None, targets=None, mask=None, decoder_mask=None):
    cfg = case.cfg
    kind = type(cfg).__name__
    if kind == "Seq2SeqConfig":
        memory, one = stack(F.embedding(ids, p["encoder"]["embed_tokens"]["weight"]), p["encoder"], cfg, case.sparse[0],
                            False, mask)  # fmt: skip
        table = p["decoder"]["embed_tokens"]["weight"]
        y, two = stack(F.embedding(decoder_ids, table), p["decoder"], cfg, case.sparse[1], True, decoder_mask, memory,
                       mask)  # fmt: skip
        layer_losses, logits, name, keep = one + two, F.linear(y, table), "seq2seq", decoder_mask
    else:
        causal = kind == "LMConfig"
        table = p["embed_tokens"]["weight"]
        y, layer_losses = stack(F.embedding(ids, table), p, cfg, case.sparse, causal, mask)
        if causal:
            logits, name, keep = F.linear(y, table if cfg.tie else p["lm_head"]["weight"]), "lm", mask
        else:
            real = torch.ones(ids.shape, dtype=torch.bool) if mask is None else mask
            pooled = (y * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1)
            logits, name, keep = F.linear(pooled, p["classifier"]["weight"], p["classifier"]["bias"]), "classify", None
    losses = {k: torch.stack([layer[k] for layer in layer_losses]).mean() for k in (layer_losses or [{}])[0]}
    wanted = targets if keep is None else torch.where(keep, targets, torch.full_like(targets, -100))
    losses[name] = F.cross_entropy(logits.flatten(0, -2), wanted.flatten(), label_smoothing=cfg.label_smoothing)
    return logits, losses


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_forward_losses_and_gradients_are_those_of_autograd(case):
    args, keywords = case.args(), case.keywords()
    out, cache = case.module.forward(*args, **keywords)
    rng = np.random.default_rng(4)
    dlogits = rng.standard_normal(out.logits.shape)
    dlosses = {name: float(rng.standard_normal()) for name in out.losses}
    dp = tree.flatten(case.module.backward(dlogits, cache, dlosses)[1])

    leaves = {name: torch.tensor(a, requires_grad=True) for name, a in tree.flatten(args[1]).items()}
    given = {name: torch.tensor(a) for name, a in keywords.items()}
    if len(args) == 4:
        given["decoder_ids"] = torch.tensor(args[3])
    logits, losses = run(case, tree.unflatten(leaves), torch.tensor(args[0]), **given)
    assert distance(out.logits, logits.detach().numpy()) < 1e-13
    assert out.losses.keys() == losses.keys()
    for name, value in losses.items():
        assert float(out.losses[name]) == pytest.approx(value.item(), rel=1e-13)
    ((logits * torch.tensor(dlogits)).sum() + sum(dlosses[n] * losses[n] for n in losses)).backward()
    assert dp.keys() == leaves.keys()
    for name, leaf in leaves.items():
        assert distance(dp[name], leaf.grad.numpy()) < 1e-13, name
        assert distance(1.001 * dp[name], leaf.grad.numpy()) > 1e-13, name
