r"""Hidden units: score them, and cut them out, so that an expert gets narrower and every product smaller.

Hidden unit f of an expert is row f of ``up_proj`` (gated: rows f and F + f of ``gate_up_proj``), its bias, and column f
of ``down_proj``.  Its score is the norm of all these numbers together::

    ord 1:  Σ |v|         ord 2:  (Σ v²)^½         ord inf:  max |v|

Cutting keeps the same number F' of units in each expert (the tensors stay rectangular), and equals masking the others
to rounding: their columns of ``down_proj`` are 0 there, whatever the activation makes of 0.

Sources: Li et al., arXiv:1608.08710 (filters by norm, cut out with the next layer's inputs); Muralidharan et al.
(Minitron), arXiv:2407.14679 (width pruning of MLP neurons).  Cost: one pass over the experts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from pymoe.backend import accumulator, device, namespace
from pymoe.backend.errors import ConfigError, ShapeError, check_integer
from pymoe.backend.namespace import Array
from pymoe.kernels import checks
from pymoe.moe.config import MoEConfig
from pymoe.moe.experts import names
from pymoe.sparsity import inputs
from pymoe.sparsity.masks import pools
from pymoe.sparsity.masks.structured import ORDERS


def scores(experts: Mapping[str, Array], cfg: MoEConfig, ord: float = 2) -> Array:  # noqa: A002
    """(E, F) norms of the hidden units of the experts of a layer, p["experts"]; at least float64.

    >>> import numpy as np
    >>> from pymoe import presets
    >>> cfg = presets.switch(d_model=2, d_ff=2, n_experts=1)
    >>> p = {"up_proj": np.array([[[2.0, 0.0], [0.0, 1.0]]]), "down_proj": np.array([[[1.0, 0.0], [2.0, 0.0]]])}
    >>> scores(p, cfg)
    array([[3., 1.]])
    """
    if ord not in ORDERS:
        raise ConfigError(f"ord must be one of {ORDERS}, got {ord!r}")
    up, down = names(cfg.gated)
    xp = namespace(*experts.values())
    parts = [xp.permute_dims(inputs.ranked(down, experts[down]), (0, 2, 1)), inputs.ranked(up, experts[up])]
    if up + "_bias" in experts:
        parts.append(inputs.ranked(up + "_bias", experts[up + "_bias"])[:, :, None])
    parts = [half for part in parts for half in _halves(part, cfg.d_ff)]
    sizes = [xp.abs(xp.astype(part, accumulator(part), copy=False)) for part in parts]  # (E, F, .)
    whole = xp.concat(sizes, axis=2)
    if ord == math.inf:
        return xp.max(whole, axis=2)
    return xp.sum(whole, axis=2) if ord == 1 else xp.sqrt(xp.sum(whole * whole, axis=2))


def keep(score: Array, n_keep: int) -> Array:
    """(E, n_keep) ascending ids of the units of highest score in each expert; of equal scores the lowest id is kept.

    >>> import numpy as np
    >>> keep(np.array([[1.0, 3.0, 3.0, 3.0]]), 2)
    array([[1, 2]])
    """
    experts, f = (int(n) for n in score.shape)
    if check_integer("n_keep", n_keep) > f:
        raise ConfigError(f"n_keep must not exceed the {f} hidden units there are, got {n_keep}")
    kept = pools.keep_highest(inputs.ranked("score", score), n_keep)
    xp = namespace(score)
    return xp.reshape(xp.astype(xp.nonzero(kept)[1], xp.int64), (experts, n_keep))


def cut(p: Mapping[str, Any], cfg: MoEConfig, kept: Array) -> tuple[dict[str, Any], MoEConfig]:
    """(p', cfg') of a layer whose expert e has only its units kept[e], in that order; kept (E, F') distinct ids.

    cfg'.d_ff = F'.  The router and the shared expert are the given ones.  IndexRangeError for an id outside [0, F),
    ConfigError for a unit kept twice, ShapeError for another number of experts or F' = 0.

    >>> import numpy as np
    >>> from pymoe import moe, presets
    >>> cfg = presets.mixtral(d_model=5, d_ff=6, n_experts=4, k=2)
    >>> p = moe.init(np.random.default_rng(0), cfg)
    >>> narrow, smaller = cut(p, cfg, keep(scores(p["experts"], cfg), 3))
    >>> {name: w.shape for name, w in narrow["experts"].items()}, smaller.d_ff
    ({'gate_up_proj': (4, 6, 5), 'down_proj': (4, 5, 3)}, 3)
    """
    experts = p["experts"]
    up, down = names(cfg.gated)
    _distinct(kept, int(experts[down].shape[0]), cfg.d_ff)
    xp = namespace(kept)
    width = int(kept.shape[1])
    rows = xp.concat([kept, kept + cfg.d_ff], axis=1) if cfg.gated else kept
    narrow = dict(experts)
    narrow[up] = _take(experts[up], rows, 1)
    narrow[down] = _take(experts[down], kept, 2)
    if up + "_bias" in experts:
        narrow[up + "_bias"] = _take(experts[up + "_bias"], rows, 1)
    return {**p, "experts": narrow}, dataclasses.replace(cfg, d_ff=width)


def as_masks(kept: Array, cfg: MoEConfig) -> dict[str, Array]:
    """Masks for ``masked`` that switch off what ``cut`` takes away: {"experts.<matrix>": bool}, biases too.

    >>> import numpy as np
    >>> from pymoe import presets
    >>> cfg = presets.mixtral(d_model=5, d_ff=3, n_experts=1, k=1)
    >>> found = as_masks(np.array([[0, 2]]), cfg)
    >>> found["experts.gate_up_proj"][0, :, 0].tolist(), found["experts.down_proj"][0, 0].tolist()
    ([True, False, True, True, False, True], [True, False, True])
    """
    _distinct(kept, cfg.n_stored, cfg.d_ff)
    xp = namespace(kept)
    ids = xp.arange(cfg.d_ff, dtype=kept.dtype, device=device(kept))
    unit = xp.any(kept[:, :, None] == ids[None, None, :], axis=1)  # (E, F)
    up, down = names(cfg.gated)
    row = xp.concat([unit, unit], axis=1) if cfg.gated else unit
    found = {
        f"experts.{up}": xp.repeat(row[:, :, None], cfg.d_model, axis=2),
        f"experts.{down}": xp.repeat(unit[:, None, :], cfg.d_model, axis=1),
    }
    return found | ({f"experts.{up}_bias": row} if cfg.bias else {})


def _halves(a: Array, f: int) -> list[Array]:
    """(E, F, .) pieces of (E, F, .) or of (E, 2F, .), gate first."""
    return [a[:, i : i + f, :] for i in range(0, int(a.shape[1]), f)]


def _distinct(kept: Array, experts: int, f: int) -> None:
    if kept.ndim != 2 or kept.shape[0] != experts or not kept.shape[1]:
        raise ShapeError(
            f"kept must have shape ({experts}, F'), the units that stay in each expert and at least one, "
            f"got {tuple(kept.shape)}"
        )
    checks.index("kept", kept, f)
    xp = namespace(kept)
    ranked = xp.sort(kept, axis=1)
    twice = xp.any(ranked[:, 1:] == ranked[:, :-1], axis=1)
    if bool(xp.any(twice)):
        raise ConfigError(
            f"kept must name each unit once; expert {int(xp.argmax(xp.astype(twice, xp.int64)))} does not"
        )


def _take(a: Array, ids: Array, axis: int) -> Array:
    """a with the entries ids (E, n) of axis 1 or 2, expert by expert."""
    xp = namespace(a, ids)
    if a.ndim == 3:
        ids = ids[:, :, None] if axis == 1 else ids[:, None, :]
        shape = (*ids.shape[:2], a.shape[2]) if axis == 1 else (a.shape[0], a.shape[1], ids.shape[2])
        ids = xp.broadcast_to(ids, shape)
    return xp.take_along_axis(a, ids, axis=axis)
