r"""Bring the hidden units of one expert into the order of another's before they are averaged.

A permutation P of the F hidden units leaves a feed-forward the function that it is (F16: to the rounding of a sum of F
terms in another order)::

    gate <- P gate,   up <- P up,   down <- down Pᵀ       (and the biases of gate and up)

so two experts may do the same with their units in another order, and their mean would be nonsense.  ``permutation``
(weight matching) takes the P that maximises

    Σ_f ⟨gate_f, gate'_π(f)⟩ + ⟨up_f, up'_π(f)⟩ + ⟨down_f, down'_π(f)⟩  (+ products of the biases of unit f)

with gate_f a row, down_f a column: the linear assignment problem of the cost U U'ᵀ (F, F), U (F, 3D) the units as rows.
It minimises ‖U - P U'‖, and a permuted copy of an expert is brought back exactly (M4).  One expert has one hidden
layer, so a single assignment is the optimum; the paper's coordinate descent is for networks of several.
``by_activations`` takes the P that maximises Σ_f corr(h_f, h'_π(f)) over calibration tokens (or ⟨h_f, h'_π(f)⟩).

Not undone: a ReLU unit may also be scaled, c·up and down/c.  Sources: Git Re-Basin, Ainsworth et al.,
arXiv:2209.04836, section 3.1 (activations), 3.2 (weights); for gated experts M-SMoE, arXiv:2310.01334, section 3.2;
correlation, Li et al., arXiv:1511.07543.  Cost: 3 D F² multiply-adds and O(F³) for the assignment
(``scipy.optimize.linear_sum_assignment``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pymoe.backend import device, namespace
from pymoe.backend.errors import ConfigError, ShapeError, check_shape
from pymoe.backend.namespace import Array
from pymoe.moe.experts import names
from pymoe.sharing.fuse import experts as single


def permutation(reference: Mapping[str, Array], other: Mapping[str, Array], gated: bool | None = None) -> np.ndarray:
    """perm (F,): unit perm[f] of ``other`` belongs beside unit f of ``reference``; ``apply`` puts it there.

    Experts as dicts without the axis E; ``gated`` is read off the names unless given.  Widths that differ: ShapeError.

    >>> a = {"up_proj": np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), "down_proj": np.array([[1.0, 2.0, 3.0]] * 2)}
    >>> permutation(a, apply(a, [2, 0, 1]))
    array([1, 2, 0])
    """
    single.alike([reference, other])
    return assign(units(reference, gated) @ units(other, gated).T)


def by_activations(h_reference: Array, h_other: Array, *, correlate: bool = True) -> np.ndarray:
    """perm (F,) from the hidden activations (T, F) of both experts on the same tokens.

    correlate: by Pearson's correlation (a unit that never changes has correlation 0 with all); else by ⟨h_f, h'_f'⟩.

    >>> h = np.array([[1.0, 0.0, 5.0], [0.0, 1.0, 4.0], [0.0, 0.0, 3.0]])
    >>> by_activations(h, h[:, [1, 2, 0]])
    array([2, 0, 1])
    """
    check_shape("h_reference", h_reference, (None, None))
    check_shape("h_other", h_other, tuple(h_reference.shape))
    a, b = single.read("h_reference", h_reference), single.read("h_other", h_other)
    return assign(standard(a).T @ standard(b) if correlate else a.T @ b)


def apply(expert: Mapping[str, Array], perm: Any, gated: bool | None = None) -> dict[str, Any]:
    """The expert with unit perm[f] in place f: the same function, bit for bit the same numbers in another order.

    >>> apply({"up_proj": np.array([[1.0], [2.0]]), "down_proj": np.array([[3.0, 4.0]])}, [1, 0])["down_proj"]
    array([[4., 3.]])
    """
    f = single.width(expert)
    order = check(perm, f)
    up, down = _names(expert, gated)
    xp = namespace(*expert.values())
    columns = xp.asarray(order, device=device(expert[down]))
    rows = xp.concat([columns, columns + f]) if up == "gate_up_proj" else columns
    moved = {up: (rows, 0), up + "_bias": (rows, 0), down: (columns, 1)}
    return {name: xp.take(a, moved[name][0], axis=moved[name][1]) if name in moved else a for name, a in expert.items()}


def units(expert: Mapping[str, Array], gated: bool | None = None) -> np.ndarray:
    """U (F, 3D), or (F, 2D) without a gate, float64: all that belongs to hidden unit f in row f, biases at the end."""
    f = single.width(expert)
    up, down = _names(expert, gated)
    first = single.read(up, expert[up])
    columns = [first[:f], first[f:], single.read(down, expert[down]).T]
    if up + "_bias" in expert:
        bias = single.read(up + "_bias", expert[up + "_bias"])
        columns += [bias[:f, None], bias[f:].reshape(-1, 1)]
    return np.concatenate([c for c in columns if len(c)], axis=1)


def check(perm: Any, f: int) -> np.ndarray:
    """``perm`` as an integer array that holds each of 0..f-1 once; else ConfigError."""
    order = np.asarray(perm)
    if order.shape != (f,) or order.dtype.kind not in "iu" or not np.array_equal(np.sort(order), np.arange(f)):
        raise ConfigError(f"a permutation of {f} hidden units must hold each of 0 to {f - 1} once, got {perm!r}")
    return order.astype(np.int64)


def standard(h: np.ndarray) -> np.ndarray:
    """(T, F) columns of mean 0 and length 1, so that Xᵀ X' are correlations; a constant column is 0."""
    centred = h - h.mean(0) if len(h) else h
    length = np.sqrt((centred * centred).sum(0))
    still = length <= len(h) * np.finfo(np.float64).eps * np.abs(h).max(0, initial=0.0)  # nothing but rounding
    return np.where(still, 0.0, centred / np.where(still, 1.0, length))


def assign(gain: np.ndarray) -> np.ndarray:
    """The permutation of largest total gain (F, F); of equally good ones SciPy's first, the same at each call."""
    from scipy.optimize import linear_sum_assignment

    return np.asarray(linear_sum_assignment(gain, maximize=True)[1], dtype=np.int64)


def _names(expert: Mapping[str, Array], gated: bool | None) -> tuple[str, str]:
    found = single.gated_of(expert)
    if gated is not None and gated != found:
        raise ShapeError(f"gated={gated}, but the expert has {sorted(expert)}")
    return names(found)
