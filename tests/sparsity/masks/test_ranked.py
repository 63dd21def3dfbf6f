"""Unstructured masks: pools, both paths of the magnitude, dtypes, refusals, and torch where the count is the same."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe import kernels
from pymoe.backend.errors import ConfigError, DtypeError, NonFiniteError
from pymoe.sparsity import masks

from ..given import frozen, normal

BY = ["tensor", "matrix", "row"]


def test_by_hand():
    w = frozen([[[3.0, -1.0, 2.0], [0.0, -5.0, 1.0]], [[-1.0, 1.0, 1.0], [4.0, -4.0, 0.5]]])
    assert masks.magnitude(w, 0.34, by="row").tolist() == [
        [[True, False, True], [False, True, True]],
        [[False, True, True], [True, True, False]],
    ]
    assert masks.magnitude(w, 0.5, by="matrix").tolist() == [
        [[True, False, True], [False, True, False]],
        [[False, False, True], [True, True, False]],
    ]
    assert masks.magnitude(w, 0.34, by="tensor").tolist() == [
        [[True, False, True], [False, True, False]],
        [[True, True, True], [True, True, False]],
    ]
    assert masks.by_score(w, 0.34, by="row").tolist() == [  # a score has a sign
        [[True, False, True], [True, False, True]],
        [[False, True, True], [True, False, True]],
    ]


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g"])
def test_magnitude_is_the_score_of_its_magnitude(by, dtype):
    w = frozen(np.round(normal(3, 4, 5) * 2) / 2).astype(dtype)
    for s in (0.0, 0.29, 0.5, 1.0):
        for backend in ("auto", "reference"):
            with kernels.using(backend):
                mask = masks.magnitude(w, s, by=by)
            assert mask.dtype == bool and mask.shape == w.shape
            assert np.array_equal(mask, masks.by_score(np.abs(w), s, by=by))


def test_only_the_real_part_decides():
    w = frozen([[1.0 + 9j, -2.0, 0.5 + 9j]])
    assert masks.magnitude(w, 0.67).tolist() == [[False, True, False]]
    assert masks.by_score(w, 0.34, by="row").tolist() == [[True, False, True]]


def test_default_pool_is_the_tensor():
    w = frozen([[1.0, 2.0], [3.0, 4.0]])
    assert masks.magnitude(w, 0.5).tolist() == masks.by_score(w, 0.5).tolist() == [[False, False], [True, True]]
    assert masks.random(np.random.default_rng(0), (2, 2), 0.5).tolist() != [[True, False], [True, False]]


def test_random_counts_nests_and_repeats():
    for by, axis in (("tensor", (0, 1, 2)), ("matrix", (1, 2)), ("row", 2)):
        draws = [masks.random(np.random.default_rng(3), (4, 5, 10), s, by=by) for s in (0.0, 0.2, 0.7, 1.0)]
        for mask, s in zip(draws, (0.0, 0.2, 0.7, 1.0), strict=True):
            size = np.prod([(4, 5, 10)[i] for i in np.atleast_1d(axis)])
            assert np.all(np.sum(~mask, axis=axis) == masks.count(s, int(size)))
        assert all(np.all(a >= b) for a, b in zip(draws, draws[1:], strict=False))
    first, second = (masks.random(np.random.default_rng(i), (40,), 0.5) for i in (0, 1))
    assert not np.array_equal(first, second)


def test_it_is_torchs_mask_where_torch_is_given_the_count():
    torch = pytest.importorskip("torch")
    from torch.nn.utils import prune

    for seed in range(3):
        w = normal(6, 9, seed=seed, dtype="f4")
        for s in (0.0, 0.29, 0.5, 1.0):
            module = torch.nn.Linear(9, 6, bias=False)
            module.weight.data = torch.tensor(w.copy())
            prune.l1_unstructured(module, "weight", amount=masks.count(s, w.size))
            assert np.array_equal(module.weight_mask.numpy().astype(bool), masks.magnitude(w, s))
    module = torch.nn.Linear(9, 6, bias=False)  # the difference: torch rounds, 0.29 · 54 = 15.66 to 16
    prune.l1_unstructured(module, "weight", amount=0.29)
    assert int((module.weight_mask == 0).sum()) == 16 and masks.count(0.29, 54) == 15


def test_refusals():
    for rule in (masks.by_score, masks.magnitude):
        with pytest.raises(NonFiniteError, match=r"is NaN at \(1, 0, 2\)"):
            rule(np.array([[[0.0, 1, 2]], [[3, 4, np.nan]]]), 0.5)
        with pytest.raises(DtypeError, match="must be floating point, got int64: cast"):
            rule(np.array([[1, 2]]), 0.5)
        with pytest.raises(ConfigError, match="got 1.5"):
            rule(np.ones((2, 3)), 1.5)
        with pytest.raises(ConfigError, match="by must be"):
            rule(np.ones((2, 3)), 0.5, by="column")
        with pytest.raises(ConfigError, match="needs 2 axes"):
            rule(np.ones(3), 0.5, by="matrix")


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4), (0, 2, 3), (2, 0, 3)])
def test_nothing_is_masked_by_nothing(shape):
    for by in BY if len(shape) > 1 else ["tensor", "row"]:
        for rule in (masks.by_score, masks.magnitude):
            mask = rule(np.empty(shape), 0.5, by=by)
            assert mask.shape == shape and mask.dtype == bool
