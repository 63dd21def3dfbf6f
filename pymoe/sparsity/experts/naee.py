"""NAEE: keep the set of experts whose layer comes closest to the whole one on calibration tokens.

    min over kept sets S, |S| = n, of ‖y - y_S‖_F        y_S: dropped logits -inf, then softmax, top-k, renormalisation

``exhaustive`` tries all C(E, n) sets: 70 for 4 of 8, and hopeless for 32 of 64.  ``greedy`` drops one expert at a time,
the one whose absence raises the error least: E + (E-1) + ... forwards.  Of equal errors the first set in lexicographic
order (greedy: the lowest id dropped) wins.  Source: Lu et al., arXiv:2402.14800, eq. 3-4.  Cost: one forward of the
layer on x for each set.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pymoe import moe
from pymoe.backend import to_numpy
from pymoe.backend.errors import ConfigError, NonFiniteError
from pymoe.backend.namespace import Array
from pymoe.moe import MoEConfig
from pymoe.sparsity.experts.cut import cut


def exhaustive(x: Array, p: Mapping[str, Any], cfg: MoEConfig, n_keep: int, *, limit: int = 100_000) -> np.ndarray:
    """(n_keep,) ascending ids of the best set for x (T, D); ConfigError if there are more than ``limit`` sets.

    >>> from pymoe import presets
    >>> cfg = presets.mixtral(d_model=5, d_ff=6, n_experts=4, k=2)
    >>> p = moe.init(np.random.default_rng(0), cfg)
    >>> exhaustive(np.random.default_rng(1).standard_normal((7, 5)), p, cfg, 3)
    array([0, 1, 3])
    """
    whole = _whole(x, p, cfg, n_keep)
    sets = math.comb(cfg.n_stored, n_keep)
    if sets > limit:
        raise ConfigError(
            f"{n_keep} of {cfg.n_stored} experts are {sets:,} sets, more than the limit of {limit:,}: use naee.greedy, "
            "or raise the limit"
        )
    best = min(itertools.combinations(range(cfg.n_stored), n_keep), key=lambda s: error(x, whole, p, cfg, s))
    return np.array(best, dtype=np.int64)


def greedy(x: Array, p: Mapping[str, Any], cfg: MoEConfig, n_keep: int) -> np.ndarray:
    """(n_keep,) ascending ids, found by dropping one expert after the other.

    >>> from pymoe import presets
    >>> cfg = presets.mixtral(d_model=5, d_ff=6, n_experts=4, k=2)
    >>> p = moe.init(np.random.default_rng(0), cfg)
    >>> greedy(np.random.default_rng(1).standard_normal((7, 5)), p, cfg, 3)
    array([0, 1, 3])
    """
    whole = _whole(x, p, cfg, n_keep)
    kept = list(range(cfg.n_stored))
    while len(kept) > n_keep:
        dropped = min(kept, key=lambda e: error(x, whole, p, cfg, [i for i in kept if i != e]))
        kept.remove(dropped)
    return np.array(kept, dtype=np.int64)


def error(x: Array, whole: np.ndarray, p: Mapping[str, Any], cfg: MoEConfig, kept: Any) -> float:
    """‖y - y_S‖_F for one set; ``whole`` is y of the full layer."""
    out, _ = moe.forward(x, *cut(p, cfg, kept))
    d = to_numpy(out.y).astype(np.float64) - whole
    return float(np.sqrt((d * d).sum()))


def _whole(x: Array, p: Mapping[str, Any], cfg: MoEConfig, n_keep: int) -> np.ndarray:
    if not 1 <= n_keep <= cfg.n_stored:
        raise ConfigError(f"between 1 and {cfg.n_stored} experts can be kept, got {n_keep!r}")
    y = to_numpy(moe.forward(x, p, cfg)[0].y).astype(np.float64)
    if not np.isfinite(y).all():
        token = int(np.flatnonzero(~np.isfinite(y).all(1))[0])
        raise NonFiniteError(
            f"the layer puts out NaN or infinity for token {token}: no set of experts is closest to it"
        )
    return y
