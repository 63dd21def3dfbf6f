"""Soups: recipe 1 of the paper with lists, and the order of the candidates."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe.backend.errors import ConfigError, NonFiniteError, ShapeError
from pymoe.sharing.fuse import soup


def trees(*values):
    return [{"a": {"w": np.array(v)}, "b": np.array([1.0])} for v in values]


def recipe(values, score):
    order = sorted(range(len(values)), key=lambda i: -score(values[i]))
    taken = []
    for i in order:
        mean = [sum(values[j][d] for j in (*taken, i)) / (len(taken) + 1) for d in range(len(values[0]))]
        if not taken or score(mean) >= score([sum(values[j][d] for j in taken) / len(taken) for d in range(len(mean))]):
            taken.append(i)
    return taken


def test_the_recipe():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        values, wanted = rng.standard_normal((6, 3)), rng.standard_normal(3) / 3

        def score(v, wanted=wanted):
            return -float(np.square(np.asarray(v) - wanted).sum())

        made = soup.greedy(trees(*values), lambda p: score(p["a"]["w"]))
        assert list(made.kept) == recipe(values.tolist(), score)
        np.testing.assert_allclose(made.p["a"]["w"], values[list(made.kept)].mean(0), rtol=1e-13, atol=1e-15)
        assert made.score == score(made.p["a"]["w"]) >= max(score(v) for v in values)
        known = soup.greedy(trees(*values), lambda p: score(p["a"]["w"]), [score(v) for v in values])
        assert known.kept == made.kept and np.array_equal(known.p["a"]["w"], made.p["a"]["w"])
    assert (
        len(
            {
                len(recipe(np.random.default_rng(s).standard_normal((6, 3)).tolist(), lambda v: -(v[0] ** 2)))
                for s in range(8)
            }
        )
        > 1
    )


def test_what_does_not_hurt_comes_in_and_equal_scores_keep_their_order():
    made = soup.greedy(trees([1.0], [1.0], [5.0]), lambda p: -abs(float(p["a"]["w"][0]) - 1))
    assert made.kept == (0, 1) and made.p["a"]["w"] == 1.0
    assert np.array_equal(soup.uniform(trees([1.0], [4.0]))["a"]["w"], [2.5])


def test_bad_input():
    with pytest.raises(ConfigError):
        soup.greedy([], lambda p: 0.0)
    with pytest.raises(NonFiniteError, match="candidate 1"):
        soup.greedy(trees([0.0], [1.0]), lambda p: float("nan") if p["a"]["w"][0] else 0.0)
    with pytest.raises(ConfigError, match="one score for each"):
        soup.greedy(trees([0.0], [1.0]), lambda p: 0.0, [1.0])
    with pytest.raises(ShapeError):
        soup.uniform([*trees([0.0]), {"a": {"w": np.zeros(1)}}])
