"""Inputs that mutation testing found to be missing in the tests of masks, compensation, experts and stored weights."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe.backend.errors import ConfigError
from pymoe.sparsity import experts, layerwise

from ..sparsity import layers


def test_two_groups_must_lose_the_same_number_too() -> None:
    cfg, p, _ = layers.layer(n_experts=8, k=2, select="group_limited", n_group=2, topk_group=1)
    with pytest.raises(ConfigError, match=r"leave \[3, 1\] in them"):
        experts.cut(p, cfg, [0, 1, 3, 4])


@pytest.mark.parametrize("n, threshold", [(1, None), (2, 0.2), (4, 0.2)])
def test_the_draw_of_a_second_choice_stays_while_there_is_one(n: int, threshold: float | None) -> None:
    cfg, p, _ = layers.layer(k=2, norm="l1", second_threshold=0.2)
    assert experts.cut(p, cfg, range(n))[1].router.second_threshold == threshold


def test_a_layer_is_pruned_in_blocks_of_128_columns() -> None:
    """Each block is a pool of its own, so the default decides what goes."""
    cfg, p, _ = layers.layer(d_model=130, d_ff=3, n_experts=1, k=1)
    x = np.random.default_rng(1).standard_normal((150, 130))
    found = {n: layerwise.prune(x, p, cfg, 0.5, **({"block": n} if n else {})).masks for n in (None, 128, 129)}
    name = "experts.gate_up_proj"
    assert np.array_equal(found[None][name], found[128][name]) and not np.array_equal(
        found[None][name], found[129][name]
    )
