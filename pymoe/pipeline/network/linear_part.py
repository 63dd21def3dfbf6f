r"""The linear part of the network, y = x W + b: its penalty, and what it says of rows that it has not seen.

Of a row that W was fitted to, x W says too much: with more features than rows it is right about nearly all of them.
What is trained on top has to see what W says of *new* rows, else it learns to mend what is not broken.  So the rows are
dealt into folds, and y° (N, C) is what the maps fitted without a row's fold say of it.  The mean loss of y° chooses
λ, along the path ``L2`` from strong to weak, each fit starting at the one before, until that loss does not fall.  W is
then fitted to all rows.

Source: Wolpert, *Stacked generalization*, Neural Networks 5, 1992.  Cost: FOLDS fits for each λ and one for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pymoe.pipeline import descent
from pymoe.pipeline.network import convex
from pymoe.pipeline.network.convex import Loss

L2 = (2.0, 0.5, 0.125, 0.03125)  # against the sum of the rows' losses, rows of mean square norm 1
FOLDS = 3
ITERATIONS = 25  # of a fold's fit, from the one before: what it says hardly changes any more


class LinearPart(NamedTuple):
    weight: np.ndarray  # W (V, C), float64
    bias: np.ndarray  # b (C,)
    l2: float  # the chosen penalty
    unseen: np.ndarray  # y° (N, C)

    def say(self, x: Any) -> np.ndarray:
        """x W + b (N, C), float64."""
        return _say(x, {"weight": self.weight[:, None], "bias": self.bias[None]})


def fit(
    x: Any, t: np.ndarray, weight: np.ndarray, loss: Loss, *, l2: Sequence[float], fold: np.ndarray | None, outputs: int
) -> LinearPart:
    """x (N, V), t (N,) or (N, M), weight (N,) of the rows, l2 descending, fold (N,) numbers; None: y° = x W + b.

    >>> def square(y, t, share):
    ...     return 0.5 * float(share @ (y - t)[:, 0] ** 2), (y - t) * share[:, None]
    >>> x = np.random.default_rng(0).standard_normal((60, 2))
    >>> found = fit(x, x[:, :1], np.ones(60), square, l2=L2, fold=np.arange(60) % 3, outputs=1)
    >>> found.l2, found.weight.round(2).ravel().tolist()
    (0.03125, [1.0, 0.0])
    """
    total = float(weight.sum())

    def of(rows: np.ndarray, penalty: float, start: descent.Parameters | None, iterations: int) -> descent.Parameters:
        own = float(weight[rows].sum())
        share = weight[rows] / own
        return convex.fit(
            x[rows], t[rows], share, loss, l2=penalty / own, outputs=outputs, start=start, iterations=iterations
        )  # fmt: skip

    best, chosen, unseen = np.inf, float(l2[0]), None
    if fold is not None:
        parts = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in np.unique(fold)]
        start: list[descent.Parameters | None] = [None] * len(parts)
        for penalty in l2:
            y = np.zeros((x.shape[0], outputs))
            for k, (rows, others) in enumerate(parts):
                p = start[k] = of(rows, penalty, start[k], ITERATIONS)
                y[others] = _say(x[others], p)
            now = loss(y, t, weight / total)[0]
            if now >= best:
                break
            best, chosen, unseen = now, float(penalty), y
    p = of(np.arange(x.shape[0]), chosen, None, convex.ITERATIONS)
    return LinearPart(p["weight"][:, 0], p["bias"][0], chosen, _say(x, p) if unseen is None else unseen)


def _say(x: Any, p: descent.Parameters) -> np.ndarray:
    return np.asarray(convex.forward(x, p["weight"], p["bias"], g=np.ones((x.shape[0], 1)))[0])
