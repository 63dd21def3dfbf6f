"""Weights that stay zero while the others learn: the masks of a training state, by flat name, True = the weight lives.

With w̃ = m ⊙ w the loss sees w̃, so::

    forward      w̃ = w                 pruned entries of w are exactly 0 already
    backward     dw = m ⊙ dw̃          before the norm is taken and clipped
    update       w <- m ⊙ update(w)    momentum and moments of pruned entries are 0 too

A state gets its masks by ``step.masked``, which puts the zeros in place.

Sources: Zhu and Gupta, arXiv:1710.01878, section 3; invariant G11 (the backward of the pruned is the mask times the
backward of the dense at the masked weights).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pymoe.backend import to_numpy, tree
from pymoe.backend.namespace import Array
from pymoe.backend.tree import Tree
from pymoe.sparsity import masked

Masks = dict[str, Array]


def check(p: Tree, masks: Mapping[str, Array]) -> None:
    """ShapeError or DtypeError unless every mask is a bool array of the shape of a tensor of ``p``."""
    if masks:
        masked.check(p, masks)


def apply(values: Tree, masks: Mapping[str, Array]) -> dict[str, Any]:
    """``values`` (parameters, gradients, moments) with exact zeros at the pruned places, whatever stood there.

    >>> apply({"w": np.array([1.0, np.inf]), "b": np.ones(1)}, {"w": np.array([True, False])})
    {'w': array([1., 0.]), 'b': array([1.])}
    """
    return masked.apply(values, masks) if masks else dict(values)


def slots(values: Tree, masks: Mapping[str, Array]) -> dict[str, Any]:
    """The optimiser's trees (m, v, ...), each masked: a moment of a pruned weight would move it again."""
    return {
        name: apply(moments, masks) if isinstance(moments, Mapping) else moments for name, moments in values.items()
    }


def zeros(masks: Mapping[str, Array]) -> int:
    """How many weights are pruned."""
    return sum(int(mask.size) - int(np.count_nonzero(to_numpy(mask))) for mask in masks.values())


def broken(p: Tree, masks: Mapping[str, Array]) -> str | None:
    """The name of a tensor that is not 0 where its mask says so; None if all are."""
    flat = tree.flatten(p)
    for name, mask in masks.items():
        if np.any(to_numpy(flat[name])[~to_numpy(mask)] != 0):  # NaN is not 0 either
            return name
    return None
