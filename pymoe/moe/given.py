"""What a router may be told beside the tokens: values of the caller, none of them differentiated but the logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pymoe.backend.namespace import Array


class Given(NamedTuple):
    """All of it optional.

    token_ids   (T,) or like x without its last axis, integers: where the choice stands in a table (``select="table"``)
    idx         (T, k) the choice itself (``select="given"``)
    counts      (n_ids,) how often the rest of the global batch chose each expert: added to f of the balance loss, P
                stays that of this batch.  With the counts of all other micro-batches and workers the mean of their
                losses, and of their gradients, is that of the whole batch (arXiv:2501.11873)
    logits      (T, n_ids) or (B, S, n_ids) the clean logits of the layer before (``gate_residual``); the one value here
                that is differentiated: its gradient is the third value of ``moe.backward``
    reduce      counts (n_ids,) -> their sum over all workers: the all-reduce of f
    sequences   B: the tokens are B sequences of equal length, one after the other; a layer of x (B, S, D) sets it
    """

    token_ids: Array | None = None
    idx: Array | None = None
    counts: Array | None = None
    reduce: Callable[[Array], Array] | None = None
    logits: Array | None = None
    sequences: int = 1
