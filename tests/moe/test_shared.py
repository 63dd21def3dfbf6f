"""The shared expert: every form under the complex step, padding, the same numbers as a lone routed expert."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pymoe import storage, verify
from pymoe.kernels.activations import ACTIVATIONS
from pymoe.moe import Form, MoEConfig, RouterConfig, shared

from .frames import U64, frozen, relative

MASK = frozen(np.array([1, 0, 1, 1, 0, 1, 1], bool))


def frame(gated: bool, bias: bool, act: str = "silu") -> tuple[np.ndarray, dict[str, np.ndarray], MoEConfig]:
    cfg = MoEConfig(3, 4, RouterConfig(6, 2), gated=gated, activation=act, d_shared=5, bias=bias)
    rng = np.random.default_rng(0)
    up = "gate_up_proj" if gated else "up_proj"
    p = {up: rng.standard_normal((10 if gated else 5, 3)), "down_proj": rng.standard_normal((3, 5))}
    if bias:
        p |= {f"{up}_bias": rng.standard_normal(len(p[up])), "down_proj_bias": rng.standard_normal(3)}
    return rng.standard_normal((7, 3)), p, cfg


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "padding"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("act", sorted(ACTIVATIONS))
def test_gradcheck(act: str, gated: bool, bias: bool, mask: Any) -> None:
    x, p, cfg = frame(gated, bias, act)
    keywords = {"controls": act == "silu"}
    assert verify.gradcheck(shared, x, p, cfg, mask, **keywords).error <= 1e-13


@pytest.mark.parametrize("gated", [False, True])
def test_is_the_network_of_a_lone_routed_expert(gated: bool) -> None:
    from pymoe.moe import experts, plan

    x, p, cfg = frame(gated, True)
    y, cache = shared.forward(x, p, cfg)
    lone = {n: a[None] for n, a in p.items()}
    plan_ = plan.make(np.zeros((7, 1), np.int64), None, 1)
    wanted, other = experts.forward(x, np.ones((7, 1)), lone, plan_, form=Form("silu", gated))
    assert relative(y, wanted) <= 64 * U64
    dy = np.random.default_rng(1).standard_normal((7, 3))
    (dx, dp), (want_dx, want) = shared.backward(dy, cache), experts.backward(dy, other)
    assert relative(dx, want_dx) <= 64 * U64
    for n in p:
        assert relative(dp[n], want[n][0]) <= 64 * U64, n


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_stored_matrices_are_the_dense_ones_with_a_mask(gated: bool, bias: bool) -> None:
    x, p, cfg = frame(gated, bias)
    rng = np.random.default_rng(3)
    stored = {n: storage.csr.from_dense(w, rng.random(w.shape) < 0.6) if w.ndim == 2 else w for n, w in p.items()}
    dense = {n: stored[n].dense() if w.ndim == 2 else w for n, w in p.items()}
    (y, cache), (wanted, other) = shared.forward(x, stored, cfg, MASK), shared.forward(x, dense, cfg, MASK)
    assert relative(y, wanted) <= 1e-14
    dy = rng.standard_normal((7, 3))
    (dx, dp), (want_dx, want) = shared.backward(dy, cache), shared.backward(dy, other)
    assert relative(dx, want_dx) <= 1e-14 and dp.keys() == want.keys() == p.keys()
    for n, g in dp.items():
        if isinstance(g, storage.CSR):
            assert relative(g.dense(), np.where(stored[n].mask(), want[n], 0)) <= 1e-14
        else:
            assert n.endswith("_bias") and relative(g, want[n]) <= 1e-14


def test_padding_is_zero_even_with_biases() -> None:
    x, p, cfg = frame(True, True)
    y, cache = shared.forward(np.where(MASK[:, None], x, 0.0), p, cfg, MASK)
    assert not y[~MASK].any() and y[MASK].all()
    dx, dp = shared.backward(np.full((7, 3), 2.0), cache)
    assert not dx[~MASK].any()
    alone, alone_cache = shared.forward(x[MASK], p, cfg)
    _, want = shared.backward(np.full((5, 3), 2.0), alone_cache)
    for n in p:
        assert relative(dp[n], want[n]) <= 64 * U64, n
