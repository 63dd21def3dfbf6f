"""The network of the estimators: every gradient by the complex step, dense and scipy.sparse rows, and by a loop."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

from pymoe import verify
from pymoe.backend import tree
from pymoe.pipeline.network import model, router_losses
from pymoe.pipeline.network.model import NetworkConfig

N, V, C, D, E, F = 9, 11, 3, 6, 5, 4


def problem(seed: int = 0, **settings):
    cfg = NetworkConfig(n_features=V, n_outputs=C, d_model=D, n_experts=E, k=2, d_ff=F, **settings)
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((N, V)) * (rng.random((N, V)) < 0.6)
    p = tree.map(lambda a: a + 0.5 * rng.standard_normal(a.shape), model.init(rng, cfg))
    x.flags.writeable = False
    for leaf in tree.flatten(p).values():
        leaf.flags.writeable = False
    return cfg, x, p


def settings():
    return [{}, {"wide": False}, {"experts": False}, {"d_shared": 7}]


@pytest.mark.parametrize("given", settings(), ids=str)
def test_every_gradient_of_dense_rows(given):
    cfg, x, p = problem(**given)
    report = verify.gradcheck(model, x, p, cfg, controls=True)
    assert report.error < 1e-13


def test_every_gradient_of_the_dense_twin():
    cfg, x, _ = problem()
    twin = cfg.twin()
    rng = np.random.default_rng(1)
    p = tree.map(lambda a: a + 0.5 * rng.standard_normal(a.shape), model.init(rng, twin))
    assert verify.gradcheck(model, x, p, twin, controls=True).error < 1e-13


def test_sparse_rows_give_what_dense_rows_give():
    cfg, x, p = problem()
    share = np.random.default_rng(2).random(N)
    share = share / share.sum()
    dy = np.random.default_rng(3).standard_normal((N, C))
    weights = {"balance": 0.3, "z": 0.2}
    (a, c_a), (b, c_b) = (model.forward(rows, p, cfg, share=share) for rows in (x, scipy.sparse.csr_array(x)))
    dx, dp = model.backward(dy, c_a, weights)
    none, dq = model.backward(dy, c_b, weights)
    assert none is None and dx.shape == x.shape
    assert np.abs(a.y - b.y).max() < 1e-13 * np.abs(a.y).max()
    for name, g in tree.flatten(dp).items():
        other = tree.flatten(dq)[name]
        assert np.abs(g - other).max() <= 1e-13 * np.abs(g).max(), name
        if np.abs(g).max() > 0:
            assert np.abs(1.001 * g - other).max() > 1e-13 * np.abs(g).max()  # negative control


def test_the_linear_experts_row_by_row():
    cfg, x, p = problem()
    out, _ = model.forward(x, p, cfg)
    without, _ = model.forward(x, {k: v for k, v in p.items() if k != "experts"}, cfg)
    want = np.zeros((N, C))
    for n in range(N):
        for e, g in zip(out.routing.idx[n], out.routing.weight[n], strict=True):
            for c in range(C):
                want[n, c] += g * (
                    sum(x[n, v] * p["experts"]["weight"][e, v, c] for v in range(V)) + p["experts"]["bias"][e, c]
                )
    got = out.y - without.y
    assert np.abs(got - want).max() < 1e-13 * np.abs(out.y).max()
    assert np.abs(got - 1.001 * want).max() > 1e-6  # negative control


def test_the_losses_of_weighted_rows():
    rng = np.random.default_rng(4)
    c, idx = rng.standard_normal((N, E)), np.argsort(rng.random((N, E)), axis=1)[:, :2]
    times = rng.integers(1, 4, N)
    share = times / times.sum()

    class Losses:
        @staticmethod
        def forward(c):
            (balance, z), cache = router_losses.forward(c, idx=idx, share=share.astype(c.real.dtype))
            return 0.7 * balance + 0.3 * z, cache

        @staticmethod
        def backward(dloss, cache):
            return router_losses.backward((0.7 * dloss, 0.3 * dloss), cache)

    assert verify.gradcheck(Losses, c, controls=True).error < 1e-13
    repeated = np.repeat(np.arange(N), times)  # weight 2 is two rows
    one, _ = router_losses.forward(c, idx=idx, share=share.astype(c.real.dtype))
    many, _ = router_losses.forward(c[repeated], idx=idx[repeated], share=np.full(len(repeated), 1 / len(repeated)))
    for a, b in zip(one, many, strict=True):
        assert abs(a - b) < 1e-13 * abs(b) < abs(1.001 * a - b)


def test_without_what_lies_below_the_other_gradients_are_the_same():
    cfg, x, p = problem()
    dy = np.random.default_rng(3).standard_normal((N, C))
    _, cache = model.forward(x, p, cfg)
    _, dp = model.backward(dy, cache, {"balance": 0.3, "z": 0.2})
    none, dq = model.backward(dy, cache, {"balance": 0.3, "z": 0.2}, below=False)
    assert none is None and set(dp) - set(dq) == {"embed"}
    for name, g in tree.flatten(dq).items():
        assert (g == tree.flatten(dp)[name]).all(), name
