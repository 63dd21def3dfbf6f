"""NAEE: keep the set of experts whose layer comes closest to the whole one on calibration tokens.

    min over kept sets S, |S| = n, of ‖y - y_S‖_F        y_S: dropped logits -inf, then softmax, top-k, renormalisation

``exhaustive`` tries all C(E, n) sets: 70 for 4 of 8, and hopeless for 32 of 64.  ``greedy`` drops one expert at a time,
the one whose absence raises the error least: E + (E-1) + ... forwards.  Of equal errors the first set in lexicographic
order (greedy: the lowest id dropped) wins.  A set that puts out NaN or infinity is never closest.

Where the router chooses among groups, only sets with the same number of each group can be cut out, and only those are
tried; greedy passes through sets that are not, so it is refused there.  Source: Lu et al., arXiv:2402.14800, sec. 3.
Cost: one forward of the layer on x for each set.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from pymoe import moe
from pymoe.backend import to_numpy, tree
from pymoe.backend.errors import ConfigError, NonFiniteError
from pymoe.backend.namespace import Array
from pymoe.moe import MoEConfig
from pymoe.sparsity.experts.cut import cut
from pymoe.sparsity.experts.scores import check_n_keep
from pymoe.storage import Weight


def exhaustive(
    x: Array,
    p: Mapping[str, Any],
    cfg: MoEConfig,
    n_keep: int,
    *,
    limit: int = 100_000,
    watch: Callable[[], None] | None = None,
) -> np.ndarray:
    """(n_keep,) ascending ids of the best set for x (T, D); ConfigError if there are more than ``limit`` sets.

    ``watch`` is called after every set that was tried.

    >>> from pymoe import presets
    >>> cfg = presets.mixtral(d_model=5, d_ff=6, n_experts=4, k=2)
    >>> p = moe.init(np.random.default_rng(0), cfg)
    >>> exhaustive(np.random.default_rng(1).standard_normal((7, 5)), p, cfg, 3)
    array([0, 1, 3])
    """
    n_keep = check_n_keep(n_keep, cfg.n_stored)
    groups = _groups(cfg, n_keep)
    sets = math.comb(cfg.n_stored // groups, n_keep // groups) ** groups
    if sets > limit:
        raise ConfigError(
            f"{n_keep} of {cfg.n_stored} experts are {sets:,} sets, more than the limit of {limit:,}: use naee.greedy, "
            "or raise the limit"
        )
    whole = _whole(x, p, cfg)
    best = min(_sets(cfg.n_stored, n_keep, groups), key=lambda s: _tried(x, whole, p, cfg, s, watch))
    return np.array(best, dtype=np.int64)


def greedy(
    x: Array, p: Mapping[str, Any], cfg: MoEConfig, n_keep: int, *, watch: Callable[[], None] | None = None
) -> np.ndarray:
    """(n_keep,) ascending ids, found by dropping one expert after the other; ``watch`` as in ``exhaustive``.

    >>> from pymoe import presets
    >>> cfg = presets.mixtral(d_model=5, d_ff=6, n_experts=4, k=2)
    >>> p = moe.init(np.random.default_rng(0), cfg)
    >>> greedy(np.random.default_rng(1).standard_normal((7, 5)), p, cfg, 3)
    array([0, 1, 3])
    """
    n_keep = check_n_keep(n_keep, cfg.n_stored)
    if cfg.router.n_group > 1 and n_keep < cfg.n_stored:
        raise ConfigError(
            f"greedy drops one expert at a time, and a router of {cfg.router.n_group} groups needs the same number in "
            "each: use naee.exhaustive, or a score and keep(..., n_group=...)"
        )
    whole = _whole(x, p, cfg)
    kept = list(range(cfg.n_stored))
    while len(kept) > n_keep:
        dropped = min(kept, key=lambda e: _tried(x, whole, p, cfg, [i for i in kept if i != e], watch))
        kept.remove(dropped)
    return np.array(kept, dtype=np.int64)


def _tried(
    x: Array, whole: np.ndarray, p: Mapping[str, Any], cfg: MoEConfig, kept: Any, watch: Callable[[], None] | None
) -> float:
    found = error(x, whole, p, cfg, kept)
    if watch is not None:
        watch()
    return found


def error(x: Array, whole: np.ndarray, p: Mapping[str, Any], cfg: MoEConfig, kept: Any) -> float:
    """‖y - y_S‖_F for one set; ``whole`` is y of the full layer.  Infinite if y_S is not finite."""
    out, _ = moe.forward(x, *cut(p, cfg, kept))
    d = to_numpy(out.y).astype(np.float64) - whole
    found = float(np.sqrt((d * d).sum()))
    return found if math.isfinite(found) else math.inf


def _groups(cfg: MoEConfig, n_keep: int) -> int:
    """Of how many groups each set must hold the same number."""
    groups = 1 if cfg.tied is not None else cfg.router.n_group
    if cfg.router.n_group > 1 and cfg.tied is not None:
        raise ConfigError("a stored expert that several groups share belongs to none of them: choose the set yourself")
    if n_keep % groups:
        raise ConfigError(
            f"a router of {groups} groups needs the same number in each: keep a multiple of it, not {n_keep}"
        )
    return groups


def _sets(experts: int, n_keep: int, groups: int) -> Iterator[tuple[int, ...]]:
    """All sets with n_keep / groups of each group of neighbours, in lexicographic order."""
    size = experts // groups
    each = [itertools.combinations(range(g * size, (g + 1) * size), n_keep // groups) for g in range(groups)]
    for parts in itertools.product(*each):
        yield tuple(itertools.chain(*parts))


def _whole(x: Array, p: Mapping[str, Any], cfg: MoEConfig) -> np.ndarray:
    """y of the full layer; NonFiniteError for a weight or an output that is NaN or infinite."""
    for name, leaf in tree.flatten(p).items():
        for a in leaf.parts().values() if isinstance(leaf, Weight) else (leaf,):
            if not np.isfinite(to_numpy(a)).all():
                raise NonFiniteError(f"{name} holds NaN or infinity: the layers with and without it cannot be compared")
    y = to_numpy(moe.forward(x, p, cfg)[0].y).astype(np.float64)
    if not np.isfinite(y).all():
        token = int(np.flatnonzero(~np.isfinite(y.reshape(-1, y.shape[-1])).all(1))[0])
        raise NonFiniteError(
            f"the layer puts out NaN or infinity for token {token}: no set of experts is closest to it"
        )
    return y
