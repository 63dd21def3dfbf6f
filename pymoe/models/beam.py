r"""Beam search: the translations of several sources at once, each the best of the few that were followed.

A hypothesis is a beginning of a target, y_1 ... y_t; log P(y|x) is the sum of the log-probabilities of its tokens.  At
each step, for each source, of all continuations of its live hypotheses by one token the likeliest are kept, as many as
there is room; one that ends with ``stop`` is finished and keeps its place, so the room is width - finished.  A source
is done when it has no live hypothesis, or at its limit of tokens, where what is live counts as it is.  Then::

    s(y, x)  = log P(y|x) / lp(y) + cp(x, y)
    lp(y)    = ((5 + |y|) / 6)^α                        |y| counts the stop token
    cp(x, y) = β Σ_i log min(Σ_j a_ij, 1)               over the real source tokens i

and the hypotheses are returned by descending s.  α = 0 is the plain log-probability, which favours short targets; β > 0
favours a target that has looked at all of the source.  a_ij is the attention on source token i when token j was chosen:
GNMT has one attention, a transformer one a head and block, and here it is the mean over the heads of the last block.
Both terms choose among the finished, they do not steer the search.

- Width 1 is the greedy choice, token by token, exactly (``generate.translate`` at temperature 0).
- A width that holds every beginning is the exhaustive search: then the best is the best of all.
- Ties: within a hypothesis the lower id, between hypotheses the one before; equal s: the one finished first.

The rows of a batch share no decision; they share matrix products, so that another batch changes the last bits.  All is
a function of its arguments; nothing is drawn.

Source: Wu et al. (GNMT), arXiv:1609.08144, eq. 14.
Cost: width rows through the decoder a token and source; keys and values are those of ``seq2seq.step``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pymoe import kernels
from pymoe.backend import device, namespace, to_numpy
from pymoe.backend.errors import ConfigError, NonFiniteError, ShapeError, check_integer
from pymoe.backend.namespace import Array
from pymoe.models import seq2seq
from pymoe.models.seq2seq import Seq2SeqConfig, State
from pymoe.nn.self_attention import KV


class Hypothesis(NamedTuple):
    """A target, and how good the model thinks it is."""

    ids: np.ndarray  # (t,) int64, without the start token, with the stop token where it has one
    log_p: float  # log P(y|x)
    score: float  # s(y, x)
    finished: bool  # ended by the stop token, not by the limit


class _Live(NamedTuple):
    """The live hypotheses of all sources, one a row: by source, then best first."""

    source: np.ndarray  # (R,) which source
    log_p: np.ndarray  # (R,) float64
    ids: np.ndarray  # (R, t) int64
    attended: np.ndarray  # (R, S) float64, Σ_j a_ij; (R, 0) where β = 0


def penalty(length: int, alpha: float) -> float:
    """lp(y) of GNMT's eq. 14.

    >>> penalty(1, 0.6), round(penalty(7, 1.0), 12)
    (1.0, 2.0)
    """
    return float(((5.0 + length) / 6.0) ** alpha)


def coverage(attended: np.ndarray, beta: float) -> float:
    """cp(x, y) of GNMT's eq. 14, from Σ_j a_ij (S,) of the real source tokens; -inf if one was never looked at.

    >>> coverage(np.array([1.5, 0.5, 1.0]), 2.0) == 2.0 * float(np.log(0.5))
    True
    """
    with np.errstate(divide="ignore"):
        return beta * float(np.sum(np.log(np.minimum(attended, 1.0))))


def search(
    ids: Array,
    p: dict[str, Any],
    cfg: Seq2SeqConfig,
    new: int | Sequence[int],
    *,
    start: int,
    stop: int,
    width: int = 4,
    alpha: float = 0.6,
    beta: float = 0.0,
    mask: Array | None = None,
) -> list[list[Hypothesis]]:
    """For each source of ids (B, S) at most ``width`` hypotheses of at most ``new`` tokens, best first.

    new: one limit for all or one a source, at most the context; mask (B, S) bool, True = a real token.

    >>> cfg = Seq2SeqConfig(vocab=7, d_model=6, n_layers=1, n_heads=3, d_ff=4, context=5)
    >>> p = seq2seq.init(np.random.default_rng(0), cfg)
    >>> [best, *_], _ = search(np.array([[1, 2, 3], [4, 5, 6]]), p, cfg, 4, start=0, stop=1, width=3)
    >>> best.ids, best.finished, best.log_p == best.score < 0
    (array([1]), True, True)
    """
    check_integer("width", width)
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not 0 <= value < float("inf"):
            raise ConfigError(f"{name} must be a finite number of at least 0, got {value!r}")
    limits = _limits(new, ids, cfg)
    xp, where = namespace(ids), device(ids)
    vocabulary = cfg.target_embedding.vocab
    encoded = seq2seq.encode(ids, p, cfg, mask=mask)
    n = int(ids.shape[0])
    real = np.ones(ids.shape, dtype=bool) if mask is None else to_numpy(mask)
    live = _Live(np.arange(n), np.zeros(n), np.zeros((n, 0), np.int64), np.zeros((n, ids.shape[1] if beta else 0)))
    done: list[list[Hypothesis]] = [[] for _ in range(n)]
    state, fresh = encoded, xp.full((n, 1), start, dtype=ids.dtype, device=where)
    while len(live.source):
        logits, after = seq2seq.step(fresh, p, cfg, state)
        room = np.array([width - len(found) for found in done])
        parent, token, log_p = _best(to_numpy(logits), live, room, min(width, vocabulary))
        attended = live.attended + to_numpy(after.attention) if beta else live.attended
        longer = np.concatenate([live.ids[parent], token[:, None]], axis=1)
        grown = _Live(live.source[parent], log_p, longer, attended[parent])
        length = grown.ids.shape[1]
        ended = token == stop
        over = ended | (length >= limits[grown.source])
        for row in np.flatnonzero(over):
            source = grown.source[row]
            score = float(log_p[row]) / penalty(length, alpha)
            if beta:
                score += coverage(grown.attended[row][real[source]], beta)
            done[source].append(Hypothesis(grown.ids[row], float(log_p[row]), score, bool(ended[row])))
        stay = np.flatnonzero(~over)
        parent, before = parent[stay], live.source
        live = _Live(*(part[stay] for part in grown))
        state = _moved(after, encoded, parent, before, live.source)
        fresh = xp.asarray(live.ids[:, -1:], dtype=ids.dtype, device=where)
    return [sorted(found, key=lambda h: -h.score) for found in done]


def _limits(new: int | Sequence[int], ids: Array, cfg: Seq2SeqConfig) -> np.ndarray:
    limits = np.asarray(new)
    if limits.dtype.kind not in "iu" or limits.shape not in ((), (ids.shape[0],)):
        raise ShapeError(f"new must be one integer, or one for each of {ids.shape[0]} sources, got {new!r}")
    limits = np.broadcast_to(limits, (int(ids.shape[0]),))
    if limits.size and not 1 <= limits.min() <= limits.max() <= cfg.context:
        raise ShapeError(f"new must lie in [1, context={cfg.context}], got {int(limits.min())} to {int(limits.max())}")
    return limits


def _best(z: np.ndarray, live: _Live, room: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row it continues, its new token, its log P) of what is kept: by source, then best first."""
    if np.isnan(z).any() or np.isposinf(z).any() or np.isneginf(z).all(axis=-1).any():
        raise NonFiniteError("the logits hold NaN or +inf, or a row of nothing but -inf: the model has diverged")
    top = kernels.of(z).topk(z, width)  # (R, w): of one hypothesis no more than w can be kept; ties by id
    wide = z.astype(np.float64)
    highest = wide.max(axis=-1, keepdims=True)
    total = np.log(np.sum(np.exp(wide - highest), axis=-1, keepdims=True)) + highest
    candidates = live.log_p[:, None] + (np.take_along_axis(wide, top, axis=-1) - total)  # (R, w)
    sources, first, rows = np.unique(live.source, return_index=True, return_counts=True)
    rank = np.arange(len(live.source)) - np.repeat(first, rows)
    table = np.full((len(sources), int(rows.max()), width), -np.inf)  # one line a source
    table[np.repeat(np.arange(len(sources)), rows), rank] = candidates
    scores = np.reshape(table, (len(sources), -1))
    order = np.argsort(-scores, axis=1, kind="stable")
    value = np.take_along_axis(scores, order, axis=1)
    kept = (np.arange(order.shape[1]) < room[sources][:, None]) & (value > -np.inf)
    line, place = np.nonzero(kept)
    at = order[line, place]
    parent = first[line] + at // width
    return parent, top[parent, at % width], value[line, place]


def _moved(after: State, encoded: State, parent: np.ndarray, before: np.ndarray, source: np.ndarray) -> State:
    """The decoder's state for the rows that live on; the memory is copied only where its rows change."""
    xp = namespace(after.memory[0].k)

    def rows(cached: tuple[KV, ...], chosen: np.ndarray) -> tuple[KV, ...]:
        index = xp.asarray(chosen, device=device(cached[0].k))
        return tuple(KV(xp.take(kv.k, index, axis=0), xp.take(kv.v, index, axis=0)) for kv in cached)

    memory, mask = after.memory, after.mask
    if not np.array_equal(before, source):
        memory = rows(encoded.memory, source)
        if encoded.mask is not None:
            mask = xp.take(encoded.mask, xp.asarray(source, device=device(encoded.mask)), axis=0)
    assert after.past is not None
    same = np.array_equal(parent, np.arange(len(before)))
    return State(memory, mask, after.past if same else rows(after.past, parent))
