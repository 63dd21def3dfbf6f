"""Greedy soup: average models as long as it does not hurt.

Candidates in descending order of the caller's score; each is taken in if the mean of those taken, and it, scores no
worse.  Source: Wortsman et al., arXiv:2203.05482, recipe 1.  Cost: 2 n - 1 scores for n models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import to_numpy, tree
from pymoe.backend.errors import ConfigError, NonFiniteError
from pymoe.sharing.fuse import average


class Soup(NamedTuple):
    p: dict[str, Any]
    members: list[int]  # indices of the candidates in it, in the order in which they came in
    score: float


def greedy(candidates: Sequence[Mapping[str, Any]], evaluate: Callable[[dict[str, Any]], float]) -> Soup:
    """The soup of parameter trees; ``evaluate(p)``: larger is better.  Of equal scores the first candidate comes first.

    >>> trees = [{"w": np.array([v])} for v in (0.0, 4.0, 2.4, 1.4)]
    >>> greedy(trees, lambda p: -abs(p["w"].item() - 2.0)).members
    [2, 3]
    """
    if not candidates:
        raise ConfigError("a soup needs at least one model")
    scores = [evaluate(dict(p)) for p in candidates]
    if any(np.isnan(s) for s in scores):
        raise NonFiniteError(f"candidate {int(np.argmax(np.isnan(scores)))} scores NaN: it has no place in the order")
    order = sorted(range(len(candidates)), key=lambda i: (-scores[i], i))
    members, best = [order[0]], scores[order[0]]
    soup = dict(candidates[order[0]])
    for i in order[1:]:
        mixed = mean([candidates[j] for j in (*members, i)])
        score = evaluate(mixed)
        if score >= best:
            members, best, soup = [*members, i], score, mixed
    return Soup(soup, members, best)


def mean(trees: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The uniform soup."""
    flats = [{name: to_numpy(leaf) for name, leaf in tree.flatten(p).items()} for p in trees]
    return tree.unflatten(average.uniform(flats))
