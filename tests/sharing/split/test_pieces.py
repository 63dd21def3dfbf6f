"""Granular upcycling: the dense layer at the start, by virtual groups and one scale, and by nothing else."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as run
from hypothesis import strategies as st

from pymoe import moe
from pymoe.backend.errors import ConfigError, ShapeError
from pymoe.nn import feed_forward
from pymoe.sharing.split import granular, partition, upcycle

from ..layers import F, dense, off, settings, tokens

quick = run(derandomize=True, database=None, deadline=None, max_examples=40)
SEEDS = st.integers(0, 1 << 20)
SIZES = st.tuples(st.sampled_from([1, 2, 3, 4, 6]), st.integers(1, 4)).flatmap(
    lambda s: st.tuples(st.just(s[0]), st.just(s[1]), st.integers(1, s[1]))
)


@quick
@given(SEEDS, SIZES, st.booleans(), st.sampled_from([np.float32, np.float64]))
def test_it_is_the_dense_layer_at_the_start(seed: int, sizes: tuple[int, int, int], gated: bool, dtype: type) -> None:
    pieces, copies, chosen = sizes
    ff = settings(gated)
    p, x = dense(ff, seed, dtype), tokens(seed, dtype)
    rng = np.random.default_rng(seed)
    layer, cfg = granular(p, ff, pieces=pieces, copies=copies, k=pieces * chosen, rng=rng, std=1.0)
    out, _ = moe.forward(x, layer, cfg)
    assert off(out.y, feed_forward.forward(x, p, ff)[0]) <= 64
    for row in out.routing.idx:  # whole copies
        assert sorted(e % pieces for e in row) == sorted(list(range(pieces)) * chosen)


def test_one_piece_is_upcycling() -> None:
    ff = settings()
    p = dense(ff, 0)
    fine, fine_cfg = granular(p, ff, pieces=1, copies=4, k=2, rng=np.random.default_rng(0))
    plain, cfg = upcycle(p, ff, 4, 2, rng=np.random.default_rng(0))
    assert fine_cfg == cfg
    for branch in plain:
        for name, a in plain[branch].items():
            assert (a == fine[branch][name]).all()


def test_the_units_may_be_grouped_otherwise() -> None:
    ff, x = settings(), tokens(0)
    p = dense(ff, 0)
    groups = partition.clustered(p["gate_up_proj"][:F], 3, np.random.default_rng(0))
    layer, cfg = granular(p, ff, pieces=3, copies=2, k=3, rng=np.random.default_rng(0), groups=groups)
    assert off(moe.forward(x, layer, cfg)[0].y, feed_forward.forward(x, p, ff)[0]) <= 64
    assert (layer["experts"]["gate_up_proj"][4, :4] == p["gate_up_proj"][groups[1]]).all()  # piece 1 of copy 1


def test_controls_without_groups_scale_or_renormalisation_it_is_not() -> None:
    ff = settings()
    p, x = dense(ff, 0), tokens(0, t=30)
    y = feed_forward.forward(x, p, ff)[0]
    layer, cfg = granular(p, ff, pieces=2, copies=3, k=4, rng=np.random.default_rng(0), std=1.0)
    assert off(moe.forward(x, layer, cfg)[0].y, y) <= 64
    rows = np.random.default_rng(1).standard_normal((6, 5))
    assert off(moe.forward(x, layer | {"router": {"weight": rows}}, cfg)[0].y, y) > 1e10
    plain = dataclasses.replace(cfg, router=dataclasses.replace(cfg.router, norm="none"))
    assert off(moe.forward(x, layer, plain)[0].y, y) > 1e10
    experts = layer["experts"]
    scaled = experts | {"down_proj": experts["down_proj"] * 1.001}
    assert off(moe.forward(x, layer | {"experts": scaled}, cfg)[0].y, y) > 1e10


@pytest.mark.parametrize(
    "change, says",
    [
        ({"pieces": 5}, "take a divisor, e.g. 4 or 6"),
        ({"k": 3}, "k must be a multiple of pieces=2"),
        ({"k": 8}, "at most 6"),
        ({"copies": 0}, "copies must be an integer of at least 1"),
        ({"groups": np.arange(12).reshape(3, 4)}, "groups must have shape (2, 6)"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], says: str) -> None:
    ff = settings()
    given_ = {"pieces": 2, "copies": 3, "k": 4, "rng": np.random.default_rng(0)} | change
    with pytest.raises((ConfigError, ShapeError)) as caught:
        granular(dense(ff, 0), ff, **given_)
    assert says in str(caught.value)
