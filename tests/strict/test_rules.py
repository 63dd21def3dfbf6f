"""The rules of ``moe.rules`` and the selections beside them under array-api-strict, on a device that is not NumPy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pymoe import moe
from pymoe.backend import tree
from pymoe.moe.rules import RULES
from pymoe.moe.rules.base_layer import Config as BaseLayer
from pymoe.moe.rules.cosine import Config as Cosine
from pymoe.moe.rules.dselect_k import Config as DSelectK
from pymoe.moe.rules.experts_choose import mesh
from pymoe.moe.rules.merged import lory
from pymoe.moe.rules.mixture_of_depths import Config as Depths
from pymoe.moe.rules.product_keys import doge, pkm
from pymoe.moe.rules.remoe import Config as ReMoE
from pymoe.moe.rules.soft_moe import Config as SoftMoE
from pymoe.moe.rules.sparse_mixer import Config as SparseMixer
from pymoe.moe.rules.st_moe import Config as StMoE
from pymoe.moe.rules.zaya import Config as Zaya

from .subjects import Subject, convert
from .test_strict import check, standard_2024  # noqa: F401 - the flags of the standard, for every test here

BOTH = ("router", "predictor")
CASES: dict[str, list[Any]] = {
    "base_layer": [BaseLayer(5, 4, 3), BaseLayer(5, 4, 3, select="topk")],
    "cosine": [Cosine(5, 4, 3, k=2, d_key=6, variant=v, losses=("balance",)) for v in ("paper", "tutel", "torchscale")],
    "dselect_k": [DSelectK(5, 4, 6, losses=("entropy", "reachable")), DSelectK(5, 4, 3, static=True)],
    "experts_choose": [mesh(5, 4, 3), mesh(5, 4, 3, over="experts", losses=())],
    "merged": [lory(5, 4, 3, segment=2)],
    "mixture_of_depths": [Depths(5, 4, capacity=0.5, d_predictor=6, losses=BOTH)],
    "product_keys": [pkm(5, 4, k=2, heads=2, d_key=3), doge(5, 4, k=2, d_shared=6)],
    "remoe": [ReMoE(5, 4, 3)],
    "soft_moe": [SoftMoE(5, 4, 3, slots=2)],
    "sparse_mixer": [SparseMixer(5, 4, 3, jitter=0.3, losses=("balance",))],
    "st_moe": [StMoE(5, 4, 3, minimum=1)],
    "zaya": [Zaya(5, 4, 3, d_router=6)],
}


def subject(name: str, cfg: Any) -> Subject:
    def run(to: Any) -> Any:
        rule, rng = RULES[name], np.random.default_rng(0)
        p = tree.map(lambda a: rng.standard_normal(a.shape), rule.init(rng, cfg))
        x, dy, mask = rng.standard_normal((2, 4, 5)), rng.standard_normal((2, 4, 5)), np.ones((2, 4), bool)
        mask[0, 2] = False
        draws = rule.draw(rng, cfg, 8) if hasattr(rule, "draw") else None
        more = {"state": convert(rng.standard_normal((2, 4, 6)), to)} if name == "zaya" else {}
        out, cache = rule.forward(*convert((x, p), to), cfg, *convert((mask, draws), to), **more)
        return out, rule.backward(convert(dy, to), cache, dict.fromkeys(out.losses, 0.5))

    return Subject(name, run)


@pytest.mark.parametrize(("name", "i"), [(name, i) for name, cases in CASES.items() for i in range(len(cases))])
def test_runs_on_any_array_library(name: str, i: int) -> None:
    check(subject(name, CASES[name][i]), "device1")


@pytest.mark.parametrize(
    ("select", "score"),
    [("assignment", "sigmoid"), ("sinkhorn", "softmax"), ("sinkhorn", "sigmoid"), ("quantile", "softmax")],
)
def test_selections(select: str, score: str) -> None:
    cfg = moe.MoEConfig(5, 4, moe.RouterConfig(3, 1, score=score, select=select))
    rng = np.random.default_rng(0)
    p = moe.init(rng, cfg)
    x, dy = rng.standard_normal((2, 8, 5))

    def run(to: Any) -> Any:
        out, cache = moe.forward(*convert((x, p), to), cfg, convert(np.arange(8) != 3, to))
        return out, moe.backward(convert(dy, to), cache)

    check(Subject(select, run), "device1")


def test_no_rule_is_missing() -> None:
    assert CASES.keys() == RULES.keys()
