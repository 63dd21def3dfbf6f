"""Which expert takes which class: the mean weight of each expert on the rows of each class, and its picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pymoe.backend.errors import DataError
from pymoe.pipeline.report import heat


def by_class(weight: np.ndarray, labels: Sequence[Any] | np.ndarray, classes: Sequence[Any] | np.ndarray) -> np.ndarray:
    """(E, C) of weight (N, E), the class of each row, the C classes; 0 where a class has no row.

    >>> weight = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    >>> by_class(weight, ["a", "a", "b"], ["a", "b", "c"])
    array([[0.75, 0.  , 0.  ],
           [0.25, 1.  , 0.  ]])
    """
    y = np.asarray(labels, dtype=object)
    found = np.zeros((weight.shape[1], len(classes)))
    for c, label in enumerate(classes):
        if (y == label).any():
            found[:, c] = weight[y == label].mean(axis=0)
    return found


def figure(share: np.ndarray, classes: Sequence[str], experts: Sequence[str]) -> Any:
    """A matplotlib figure of share (E, C), a row for each class, a column for each expert."""
    from pymoe.train import plots

    percent = 100 * share.T
    made, axes = plots.canvas(max(5.0, 3.2 + 0.5 * len(experts)), max(3.0, 1.8 + 0.42 * len(classes)))
    ax = axes[0, 0]
    written = [f"{v:.0f}" for v in percent.ravel()]
    image = heat.draw(ax, percent, written, top=max(float(percent.max()), 1e-9), size=heat.size(len(experts)))
    heat.names(ax, classes, experts)
    ax.set_xlabel("expert")
    ax.set_ylabel("class")
    ax.set_title("which expert answers for which class", fontsize=10)
    made.colorbar(image, ax=ax, pad=0.02).set_label("mean weight of the expert (%)")
    return made


class PlotsRouting:
    """Mixin: a classifier with ``route`` shows which expert takes which class."""

    def plot_routing(self, X: Any, y: Any, path: str | None = None, *, groups: Any = None) -> Any:
        """A matplotlib figure of the mean weight of each expert on the rows X (N, V) of each class of y (N,).

        path      where it is written as PNG, too
        groups    of ``subsets="group"``: as of ``route``

        ConfigError where there are no experts to choose.
        """
        import matplotlib

        from pymoe.pipeline import classification
        from pymoe.pipeline.report import fonts

        me: Any = self
        weight = np.asarray(me.route(X) if groups is None else me.route(X, groups=groups))
        labels = np.asarray(y)
        if len(labels) != len(weight):
            raise DataError(f"y must have a class for each of the {len(weight)} rows, got {len(labels)}")
        known = me.classes_[np.isin(me.classes_, labels)]
        classes = fonts.drawn([str(c) for c in known], "class")
        experts = fonts.drawn(classification.expert_names(self, weight.shape[1]), "expert")
        families = list(dict.fromkeys(classes.families + experts.families))
        with matplotlib.rc_context({"font.size": 10, "font.family": families}):
            made = figure(by_class(weight, labels, known), classes.labels, experts.labels)
            if path is not None:
                made.savefig(path, format="png")
        return made
