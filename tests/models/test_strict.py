"""Forward and backward of every model under array-api-strict: nothing NumPy-only has crept in."""

from __future__ import annotations

import array_api_strict as strict
import numpy as np
import pytest

from pymoe.backend import to_numpy, tree
from pymoe.models import generate, lm

from .cases import CASES, Case, distance

U64 = 2.0**-53


def moved(thing):
    if isinstance(thing, dict):
        return {name: moved(value) for name, value in thing.items()}
    return strict.asarray(np.array(thing)) if isinstance(thing, np.ndarray) else thing


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_strict_arrays_give_the_same_numbers(case: Case):
    args, keywords = case.args(), case.keywords()
    out, cache = case.module.forward(*args, **keywords)
    other, c_other = case.module.forward(*(moved(a) for a in args), **moved(keywords))
    assert type(other.logits).__module__.startswith("array_api_strict")
    assert distance(to_numpy(other.logits), out.logits) <= 64 * U64
    dlogits = np.random.default_rng(0).standard_normal(out.logits.shape)
    weights = {name: 0.5 + i for i, name in enumerate(out.losses)}
    _, dp = case.module.backward(dlogits, cache, weights)
    _, d_other = case.module.backward(strict.asarray(dlogits), c_other, weights)
    d_other = tree.flatten(d_other)
    for name, g in tree.flatten(dp).items():
        assert distance(to_numpy(d_other[name]), g) <= 128 * U64, name
        assert distance(1.001 * to_numpy(d_other[name]), g) > 128 * U64, name


def test_dropout_and_generation_under_strict_arrays():
    case = next(c for c in CASES if c.name == "lm small")
    cfg = type(case.cfg).from_dict({**case.cfg.to_dict(), "dropout": 0.25})
    ids, p, _ = case.args()
    draws = lm.draw(np.random.default_rng(0), cfg, *ids.shape)
    here = lm.forward(ids, p, cfg, draws=draws)[0].logits
    there = lm.forward(moved(ids), moved(p), cfg, draws=draws)[0].logits
    assert distance(to_numpy(there), here) <= 64 * U64
    new = generate.generate(moved(ids), moved(p), cfg, 9)
    assert np.array_equal(new, generate.generate(ids, p, cfg, 9))
