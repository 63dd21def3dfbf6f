r"""Generation: one token after the other, each computed once, from the keys and values of those before it.

The distribution of the next id, from the logits z of the last position, in this order::

    temperature τ > 0     z ← z / τ                          τ = 0: the largest logit (lowest id among equals), no draw
    top_k                 all but the k largest z get probability 0 (among equals the lowest ids stay)
    top_p                 of the ids by descending probability, the fewest whose sum reaches p stay
    draw                  p = softmax(z of what stays); inverse of the cumulative sum at one uniform number a row

Sources: top-k, Fan et al., arXiv:1805.04833, section 5.4; top-p (nucleus), Holtzman et al., arXiv:1904.09751, eq. 2
and 3.

With the cache a new token costs one row through every matrix and one attention row over the past; the result equals
recomputing everything, to rounding.  That holds where a token's output depends on the earlier tokens only: dense layers
and token-choice experts without capacity.  **A router with capacity, or expert choice, is not causal**: which tokens an
expert takes depends on all tokens of the call, later ones and other rows included, so generation routes a token
otherwise than training did.

A model knows at most ``context`` positions.  When the window is full, ``slide`` of its oldest tokens are forgotten and
the rest is read again from position 0: the model always sees the last tokens of the text, between
context - slide + 1 and context of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pymoe.backend import device, namespace, to_numpy
from pymoe.backend.errors import ConfigError, NonFiniteError, ShapeError
from pymoe.backend.namespace import Array
from pymoe.models import inputs, lm, seq2seq
from pymoe.models.lm import LMConfig
from pymoe.models.seq2seq import Seq2SeqConfig
from pymoe.nn import initial


@dataclass(frozen=True)
class Sampling:
    """How the next id is chosen: temperature (0: greedy), top_k and top_p (None: no limit)."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature must be a finite number of at least 0, got {self.temperature!r}")
        if self.top_k is not None:
            initial.check_sizes("Sampling", top_k=self.top_k)
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must lie in (0, 1], got {self.top_p!r}")


GREEDY = Sampling(temperature=0.0)


def distribution(logits: Array, sampling: Sampling) -> Array:
    """The probabilities (B, V), float64, from which ``sampling`` draws, of logits (B, V).

    >>> z = np.log(np.array([[0.5, 0.3, 0.15, 0.05]]))
    >>> distribution(z, Sampling(top_k=2)).round(3)
    array([[0.625, 0.375, 0.   , 0.   ]])
    >>> distribution(z, Sampling(top_p=0.75)).round(3)
    array([[0.625, 0.375, 0.   , 0.   ]])
    >>> distribution(z, Sampling(temperature=0.0)).round(3)
    array([[1., 0., 0., 0.]])
    """
    z = to_numpy(logits).astype(np.float64)
    if np.isnan(z).any() or np.isposinf(z).any() or np.isneginf(z).all(axis=-1).any():
        raise NonFiniteError("the logits hold NaN or +inf, or a row of nothing but -inf: the model has diverged")
    order = np.argsort(-z, axis=-1, kind="stable")  # descending, ties by id
    rank = np.argsort(order, axis=-1, kind="stable")
    if sampling.temperature == 0:
        return (rank == 0).astype(np.float64)
    z = z - z.max(axis=-1, keepdims=True)
    p = np.exp(z / sampling.temperature)
    if sampling.top_k is not None:
        p = np.where(rank < sampling.top_k, p, 0.0)
    p = p / p.sum(axis=-1, keepdims=True)
    if sampling.top_p is not None:
        descending = np.take_along_axis(p, order, axis=-1)
        before = np.cumsum(descending, axis=-1) - descending  # what stands before each id
        keep = np.take_along_axis(before < sampling.top_p, rank, axis=-1)
        keep = keep | (rank == 0)
        p = np.where(keep, p, 0.0)
        p = p / p.sum(axis=-1, keepdims=True)
    return p


def choose(logits: Array, sampling: Sampling, rng: np.random.Generator | None = None) -> Array:
    """The next ids (B,), int64, of logits (B, V).

    >>> choose(np.array([[0.0, 2.0, 2.0]]), GREEDY)
    array([1])
    """
    p = distribution(logits, sampling)
    if sampling.temperature == 0:
        return np.argmax(p, axis=-1)
    if rng is None:
        raise ConfigError("sampling at a temperature above 0 needs a generator: pass rng, or temperature=0 for greedy")
    total = np.cumsum(p, axis=-1)
    u = rng.random((p.shape[0], 1)) * total[:, -1:]
    return np.argmax(total > u, axis=-1)  # the first id whose cumulative sum passes u


def stream(
    ids: Array,
    p: dict[str, Any],
    cfg: LMConfig,
    new: int,
    *,
    sampling: Sampling = GREEDY,
    rng: np.random.Generator | None = None,
    stop: int | None = None,
    slide: int | None = None,
    cached: bool = True,
) -> Iterator[Array]:
    """``generate``, token by token: yields the ids (B,) as they come."""
    inputs.check_ids("ids", ids, max(cfg.context, int(ids.shape[-1])))
    slide = max(1, cfg.context // 2) if slide is None else slide
    if not 0 <= slide <= cfg.context:
        raise ConfigError(f"slide must lie in [0, context={cfg.context}], got {slide}")
    if ids.shape[1] < 1:
        raise ShapeError("generate needs at least one token to start from, got an empty prompt")
    if slide == 0 and ids.shape[1] + new - 1 > cfg.context:
        raise ShapeError(
            f"a prompt of {ids.shape[1]} and {new} new tokens do not fit into the context of {cfg.context}: "
            "ask for fewer, or let the window slide (slide > 0)"
        )
    return _stream(ids, p, cfg, new, sampling, rng, stop, slide, cached)


def _stream(
    ids: Array,
    p: dict[str, Any],
    cfg: LMConfig,
    new: int,
    sampling: Sampling,
    rng: np.random.Generator | None,
    stop: int | None,
    slide: int,
    cached: bool,
) -> Iterator[Array]:
    xp = namespace(ids)
    window = ids[:, max(0, int(ids.shape[1]) - cfg.context) :]
    past, fresh = None, window
    done = np.zeros(ids.shape[0], bool)
    for i in range(new):
        logits, kv = lm.step(fresh, p, cfg, past)
        chosen = choose(logits, sampling, rng)
        if stop is not None:
            chosen = np.where(done, stop, chosen)
            done = done | (chosen == stop)
        yield chosen
        if i == new - 1 or (stop is not None and bool(done.all())):
            return
        token = xp.asarray(chosen[:, None], dtype=ids.dtype, device=device(ids))
        full = int(window.shape[1]) == cfg.context
        window = xp.concat([window[:, slide:] if full else window, token], axis=1)
        past, fresh = (kv, token) if cached and not full else (None, window)


def generate(
    ids: Array,
    p: dict[str, Any],
    cfg: LMConfig,
    new: int,
    *,
    sampling: Sampling = GREEDY,
    rng: np.random.Generator | None = None,
    stop: int | None = None,
    slide: int | None = None,
    cached: bool = True,
) -> Array:
    """The next ``new`` ids (B, new) after the prompts ids (B, S), S >= 1, all of one length.

    stop: an id that ends a row; it is repeated to the end, and generation ends when all rows have.  slide: see the
    module (default: half of the context; 0: a text longer than the context is a ShapeError).  cached=False computes
    everything again for each token: the definition, for tests.

    >>> cfg = LMConfig(vocab=7, d_model=6, n_layers=1, n_heads=3, d_ff=4, context=5)
    >>> p = lm.init(np.random.default_rng(0), cfg)
    >>> generate(np.array([[1, 2]]), p, cfg, 4, sampling=Sampling(top_k=3), rng=np.random.default_rng(1)).shape
    (1, 4)
    """
    tokens = list(stream(ids, p, cfg, new, sampling=sampling, rng=rng, stop=stop, slide=slide, cached=cached))
    return np.stack(tokens, axis=1) if tokens else np.zeros((ids.shape[0], 0), np.int64)


def translate(
    ids: Array,
    p: dict[str, Any],
    cfg: Seq2SeqConfig,
    new: int,
    *,
    start: int,
    stop: int | None = None,
    mask: Array | None = None,
    sampling: Sampling = GREEDY,
    rng: np.random.Generator | None = None,
    cached: bool = True,
) -> Array:
    """At most ``new`` target ids (B, n) for the sources ids (B, S); mask (B, S) True = a real token.

    The decoder begins with the id ``start``; arguments as in ``generate``; ``new`` is at most the context.

    >>> cfg = Seq2SeqConfig(vocab=7, d_model=6, n_layers=1, n_heads=3, d_ff=4, context=5)
    >>> p = seq2seq.init(np.random.default_rng(0), cfg)
    >>> translate(np.array([[1, 2, 3], [4, 5, 6]]), p, cfg, 4, start=0).shape
    (2, 4)
    """
    if new > cfg.context:
        raise ShapeError(f"{new} new tokens do not fit into the decoder's context of {cfg.context}: ask for fewer")
    xp = namespace(ids)
    state = seq2seq.encode(ids, p, cfg, mask=mask)
    seen = xp.full((ids.shape[0], 1), start, dtype=ids.dtype, device=device(ids))
    fresh, tokens = seen, []
    done = np.zeros(ids.shape[0], bool)
    for _ in range(new):
        logits, after = seq2seq.step(fresh, p, cfg, state)
        chosen = choose(logits, sampling, rng)
        if stop is not None:
            chosen = np.where(done, stop, chosen)
            done = done | (chosen == stop)
        tokens.append(chosen)
        if stop is not None and bool(done.all()):
            break
        token = xp.asarray(chosen[:, None], dtype=ids.dtype, device=device(ids))
        seen = xp.concat([seen, token], axis=1)
        state, fresh = (after, token) if cached else (state, seen)
    return np.stack(tokens, axis=1) if tokens else np.zeros((ids.shape[0], 0), np.int64)
