r"""ZipIt: merge hidden units that do the same, across two experts and within one, until half of them are left.

The 2F units of experts 1 and 2, with activations h (T, F) each on the same tokens, are dealt into F pairs: the pair of
largest correlation first, both out of the game, then the next (of equal ones the lowest indices).  A pair may be of two
experts or, with ``within``, of one.  With S the pairs, w_1 + w_2 = 1 the experts' weights, w(f) that of unit f's::

    M (F, 2F)   M_gf = w(f) / Σ_{f' in S_g} w(f')   for f in S_g          merges the units
    U (2F, F)   U_fg = 1                            for f in S_g          hands a merged unit to all who read it

    gate = M [gate_1; gate_2],    up = M [up_1; up_2]    (and their biases),    down = [w_1 down_1, w_2 down_2] U
    b_down = w_1 b_1 + w_2 b_2

The layer's output is meant to be that of the mean w_1 f_1 + w_2 f_2, whose hidden layer is the 2F units side by side;
where both units of each pair do the same it is, so an expert and its permuted copy give that expert back.  (For pairs
with different gate and up, act(M gate) ⊙ M up is not M (act(gate) ⊙ up): the usual error of merging weights.)
More than two experts: the result is merged with the next, with the weights so far added up.

Source: Stoica et al., arXiv:2305.03053, section 4.1-4.2 and eq. 2-5, with their α = 0 (no unit is matched twice) and
β = 1 (within = True; False is β = 0).  The residual stream around an expert is left as it is, so only the hidden layer
has M and U.  Cost: 4 T F² multiply-adds and a sort of 2 F² correlations, for each expert after the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pymoe.backend.errors import ConfigError, ShapeError, check_shape
from pymoe.backend.namespace import Array
from pymoe.moe.experts import names
from pymoe.sharing.fuse import align, average
from pymoe.sharing.fuse import experts as single
from pymoe.sharing.split.copies import placed


def merge(
    experts: Sequence[Mapping[str, Array]], activations: Sequence[Array], weights: Any = None, *, within: bool = True
) -> dict[str, Any]:
    """One expert of ``experts`` (dicts without the axis E) and their hidden activations (T, F) on the same tokens.

    weights (n,) >= 0, equal unless given.  An expert of weight 0 has no say.  Fewer than two tokens: ConfigError, there
    is no correlation.

    >>> rng = np.random.default_rng(0)
    >>> a = {"up_proj": rng.standard_normal((4, 3)), "down_proj": rng.standard_normal((3, 4))}
    >>> h = np.maximum(rng.standard_normal((9, 3)) @ a["up_proj"].T, 0)
    >>> perm = [2, 0, 3, 1]
    >>> back = merge([a, align.apply(a, perm)], [h, h[:, perm]])
    >>> all(np.array_equal(back[name], a[name]) for name in a)
    True
    """
    single.alike(experts)
    f = single.width(experts[0])
    s = single.shares(np.ones(len(experts)) if weights is None else weights, len(experts))
    if len(activations) != len(experts):
        raise ConfigError(f"activations for each expert: got {len(experts)} experts and {len(activations)}")
    hs = []
    for i, h in enumerate(activations):
        check_shape(f"activations[{i}]", h, (int(activations[0].shape[0]), f))
        hs.append(single.read(f"activations[{i}]", h))
    if len(hs[0]) < 2:
        raise ConfigError(f"ZipIt needs the activations of at least two tokens, got {len(hs[0])}")
    like = experts[0]
    one, h, so_far = None, hs[0], 0.0
    for i in range(len(experts)):
        if not s[i]:
            continue
        this = {name: single.read(name, a) for name, a in experts[i].items()}
        if one is None:
            one, h, so_far = this, hs[i], float(s[i])
            continue
        pair = np.array([so_far, s[i]]) / (so_far + s[i])
        label = match(h, hs[i], within=within)
        m, u = matrices(label, pair)
        one = _zipped(one, this, label, pair)
        h, so_far = np.concatenate([h, hs[i]], axis=1) @ m.T, so_far + float(s[i])
    assert one is not None
    return {name: placed(one[name], a) for name, a in like.items()}


def match(h_1: Array, h_2: Array, *, within: bool = True) -> np.ndarray:
    """label (2F,): the merged unit 0..F-1 that each unit of both experts goes into, two into each.

    Merged units are numbered by the lowest unit in them.

    >>> h = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]])
    >>> match(h, h[:, ::-1])
    array([0, 1, 1, 0])
    """
    x = np.concatenate([align.standard(single.read("h_1", h_1)), align.standard(single.read("h_2", h_2))], axis=1)
    n, f = x.shape[1], int(h_1.shape[1])
    first, second = np.triu_indices(n, 1)
    if not within:
        across = (first < f) & (second >= f)
        first, second = first[across], second[across]
    correlation = (x.T @ x)[first, second]
    label = np.full(n, -1, dtype=np.int64)
    order = np.argsort(-correlation, kind="stable")  # pairs stand in lexicographic order
    while len(order):
        for pair in order[:n]:
            i, j = first[pair], second[pair]
            if label[i] < 0 and label[j] < 0:
                label[i] = label[j] = i
        order = order[n:]
        order = order[(label[first[order]] < 0) & (label[second[order]] < 0)]  # the rest is out of the game
    return single.numbered(label)


def matrices(label: np.ndarray, weights: Any) -> tuple[np.ndarray, np.ndarray]:
    """(M (F, 2F), U (2F, F)) of ``match`` for the weights (2,) of the two experts.

    >>> m, u = matrices(np.array([0, 1, 1, 0]), [1, 3])
    >>> m, (u == (m.T > 0)).all()
    (array([[0.25, 0.  , 0.  , 0.75],
           [0.  , 0.25, 0.75, 0.  ]]), np.True_)
    """
    n = len(label)
    if n % 2 or not np.array_equal(np.bincount(label, minlength=n // 2), np.full(n // 2, 2)):
        raise ShapeError("each merged unit needs exactly two of the units of both experts")
    u = (label[:, None] == np.arange(n // 2)).astype(np.float64)
    each = np.repeat(single.shares(weights, 2), n // 2)
    weighted = (u * each[:, None]).T
    return weighted / weighted.sum(1, keepdims=True), u


def _zipped(
    a: dict[str, np.ndarray], b: dict[str, np.ndarray], label: np.ndarray, w: np.ndarray
) -> dict[str, np.ndarray]:
    """M and U applied to two experts, pair by pair, so that equal units give their very bits."""
    up, down = names("gate_up_proj" in a)
    f = a[down].shape[1]
    pairs = np.argsort(label, kind="stable").reshape(f, 2)  # the two units of each merged one
    each = np.repeat(w, f)[pairs]  # (F, 2) their weights
    share = each / each.sum(1, keepdims=True)

    def rows(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """M [x; y] of arrays whose first axis is the units."""
        both = np.concatenate([x, y])[pairs]  # (F, 2, ...)
        s = share.reshape(f, 2, *[1] * (x.ndim - 1))
        total = s[:, 1] * (both[:, 1] - both[:, 0])
        return np.where(total == 0, both[:, 0], both[:, 0] + total)

    merged = {}
    for name in (up, up + "_bias"):
        if name in a:
            parts = [rows(a[name][lo : lo + f], b[name][lo : lo + f]) for lo in range(0, len(a[name]), f)]
            merged[name] = np.concatenate(parts)
    columns = np.concatenate([a[down].T, b[down].T])[pairs]  # (F, 2, D)
    scaled = each[:, 0, None] * columns[:, 0] + each[:, 1, None] * columns[:, 1]
    same = (columns[:, 0] == columns[:, 1]) & (each.sum(1) == 1)[:, None]
    merged[down] = np.where(same, columns[:, 0], scaled).T
    if down + "_bias" in a:
        merged[down + "_bias"] = average.mean([a[down + "_bias"], b[down + "_bias"]], w)
    return merged
