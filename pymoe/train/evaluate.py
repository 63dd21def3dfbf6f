"""Held-out loss on fixed windows: no draws, no order, the same number every time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import to_numpy
from pymoe.models import lm
from pymoe.train import data
from pymoe.train.objective import MAIN


class HeldOut(NamedTuple):
    loss: float  # mean cross-entropy in nats a token
    tokens: int  # predicted


def loss(p: dict[str, Any], cfg: Any, ids: np.ndarray, *, window: int, rows: int, limit: int | None = None) -> HeldOut:
    """The mean over the tokens of ``data.windows``; ``limit=None``: every token of ``ids`` but the first, once."""
    total, tokens = 0.0, 0
    for x, targets in data.windows(ids, window=window, rows=rows, limit=limit):
        out, _ = lm.forward(x, p, cfg, targets=targets)
        total += float(out.losses[MAIN]) * targets.size
        tokens += targets.size
    return HeldOut(total / max(tokens, 1), tokens)


class Choice(NamedTuple):
    layer: int  # index of the block
    ids: np.ndarray  # (T,) the token
    idx: np.ndarray  # (T, K) its experts; -1 where the choice was dropped
    n_experts: int


def choices(
    p: dict[str, Any], cfg: Any, ids: np.ndarray, *, window: int, rows: int, limit: int | None = None
) -> Iterator[Choice]:
    """Which experts every token of the held-out windows went to, batch by batch and layer by layer."""
    for x, _ in data.windows(ids, window=window, rows=rows, limit=limit):
        out, _ = lm.forward(x, p, cfg)
        for layer, routing in enumerate(out.routing):
            if routing is not None:
                chosen = to_numpy(routing.idx)
                if routing.kept is not None:
                    chosen = np.where(to_numpy(routing.kept), chosen, -1)
                yield Choice(layer, x.reshape(-1), chosen.reshape(x.size, -1), int(routing.load.shape[0]))
