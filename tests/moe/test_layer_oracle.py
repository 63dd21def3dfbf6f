"""The layer against per-token loops written from the papers: every case both can express, values and all gradients.

Float64, 64 units of roundoff of the tensor's maximum; decisions exactly.  The only things shared with the oracle are
the inputs.
"""

from __future__ import annotations

import numpy as np
import pytest

import pymoe

from ..oracles.cases import cases
from . import bridge

TOLERANCE = 64 * 2.0**-53
CASES = {case.name: case for case in cases()}


def mismatch(found, wanted, size=None) -> float:
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    if not wanted.size:
        return 0.0
    top = np.abs(wanted).max() if size is None else size
    gap = np.abs(found - wanted).max()
    return float(gap / top) if top else float(gap != 0) * np.inf if gap else 0.0


def compare(case):
    cfg = bridge.config(case)
    p = bridge.to_pymoe(case.params, cfg.gated)
    want = bridge.read(case, cfg)
    out, cache = pymoe.moe.forward(case.x, p, cfg, mask=case.mask, draws=bridge.draws(case))
    given = {n: d for n, d in case.dlosses.items() if n in cfg.router.losses}
    dx, dp = pymoe.moe.backward(case.dy, cache, given)
    grads = bridge.from_pymoe(dp, case.params, cfg.gated)
    real = np.ones(case.x.shape[:-1], bool).reshape(-1) if case.mask is None else case.mask.reshape(-1)
    errors = {}
    T, E = len(real), cfg.n_experts
    combine, kept = np.zeros((T, E)), np.zeros((T, E), bool)
    r = out.routing
    kept_pairs = np.ones(r.idx.shape, bool) if r.kept is None else r.kept
    for t in range(T):
        for e, w, keep in zip(r.idx[t], r.weight[t], kept_pairs[t]):
            combine[t, e] += w
            kept[t, e] |= keep
    if want.out["idx"] is not None:
        assert np.array_equal(r.idx[real], want.out["idx"][real]), "idx"
        assert np.array_equal(kept_pairs[real], want.out["kept"][real]), "kept"
        errors["weight"] = mismatch(r.weight, np.where(real[:, None], want.out["weight"], 0))
    else:
        for e, tokens in enumerate(want.out["tokens"]):
            assert np.flatnonzero(kept[:, e]).tolist() == sorted(tokens.tolist()), f"tokens of expert {e}"
    assert not kept_pairs[~real].any()
    assert np.array_equal(r.load, want.out["load"]), "load"
    errors["combine"] = mismatch(combine, want.out["combine"])
    errors["y"] = mismatch(out.y, want.out["y"])
    for n in cfg.router.losses:
        errors[f"loss {n}"] = mismatch(out.losses[n], want.losses[n])
    errors["dx"] = mismatch(dx, want.dx)
    for n, g in want.grads.items():
        errors[n] = mismatch(grads[n], g)
    assert set(grads) == set(want.grads)
    return errors


@pytest.mark.parametrize("name", CASES)
def test_layer_agrees_with_the_loops(name):
    try:
        errors = compare(CASES[name])
    except bridge.Unsayable as e:
        pytest.skip(str(e))
    bad = {k: f"{v:.2e}" for k, v in errors.items() if not v <= TOLERANCE}
    assert not bad, bad
