"""Memory is O(S·D + S·F + T·E): measured where a (T, E, C) array would be a hundred times the promise."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pymoe import kernels, moe
from pymoe.backend import tree
from pymoe.moe import Capacity, MoEConfig, RouterConfig

TOKENS, WIDTH, HIDDEN, EXPERTS, CHOICES = 2048, 8, 6, 64, 2
PLACES = TOKENS  # every expert has a place for every token
CUBE = TOKENS * EXPERTS * PLACES  # elements of a (T, E, C) array: 268 million
SLOTS = TOKENS * CHOICES


def peak(work: Callable[[], Any]) -> int:
    """The most bytes that ``work`` held at once, what it returns included."""
    work()  # caches of first use
    tracemalloc.start()
    try:
        kept = work()
        most = tracemalloc.get_traced_memory()[1]
        del kept
        return most
    finally:
        tracemalloc.stop()


def layer(tokens: int = TOKENS, **settings: Any) -> Callable[[], Any]:
    router = RouterConfig(EXPERTS, CHOICES, **settings)
    cfg = MoEConfig(WIDTH, HIDDEN, router)
    rng = np.random.default_rng(0)
    p = tree.map(lambda a: a.astype(np.float32), moe.init(rng, cfg))
    x, dy = (rng.standard_normal((tokens, WIDTH)).astype(np.float32) for _ in range(2))

    def work() -> Any:
        out, cache = moe.forward(x, p, cfg)
        return out, moe.backward(dy, cache, dict.fromkeys(cfg.router.losses, 0.5))

    return work


RULES: dict[str, dict[str, Any]] = {
    "dropless": {"norm": "l1"},
    "capacity": {"norm": "l1", "capacity": Capacity(factor=0.0, minimum=PLACES, order="probability")},
    "groups": {"score": "sigmoid", "select": "group_limited", "n_group": 8, "topk_group": 4, "selection_bias": True},
    "losses": {"losses": ("balance", "z", "importance", "load")},
}


@pytest.mark.parametrize("backend", ["reference", "cython"])
@pytest.mark.parametrize("rule", RULES)
def test_peak_is_a_small_multiple_of_the_promise(rule: str, backend: str) -> None:
    if backend == "cython" and not kernels.compiled():
        pytest.skip("the Cython kernels are not built")
    with kernels.using(backend):
        most = peak(layer(**RULES[rule]))
    promise = 4 * (SLOTS * WIDTH + SLOTS * 3 * HIDDEN + TOKENS * EXPERTS)  # float32; [gate | up] and h; logits
    assert promise < 4 * CUBE / 800
    assert most < 6 * promise, f"{most / promise:.1f} times the promise"


def test_expert_choice_has_a_slot_for_each_token_and_expert() -> None:
    """Its S is T·E in the plan (a token may get every expert), but rows exist only for the k·T chosen pairs."""
    most = peak(layer(select="expert_choice"))
    assert most < 9 * 4 * (SLOTS * WIDTH + SLOTS * 3 * HIDDEN + 2 * TOKENS * EXPERTS)


def test_twice_the_tokens_need_about_twice_the_memory() -> None:
    small, large = peak(layer(norm="l1")), peak(layer(2 * TOKENS, norm="l1"))
    assert 1.5 < large / small < 2.3


def test_many_experts_cost_their_parameters_only() -> None:
    """4,096 experts of which 3 tokens use 6: no array of (rows, E) beyond the logits of the 3 tokens."""
    cfg = MoEConfig(WIDTH, HIDDEN, RouterConfig(4096, 2, norm="l1"))
    p = moe.init(np.random.default_rng(0), cfg)
    x = np.random.default_rng(1).standard_normal((3, WIDTH))
    forward = peak(lambda: moe.forward(x, p, cfg))
    assert forward < 4096 * 3 * 8 * 12


def test_control_a_cube_is_seen() -> None:
    """The measurement sees a one-hot dispatch array, here of a sixteenth of the cube's tokens."""
    tokens = TOKENS // 16
    most = peak(lambda: np.zeros((tokens, EXPERTS, tokens), np.float32).sum())
    assert most >= 4 * tokens * EXPERTS * tokens
