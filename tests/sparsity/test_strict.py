"""Masks, scores, schedules, the masked layer and the units run on any array library: nothing becomes NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pymoe import moe, presets
from pymoe.backend import tree
from pymoe.sparsity import masked, masks, scores, units
from pymoe.sparsity.schedule import rigl

from .given import frozen, normal

strict = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed: pip install -e '.[test]'")
W, G = frozen(np.round(normal(3, 4, 6) * 2) / 2), normal(3, 4, 6, seed=1)
SUMSQ = frozen(np.vstack([np.square(normal(2, 6)), np.zeros((1, 6))]))
CFG = presets.mixtral(d_model=4, d_ff=6, n_experts=3, k=2, bias=True)
P = tree.map(lambda a: normal(*a.shape), moe.init(np.random.default_rng(0), CFG))
KEPT = frozen(np.array([[0, 2, 5], [1, 3, 4], [0, 1, 2]]))
CHOSEN = {"experts.down_proj": masks.magnitude(P["experts"]["down_proj"], 0.5)}


def layer(x: Any, dy: Any, p: Any, chosen: Any) -> Any:
    out, cache = masked.forward(x, p, CFG, chosen)
    return out.y, masked.backward(dy, cache)


CALLS = {
    "by_score": lambda a: [masks.by_score(a(W), 0.5, by=by) for by in ("tensor", "matrix", "row")],
    "magnitude": lambda a: [masks.magnitude(a(W), 0.5, by=by) for by in ("tensor", "matrix", "row")],
    "magnitude of nothing": lambda a: masks.magnitude(a(np.empty((0, 2, 3))), 0.5, by="matrix"),
    "over_model": lambda a: masks.over_model({"a": a(W), "b": a(G)}, 0.5),
    "structured": lambda a: [
        masks.rows(a(W), 0.5, ord=1),
        masks.columns(a(W), 0.5),
        masks.heads(a(W), 0.5, 2, ord=math.inf),
        masks.blocks(a(W), 0.5, (2, 3)),
        masks.rows(a(np.empty((0, 3))), 0.5),
    ],
    "nm": lambda a: [masks.nm(a(W), 2, 3), masks.nm(a(np.abs(W)), 2, 3), masks.nm(a(np.empty((0, 4))), 2, 4)],
    "threshold": lambda a: masks.threshold(a(W), masks.quantile(a(W), 0.5)),
    "scores": lambda a: [
        scores.magnitude(a(W)),
        scores.snip(a(W), a(G)),
        scores.taylor(a(W), a(G)),
        scores.movement(a(W), a(G)),
        scores.wanda(a(W), a(SUMSQ)),
        scores.wanda(a(W), a(SUMSQ), unrouted="magnitude"),
    ],
    "rigl": lambda a: rigl.update(a(np.abs(W) > 0.5), a(W), a(G), 0.4),
    "masked": lambda a: layer(a(normal(7, 4)), a(normal(7, 4, seed=1)), tree.map(a, P), tree.map(a, CHOSEN)),
    "units": lambda a: [
        units.scores(tree.map(a, P["experts"]), CFG),
        units.keep(a(np.abs(W[:, 0])), 3),
        units.cut(tree.map(a, P), CFG, a(KEPT))[0],
        units.as_masks(a(KEPT), CFG),
    ],
}


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


@pytest.mark.parametrize("device", ["CPU_DEVICE", "device1"])
@pytest.mark.parametrize("name", CALLS)
def test_runs_on_any_array_library(name: str, device: str) -> None:
    def on(a: np.ndarray) -> Any:
        return strict.asarray(np.array(a), device=strict.Device(device))

    with strict.ArrayAPIStrictFlags(api_version="2024.12"):
        want, got = leaves(CALLS[name](lambda a: a)), leaves(CALLS[name](on))
        assert len(want) == len(got)
        for w, g in zip(want, got, strict=True):
            assert type(g).__module__.startswith("array_api_strict"), type(g)
            assert g.device == strict.Device(device)
            g = np.from_dlpack(strict.asarray(g, device=strict.Device("CPU_DEVICE")))
            assert g.shape == w.shape and g.dtype == w.dtype
            assert np.max(np.abs(g.astype("f8") - w.astype("f8")), initial=0) <= 1e-13 * np.max(np.abs(w), initial=1)
