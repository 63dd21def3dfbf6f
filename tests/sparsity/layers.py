"""A small MoE layer with calibration tokens, and what its experts do, token by token in plain Python."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pymoe import moe, presets
from pymoe.backend import tree
from pymoe.moe import MoEConfig

D, F, E, K, T = 5, 6, 7, 3, 29


def layer(seed: int = 0, **settings: Any) -> tuple[MoEConfig, dict[str, Any], np.ndarray]:
    cfg = presets.mixtral(**({"d_model": D, "d_ff": F, "n_experts": E, "k": K} | settings))
    rng = np.random.default_rng(seed)
    p = moe.init(rng, cfg)
    for name, leaf in tree.flatten(p).items():
        if "bias" in name:
            leaf[...] = rng.standard_normal(leaf.shape) / 4
        leaf.setflags(write=False)
    x = rng.standard_normal((T, cfg.d_model))
    x.setflags(write=False)
    return cfg, p, x


def act(name: str, v: float) -> float:
    return v / (1 + math.exp(-v)) if name == "silu" else max(v, 0.0)


def expert(x: np.ndarray, p: dict[str, Any], cfg: MoEConfig, e: int) -> tuple[list[float], list[float]]:
    """(h, f_e(x)) of one token, written out."""
    up = p["experts"]["gate_up_proj" if cfg.gated else "up_proj"][e]
    down = p["experts"]["down_proj"][e]
    bias = p["experts"].get("gate_up_proj_bias" if cfg.gated else "up_proj_bias")
    a = [math.fsum(float(u) * float(v) for u, v in zip(row, x, strict=True)) for row in up]
    if bias is not None:
        a = [u + float(b) for u, b in zip(a, bias[e], strict=True)]
    f = len(a) // 2
    h = [act(cfg.activation, a[i]) * a[f + i] for i in range(f)] if cfg.gated else [act(cfg.activation, v) for v in a]
    y = [math.fsum(float(w) * v for w, v in zip(row, h, strict=True)) for row in down]
    if bias is not None:
        y = [v + float(b) for v, b in zip(y, p["experts"]["down_proj_bias"][e], strict=True)]
    return h, y


def looped(cfg: MoEConfig, p: dict[str, Any], x: np.ndarray, mask: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Every sum of ``sparsity.statistics``, from the layer's decisions on, one token and choice at a time."""
    routing = moe.forward(x, p, cfg, mask=mask)[0].routing
    n, f = cfg.n_stored, cfg.d_ff
    found = {"count": np.zeros(n), "weight": np.zeros(n), "norm": np.zeros(n), "weighted_norm": np.zeros(n)}
    found |= {"x_sumsq": np.zeros((n, cfg.d_model)), "h_sumsq": np.zeros((n, f))}
    found |= {"x_gram": np.zeros((n, cfg.d_model, cfg.d_model)), "h_gram": np.zeros((n, f, f))}
    for t in range(len(x)):
        for j in range(routing.idx.shape[1]):
            if routing.kept is not None and not routing.kept[t, j]:
                continue
            e, g = int(routing.idx[t, j]), float(routing.weight[t, j])
            e = e if cfg.tied is None else cfg.tied[e]
            h, y = expert(x[t], p, cfg, e)
            length = math.sqrt(math.fsum(v * v for v in y))
            found["count"][e] += 1
            found["weight"][e] += g
            found["norm"][e] += length
            found["weighted_norm"][e] += g * length
            found["x_sumsq"][e] += x[t] ** 2
            found["h_sumsq"][e] += np.square(h)
            found["x_gram"][e] += np.outer(x[t], x[t])
            found["h_gram"][e] += np.outer(h, h)
    return found
