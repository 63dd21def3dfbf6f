"""What a pruned model costs and what it still knows: held-out loss, zeros, bytes, tokens a second.

Speed is measured with the weights as they would be stored: matrices with enough zeros as CSR, BSR or N:M
(``pymoe.storage``), the others dense.  Times of several models are taken in turns, so that a slow minute of the machine
hits all of them, and the median is kept.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from pymoe import storage
from pymoe.backend import to_numpy, tree
from pymoe.backend.errors import ConfigError
from pymoe.models import lm
from pymoe.models.count import count_parameters
from pymoe.models.lm import LMConfig

FORMATS = ("dense", "csr", "bsr", "nm")


class Size(NamedTuple):
    parameters: int  # stored ones: a zero in a dense matrix counts, one that a sparse form leaves out does not
    active: int  # of them, for one token
    zeros: int  # that pruning made, stored or not
    bytes: int  # of all parameters as stored, structure included


def stored(
    p: dict[str, Any],
    masks: Mapping[str, np.ndarray],
    form: str,
    *,
    nm: tuple[int, int] = (2, 4),
    block: tuple[int, int] = (32, 32),
) -> dict[str, Any]:
    """``p`` with the masked matrices of the experts in the format ``form``; all else stays dense."""
    if form not in FORMATS:
        raise ConfigError(f"a stored format must be one of {FORMATS}, got {form!r}")
    if form == "dense":
        return p
    flat = tree.flatten(p)
    for name, mask in masks.items():
        if ".experts." not in name:
            continue
        w = to_numpy(flat[name])
        if form == "csr":
            flat[name] = storage.csr.from_dense(w, mask)
        elif form == "bsr":
            flat[name] = storage.bsr.from_dense(w, block, mask)
        else:
            flat[name] = storage.nm.from_dense(w, *nm, mask)
    return tree.unflatten(flat)


def size(cfg: LMConfig, p: dict[str, Any], masks: Mapping[str, np.ndarray]) -> Size:
    """The numbers of ``p`` (as stored) with the zeros that ``masks`` made."""
    count = count_parameters(cfg, p)
    zeros = sum(int(mask.size - np.count_nonzero(mask)) for mask in masks.values())
    nbytes = sum(int(leaf.nbytes) for leaf in tree.flatten(p).values())
    return Size(count.total, count.active, zeros, nbytes)


def tokens_per_second(
    models: Mapping[str, tuple[LMConfig, dict[str, Any]]],
    x: np.ndarray,
    *,
    rounds: int = 5,
    watch: Callable[[], None] | None = None,
) -> dict[str, float]:
    """Tokens of ``x`` (B, S) a second of a forward of each model, median of ``rounds`` rounds taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for r in range(rounds + 1):  # the first round warms up
        for name, (cfg, p) in models.items():
            begin = time.perf_counter()
            lm.forward(x, p, cfg)
            if r:
                times[name].append(time.perf_counter() - begin)
            if watch is not None:
                watch()
    return {name: x.size / statistics.median(taken) for name, taken in times.items()}
