r"""Model soups: the mean of models that were tuned from one start, of all of them, or of those that help.

    uniform   θ = 1/n Σ θ_i
    greedy    from the best model on, S <- S + {i} if evaluate(mean(S + {i})) >= evaluate(mean(S));  θ = mean(S)

Source: Wortsman et al., arXiv:2203.05482, section 2 and recipe 1.  Cost: greedy evaluates n models (once more each, to
rank them, where no scores are given) and forms up to n means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, NonFiniteError
from pymoe.sharing.fuse import average

Tree = Mapping[str, Any]


class Soup(NamedTuple):
    p: dict[str, Any]
    kept: tuple[int, ...]  # the candidates in it, in the order in which they were added
    score: float  # of p


def uniform(candidates: Sequence[Tree]) -> dict[str, Any]:
    """The mean of parameter trees of equal names and shapes.

    >>> import numpy as np
    >>> uniform([{"a": {"w": np.array([1.0])}}, {"a": {"w": np.array([2.0])}}])
    {'a': {'w': array([1.5])}}
    """
    return tree.unflatten(average.uniform([tree.flatten(p) for p in candidates]))


def greedy(
    candidates: Sequence[Tree], evaluate: Callable[[dict[str, Any]], float], scores: Sequence[float] | None = None
) -> Soup:
    """The greedy soup; ``evaluate(p)`` on held-out data, larger is better (for a loss give its negative).

    scores: what evaluate says of each candidate alone, if it is known.  Of equal ones the first comes first.  A score
    that is NaN: NonFiniteError.

    >>> import numpy as np
    >>> wanted = np.array([1.0, 1.0])
    >>> tuned = [{"w": np.array(w)} for w in ([4.0, 4.0], [1.0, 2.0], [1.0, -1.0])]
    >>> soup = greedy(tuned, lambda p: -float(np.abs(p["w"] - wanted).sum()))
    >>> soup.kept, soup.p["w"], soup.score
    ((1, 2), array([1. , 0.5]), -0.5)
    """
    if not len(candidates):
        raise ConfigError("a soup needs at least one model")
    flats = [tree.flatten(p) for p in candidates]
    alone = [_score(evaluate(tree.unflatten(f)), i) for i, f in enumerate(flats)] if scores is None else list(scores)
    if len(alone) != len(flats):
        raise ConfigError(f"one score for each candidate: got {len(flats)} candidates and {len(alone)} scores")
    for i, s in enumerate(alone):
        _score(s, i)
    first, *others = sorted(range(len(flats)), key=lambda i: -alone[i])  # sorted is stable
    kept, p = [first], average.uniform([flats[first]])
    best = _score(evaluate(tree.unflatten(p)), first)
    for i in others:
        tried = average.uniform([flats[j] for j in (*kept, i)])
        score = _score(evaluate(tree.unflatten(tried)), i)
        if score >= best:
            kept, p, best = [*kept, i], tried, score
    return Soup(tree.unflatten(p), tuple(kept), best)


def _score(value: Any, i: int) -> float:
    found = float(value)
    if math.isnan(found):
        raise NonFiniteError(f"the score with candidate {i} is NaN: it can be ranked nowhere")
    return found
