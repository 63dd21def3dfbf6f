"""What calibration text tells about a model: the inputs of its layers, their moments, and gradients.

Every method that looks at data (Wanda, SparseGPT, REAP, Fisher averaging, ...) reads one of these.  A window of text is
one sequence; the same windows are taken every time, so that a decision can be repeated.  Sums are in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from pymoe import moe
from pymoe.backend import to_numpy, tree
from pymoe.backend.errors import DataError
from pymoe.models import block, lm
from pymoe.models.lm import LMConfig
from pymoe.nn import feed_forward, self_attention
from pymoe.sparsity import statistics
from pymoe.sparsity.statistics import Statistics
from pymoe.train import data, objective

Watch = Callable[[], None]  # called after every batch


class Calibration(NamedTuple):
    """The text: ids (N,) cut into windows of ``window`` tokens, ``rows`` of them at a time, at most ``limit``."""

    ids: np.ndarray
    window: int
    rows: int = 16
    limit: int = 64

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(x, targets) of every batch; DataError if there is not one window."""
        if len(self.ids) < self.window + 1:
            raise DataError(
                f"the calibration text has {len(self.ids)} tokens, and one window needs {self.window + 1}: give a "
                "longer text"
            )
        yield from data.windows(self.ids, window=self.window, rows=self.rows, limit=self.limit)

    def __len__(self) -> int:
        """The number of batches."""
        full, rest = divmod(len(self.ids) - 1, self.window)
        return -(-min(full, self.limit) // self.rows) + int(full <= self.limit and rest > 0)


class Moment(NamedTuple):
    """Second moments of what a matrix is multiplied with, x (T, D); for stacked experts with a leading E."""

    sumsq: np.ndarray  # (D,) or (E, D): Σ_t x_tj²
    gram: np.ndarray | None  # (D, D) or (E, D, D): Σ_t x_t x_tᵀ
    count: Any  # tokens, or (E,) routed tokens


class Gradients(NamedTuple):
    mean: dict[str, np.ndarray]  # flat name -> the mean gradient of the objective over the batches
    square: dict[str, np.ndarray]  # flat name -> the mean of its square: the diagonal of the empirical Fisher matrix


def caches(p: Any, cfg: LMConfig, text: Calibration, watch: Watch | None = None) -> Iterator[tuple[block.Cache, ...]]:
    """The caches of all blocks, batch by batch: every input and every decision of a forward."""
    for x, _ in text.batches():
        _, cache = lm.forward(x, p, cfg)
        yield cache.c_stack.c_blocks
        if watch is not None:
            watch()


def routed(
    p: Any, cfg: LMConfig, text: Calibration, *, hessians: bool = False, watch: Watch | None = None
) -> dict[int, Statistics]:
    """The statistics of every MoE layer, by the number of its block."""
    found: dict[int, Statistics] = {}
    for blocks in caches(p, cfg, text, watch):
        for i, cache in enumerate(blocks):
            feed = cache.cfg.feed_forward
            if isinstance(feed, moe.MoEConfig):
                seen = statistics.observe(cache.c_feed_forward, feed, hessians=hessians)
                found[i] = statistics.add(found[i], seen) if i in found else seen
    return found


def layer_inputs(p: Any, cfg: LMConfig, text: Calibration, layer: int, watch: Watch | None = None) -> np.ndarray:
    """x (T, D): what the feed-forward of block ``layer`` was given, token by token."""
    parts = []
    for blocks in caches(p, cfg, text, watch):
        cache = blocks[layer].c_feed_forward
        parts.append(cache.experts.x if isinstance(cache, moe.Cache) else _flat(cache.c_up.x))
    return np.concatenate([to_numpy(a) for a in parts])


def moments(
    p: Any, cfg: LMConfig, text: Calibration, names: list[str], *, grams: bool = False, watch: Watch | None = None
) -> dict[str, Moment]:
    """The moments of the inputs of the matrices ``names``.

    ``grams``: the second moments too, D² numbers for each matrix of each expert.
    """
    wanted: dict[int, list[str]] = {}
    for name in names:
        wanted.setdefault(int(name.split(".")[1]), []).append(name)
    found: dict[str, Moment] = {}
    for blocks in caches(p, cfg, text, watch):
        for i, chosen in wanted.items():
            for name, seen in _moments(blocks[i], f"layers.{i}.", chosen, grams).items():
                found[name] = _add(found[name], seen) if name in found else seen
    return {name: found[name] for name in names}


def _moments(cache: block.Cache, prefix: str, names: list[str], grams: bool) -> dict[str, Moment]:
    found: dict[str, Moment] = {}
    feed = cache.cfg.feed_forward
    if isinstance(feed, moe.MoEConfig) and any(".experts." in name for name in names):
        s = statistics.observe(cache.c_feed_forward, feed, hessians=grams)
        up = "gate_up_proj" if feed.gated else "up_proj"
        found[f"{prefix}mlp.experts.{up}"] = Moment(s.x_sumsq, s.x_gram, s.count)
        found[f"{prefix}mlp.experts.down_proj"] = Moment(s.h_sumsq, s.h_gram, s.count)
    for name, x in _plain_inputs(cache).items():
        if prefix + name in names:
            wide = _flat(x).astype(np.float64)
            found[prefix + name] = Moment((wide * wide).sum(0), wide.T @ wide if grams else None, len(wide))
    return {name: found[name] for name in names}


def _plain_inputs(cache: block.Cache) -> dict[str, np.ndarray]:
    """The inputs of the matrices that every token passes."""
    inputs = {"self_attn.o_proj": cache.c_attention.c_out.x}
    if isinstance(cache.c_attention, self_attention.Cache):
        inputs["self_attn.qkv_proj"] = cache.c_attention.c_qkv.x
    feed = cache.c_feed_forward
    if isinstance(feed, feed_forward.Cache):
        inputs |= {f"mlp.{feed.cfg.up_name}": feed.c_up.x, "mlp.down_proj": feed.c_down.x}
    elif feed.shared is not None:
        up = "gate_up_proj" if cache.cfg.feed_forward.gated else "up_proj"
        inputs |= {f"mlp.shared.{up}": feed.shared.up.x, "mlp.shared.down_proj": feed.shared.down.x}
    return inputs


def _flat(x: Any) -> np.ndarray:
    flat: np.ndarray = to_numpy(x)
    return flat.reshape(-1, flat.shape[-1])


def _add(a: Moment, b: Moment) -> Moment:
    gram = None if a.gram is None or b.gram is None else a.gram + b.gram
    return Moment(a.sumsq + b.sumsq, gram, a.count + b.count)


def gradients(
    p: Any,
    cfg: LMConfig,
    text: Calibration,
    names: list[str],
    weights: dict[str, float] | None = None,
    watch: Watch | None = None,
) -> Gradients:
    """The gradients of the training objective for the tensors ``names``: their mean, and the mean of their squares."""
    mean = dict.fromkeys(names, np.zeros(()))
    square = dict.fromkeys(names, np.zeros(()))
    batches = 0
    for g in batch_gradients(p, cfg, text, names, weights, watch):
        mean = {name: mean[name] + g[name] for name in names}
        square = {name: square[name] + g[name] * g[name] for name in names}
        batches += 1
    return Gradients({n: a / batches for n, a in mean.items()}, {n: a / batches for n, a in square.items()})


def batch_gradients(
    p: Any,
    cfg: LMConfig,
    text: Calibration,
    names: list[str],
    weights: dict[str, float] | None = None,
    watch: Watch | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """The gradients of the training objective for the tensors ``names``, batch by batch, in float64."""
    for x, targets in text.batches():
        _, cache = objective.forward(x, p, cfg, targets, weights or {})
        flat = tree.flatten(objective.backward(1.0, cache)[1])
        yield {name: to_numpy(flat[name]).astype(np.float64) for name in names}
        if watch is not None:
            watch()
