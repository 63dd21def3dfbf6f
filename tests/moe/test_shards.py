"""Experts spread over workers: the sum over the workers is the whole, in values and in every gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pymoe import moe, verify
from pymoe.backend.errors import ConfigError
from pymoe.moe import Capacity, experts, shards

from .frames import U64, Frame, bits, config, frozen, make, relative


def both(f: Frame, workers: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(the experts of the layer as one, the same as a sum over workers): y, dx and every gradient by name."""
    r = f.forward()[0].routing
    p, cfg = f.p["experts"], f.cfg
    how = {"form": cfg.form, "weight_at": cfg.weight_at, "norm": cfg.post_expert_norm}
    found = []
    whole = moe.plan.make(r.idx, r.kept, cfg.n_stored)
    for y, cache, module in (
        (*experts.forward(f.x, r.weight, p, whole, **how), experts),
        (*shards.forward(f.x, r.weight, r.idx, r.kept, p, workers=workers, **how), shards),
    ):
        dx, d = module.backward(f.dy, cache)
        found.append({"y": y, "dx": dx, **d})
    return found[0], found[1]


CASES: dict[str, dict[str, Any]] = {
    "plain": {"norm": "l1"},
    "biases": {"bias": True, "gated": False, "activation": "gelu"},
    "capacity": {"norm": "l1", "capacity": Capacity(0.7, order="choice", renorm="after"), "bias": True},
    "expert choice": {"select": "expert_choice"},
    "weight at the input": {"weight_at": "input", "k": 1},
    "norm of each expert": {"post_expert_norm": moe.Norm(1e-6), "norm": "l1"},
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("workers", [1, 2, 4, 6])
def test_the_sum_over_workers_is_the_whole(name: str, workers: int) -> None:
    one, many = both(make(config(losses=(), **CASES[name]), 11, mask=True), workers)
    assert one.keys() == many.keys()
    for n in one:
        assert relative(many[n], one[n]) <= 8 * U64, n
    if workers == 1:
        assert bits(*one.values()) == bits(*many.values())


def test_gradients_of_the_sharded_experts() -> None:
    f = make(config(losses=(), norm="l1", bias=True, capacity=Capacity(0.7)), 7)
    r = f.forward()[0].routing

    class Subject:
        __name__ = "shards"

        @staticmethod
        def forward(x: np.ndarray, g: np.ndarray, p: dict) -> Any:
            return shards.forward(x, g, r.idx, r.kept, p, workers=4, form=f.cfg.form)

        @staticmethod
        def backward(dy: np.ndarray, cache: Any) -> Any:
            dx, d = shards.backward(dy, cache)
            return dx, d.pop("g"), d

    assert verify.gradcheck(Subject, f.x, r.weight, f.p["experts"], controls=True, mode="gradient").error <= 1e-13


def test_a_foreign_choice_gives_exactly_nothing_whatever_stands_in_its_place() -> None:
    """The holder of experts 2 and 3 sees the others as id 2; its dg there is 0, and NaN in foreign rows stays away."""
    f = make(config(losses=(), norm="l1"), 9)
    r = f.forward()[0].routing
    ids = shards.local(r.idx, 2, 4)
    foreign = ids == 2
    assert shards.local(np.arange(6)[None], 2, 4).tolist() == [[2, 2, 0, 1, 2, 2]], "one sentinel, above and below"
    assert foreign.any() and not foreign.all() and np.array_equal(r.idx[~foreign] - 2, ids[~foreign])
    own = shards.held_by(f.p["experts"], 2, 4)
    weight = frozen(np.where(foreign, np.nan, r.weight))
    y, cache = experts.forward(f.x, weight, own, shards.plan_of(ids, None, 2), form=f.cfg.form)
    dx, d = experts.backward(f.dy, cache)
    assert np.isfinite(y).all() and np.isfinite(dx).all() and not d["g"][foreign].any()
    nobody = foreign.all(axis=1)
    assert nobody.any() and not y[nobody].any() and not dx[nobody].any()


def test_workers_without_a_token_have_gradients_of_exactly_0() -> None:
    f = make(config(losses=(), norm="l1"), 5)
    idx = frozen(np.zeros((5, 1), np.int64))
    _, cache = shards.forward(f.x, np.ones((5, 1)), idx, None, f.p["experts"], workers=3, form=f.cfg.form)
    _, d = shards.backward(f.dy, cache)
    assert d["down_proj"][0].any() and not d["down_proj"][1:].any() and not d["gate_up_proj"][1:].any()


def test_bounds() -> None:
    for n in (1, 5, 12, 288):
        for workers in range(1, min(n, 9) + 1):
            edges = shards.bounds(n, workers)
            assert edges[0][0] == 0 and edges[-1][1] == n and len(edges) == workers
            assert all(a[1] == b[0] for a, b in zip(edges, edges[1:], strict=False))
            assert {hi - lo for lo, hi in edges} <= {n // workers, n // workers + 1}
    with pytest.raises(ConfigError, match="each worker holds an expert at least: got 4 workers for 3 experts"):
        shards.bounds(3, 4)
