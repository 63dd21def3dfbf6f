"""Quantile balancing: the price by sorting, how many exceed it, the update over steps, padding."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe.moe import RouterConfig
from pymoe.moe.select import quantile

from ..frames import frozen


def loop(c: list[list[float]], beta: list[float], k: int) -> list[float]:
    tokens, experts = len(c), len(beta)
    alpha = [sorted((a - b for a, b in zip(row, beta, strict=True)), reverse=True)[k] for row in c]
    place = tokens * k // experts
    return [sorted((c[t][e] - alpha[t] for t in range(tokens)), reverse=True)[place] for e in range(experts)]


@pytest.mark.parametrize("tokens, experts, k", [(1, 2, 1), (7, 3, 2), (12, 4, 1), (10, 4, 3), (9, 5, 4), (3, 8, 1)])
def test_loop(tokens: int, experts: int, k: int) -> None:
    rng = np.random.default_rng(tokens)
    for c, beta in ((rng.standard_normal((tokens, experts)), rng.standard_normal(experts)),) * 3:
        found = quantile.update(frozen(c), frozen(beta), k)
        assert found.tolist() == loop(c.tolist(), beta.tolist(), k)
        price = np.array(loop(c.tolist(), [0.0] * experts, k))
        idx, kept = quantile.select(frozen(c), RouterConfig(experts, k, select="quantile"))
        wanted = np.argsort(-(c - price), axis=1, kind="stable")[:, :k]
        assert kept is None and np.array_equal(idx, wanted)


def test_the_share_of_each_expert_beats_the_cut_and_no_more() -> None:
    """Fewer only where tokens stand at the price itself: at 0, the expert being the first that they did not choose."""
    c = np.random.default_rng(0).standard_normal((20, 5))
    beta = quantile.update(c, np.zeros(5), 2)
    over = c - np.sort(c, axis=1)[:, -3:-2]
    assert ((over > beta).sum(0) <= 8).all() and ((over >= beta).sum(0) > 8).all()
    assert ((over > beta).sum(0)[beta != 0] == 8).all() and (beta != 0).sum() == 2


def test_over_steps_the_load_becomes_even() -> None:
    c = np.random.default_rng(0).standard_normal((600, 6)) + np.linspace(0, 3, 6)
    beta, spread = np.zeros(6), []
    for _ in range(30):
        load = np.bincount(np.argsort(-(c - beta), axis=1)[:, :2].ravel(), minlength=6)
        spread.append(int(load.max() - load.min()))
        beta = quantile.update(c, beta, 2)
    assert spread[0] > 300 and spread[-1] <= 12


def test_padding_all_experts_and_nothing() -> None:
    c = np.random.default_rng(0).standard_normal((9, 4))
    real = np.arange(9) % 3 > 0
    dirty = np.where(real[:, None], c, 77.0)
    assert np.array_equal(quantile.update(dirty, np.zeros(4), 2, real), quantile.update(c[real], np.zeros(4), 2))
    assert np.array_equal(
        quantile.select(dirty, RouterConfig(4, 2, select="quantile"), real)[0][real],
        quantile.select(c[real], RouterConfig(4, 2, select="quantile"))[0],
    )
    beta = np.array([1.0, 2.0, 3.0, 4.0])
    assert quantile.update(c[:0], beta, 2).tolist() == beta.tolist()
    assert quantile.update(c, beta, 2, np.zeros(9, bool)).tolist() == beta.tolist()
    assert not quantile.update(c, beta, 4).any()
    assert quantile.select(c, RouterConfig(4, 4, select="quantile"))[0][0].tolist() == np.argsort(-c[0]).tolist()
    assert quantile.select(c[:0], RouterConfig(4, 2, select="quantile"))[0].shape == (0, 2)


def test_ties_go_to_the_lowest_id() -> None:
    assert quantile.select(np.ones((5, 3)), RouterConfig(3, 2, select="quantile"))[0].tolist() == [[0, 1]] * 5
