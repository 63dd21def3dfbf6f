"""Rows, columns, heads, blocks: by hand, by a loop over the groups, and torch's structured pruning."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pymoe.backend.errors import ConfigError, DtypeError, NonFiniteError, ShapeError
from pymoe.sparsity import masks

from ..given import frozen, normal

ORDERS = [1, 2, math.inf]


def looped(w, s, r, c, order):
    """Every matrix by itself, every r x c block by its norm, the lowest (norm, place) first."""
    mask = np.ones(w.shape, bool)
    for lead in np.ndindex(w.shape[:-2]):
        m = w[lead].astype(np.float64)
        groups = [(i, j) for i in range(0, m.shape[0], r) for j in range(0, m.shape[1], c)]
        norm = {g: np.linalg.norm(m[g[0] : g[0] + r, g[1] : g[1] + c].reshape(-1), order) for g in groups}
        for i, j in sorted(groups, key=lambda g: (norm[g], g))[: masks.count(s, len(groups))]:
            mask[lead][i : i + r, j : j + c] = False
    return mask


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_against_the_loop(order, dtype):
    w = normal(3, 6, 8, dtype=dtype)
    for s in (0.0, 0.34, 0.5, 0.84, 1.0):
        cases = {
            (1, 8): masks.rows(w, s, ord=order),
            (6, 1): masks.columns(w, s, ord=order),
            (2, 8): masks.heads(w, s, 3, ord=order),
            (6, 4): masks.heads(w, s, 2, axis=-1, ord=order),
            (3, 2): masks.blocks(w, s, (3, 2), ord=order),
            (2, 4): masks.blocks(w, s, (2, 4), ord=order),
        }
        for (r, c), mask in cases.items():
            assert mask.dtype == bool and np.array_equal(mask, looped(w, s, r, c, order)), (r, c, s)
            assert mask.flags.writeable and mask.strides == np.empty(w.shape, bool).strides


def test_the_three_norms_differ_where_they_should():
    w = frozen([[4.0, 0.0, 0.0], [2.0, 2.0, 2.0], [3.0, 3.0, 0.0]])  # L1 4 6 6, L2² 16 12 18, max 4 2 3
    assert masks.rows(w, 0.34, ord=1)[:, 0].tolist() == [False, True, True]
    assert masks.rows(w, 0.34)[:, 0].tolist() == [True, False, True]  # 2 is the default
    assert masks.rows(w, 0.67, ord=math.inf)[:, 0].tolist() == [True, False, False]
    assert masks.rows(w, 0.67, ord=1)[:, 0].tolist() == [False, False, True]  # 6 and 6: the first goes
    assert masks.columns(w, 0.34).tolist() == [[True, True, False]] * 3
    for rule in (lambda a, **k: masks.heads(a, 0.5, 2, **k), lambda a, **k: masks.blocks(a, 0.5, (1, 3), **k)):
        two = frozen([[4.0, 0.0, 0.0], [2.5, 2.5, 2.5]])
        assert rule(two)[:, 0].tolist() == [False, True]  # Σ w² 16 and 18.75
        assert rule(two, ord=math.inf)[:, 0].tolist() == [True, False]
    assert masks.columns(frozen([[4.0, 2.5], [0.0, 2.5], [0.0, 2.5]]), 0.5)[0].tolist() == [False, True]


def test_signs_do_not_matter_and_equal_groups_go_in_order():
    assert masks.rows(frozen([[1.0, -1.0], [0.5, 0.5]]), 0.5, ord=1)[:, 0].tolist() == [True, False]
    assert masks.blocks(np.ones((4, 4)), 0.5, (2, 2))[::2, ::2].tolist() == [[False, False], [True, True]]
    assert masks.columns(np.ones((2, 3)), 0.67)[0].tolist() == [False, False, True]


def test_axes_of_one():
    assert masks.rows(frozen([[[3.0], [1.0]]]), 0.5).tolist() == [[[True], [False]]]
    assert masks.columns(frozen([[3.0, 1.0]]), 0.5).tolist() == [[True, False]]
    assert masks.blocks(frozen([[3.0, 1.0, 2.0]]), 0.67, (1, 1)).tolist() == [[True, False, False]]
    assert masks.blocks(frozen([[3.0]]), 1.0, (1, 1)).tolist() == [[False]]


def test_sums_are_in_double_precision():
    w = np.full((2, 3), 1e30, "f4")  # its square is no float32
    w[1] *= 2
    assert masks.rows(w, 0.5)[:, 0].tolist() == [False, True]
    w = np.array([[1.0, 2.0**-13], [1.0, 0.0]], "f4")  # 1 + 2⁻²⁶ is 1 in float32, and a tie would prune row 0
    assert masks.rows(w, 0.5)[:, 0].tolist() == [True, False]


def test_the_real_part_decides():
    assert masks.rows(frozen([[1.0 + 9j], [2.0 + 0j]]), 0.5)[:, 0].tolist() == [False, True]


@pytest.mark.parametrize("order", ORDERS)
def test_it_is_torchs_mask_where_torch_is_given_the_count(order):
    torch = pytest.importorskip("torch")
    from torch.nn.utils import prune

    for seed in range(3):
        w = normal(8, 11, seed=seed)
        for s in (0.3, 0.5, 0.9):
            for dim, rule in ((0, masks.rows), (1, masks.columns)):
                module = torch.nn.Linear(11, 8, bias=False, dtype=torch.float64)
                module.weight.data = torch.tensor(w.copy())
                n = masks.count(s, w.shape[dim])
                prune.ln_structured(module, "weight", amount=n, n=order, dim=dim)
                assert np.array_equal(module.weight_mask.numpy() != 0, rule(w, s, ord=order))


def test_refusals():
    w = np.ones((4, 6))
    for rule in (
        lambda a, **k: masks.rows(a, 0.5, **k),
        lambda a, **k: masks.columns(a, 0.5, **k),
        lambda a, **k: masks.heads(a, 0.5, 2, **k),
        lambda a, **k: masks.blocks(a, 0.5, (2, 3), **k),
    ):
        with pytest.raises(ShapeError, match=r"w must have shape \(\.\.\., F, D\)"):
            rule(np.ones(4))
        with pytest.raises(ConfigError, match="ord must be one of"):
            rule(w, ord=3)
        with pytest.raises(NonFiniteError, match=r"w is NaN at \(0, 1\)"):
            rule(np.array([[1.0, np.nan, 1, 1, 1, 1]] * 2))
        with pytest.raises(DtypeError):
            rule(np.ones((4, 6), int))
    with pytest.raises(ConfigError, match="blocks of 3 x 2 do not divide matrices of 4 x 6"):
        masks.blocks(w, 0.5, (3, 2))
    with pytest.raises(ConfigError, match="blocks of 2 x 4 do not divide"):
        masks.blocks(w, 0.5, (2, 4))
    with pytest.raises(ConfigError, match="block height must be an integer of at least 1, got 0"):
        masks.blocks(w, 0.5, (0, 2))
    with pytest.raises(ConfigError, match="n_heads must divide axis -2 of w: got 3 heads and length 4"):
        masks.heads(w, 0.5, 3)
    with pytest.raises(ConfigError, match="got 4 heads and length 6"):
        masks.heads(w, 0.5, 4, axis=-1)
    with pytest.raises(ConfigError, match="n_heads must be an integer"):
        masks.heads(w, 0.5, 0)
    with pytest.raises(ConfigError, match="axis must be -2"):
        masks.heads(w, 0.5, 2, axis=0)
    with pytest.raises(ConfigError, match="sparsity"):
        masks.rows(w, 2)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 2, 4)])
def test_nothing(shape):
    w = np.empty(shape)
    for mask in (masks.rows(w, 0.5), masks.columns(w, 0.5), masks.blocks(w, 0.5, (1, 1)), masks.heads(w, 0.5, 1)):
        assert mask.shape == shape and mask.dtype == bool
    with pytest.raises(ConfigError):
        masks.rows(w, 2)
