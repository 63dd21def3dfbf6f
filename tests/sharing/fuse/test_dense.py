"""Experts back to one dense feed-forward: side by side exactly, by a mean after alignment, with the shared expert."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe import moe
from pymoe.backend.errors import ConfigError, NonFiniteError
from pymoe.nn import feed_forward
from pymoe.sharing import fuse
from pymoe.sharing.split import partition
from tests.sharing.fuse.cases import agree, identical, off
from tests.sparsity import layers

E, F = layers.E, layers.F
TIED = (0, 1, 1, 2, 0, 2, 1)
FORMS = [{}, {"gated": False, "bias": True}, {"d_shared": 4}, {"d_shared": 4, "bias": True}, {"tied": TIED}]


def said(x, p, cfg, gates):
    """Σ_e g_e FFN_e(x) (+ the shared expert's), one token at a time."""
    y = sum(g * np.array([layers.expert(t, p, cfg, e)[1] for t in x]) for e, g in enumerate(gates))
    if cfg.d_shared:
        shared = {"experts": {n: a[None] for n, a in p["shared"].items()}}
        y = y + np.array([layers.expert(t, shared, cfg, 0)[1] for t in x])
    return y


@pytest.mark.parametrize("changes", FORMS, ids=str)
def test_side_by_side_is_the_sum_with_constant_gates(changes):
    cfg, p, x = layers.layer(**changes)
    gates = np.array([0.5, 0.0, 2.0, 1.0, 0.25, 1.0, -3.0])[: cfg.n_stored]
    dense, ff = fuse.to_dense(p, cfg, gates, how="concatenate")
    assert ff.d_ff == cfg.n_stored * F + cfg.d_shared and list(dense) == list(p["experts"])
    agree(feed_forward.forward(x, dense, ff)[0], said(x, p, cfg, gates))
    plain, _ = fuse.to_dense(p, cfg, how="concatenate")
    ids = [1.0] * E if cfg.tied is None else [cfg.tied.count(g) for g in range(cfg.n_stored)]
    agree(feed_forward.forward(x, plain, ff)[0], said(x, p, cfg, ids))


def test_it_undoes_a_partition():
    """M6 and M5 for the layer: split, then side by side, is the dense layer in another order of its units."""
    for gated, bias in ((True, False), (False, True)):
        ff = feed_forward.FeedForwardConfig(layers.D, 12, gated, "silu", bias)
        rng = np.random.default_rng(0)
        dense = feed_forward.init(rng, ff, np.float64)
        groups = partition.random(rng, 12, 4)
        p, cfg = partition.layer(dense, ff, groups, k=4, router="zero")
        back, wide = fuse.to_dense(p, cfg, how="concatenate")
        assert wide.d_ff == 12 and wide.gated == gated
        ordered = fuse.align.apply(back, np.argsort(np.concatenate(list(groups))))
        assert all(np.array_equal(ordered[n], dense[n]) for n in dense if n != "down_proj_bias")
        x = rng.standard_normal((9, layers.D))
        agree(feed_forward.forward(x, back, wide)[0], feed_forward.forward(x, dense, ff)[0])
        assert off(feed_forward.forward(x, back, wide)[0], moe.forward(x, p, cfg)[0].y) <= 1e-14


@pytest.mark.parametrize("changes", FORMS, ids=str)
def test_the_mean_of_permuted_copies_is_the_expert(changes):
    cfg, p, x = layers.layer(**changes)
    rng = np.random.default_rng(0)
    one = {n: a[0] for n, a in p["experts"].items()}
    copies = [one, *(fuse.align.apply(one, rng.permutation(F)) for _ in range(cfg.n_stored - 1))]
    p = p | {"experts": {n: np.stack([c[n] for c in copies]) for n in one}}
    dense, ff = fuse.to_dense(p, cfg, [3, *[1] * (cfg.n_stored - 1)])
    assert ff.d_ff == F + cfg.d_shared and (cfg.d_shared or identical(dense, one))
    assert off(feed_forward.forward(x, dense, ff)[0], moe.forward(x, p, cfg)[0].y) <= 1e-14  # gates sum to 1
    loose, _ = fuse.to_dense(p, cfg, align=False)  # negative control
    assert off(feed_forward.forward(x, loose, ff)[0], moe.forward(x, p, cfg)[0].y) > 1e-3


def test_weights_ids_and_scale():
    cfg, p, _ = layers.layer(bias=True)
    counts = np.array([3, 0, 4, 1, 9, 2, 5])
    down = p["experts"]["down_proj"]
    dense, _ = fuse.to_dense(p, cfg, counts, align=False)
    agree(dense["down_proj"], np.tensordot(counts / counts.sum(), down, 1))
    agree(fuse.to_dense(p, cfg, np.zeros(E), align=False)[0]["down_proj"], down.mean(0))  # nobody was used: uniform
    doubled, _ = fuse.to_dense(p, cfg, counts, align=False, scale=2.0)
    assert np.array_equal(doubled["down_proj"], 2 * dense["down_proj"])
    assert np.array_equal(doubled["down_proj_bias"], 2 * dense["down_proj_bias"])
    assert np.array_equal(doubled["gate_up_proj"], dense["gate_up_proj"])
    scaled, q, _ = layers.layer(scale=2.5)  # what a token's gates sum to
    agree(fuse.to_dense(q, scaled, align=False)[0]["down_proj"], 2.5 * q["experts"]["down_proj"].mean(0))
    tied, q, _ = layers.layer(tied=TIED)
    want = np.tensordot([2 / 7, 3 / 7, 2 / 7], q["experts"]["down_proj"], 1)
    agree(fuse.to_dense(q, tied, align=False)[0]["down_proj"], want)
    small = {part: {n: a.astype(np.float32) for n, a in v.items()} for part, v in p.items()}
    assert fuse.to_dense(small, cfg)[0]["down_proj"].dtype == np.float32


def test_bad_input():
    cfg, p, _ = layers.layer()
    for call, error, message in (
        (lambda: fuse.to_dense(p, cfg, [1.0]), ConfigError, "weights must be 7 numbers"),
        (lambda: fuse.to_dense(p, cfg, [-1.0, *[1.0] * 6]), ConfigError, "negative"),
        (lambda: fuse.to_dense(p, cfg, [np.nan] * 7), NonFiniteError, "weights"),
        (lambda: fuse.to_dense(p, cfg, how="magic"), ConfigError, "how must be"),
        (lambda: fuse.to_dense(p, cfg, scale=np.inf), ConfigError, "scale"),
    ):
        with pytest.raises(error, match=message):
            call()
