"""The pages of ``pymoe explain``: every rule has one, and the numbers of its example are those of its formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pymoe import presets
from pymoe.backend.errors import ConfigError
from pymoe.cli.main import main
from pymoe.hf.blocks import FAMILIES
from pymoe.moe.rules import RULES
from pymoe.verify import explain
from pymoe.verify.explain import fields, steps
from pymoe.verify.explain.page import example


def test_every_named_rule_is_an_entry_with_a_source() -> None:
    names = [(e.kind, e.name) for e in explain.entries()]
    assert len(set(names)) == len(names)
    assert {n for kind, n in names if kind != "model"} == {*presets.PRESETS, *RULES, "moa", "switch_head"}
    assert {n for kind, n in names if kind == "model"} == set(FAMILIES)
    assert [e.name for e in explain.entries() if not e.summary] == []


@pytest.mark.parametrize("name", sorted({e.name for e in explain.entries()}))
def test_a_page_has_its_parts_and_finite_numbers(name: str) -> None:
    page = explain.page(name)
    entry = explain.find(name)
    assert entry.doc in page and "an example: 3 tokens" in page and "\ndx  (" in page
    assert page == explain.page(name)  # the numbers are drawn from a seed
    rule = entry.target if entry.kind in ("layer", "attention") else getattr(entry.target, "rule", None)
    found = steps.steps(example(entry)) if rule is None else fields.steps(rule)
    assert all(np.isfinite(np.asarray(s.value, np.float64)).all() for s in found), name
    assert any(np.any(np.asarray(s.value)) for s in found if s.symbol == "dx")


def by_hand(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """deepseek_v3 from the tokens and the parameters of the page, token by token, without pymoe."""
    x, w, b = found["x"], found["router.weight"], found["router.selection_bias"]
    tokens, experts = len(x), len(w)
    z = [[sum(x[t][d] * w[e][d] for d in range(len(x[t]))) for e in range(experts)] for t in range(tokens)]
    s = [[1 / (1 + math.exp(-v)) for v in row] for row in z]
    idx, g, ds = [], [], np.zeros((tokens, experts))
    for t in range(tokens):
        c = [s[t][e] + b[e] for e in range(experts)]
        groups = sorted((0, 2, 4), key=lambda e: -(c[e] + c[e + 1]))[:2]
        best = sorted((e + i for e in groups for i in (0, 1)), key=lambda e: -c[e])[:2]
        total = sum(s[t][e] for e in best)
        idx.append(best)
        g.append([2.5 * s[t][e] / total for e in best])
        for j, e in enumerate(best):  # d of 2.5 s_j / (s_1 + s_2)
            for i, other in enumerate(best):
                ds[t, e] += found["dg"][t][i] * 2.5 * ((i == j) / total - s[t][other] / total**2)
    return {"z": np.array(z), "s": np.array(s), "idx": np.array(idx), "g": np.array(g), "ds": ds}


def gap(found: dict[str, np.ndarray]) -> float:
    return max(float(np.max(np.abs(found[n] - a)) / np.max(np.abs(a))) for n, a in by_hand(found).items())


def test_the_numbers_of_deepseek_v3_are_those_of_its_formulas() -> None:
    found = {s.symbol: np.asarray(s.value) for s in steps.steps(example(explain.find("deepseek_v3")))}
    assert gap(found) < 1e-14
    assert gap(found | {"ds": found["ds"] * 1.001}) > 1e-4  # control
    unbiased = np.argsort(-found["s"], axis=1, kind="stable")[:, :2]
    assert not np.array_equal(found["idx"], unbiased), "the example shows what the bias does"


def test_a_name_that_does_not_exist_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "deepseekv3"]) == 2
    said = capsys.readouterr().err
    assert "deepseek_v3" in said and "pymoe presets" in said and "Traceback" not in said
    with pytest.raises(ConfigError, match="lists all"):
        explain.find("q")


def test_the_commands_print_the_list_and_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in (*presets.PRESETS, *RULES))
    assert main(["presets", "2412.19437"]) == 0
    said = capsys.readouterr().out
    assert "deepseek_v3" in said and "olmoe" not in said
    assert main(["presets", "no such rule"]) == 1
    assert "no rule has" in capsys.readouterr().out
    assert main(["explain", "Mixtral"]) == 0
    assert "arXiv:2401.04088" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(presets.PRESETS))
def test_the_example_shows_a_router_that_learns(name: str) -> None:
    """All but a layer of one choice with the weight 1, of which the page says so."""
    found = {s.symbol: np.asarray(s.value) for s in steps.steps(example(explain.find(name)))}
    if "dz" in found:  # not of a joint normalisation
        assert np.any(found["dz"]) == (name != "hash_layer")


def test_the_choice_follows_from_the_prices_that_the_page_shows() -> None:
    for name, price, sign in (("quantile_balancing", "β", -1), ("s_base", "log v", 1)):
        found = {s.symbol: np.asarray(s.value) for s in steps.steps(example(explain.find(name)))}
        compared = found["s" if price == "β" else "z"]
        k = found["idx"].shape[1]
        assert np.array_equal(np.argsort(-(compared + sign * found[price]), axis=1, kind="stable")[:, :k], found["idx"])
        assert not np.array_equal(np.argsort(-compared, axis=1, kind="stable")[:, :k], found["idx"])  # control
