r"""Prune single weights of a model: a score for each, a pattern that chooses among them, masks and new parameters.

A method gives a score (larger = more worth keeping) to every entry of the matrices chosen; a pattern turns scores into
masks with exactly ⌊s N⌋ pruned entries or groups (``pymoe.sparsity.masks``).  SparseGPT and OBS also move the kept
weights to make up for the pruned ones, matrix by matrix and block after block: each block is calibrated on what the
pruned blocks before it let through.

============= ============================================================================== =========================
method        score of w_ij                                                                  needs
============= ============================================================================== =========================
random        a uniform draw                                                                 the seed
magnitude     \|w\|                                                                          nothing
snip          \|w g\|, g the mean gradient (arXiv:1810.02340)                                a calibration text
taylor        (w g)² (arXiv:1906.10771)                                                      a calibration text
movement      -Σ_steps w g over steps of training (arXiv:2005.07683)                         a text and ``steps``
wanda         \|w\| ‖x_j‖₂ over the tokens that were routed here (arXiv:2306.11695)          a calibration text
sparsegpt     w² / U_jj², UᵀU = H⁻¹, with compensation (arXiv:2301.00774)                    a calibration text
obs           w² / [H⁻¹]_jj one at a time, with compensation (Hassibi and Stork, NIPS 1992)  a text; small layers
============= ============================================================================== =========================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import to_numpy, tree
from pymoe.backend.errors import ConfigError, NonFiniteError
from pymoe.models.lm import LMConfig
from pymoe.sparsity import masks, obs, scores, sparsegpt
from pymoe.surgery import calibration
from pymoe.surgery.calibration import Calibration, Moment, Watch
from pymoe.train import masking

METHODS = ("random", "magnitude", "snip", "taylor", "movement", "wanda", "sparsegpt", "obs")
NEEDS_TEXT = ("snip", "taylor", "movement", "wanda", "sparsegpt", "obs")
COMPENSATING = ("sparsegpt", "obs")
PATTERNS = ("unstructured", "n:m", "rows", "columns", "blocks", "heads")
SCOPES = ("row", "matrix", "tensor", "model")

Masks = dict[str, np.ndarray]


@dataclass(frozen=True)
class Pattern:
    """Which sets of entries may go together.

    kind    "unstructured", "n:m", "rows", "columns", "blocks" or "heads"
    scope   unstructured only: who competes with whom: "row" | "matrix" | "tensor" | "model"
    nm      (n, m): n of every m neighbours in a row stay
    block   (r, c) of a block
    """

    kind: str = "unstructured"
    scope: str = "matrix"
    nm: tuple[int, int] = (2, 4)
    block: tuple[int, int] = (32, 32)

    def __post_init__(self) -> None:
        if self.kind not in PATTERNS:
            raise ConfigError(f"pattern must be one of {PATTERNS}, got {self.kind!r}")
        if self.scope not in SCOPES:
            raise ConfigError(f"scope must be one of {SCOPES}, got {self.scope!r}")

    def __str__(self) -> str:
        if self.kind == "n:m":
            return f"{self.nm[0]}:{self.nm[1]}"
        if self.kind == "blocks":
            return f"{self.block[0]}x{self.block[1]} blocks"
        return f"by {self.scope}" if self.kind == "unstructured" else self.kind


class Pruned(NamedTuple):
    p: dict[str, Any]  # pruned entries are exactly 0
    masks: Masks  # by flat name, True = kept


def prune(
    p: dict[str, Any],
    cfg: LMConfig,
    names: list[str],
    *,
    method: str,
    sparsity: float,
    pattern: Pattern = Pattern(),  # noqa: B008 - a frozen value
    text: Calibration | None = None,
    score: dict[str, np.ndarray] | None = None,
    rng: np.random.Generator | None = None,
    watch: Watch | None = None,
    before: Masks | None = None,
) -> Pruned:
    """The model with ⌊s N⌋ entries (or groups) of the matrices ``names`` pruned by ``method``.

    ``score``: of a method that scores while it trains (movement); with an N:M pattern ``sparsity`` is 1 - n/m whatever
    is given.  ``before``: the masks that ``p`` has.  What they prune goes first, counts, and stays 0; masks of other
    matrices are returned as they are.  NaN in a matrix is a NonFiniteError, a method without the text it needs a
    ConfigError.
    """
    before = before or {}
    if method not in METHODS:
        raise ConfigError(f"method must be one of {METHODS}, got {method!r}")
    if text is None and method in NEEDS_TEXT and score is None:
        raise ConfigError(f"method {method!r} looks at data: give a calibration text")
    flat = {name: to_numpy(leaf) for name, leaf in tree.flatten(p).items()}
    for name in names:
        bad = np.argwhere(~np.isfinite(flat[name]))
        if len(bad):
            raise NonFiniteError(
                f"{name} holds {flat[name][tuple(bad[0])]} at {tuple(bad[0].tolist())}: a weight that is no number has "
                "no rank; find the step of training that made it"
            )
    if method in COMPENSATING:
        assert text is not None
        done = _compensated(p, cfg, names, method, sparsity, pattern, text, watch)
        joined = _joined(before, done.masks)
        return Pruned(masking.apply(done.p, joined), joined)
    if score is None:
        score = _scores({n: flat[n] for n in names}, p, cfg, method, text, rng, watch)
    last = -np.inf if pattern.kind in ("unstructured", "n:m") else 0.0  # a group's score is a sum
    score = {n: np.where(before[n], s, last) if n in before else s for n, s in score.items()}
    chosen = _joined(before, choose(score, sparsity, pattern, cfg, signed=method == "movement"))
    return Pruned(tree.unflatten(flat | {n: _zeroed(flat[n], chosen[n]) for n in names}), chosen)


def _joined(old: Masks, new: Masks) -> Masks:
    """What was pruned before stays pruned."""
    return old | {name: mask & old[name] if name in old else mask for name, mask in new.items()}


def passes(method: str, names: list[str]) -> int:
    """How often ``prune`` goes through the calibration text: for a bar."""
    if method in COMPENSATING:
        return len(_in_order(names))
    return 1 if method in ("snip", "taylor", "wanda") else 0


def choose(
    score: dict[str, np.ndarray], sparsity: float, pattern: Pattern, cfg: LMConfig, *, signed: bool = False
) -> Masks:
    """The masks of ``pattern`` for scores by name; a group's score is the sum of its entries'."""
    if signed and pattern.kind not in ("unstructured", "n:m"):
        raise ConfigError(f"scores with a sign (movement) have no sum over a group: use unstructured, not {pattern}")
    if pattern.kind == "unstructured" and pattern.scope == "model":
        return {name: to_numpy(m) for name, m in masks.over_model(score, sparsity).items()}
    return {name: to_numpy(_mask(name, s, sparsity, pattern, cfg)) for name, s in score.items()}


def _mask(name: str, score: np.ndarray, sparsity: float, pattern: Pattern, cfg: LMConfig) -> Any:
    if pattern.kind == "unstructured":
        return masks.by_score(score, sparsity, by=pattern.scope)
    if pattern.kind == "n:m":
        return masks.nm(score, *pattern.nm)
    if pattern.kind == "rows":
        return masks.rows(score, sparsity, ord=1)
    if pattern.kind == "columns":
        return masks.columns(score, sparsity, ord=1)
    if pattern.kind == "blocks":
        return masks.blocks(score, sparsity, pattern.block, ord=1)
    if not name.endswith("self_attn.o_proj"):
        raise ConfigError(
            f"{name} has no heads: the pattern 'heads' prunes what the heads put out, the columns of self_attn.o_proj "
            "(what 'all'), and leaves every other matrix out"
        )
    return masks.heads(score, sparsity, cfg.n_heads, axis=-1, ord=1)


def _scores(
    w: dict[str, np.ndarray],
    p: dict[str, Any],
    cfg: LMConfig,
    method: str,
    text: Calibration | None,
    rng: np.random.Generator | None,
    watch: Watch | None,
) -> dict[str, np.ndarray]:
    if method == "random":
        rng = np.random.default_rng(0) if rng is None else rng
        return {name: rng.random(a.shape) for name, a in w.items()}
    if method == "magnitude":
        return {name: scores.magnitude(a) for name, a in w.items()}
    assert text is not None
    names = list(w)
    if method == "wanda":
        seen = calibration.moments(p, cfg, text, names, watch=watch)
        return {name: scores.wanda(a.astype(np.float64), seen[name].sumsq) for name, a in w.items()}
    if method == "movement":
        raise ConfigError("movement sums its scores over steps of training: give them (surgery.movement)")
    g = calibration.gradients(p, cfg, text, names, watch=watch).mean
    rule = scores.snip if method == "snip" else scores.taylor
    return {name: rule(a.astype(np.float64), g[name]) for name, a in w.items()}


def _zeroed(w: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask, w, np.zeros((), w.dtype))


def _compensated(
    p: dict[str, Any],
    cfg: LMConfig,
    names: list[str],
    method: str,
    sparsity: float,
    pattern: Pattern,
    text: Calibration,
    watch: Watch | None,
) -> Pruned:
    """Block after block; within a block first the matrices that feed the others (attention, up), then the down."""
    if pattern.kind not in ("unstructured", "n:m") or (pattern.kind == "n:m" and method == "obs"):
        raise ConfigError(f"{method} compensates entry by entry: it has no pattern {pattern}")
    if pattern.kind == "unstructured" and pattern.scope in ("tensor", "model"):
        raise ConfigError(
            f"{method} prunes each matrix by itself, every block of columns to the same share (obs: every row): "
            f"scope {pattern.scope!r} is not one of its rules; leave the scope out"
        )
    found: Masks = {}
    for group in _in_order(names):
        seen = calibration.moments(p, cfg, text, group, grams=True, watch=watch)
        flat = tree.flatten(p)
        for name in group:
            w, found[name] = _rebuilt(to_numpy(flat[name]), seen[name], method, sparsity, pattern)
            flat[name] = w
        p = tree.unflatten(flat)
    return Pruned(p, {name: found[name] for name in names})


def _in_order(names: list[str]) -> list[list[str]]:
    """Names in groups that read their inputs at one time: qkv, o, the ways up, the ways down, block by block."""
    rank = {"qkv_proj": 0, "o_proj": 1, "gate_up_proj": 2, "up_proj": 2, "down_proj": 3}
    groups: dict[tuple[int, int], list[str]] = {}
    for name in names:
        groups.setdefault((int(name.split(".")[1]), rank[name.rsplit(".", 1)[1]]), []).append(name)
    return [groups[key] for key in sorted(groups)]


def _rebuilt(
    w: np.ndarray, seen: Moment, method: str, sparsity: float, pattern: Pattern
) -> tuple[np.ndarray, np.ndarray]:
    """(w', mask) of one matrix, or of each expert's; an expert that no token reached is pruned by magnitude alone."""
    assert seen.gram is not None
    one: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    if method == "sparsegpt":

        def one(w: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            done = sparsegpt.prune(w, h, **({"nm": pattern.nm} if pattern.kind == "n:m" else {"s": sparsity}))
            return done.w, done.mask
    else:

        def one(w: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            done = obs.greedy(w, _damped(h), masks.count(sparsity, w.shape[1]))
            return done.w, done.mask

    if w.ndim == 2:
        return one(w, seen.gram * (2 / max(int(seen.count), 1)))
    parts = []
    for e in range(len(w)):
        n = int(seen.count[e])
        h = seen.gram[e] * (2 / n) if n else np.eye(w.shape[-1])  # no tokens: all inputs alike, and no compensation
        parts.append(one(w[e], h))
    return np.stack([a for a, _ in parts]), np.stack([m for _, m in parts])


def _damped(h: np.ndarray) -> np.ndarray:
    """H + 0.01 mean(diag H), as SparseGPT: few tokens leave it singular."""
    damp = 0.01 * max(float(np.mean(np.diag(h))), float(np.finfo(np.float64).tiny))
    made: np.ndarray = h + damp * np.eye(len(h))
    return made
