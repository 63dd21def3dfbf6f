"""Dispatch, experts, combine: every activation and form under the complex step, uneven groups, dropped pairs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pymoe import verify
from pymoe.kernels.activations import ACTIVATIONS
from pymoe.moe import Form, experts, plan

from .frames import U64, frozen, relative

IDX = frozen(np.array([[4, 0], [4, 2], [0, 4], [4, 2], [2, 4], [4, 0], [4, 2]]))  # 1, 3, 5 are empty, 4 has seven
KEPT = frozen(np.array([[1, 1], [1, 0], [0, 0], [1, 1], [0, 1], [1, 1], [1, 0]], bool))


def frame(gated: bool, bias: bool) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    up, down = experts.names(gated)
    p = {up: rng.standard_normal((6, 8 if gated else 4, 3)), down: rng.standard_normal((6, 3, 4))}
    if bias:
        p |= {f"{up}_bias": rng.standard_normal(p[up].shape[:2]), f"{down}_bias": rng.standard_normal((6, 3))}
    return rng.standard_normal((7, 3)), rng.standard_normal((7, 2)), p


def subject(plan_: plan.Plan, act: str, gated: bool) -> Any:
    def forward(x: Any, g: Any, p: Any) -> Any:
        return experts.forward(x, g, p, plan_, form=Form(act, gated))

    def backward(dy: Any, cache: Any) -> Any:
        dx, d = experts.backward(dy, cache)
        return dx, {"g": d["g"], "p": {n: d[n] for n in cache.p}}

    return SimpleNamespace(__name__="experts", forward=forward, backward=backward)


@pytest.mark.parametrize("kept", [None, KEPT], ids=["all", "dropped"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("act", sorted(ACTIVATIONS))
def test_gradcheck(act: str, gated: bool, bias: bool, kept: Any) -> None:
    x, g, p = frame(gated, bias)
    s = subject(plan.make(IDX, kept, 6), act, gated)
    keywords = {"mode": "gradient", "controls": act == "silu"}
    assert verify.gradcheck(s, x, g, p, **keywords).error <= 1e-13


@pytest.mark.parametrize("gated", [False, True])
def test_values_against_one_expert_at_a_time(gated: bool) -> None:
    x, g, p = frame(gated, True)
    up, down = experts.names(gated)
    y = np.zeros((7, 3))
    for t in range(7):
        for j in range(2):
            if KEPT[t, j]:
                e = IDX[t, j]
                a = p[up][e] @ x[t] + p[f"{up}_bias"][e]
                h = np.maximum(a[:4], 0) * a[4:] if gated else np.maximum(a, 0)
                y[t] += g[t, j] * (p[down][e] @ h + p[f"{down}_bias"][e])
    found, cache = experts.forward(x, g, p, plan.make(IDX, KEPT, 6), form=Form("relu", gated))
    assert relative(found, y) <= 64 * U64
    _, d = experts.backward(np.ones((7, 3)), cache)
    for n in p:
        assert not d[n][[1, 3, 5]].any() and d[n][4].any(), "an expert without rows gets exactly 0"
    assert not d["g"][~KEPT].any()


def test_no_rows_at_all() -> None:
    x, g, p = frame(True, True)
    y, cache = experts.forward(x, g, p, plan.make(IDX, np.zeros((7, 2), bool), 6), form=Form())
    dx, d = experts.backward(np.ones((7, 3)), cache)
    assert not y.any() and not dx.any() and not any(a.any() for a in d.values())


def test_gate_and_up_are_not_interchanged() -> None:
    """vLLM #29273: interleaved or swapped halves; square weights: unsloth #849 transposed them in silence."""
    x, g, p = frame(True, False)
    plan_ = plan.make(IDX, None, 6)
    y, _ = experts.forward(x, g, p, plan_, form=Form())
    swapped = {**p, "gate_up_proj": np.roll(p["gate_up_proj"], 4, axis=1)}
    assert relative(experts.forward(x, g, swapped, plan_, form=Form())[0], y) > 0.1
