"""Small layers as flat parameters and oracle settings, with the kinds of routing whose statistics differ.

Each case: (name, settings of the loop oracles, what the layer has besides).  Experts 0.. of a case need not all be
chosen: ``biased`` pushes one expert out of every choice by its router row.
"""

from __future__ import annotations

import numpy as np

KINDS: dict[str, dict] = {
    "softmax": {"score": "softmax", "k": 2},
    "renormalised": {"score": "softmax", "k": 2, "renorm": True},
    "sigmoid with a bias that selects": {"score": "sigmoid", "k": 3, "renorm": True, "scale": 2.5},
    "one choice, no gate": {"score": "softmax", "k": 1, "gated": False, "activation": "gelu"},
}


def params(seed: int, kind: str, e: int = 5, d: int = 4, f: int = 3, unrouted: int | None = None) -> dict:
    """Flat names -> read-only float64 arrays; with biases in every second kind."""
    rng, settings = np.random.default_rng(seed), KINDS[kind]
    gated = settings.get("gated", True)
    up = "gate_up_proj" if gated else "up_proj"
    p = {
        "router.weight": rng.standard_normal((e, d)),
        f"experts.{up}": rng.standard_normal((e, 2 * f if gated else f, d)),
        "experts.down_proj": rng.standard_normal((e, d, f)),
    }
    if kind in ("renormalised", "one choice, no gate"):
        p[f"experts.{up}_bias"] = rng.standard_normal(p[f"experts.{up}"].shape[:2])
        p["experts.down_proj_bias"] = rng.standard_normal((e, d))
    if "bias" in kind:
        p["router.selection_bias"] = rng.standard_normal(e) / 4
    if unrouted is not None:
        p["router.bias"] = np.where(np.arange(e) == unrouted, -50.0, 0.0)
        if "router.selection_bias" in p:
            p["router.selection_bias"] -= np.where(np.arange(e) == unrouted, 5.0, 0.0)
    for a in p.values():
        a.setflags(write=False)
    return p


def tokens(seed: int, t: int = 11, d: int = 4) -> np.ndarray:
    x = np.random.default_rng(1000 + seed).standard_normal((t, d))
    x.setflags(write=False)
    return x


def nested(flat: dict, dtype="f8") -> dict:
    tree: dict = {}
    for name, a in flat.items():
        branch, leaf = name.split(".")
        b = a.astype(dtype)
        b.setflags(write=False)
        tree.setdefault(branch, {})[leaf] = b
    return tree
