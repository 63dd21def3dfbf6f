"""Small models and texts for the tests of model surgery: sizes pairwise different, read-only, seeded."""

from __future__ import annotations

from typing import Any

import numpy as np

from pymoe import presets
from pymoe.backend import tree
from pymoe.models import lm
from pymoe.models.lm import LMConfig
from pymoe.surgery.calibration import Calibration

VOCAB, D, F, E, K, WINDOW = 23, 12, 8, 5, 2, 9


def sparse(shared: int = 0, layers: int = 2, **router: Any) -> tuple[LMConfig, dict[str, Any]]:
    moe = presets.mixtral(d_model=D, d_ff=F, n_experts=E, k=K, d_shared=shared, **router)
    return frozen(LMConfig(vocab=VOCAB, context=WINDOW, d_model=D, n_layers=layers, n_heads=3, moe=moe, std=0.4))


def dense(seed: int = 0, d_ff: int = 20) -> tuple[LMConfig, dict[str, Any]]:
    return frozen(LMConfig(vocab=VOCAB, context=WINDOW, d_model=D, n_layers=2, n_heads=3, d_ff=d_ff, std=0.4), seed)


def frozen(cfg: LMConfig, seed: int = 0) -> tuple[LMConfig, dict[str, Any]]:
    p = lm.init(np.random.default_rng(seed), cfg, np.float64)
    for leaf in tree.flatten(p).values():
        leaf.setflags(write=False)
    return cfg, p


def text(n: int = 200, seed: int = 1) -> Calibration:
    ids = np.random.default_rng(seed).integers(0, VOCAB, n)
    ids.setflags(write=False)
    return Calibration(ids, WINDOW, rows=4, limit=13)


def logits(cfg: LMConfig, p: dict[str, Any], seed: int = 2) -> np.ndarray:
    ids = np.random.default_rng(seed).integers(0, VOCAB, (3, WINDOW))
    return lm.forward(ids, p, cfg)[0].logits
